"""Stage modules by kind, the hash of the code that each runs on, and the versions of the libraries beneath.

A stage of kind K is the module `<package>.K` with

    RESUMES = True                                  # optional: `run` continues what it finds in a half-written `out`
    def run(config, inputs, out, progress) -> dict  # writes files under `out`, returns a small JSON-able summary

Planning reads stages as source text and imports none of them (and with them no torch).
"""

import ast
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipes import closure
from recipes.errors import RecipeError

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "lmms-eval", "numpy", "pyarrow", "pillow")
"""Libraries that results depend on; their versions are recorded with every stage."""


@dataclass(frozen=True)
class Stages:
    """The stage modules of one package, by kind."""

    package: str = "recipes.stages"

    def run(self, kind: str) -> Callable[..., dict[str, Any]]:
        """The stage's function. Imports its module."""
        return importlib.import_module(f"{self.package}.{kind}").run

    def resumes(self, kind: str) -> bool:
        """Whether the stage continues a half-written directory instead of starting again."""
        return _resumes(self.file(kind))

    def code_hash(self, kind: str, *modules: str) -> str:
        """Hash of all that the stage imports, directly or not, and of further `modules` that its config names.

        Raises RecipeError for a kind or a module without a source file.
        """
        self.file(kind)
        try:
            return closure.code_hash(f"{self.package}.{kind}", *modules)
        except ModuleNotFoundError as error:
            raise RecipeError(f"{error}; put its folder on PYTHONPATH, or run from there") from error
        except SyntaxError as error:
            raise RecipeError(f"{error.filename}:{error.lineno}: not valid Python: {error.msg}") from error

    def file(self, kind: str) -> Path:
        """Source file of the stage. Raises RecipeError where there is none."""
        if found := closure.source(f"{self.package}.{kind}", frozenset({self.package.partition(".")[0]})):
            return found
        raise RecipeError(f"stage kind `{kind}` has no module {self.package}.{kind}")


@cache
def _resumes(file: Path) -> bool:
    for statement in ast.parse(file.read_bytes()).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == "RESUMES":
            return bool(ast.literal_eval(statement.value))
    return False


def versions() -> dict[str, str]:
    """Versions of Python and of LIBRARIES, without importing them; those that are not installed are left out."""
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
