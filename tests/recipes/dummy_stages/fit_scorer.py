"""Dummy stage `fit_scorer`."""

from dummy_stages.body import run  # noqa: F401
