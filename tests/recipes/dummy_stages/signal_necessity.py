"""Dummy stage `signal_necessity`."""

from dummy_stages.body import run  # noqa: F401

CODE = ()
