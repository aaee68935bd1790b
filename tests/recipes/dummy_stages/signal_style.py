"""Dummy stage `signal_style`."""

from dummy_stages.body import run  # noqa: F401
