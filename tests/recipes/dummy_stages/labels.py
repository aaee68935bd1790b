"""Dummy stage `labels`."""

from dummy_stages.body import run  # noqa: F401
