"""Dummy stage `validation`."""

from dummy_stages.body import run  # noqa: F401
