"""Stage bodies: one module for each kind, with its `run` (see recipes/code.py)."""
