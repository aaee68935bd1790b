"""lmms-eval task configurations, a folder for each family of benchmarks."""

from pathlib import Path


def folder_of(name: str) -> Path:
    """The folder with the task YAMLs that a suite names. Raises FileNotFoundError."""
    folder = Path(__file__).parent / name
    if not folder.is_dir():
        shipped = ", ".join(
            sorted(p.name for p in folder.parent.iterdir() if p.is_dir() and p.name[0] != "_")
        )
        raise FileNotFoundError(f"tasks {name!r} do not exist: shipped are {shipped}")
    return folder
