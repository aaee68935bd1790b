"""The export command: records byte for byte, only from the subset's own pool, never over other data."""

import json

import pytest

from curation.export.__main__ import main
from curation.export.formats import FORMATS
from curation.export.run import _shown_if_slow
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.selectors.random import select
from curation.subset import write_subset


def write_source(folder, count):
    """A LLaVA list of text-only samples."""
    folder.mkdir()
    turns = [
        [{"from": "human", "value": f"what is {i} + 1 ?"}, {"from": "gpt", "value": str(i + 1)}]
        for i in range(count)
    ]
    (folder / "data.json").write_text(
        json.dumps([{"id": f"s{i}", "conversations": t} for i, t in enumerate(turns)])
    )


@pytest.fixture
def chosen(tmp_path):
    """(pool directory, subset directory) of 4 of 10 samples."""
    write_source(tmp_path / "source", 10)
    build_pool(tmp_path / "source" / "data.json", tmp_path / "source", tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    write_subset(
        tmp_path / "subset",
        pool.table,
        pool.hash,
        select(pool.table, 4, 0),
        selector="random",
        params={},
        seed=0,
    )
    return tmp_path / "pool", tmp_path / "subset"


def test_the_records_are_those_of_the_source(chosen, tmp_path, capsys):
    pool, subset = chosen
    assert main([str(subset), "--pool", str(pool), "--out", str(tmp_path / "out.json")]) == 0
    assert "4 samples" in capsys.readouterr().out
    records = json.loads((tmp_path / "source" / "data.json").read_text())
    exported = json.loads((tmp_path / "out.json").read_text())
    assert len(exported) == 4 and all(record in records for record in exported)


def test_a_subset_of_another_pool_is_refused(chosen, tmp_path, capsys):
    _, subset = chosen
    write_source(tmp_path / "other", 12)
    build_pool(tmp_path / "other" / "data.json", tmp_path / "other", tmp_path / "other_pool")
    arguments = [subset, "--pool", tmp_path / "other_pool", "--out", tmp_path / "out.json"]
    assert "pool hashes differ" in failure(capsys, *arguments)
    assert not (tmp_path / "out.json").exists()


def failure(capsys, *arguments):
    """The one line of an export that must fail with status 2."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_never_overwrites_a_source_a_pool_or_a_subset(chosen, tmp_path, capsys):
    pool, subset = chosen
    (tmp_path / "link.json").symlink_to(tmp_path / "source" / "data.json")
    (tmp_path / "linked").symlink_to(pool)
    before = contents(tmp_path)
    for out, message in {
        tmp_path / "source" / "data.json": "is the source file of the pool",
        tmp_path / "link.json": "is the source file of the pool",
        pool / "pool.json": "lies in the pool folder",
        pool / "chosen.json": "lies in the pool folder",
        tmp_path / "linked" / "pool.parquet": "lies in the pool folder",
        subset / "manifest.json": "lies in the subset folder",
        pool: "is a folder",
        tmp_path: "is a folder",
        "/dev/null": "is not a regular file",
        "": "the path is empty",
        "a\0b": "NUL byte",
        "x" * 300: "longer than 255 bytes",
        tmp_path / "source" / "data.json" / "x.json": "data.json",
    }.items():
        for flags in ((), ("--overwrite",)):
            assert message in failure(capsys, subset, "--pool", pool, "--out", out, *flags), out
    assert contents(tmp_path) == before


def test_an_existing_file_is_replaced_only_on_request(chosen, tmp_path, capsys):
    pool, subset = chosen
    out = tmp_path / "other.json"
    out.write_text("[]")
    arguments = [str(subset), "--pool", str(pool), "--out", str(out)]
    assert "exists already" in failure(capsys, *arguments) and out.read_text() == "[]"
    assert main([*arguments, "--overwrite"]) == 0 and len(json.loads(out.read_text())) == 4
    assert not list(tmp_path.glob("*.tmp"))


def test_what_cannot_be_exported_is_one_line(chosen, tmp_path, capsys):
    pool, subset = chosen
    to = ("--out", tmp_path / "out.json")
    assert "it is not a folder" in failure(capsys, subset, "--pool", tmp_path / "absent", *to)
    assert "it is not a folder" in failure(capsys, subset, "--pool", pool / "pool.json", *to)
    assert "holds no finished pool" in failure(capsys, subset, "--pool", subset, *to)
    assert "holds no finished subset" in failure(capsys, tmp_path / "absent", "--pool", pool, *to)
    assert "holds no finished subset" in failure(capsys, pool, "--pool", pool, *to)
    assert "required: --out" in failure(capsys, subset, "--pool", pool)
    (tmp_path / "source" / "data.json").write_text("[]")
    assert "build the pool again" in failure(capsys, subset, "--pool", pool, *to)
    assert not (tmp_path / "out.json").exists()


def test_the_formats_are_listed(capsys):
    assert main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(FORMATS)


def test_progress_is_shown_from_the_second_second_on(capsys, monkeypatch):
    seconds = iter([0.0, 0.5, 3.0, 3.0])
    monkeypatch.setattr("curation.export.run.time.monotonic", lambda: next(seconds, 20.0))
    with _shown_if_slow("exported") as advance:
        advance(0, 10)
        assert capsys.readouterr().err == ""
        advance(5, 10)
        advance(10, 10)
    assert "exported: 10 of 10 (100%)" in capsys.readouterr().err
