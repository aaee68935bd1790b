"""Dummy stage `held_out`."""

from dummy_stages.body import run  # noqa: F401
