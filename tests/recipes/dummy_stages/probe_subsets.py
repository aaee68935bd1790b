"""Dummy stage `probe_subsets`."""

from dummy_stages.body import run  # noqa: F401
