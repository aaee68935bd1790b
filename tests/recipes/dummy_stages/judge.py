"""Dummy stage `judge`."""

from dummy_stages.body import run  # noqa: F401
