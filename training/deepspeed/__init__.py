"""DeepSpeed configurations by name: zero2, zero3."""

from pathlib import Path

from training.shipped import shipped_file


def path_of(name: str) -> Path:
    """File of a shipped configuration, or the .json file given by path. Raises FileNotFoundError."""
    return shipped_file(Path(__file__).parent, name, ".json", "DeepSpeed config")
