"""Dummy stage `compare`."""

from dummy_stages.body import run  # noqa: F401
