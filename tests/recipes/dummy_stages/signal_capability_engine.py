"""Dummy stage `signal_capability_engine`."""

from dummy_stages.body import run  # noqa: F401

CODE = ()
