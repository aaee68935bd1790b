"""lmms-eval task configurations: our own, a folder for each family of benchmarks, and those of lmms-eval."""

import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
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


def task_file(folder: Path, task: str) -> Path:
    """The YAML of a task: that of `folder`, or else that of the installed lmms-eval.

    Raises FileNotFoundError; ImportError if the folder does not have it and lmms-eval is not installed.
    """
    own = folder / f"{task}.yaml"
    if own.is_file():
        return own
    spec = find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"task {task!r} is lmms-eval's, which is not installed: pip install 'winnow[eval]'")
    installed = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    for file in sorted(installed.glob(f"*/{task}.yaml")):
        return file
    raise FileNotFoundError(f"task {task!r} does not exist: neither {own} nor a task of lmms-eval")


def files_of(folder: Path, tasks: Iterable[str]) -> list[Path]:
    """The YAML files of these tasks, what they include, and the Python files of the functions that they name.

    Other files of the folder are not among them. Raises FileNotFoundError for a task without a file.
    """
    found: dict[Path, None] = {}
    todo = [task_file(folder, task) for task in tasks]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        if not file.is_file():
            raise FileNotFoundError(f"task file {file} does not exist")
        found[file] = None
        if file.suffix != ".py":
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
