"""Dummy stage `fit_rater`."""

from dummy_stages.body import run  # noqa: F401
