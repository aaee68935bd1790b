"""Dummy stage `signal_custom`."""

from dummy_stages.body import run  # noqa: F401
