"""Dummy stage `signal_capability`."""

from dummy_stages.body import run  # noqa: F401
