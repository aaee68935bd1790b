"""Dummy stage `signal_cluster`."""

from dummy_stages.body import run  # noqa: F401
