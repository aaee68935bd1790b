"""Stage bodies: one module for each kind, with `run` and `CODE` (see recipes/code.py)."""
