"""Dummy stage `pool`."""

from dummy_stages.body import run  # noqa: F401
