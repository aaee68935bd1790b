"""Dummy stage `signal_style_engine`."""

from dummy_stages.body import run  # noqa: F401

CODE = ()
