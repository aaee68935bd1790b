"""A small world to export from, and the command on it."""

import pytest
from export_world import build_world, contents

from curation.export.__main__ import main


@pytest.fixture
def world(tmp_path):
    """The folder of `export_world.build_world`."""
    return build_world(tmp_path)


@pytest.fixture
def export(world):
    """Calls the command on the subset of `world`; returns the path of the output."""

    def call(name, *arguments, subset="subset", pool="pool"):
        out = world / name
        given = [world / subset, "--pool", world / pool, "--out", out, *arguments]
        assert main([str(argument) for argument in given]) == 0
        return out

    return call


@pytest.fixture
def refused(world, capsys):
    """Calls the command as `export` does; it must write nothing and fail with one line, returned."""

    def call(name, *arguments, subset="subset", pool="pool"):
        given = [world / subset, "--pool", world / pool, "--out", world / name, *arguments]
        capsys.readouterr()
        before = contents(world)
        try:
            status = main([str(argument) for argument in given])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        assert status == 2 and captured.out == "" and captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert contents(world) == before
        return captured.err

    return call
