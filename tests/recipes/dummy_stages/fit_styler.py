"""Dummy stage `fit_styler`."""

from dummy_stages.body import run  # noqa: F401
