"""A tiny random checkpoint of each model family, and samples with no, one and several images."""

import pytest
import tiny_families


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory):
    """family_checkpoint(name) -> its directory, built once."""
    built = {}
    folder = tmp_path_factory.mktemp("families")

    def build(name):
        if name not in built:
            built[name] = tiny_families.build(name, folder / name)
        return built[name]

    return build
