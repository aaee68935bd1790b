"""The six command cases of people who tried: each in a process of its own, as it was typed."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from PIL import Image


def record(name, number):
    """A LLaVA record of one image."""
    turns = [
        {"from": "human", "value": "<image>\nHow many?"},
        {"from": "gpt", "value": f"Answer {number:03d}."},
    ]
    return {"id": name, "image": "ok.jpg", "conversations": turns}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """data.json (20 records), dupids.json (3 that repeat ids), a pool and a subset of each."""
    folder = tmp_path_factory.mktemp("commands")
    Image.new("RGB", (16, 16), "red").save(folder / "ok.jpg")
    (folder / "data.json").write_text(json.dumps([record(str(i), i) for i in range(20)]))
    (folder / "dupids.json").write_text(
        json.dumps([record(n, i) for i, n in enumerate(("same", "same", "b"))])
    )
    succeed(folder, "curation.pool", "build", "data.json", "--out", "pool")
    succeed(folder, "curation.select", "random", "--pool", "pool", "--budget", "30%", "--out", "sub")
    return folder


def run(folder, module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def succeed(folder, module, *arguments):
    done = run(folder, module, *arguments)
    assert done.returncode == 0, done.stderr


def fails(folder, module, *arguments):
    """The one line of a command that must fail with status 2."""
    done = run(folder, module, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_1_jsonl_is_written_to_a_path_that_says_so(folder):
    succeed(folder, "curation.export", "sub", "--pool", "pool", "--out", "chosen.jsonl")
    lines = (folder / "chosen.jsonl").read_text().splitlines()
    assert len(lines) == 6 and all(json.loads(line)["image"] == "ok.jpg" for line in lines)


def test_2_and_3_an_absent_pool_or_subset_is_one_line(folder):
    for subset, pool, absent in (("sub", "nopool", "nopool"), ("nosub", "pool", "nosub")):
        line = fails(folder, "curation.export", subset, "--pool", pool, "--out", "x.json")
        assert absent in line and not (folder / "x.json").exists()


def test_4_a_pool_is_not_built_over_a_file(folder):
    before = (folder / "data.json").read_bytes()
    fails(folder, "curation.pool", "build", "data.json", "--out", "data.json")
    assert (folder / "data.json").read_bytes() == before


def test_5_repeated_ids_can_be_joined_after_the_export(folder):
    succeed(folder, "curation.pool", "build", "dupids.json", "--out", "p2")
    succeed(folder, "curation.select", "random", "--pool", "p2", "--budget", "3", "--out", "s2")
    succeed(folder, "curation.export", "s2", "--pool", "p2", "--out", "d.json")
    exported = json.loads((folder / "d.json").read_text())
    table = pq.read_table(folder / "d.json.rows.parquet").to_pylist()
    subset = pq.read_table(folder / "s2" / "subset.parquet").to_pylist()
    assert [line["original_id"] for line in table] == [record["id"] for record in exported]
    assert [(line["row"], line["id"], line["rank"]) for line in table] == [
        (line["row"], line["id"], line["rank"]) for line in subset
    ]
    source = json.loads((folder / "dupids.json").read_text())
    assert [source[line["index"]] for line in table] == exported


def test_6_the_source_of_the_pool_is_never_replaced(folder):
    before = (folder / "data.json").read_bytes()
    for flags in ((), ("--overwrite",)):
        line = fails(folder, "curation.export", "sub", "--pool", "pool", "--out", "data.json", *flags)
        assert "is the source file of the pool" in line and (folder / "data.json").read_bytes() == before
