"""Dummy stage `signal_gradient`."""

from dummy_stages.body import run  # noqa: F401
