"""Dummy stage `signal_losses`."""

from dummy_stages.body import run  # noqa: F401
