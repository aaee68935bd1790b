"""Dummy stage `fit_released`."""

from dummy_stages.body import run  # noqa: F401
