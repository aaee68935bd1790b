"""Dummy stage `answer`."""

from dummy_stages.body import run  # noqa: F401
