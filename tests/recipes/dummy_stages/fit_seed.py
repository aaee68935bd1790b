"""Dummy stage `fit_seed`."""

from dummy_stages.body import run  # noqa: F401
