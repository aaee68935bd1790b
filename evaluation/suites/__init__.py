"""Suites by name: `mini`."""

from pathlib import Path

from training.shipped import shipped_file


def path_of(name: str | Path) -> Path:
    """File of a shipped suite, or the .yaml file given by path. Raises FileNotFoundError."""
    return shipped_file(Path(__file__).parent, name, ".yaml", "suite")
