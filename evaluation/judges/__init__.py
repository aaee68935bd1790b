"""Prompts of judges by name: `mmvet`, `mathvista`, `llava_w`."""

from pathlib import Path

from training.shipped import shipped_file


def path_of(name: str | Path) -> Path:
    """File of a shipped judge's prompt, or the .yaml file given by path. Raises FileNotFoundError."""
    return shipped_file(Path(__file__).parent, name, ".yaml", "judge prompt")
