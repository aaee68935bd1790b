"""Wrong arguments of `curation.select` and `curation.imports.load`: one line on stderr, exit status 2."""

import os

import pytest
from file_world import FileWorld

from curation.imports.load import main as import_once
from curation.select import main
from curation.subset import read_manifest


@pytest.fixture
def world(tmp_path):
    return FileWorld(tmp_path)


def failure(capsys, command, *arguments):
    """The one line of a command that must fail with status 2."""
    capsys.readouterr()
    try:
        status = command([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == "", captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BUDGETS = [
    "",
    " ",
    "nan",
    "nan%",
    "inf",
    "inf%",
    "-5",
    "-5%",
    "1e99",
    "1e99%",
    "1e999999999",
    "1e999999999%",
    "1e-999999999%",
    "tokens:",
    "tokens:-1",
    "tokens:nan",
    "tokens:1e400",
    "tokens:1e9999",
    "tokens:1e999999999",
    "tokens:30%",
    "9" * 5000,
]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda text: text[:20] or "empty")
def test_budgets(world, capsys, budget):
    out = world.folder / "out"
    error = failure(capsys, main, "random", f"--budget={budget}", "--pool", world.pool(), "--out", out)
    assert len(error) < 500 and not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", "-1", "at least 0"),
        ("--seed", "1.5", "whole number"),
        ("--seed", "", "whole number"),
        ("--seed", "9" * 5000, "whole number"),
        ("--max-bad-fraction", "nan", "from 0 to 1"),
        ("--max-bad-fraction", "-1", "from 0 to 1"),
        ("--max-bad-fraction", "2", "from 0 to 1"),
        ("--mode", "offical", "invalid choice"),
        ("--pool", "", "path is empty"),
        ("--pool", "/dev/null", "is not a regular file"),
        ("--pool", "nowhere", "does not exist"),
        ("--pool", "a\0b", "NUL byte"),
        ("--pool", "a\udcff", "not valid UTF-8"),
        ("--pool", "x" * 300, "longer than 255 bytes"),
        ("--signals", "/dev/null", "neither a file nor a folder"),
        ("--signals", "", "path is empty"),
        ("--reference", "nowhere", "holds no finished subset"),
        ("--reference", "/dev/null", "holds no finished subset"),
        ("--out", "", "path is empty"),
        ("--out", "/dev/null", "File exists"),
        ("--out", "x" * 300, "longer than 255 bytes"),
        ("--param", "", "expected key=value"),
        ("--budgets", "3", "unrecognized arguments"),
    ],
)
def test_options(world, capsys, option, value, message):
    options = {"--pool": world.pool(), "--budget": 5, "--out": world.folder / "out"} | {option: value}
    words = [f"{name}={text}" for name, text in options.items()]
    assert message in failure(capsys, main, "random", *words)
    assert not (world.folder / "out").exists()


@pytest.mark.parametrize("name", ["", "mmsr", "a\0b", "os:", ":", "os:path", "nowhere:select", "x" * 300])
def test_selectors(world, capsys, name):
    out = world.folder / "out"
    error = failure(capsys, main, name, "--budget", 5, "--pool", world.pool(), "--out", out)
    assert "selector" in error and not out.exists()
    assert name != "mmsr" or "did you mean 'mmssr'" in error


def test_a_pipe_is_refused_instead_of_waiting(world, capsys):
    fifo = world.folder / "pipe.parquet"
    os.mkfifo(fifo)
    out, pool = world.folder / "out", world.pool()
    arguments = ("random", "--budget", 5, "--out", out, "--pool")
    assert "is not a regular file" in failure(capsys, main, *arguments, fifo)
    assert "neither a file nor a folder" in failure(capsys, main, *arguments, pool, "--signals", fifo)


def test_a_subset_never_overwrites_what_it_is_made_from(world, capsys):
    pool, signals = world.pool(), world.signals()
    given = world.folder / "given"
    arguments = ["random", "--budget", 5, "--pool", pool]
    assert main([str(word) for word in (*arguments, "--out", given)]) == 0
    world.write("manifest.json", world.records())
    before = contents(world.folder)
    for words, message in [
        ((*arguments, "--out", pool), "holds a pool or a signal"),
        ((*arguments, "--out", signals / "scores"), "holds a pool or a signal"),
        ((*arguments, "--out", given, "--reference", given), "would overwrite"),
        ((*arguments, "--out", world.folder, "--signals", world.folder / "manifest.json"), "would overwrite"),
    ]:
        assert message in failure(capsys, main, *words)
    assert contents(world.folder) == before
    again = [str(word) for word in (*arguments, "--seed", 7, "--out", given)]
    assert main(again) == 0 and read_manifest(given)["seed"] == 7  # selecting again replaces a subset


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pool.json", "{", "is not valid JSON"),
        ("pool.json", "[1]", "does not describe a pool"),
        ("pool.parquet", "PAR1", "cannot be read"),
    ],
)
def test_damaged_pools(world, capsys, file, content, message):
    pool = world.pool()
    (pool / file).write_text(content)
    out = world.folder / "out"
    assert message in failure(capsys, main, "random", "--budget", 5, "--pool", pool, "--out", out)


def test_pools_without_their_columns(world, capsys):
    import pyarrow.parquet as pq

    pool = world.pool()
    pq.write_table(world.pool_table().drop_columns(["source"]), pool / "pool.parquet")
    out = world.folder / "out"
    error = failure(capsys, main, "random", "--budget", 5, "--pool", pool, "--out", out)
    assert "has no column 'source'" in error


@pytest.mark.parametrize(
    ("manifest", "message"),
    [("{", "is not valid JSON"), ("[]", "is not the manifest of a subset"), ("{}", "is missing")],
)
def test_damaged_subsets(world, capsys, manifest, message):
    pool, given = world.pool(), world.folder / "given"
    assert main(["random", "--budget", "5", "--pool", str(pool), "--out", str(given)]) == 0
    (given / "manifest.json").write_text(manifest)
    arguments = ("matched_random", "--budget", 5, "--pool", pool, "--reference", given)
    assert message in failure(capsys, main, *arguments, "--out", world.folder / "out")


def test_imports(world, capsys):
    pool, out = world.pool(), world.folder / "out"
    scores = world.write("scores.parquet", world.records())
    for arguments, message in [
        ((world.folder / "nowhere", "--pool", pool, "--out", out), "does not exist"),
        (("/dev/null", "--pool", pool, "--out", out), "is not a regular file"),
        ((scores, "--pool", world.folder / "nowhere", "--out", out), "does not exist"),
        ((scores, "--pool", pool, "--out", scores), "File exists"),
        ((scores, "--pool", pool, "--out", ""), "path is empty"),
        ((scores, "--pool", pool, "--out", pool), "holds a pool"),
        ((scores, "--pool", pool, "--out", out, "--max-bad-fraction", "nan"), "from 0 to 1"),
        ((scores, "--pool", pool, "--out", out, "--map", "a=b"), "score folder"),
        ((scores, "--pool", pool, "--out", out, "--map", "a"), "is not FILE=KEY"),
        ((scores, "--pool", pool), "required: --out"),
    ]:
        assert message in failure(capsys, import_once, *arguments)
        assert not out.exists()
