"""The world of `explore_world`, and pages of it."""

import pytest
from explore_world import build_world, explore


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The folder of `explore_world.build_world`."""
    return build_world(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="session")
def whole(world):
    """A page with every sample."""
    return explore(world, world / "whole.html")


@pytest.fixture(scope="session")
def sampled(world):
    """A page with twenty samples."""
    return explore(world, world / "sampled.html", "--samples", 20, "--seed", 1)
