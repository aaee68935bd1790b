"""Dummy stage `tokens`."""

from dummy_stages.body import run  # noqa: F401
