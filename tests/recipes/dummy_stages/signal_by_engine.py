"""Dummy stage `signal_by_engine`."""

from dummy_stages.body import run  # noqa: F401
