"""One hash over the code that a module executes: the project modules it imports and the data files they name.

The hash is over syntax trees without docstrings, comments and formatting: a changed statement anywhere in the
closure of imports changes the hash, prose and layout do not. Nothing is listed by hand and nothing is
imported: sources are found on `sys.path`, parsed, and followed through every form of import, including
imports inside functions. Installed packages are not followed; their versions are recorded with each stage
instead.
"""

import ast
import hashlib
import importlib.machinery
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = frozenset({"curation", "training", "evaluation", "recipes"})
"""The project's own packages."""
PROSE = {".md", ".pyc"}
"""Suffixes of files in a data folder that are not read by code."""
LAYOUT = {"ctx", "kind", "type_comment"}
"""Fields of the syntax tree that do not affect what the code does."""


@dataclass(frozen=True)
class Module:
    """One source file: hash of its statements, modules it imports, data files and folders it names."""

    digest: str
    imports: frozenset[str]
    data: frozenset[Path]


def code_hash(*modules: str) -> str:
    """sha256 over the closure of these modules.

    Raises ModuleNotFoundError for a module without a source file.
    """
    return _code_hash(tuple(sorted(set(modules))))


def file_hash(file: Path) -> str:
    """sha256 over a source file outside all packages, such as a task's functions, and all its imports."""
    module = read_module(file, file.stem)
    beside = [file.with_name(f"{name.partition('.')[0]}.py") for name in module.imports]
    own = [other for other in beside if other.is_file() and other != file]
    imports = sorted(name for name in module.imports if source(name))
    parts = [
        module.digest,
        *(file_hash(other) for other in sorted(set(own))),
        *([code_hash(*imports)] if imports else []),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def closure(*modules: str) -> dict[str, Path]:
    """Source files of the given modules, of all project modules they import, and of their packages."""
    files: dict[str, Path] = {}
    # The given modules are followed even if they are installed packages.
    followed = PACKAGES | {name.partition(".")[0] for name in modules}
    todo = list(modules)
    for name in modules:
        if source(name, followed) is None:
            raise ModuleNotFoundError(f"module {name} has no source file on sys.path", name=name)
    while todo:
        name = todo.pop()
        if name in files or (file := source(name, followed)) is None:
            continue
        files[name] = file
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        todo += [*parents, *read_module(file, name).imports]
    return dict(sorted(files.items()))


def data_files(modules: dict[str, Path]) -> list[Path]:
    """The data files that modules name relative to themselves, as in `Path(__file__).parent / "names.yaml"`.

    A folder that is named stands for all files below it.
    """
    named = {path for name, file in modules.items() for path in read_module(file, name).data}
    files = {
        file for path in named for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()
    }
    return sorted(f for f in files if f.suffix not in PROSE and f.suffix != ".py")


@cache
def _code_hash(names: tuple[str, ...]) -> str:
    modules = closure(*names)
    lines = [f"{name} {read_module(file, name).digest}" for name, file in modules.items()]
    for file in data_files(modules):
        place = file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file.name
        lines.append(f"{place} {hashlib.sha256(file.read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------------------------------ finding sources


@cache
def source(module: str, followed: frozenset[str] = PACKAGES) -> Path | None:
    """Source file of a project or user module; None for built-in, compiled and installed modules.

    Top-level packages in `followed` are found even if they are installed.
    """
    top, *rest = module.split(".")
    if top in PACKAGES:
        return _inside([REPOSITORY], [top, *rest])
    spec = importlib.machinery.PathFinder.find_spec(top) or _editable(top)
    if spec is None or (top not in followed and _installed(spec)):
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return _inside([Path(folder) for folder in spec.submodule_search_locations or ()], rest)


def _inside(folders: list[Path], parts: list[str]) -> Path | None:
    for folder in folders:
        at = folder.joinpath(*parts)
        for file in (at.with_name(f"{at.name}.py"), at / "__init__.py"):
            if file.is_file():
                return file
    return None


def _editable(top: str) -> Any:
    """The spec of a package that an editable installation adds by an import hook of its own.

    `find_spec` does not import a top-level name.
    """
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _installed(spec: importlib.machinery.ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    roots = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not places or any(
        not Path(place).is_absolute() or Path(place).is_relative_to(root)
        for place in places
        for root in roots
    )


# ------------------------------------------------------------------------------------------ syntax trees


def read_module(file: Path, name: str) -> Module:
    """Parse one source file; the result is cached until the file's size or modification time changes."""
    stat = file.stat()
    return _read_module(file, name, stat.st_size, stat.st_mtime_ns)


@cache
def _read_module(file: Path, name: str, size: int, changed: int) -> Module:
    tree = ast.parse(file.read_bytes(), str(file))
    _strip(tree)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = frozenset(imported(tree, package))
    digest = hashlib.sha256(json.dumps(_plain(tree)).encode()).hexdigest()
    return Module(digest, imports, frozenset(_named_data(tree, file)))


def _strip(tree: ast.AST) -> None:
    """Remove what has no effect at run time: docstrings, also of attributes, and TYPE_CHECKING blocks."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                kept = [statement for statement in value if not _is_text(statement)]
                setattr(node, field, [part for statement in kept for part in _without_types(statement)])


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _without_types(statement: ast.stmt) -> list[ast.stmt]:
    if isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING":
        return statement.orelse
    return [statement]


def _plain(node: Any) -> Any:
    """The tree as nested lists, without empty fields, so that new fields of later Pythons change no hash."""
    if isinstance(node, ast.AST):
        fields = [
            [name, _plain(value)]
            for name, value in ast.iter_fields(node)
            if name not in LAYOUT and value is not None and value != []
        ]
        return [type(node).__name__, *fields]
    return [_plain(item) for item in node] if isinstance(node, list) else repr(node)


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module name that a tree imports; `from a import b` may name a module a.b, so it yields both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
                yield str(node.args[0].value)


# ------------------------------------------------------------------------------------------ data files


def _named_data(tree: ast.Module, file: Path) -> Iterator[Path]:
    """Existing paths built from `Path(__file__)` and at least one literal part.

    The module's own folder alone does not count: it would stand for all code beside the module.
    """
    constants: dict[str, tuple[Path, bool]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            if value := _path(statement.value, file, constants):
                constants[statement.targets[0].id] = value
    for node in ast.walk(tree):
        named = _path(node, file, constants) if isinstance(node, ast.expr) else None
        if named and named[1] and named[0].exists():
            yield named[0]


def _path(node: ast.expr, file: Path, constants: dict[str, tuple[Path, bool]]) -> tuple[Path, bool] | None:
    """(path, whether a literal part was added) of an expression; None if it is not built from `__file__`."""
    match node:
        case ast.Name(id=name):
            return constants.get(name)
        case ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]):
            return file, False
        case ast.Call(func=ast.Attribute(value=inner, attr="resolve" | "absolute")):
            return _path(inner, file, constants)
        case ast.Attribute(value=inner, attr="parent"):
            above = _path(inner, file, constants)
            return above and (above[0].parent, above[1])
        case ast.Subscript(
            value=ast.Attribute(value=inner, attr="parents"), slice=ast.Constant(value=int(n))
        ):
            above = _path(inner, file, constants)
            return above and (above[0].parents[n], above[1])
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(part))):
            above = _path(left, file, constants)
            return above and (above[0] / part, True)
    return None
