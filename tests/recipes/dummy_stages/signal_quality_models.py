"""Dummy stage `signal_quality_models`."""

from dummy_stages.body import run  # noqa: F401
