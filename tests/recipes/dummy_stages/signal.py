"""Dummy stage `signal`."""

from dummy_stages.body import run  # noqa: F401
