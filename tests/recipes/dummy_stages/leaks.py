"""Dummy stage `leaks`."""

from dummy_stages.body import run  # noqa: F401
