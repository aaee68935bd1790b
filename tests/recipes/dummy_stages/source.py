"""Dummy stage `source`."""

from dummy_stages.body import run  # noqa: F401
