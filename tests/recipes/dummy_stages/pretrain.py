"""Dummy stage `pretrain`."""

from dummy_stages.body import run  # noqa: F401
