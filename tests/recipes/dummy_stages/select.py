"""Dummy stage `select`."""

from dummy_stages.body import run  # noqa: F401
