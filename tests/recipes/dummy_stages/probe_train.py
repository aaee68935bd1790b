"""Dummy stage `probe_train`."""

from dummy_stages.body import run  # noqa: F401
