"""Prompt sets by name: compact, official_flat, official_style."""

from pathlib import Path

from training.shipped import shipped_file


def path_of(name: str | Path) -> Path:
    """File of a shipped prompt set, or the .yaml file given by path. Raises FileNotFoundError."""
    return shipped_file(Path(__file__).parent, name, ".yaml", "prompt set")
