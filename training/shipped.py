"""Files that ship in a folder of the project and are chosen by name, beside a user's own given by path."""

from pathlib import Path


def shipped_file(folder: Path, name: str | Path, suffix: str, what: str) -> Path:
    """`<folder>/<name><suffix>` where that ships, or the path itself where `name` has an ending.

    Raises FileNotFoundError, with the names that ship, where there is no such file. `what` names the kind.
    """
    path = folder / f"{name}{suffix}"
    if not path.is_file() and Path(name).suffix:
        path = Path(name)
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in folder.glob(f"*{suffix}")))
        raise FileNotFoundError(
            f"{what} {str(name)!r} does not exist: shipped are {shipped}; or give the path of a {suffix} file"
        )
    return path
