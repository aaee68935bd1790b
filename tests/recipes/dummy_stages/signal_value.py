"""Dummy stage `signal_value`."""

from dummy_stages.body import run  # noqa: F401
