"""Dummy stage `signal_embedding`."""

from dummy_stages.body import run  # noqa: F401
