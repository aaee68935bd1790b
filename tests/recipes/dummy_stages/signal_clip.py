"""Dummy stage `signal_clip`."""

from dummy_stages.body import run  # noqa: F401
