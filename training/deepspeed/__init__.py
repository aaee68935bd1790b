"""DeepSpeed configurations by name: zero0, zero1, zero2, zero3, zero2_offload, zero3_offload."""

from pathlib import Path

from training.shipped import shipped_file


def path_of(name: str) -> Path:
    """File of a shipped configuration, or the .json file given by path. Raises FileNotFoundError."""
    return shipped_file(Path(__file__).parent, name, ".json", "DeepSpeed config")
