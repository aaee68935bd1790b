"""Dummy stage `labels_api`."""

from dummy_stages.body import run  # noqa: F401
