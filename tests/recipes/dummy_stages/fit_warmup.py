"""Dummy stage `fit_warmup`."""

from dummy_stages.body import run  # noqa: F401
