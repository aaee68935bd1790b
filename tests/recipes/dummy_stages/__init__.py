"""Stages for tests of the engine: every kind writes files that depend on its config and inputs only."""
