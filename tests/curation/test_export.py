"""The export command: a subset's records come out byte for byte, and only from the pool they were chosen from."""

import json

import pytest

from curation.export import main
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
    with pytest.raises(SystemExit):
        main([str(subset), "--pool", str(tmp_path / "other_pool"), "--out", str(tmp_path / "out.json")])
    assert "pool hashes differ" in capsys.readouterr().err and not (tmp_path / "out.json").exists()
