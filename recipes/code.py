"""Stage modules and the version of their code.

A stage of kind K is the module `<package>.K` with

    CODE = ("curation/pool", "training/fit.py")     # repository paths whose source decides the stage's result
    RESUMES = True                                  # optional: `run` continues what it finds in a half-written `out`
    def run(config, inputs, out, progress) -> dict  # writes files under `out`, returns a small JSON-able summary

Both constants are read from the source text, so planning imports no stage (and with it no torch).
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recipes.errors import RecipeError

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE_SUFFIXES = {".py", ".yaml", ".yml", ".json", ".jinja", ".csv", ".txt", ".png", ".webp", ".jpg", ".ttf"}


@dataclass(frozen=True)
class Stages:
    """The stage modules of one package, by kind."""

    package: str = "recipes.stages"

    def run(self, kind: str) -> Callable[..., dict[str, Any]]:
        """The stage's function. Imports its module."""
        return importlib.import_module(f"{self.package}.{kind}").run

    def resumes(self, kind: str) -> bool:
        """Whether the stage continues a half-written directory instead of starting again."""
        return bool(_constants(self.file(kind)).get("RESUMES", False))

    def code_hash(self, kind: str, module: str | None = None) -> str:
        """sha256 of the stage's module, the files that its CODE names, and `module` with its siblings."""
        file = self.file(kind)
        code = _constants(file).get("CODE")
        if not isinstance(code, tuple):
            raise RecipeError(f"{file}: CODE must be a tuple of repository paths, written out")
        extra = _with_siblings(module) if module else ()
        return _hash_paths((file, *(_resolve(file, path) for path in code), *extra))

    def file(self, kind: str) -> Path:
        """Source file of the stage. Raises RecipeError where there is none."""
        package = importlib.util.find_spec(self.package)
        for folder in (package.submodule_search_locations if package else None) or ():
            if (file := Path(folder) / f"{kind}.py").is_file():
                return file
        raise RecipeError(f"stage kind `{kind}` has no module {self.package}.{kind}")


@cache
def _constants(file: Path) -> dict[str, Any]:
    found = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        target = (
            statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        )
        if isinstance(target, ast.Name) and target.id in {"CODE", "RESUMES"}:
            found[target.id] = ast.literal_eval(statement.value)
    return found


def _resolve(stage_file: Path, path: str) -> Path:
    if not (resolved := REPOSITORY / path).exists():
        raise RecipeError(f"{stage_file}: CODE names {path}, which is not in {REPOSITORY}")
    return resolved


@cache
def _with_siblings(module: str) -> tuple[Path, ...]:
    """Source of a module and of the modules of its own package that it imports, directly or not."""
    package, files, todo = module.rpartition(".")[0], {}, [module]
    while todo:
        name = todo.pop()
        spec = importlib.util.find_spec(name)
        if name in files or not spec or not spec.origin:
            continue
        files[name] = Path(spec.origin)
        tree = ast.parse(files[name].read_text(encoding="utf-8"))
        imported = {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
        }
        todo += [name for name in imported if package and name.startswith(f"{package}.")]
    return tuple(files[name] for name in sorted(files))


@cache
def _hash_paths(paths: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        for file in _sources(path):
            name = file.relative_to(path.parent).as_posix()
            digest.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sources(path: Path) -> Iterator[Path]:
    """The file itself, or a package's source files; a checkpoint inside a package is data, not code."""
    if path.is_file():
        yield path
        return
    entries = sorted(path.iterdir())
    if any(entry.suffix == ".safetensors" for entry in entries):
        return
    for entry in entries:
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _sources(entry)
        elif entry.suffix in SOURCE_SUFFIXES:
            yield entry


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("torch", "transformers", "peft", "deepspeed", "lmms-eval", "numpy", "pyarrow", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
