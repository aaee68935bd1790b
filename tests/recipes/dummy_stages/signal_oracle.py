"""Dummy stage `signal_oracle`."""

from dummy_stages.body import run  # noqa: F401
