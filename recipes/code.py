"""Stage modules by kind, the hash of the code that each executes, and the versions of the libraries it uses.

A stage of kind K is the module `<package>.K` with

    RESUMES = True                                  # optional: `run` continues from a half-written `out`
    def incomplete(config, record) -> str | None    # optional: what a finished one lacks with this config
    def run(config, inputs, out, progress) -> dict  # writes files under `out`, returns a small JSON summary

Planning reads the source text of stages and imports none of them, so that it does not import torch either.
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

from curation import closure
from recipes.errors import RecipeError

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "lmms-eval", "numpy", "pyarrow", "pillow")
"""Libraries that results depend on; their versions are recorded with every stage."""


@dataclass(frozen=True)
class Stages:
    """The stage modules of one package, by kind."""

    package: str = "recipes.stages"

    def run(self, kind: str) -> Callable[..., dict[str, Any]]:
        """The function of the stage; imports its module."""
        return importlib.import_module(f"{self.package}.{kind}").run

    def resumes(self, kind: str) -> bool:
        """Whether the stage resumes from a half-written directory instead of starting from scratch."""
        return _resumes(self.file(kind))

    def incomplete(self, kind: str, config: dict[str, Any], record: dict[str, Any]) -> str | None:
        """What a finished artefact (stage.json: `record`) lacks and its stage could add with `config` now.

        Settings that do not identify a result may decide how complete it is. The module is imported only if
        it answers this.
        """
        if not _answers_incomplete(self.file(kind)):
            return None
        return importlib.import_module(f"{self.package}.{kind}").incomplete(config, record)

    def code_hash(self, kind: str, *modules: str) -> str:
        """Hash of everything that the stage imports, directly or not, and of `modules` that its config names.

        Raises RecipeError for a kind or a module without a source file, and for invalid Python.
        """
        self.file(kind)
        try:
            return closure.code_hash(f"{self.package}.{kind}", *modules)
        except ModuleNotFoundError as error:
            raise RecipeError(f"{error}; add its folder to PYTHONPATH, or run from there") from error
        except SyntaxError as error:
            raise RecipeError(f"{error.filename}:{error.lineno}: not valid Python: {error.msg}") from error

    def file(self, kind: str) -> Path:
        """Source file of the stage. Raises RecipeError if it has none."""
        file = closure.source(f"{self.package}.{kind}", frozenset({self.package.partition(".")[0]}))
        if file is None:
            raise RecipeError(f"stage kind `{kind}` has no module {self.package}.{kind}")
        return file


@cache
def _resumes(file: Path) -> bool:
    for statement in ast.parse(file.read_bytes()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="RESUMES")], value=value):
                return bool(ast.literal_eval(value))
    return False


@cache
def _answers_incomplete(file: Path) -> bool:
    body = ast.parse(file.read_bytes()).body
    return any(isinstance(part, ast.FunctionDef) and part.name == "incomplete" for part in body)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed LIBRARIES, without importing them."""
    installed = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except PackageNotFoundError:
            continue
    return installed
