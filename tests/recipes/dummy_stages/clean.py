"""Dummy stage `clean`."""

from dummy_stages.body import run  # noqa: F401
