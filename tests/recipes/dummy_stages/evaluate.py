"""Dummy stage `evaluate`."""

from dummy_stages.body import run  # noqa: F401
