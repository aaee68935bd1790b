"""Dummy stage `bench`."""

from dummy_stages.body import run  # noqa: F401
