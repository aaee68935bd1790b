"""Checkpoints that ship with the project, by name."""

from pathlib import Path

_MINI = Path(__file__).parents[1] / "curation" / "mini"
BUILTIN = {"builtin:mini": _MINI / "base", "builtin:mini_clip": _MINI / "clip"}
