"""Dummy stage `signal_quality`."""

from dummy_stages.body import run  # noqa: F401
