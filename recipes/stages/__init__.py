"""The stages: one module with a function `run` for each kind (see recipes/code.py)."""
