"""lmms-eval task configurations, a folder for each family of benchmarks."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def folder_of(name: str) -> Path:
    """The folder with the task YAMLs that a suite names, shipped or absolute. Raises FileNotFoundError."""
    folder = Path(__file__).parent / name
    if not folder.is_dir():
        shipped = ", ".join(
            sorted(p.name for p in folder.parent.iterdir() if p.is_dir() and p.name[0] != "_")
        )
        raise FileNotFoundError(f"tasks {name!r} do not exist: shipped are {shipped}")
    return folder


def files_of(folder: Path, tasks: Iterable[str]) -> list[Path]:
    """The YAML files of these tasks, what they include, and the Python files of the functions that they name.

    Other files of the folder are not among them. Raises FileNotFoundError for a task without a file.
    """
    found: dict[Path, None] = {}
    todo = [folder / f"{task}.yaml" for task in tasks]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        if not file.is_file():
            raise FileNotFoundError(f"task file {file} does not exist")
        found[file] = None
        if file.suffix == ".yaml":
            todo += _named(file)
    return sorted(found)


def _named(file: Path) -> Iterator[Path]:
    """The files that a task YAML refers to: `include: other.yaml` and `!function module.name`.

    Read as text: the tags are lmms-eval's own, and a plain YAML loader does not know them.
    """
    text = file.read_text(encoding="utf-8")
    yield from (file.parent / name for name in re.findall(r"^include:\s*(\S+)", text, re.MULTILINE))
    modules = re.findall(r"!function\s+([\w.]+)\.\w+", text)
    yield from (file.parent / f"{module.replace('.', '/')}.py" for module in modules)
