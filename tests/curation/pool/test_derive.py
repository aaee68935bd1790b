"""A pool without some samples of another: rows, ids, records, images, quarantine and where it came from."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.derive import counted, derive
from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.ingest import build_pool, pool_hash
from curation.pool.layout import POOL_SCHEMA
from curation.pool.read import Pool


def dropped(*rows):
    columns = list(zip(*rows, strict=True)) or [[]] * 3
    schema = pa.schema([("row", pa.int32()), ("reason", pa.string()), ("detail", pa.string())])
    return pa.table([list(column) for column in columns], schema=schema)


@pytest.fixture
def pool(tmp_path):
    talk = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    records = [
        {"id": f"s{i % 5}", "n": i, "conversations": [talk[0], {"from": "gpt", "value": f"a {i}"}]}
        for i in range(9)
    ]
    records.insert(4, {"id": "bad", "conversations": []})
    (tmp_path / "data.json").write_text(json.dumps(records))
    build_pool(tmp_path / "data.json", tmp_path, tmp_path / "pool", max_bad_fraction=0.5)
    return Pool.open(tmp_path / "pool")


def test_the_others_stay_as_they_are(pool, tmp_path):
    out = tmp_path / "deep" / "derived"
    rows = [(7, "leak", "x"), (2, "too_long", "y"), (7, "other", "z")]
    info = derive(pool, dropped(*rows), out, note={"decontaminate": {"suite": "s"}})
    made = Pool.open(out)
    stay = [0, 1, 3, 4, 5, 6, 8]
    assert made.table.schema.equals(POOL_SCHEMA) and made.table["row"].to_pylist() == list(range(7))
    assert made.table["id"].to_pylist() == [pool.table["id"][row].as_py() for row in stay]
    assert [made.raw(row) for row in range(7)] == [pool.raw(row) for row in stay]
    assert [made[i].turns for i in range(7)] == [pool[row].turns for row in stay]
    assert info["hash"] == pool_hash(made.table) != pool.hash and info["n"] == 7
    assert info["parent"]["hash"] == pool.hash and info["decontaminate"] == {"suite": "s"}
    assert info["quarantined"] == {"bad_conversations": 1, "leak": 1, "too_long": 1}
    assert info["text_tokens"]["total"] == 7 * 3 and info["records"] == 10
    quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [(row["index"], row["reason"], row["id"]) for row in quarantine] == [
        (2, "too_long", "s2"),
        (4, "bad_conversations", "bad"),
        (8, "leak", "s2"),
    ]
    again = derive(
        made, dropped((0, "leak", "x")), tmp_path / "again", note={"decontaminate": {"suite": "t"}}
    )
    assert again["decontaminate"] == {"suite": "t"} and again["parent"]["n"] == 7
    assert (
        again["parent"]["decontaminate"] == {"suite": "s"} and again["parent"]["parent"]["hash"] == pool.hash
    )
    assert again["n"] == 6 and Pool.open(tmp_path / "again").raw(0) == pool.raw(1)


def test_columns_are_replaced(pool, tmp_path):
    counts = {"text_tokens": pa.array(range(9)), "image_tokens": pa.array([None] * 8 + [5], pa.int32())}
    derive(pool, dropped((0, "leak", "x")), tmp_path / "out", replace=counts)
    table = Pool.open(tmp_path / "out").table
    assert table["text_tokens"].to_pylist() == list(range(1, 9))
    assert table["image_tokens"].to_pylist() == [None] * 7 + [5]


def test_nothing_dropped_is_the_same_pool(pool, tmp_path):
    assert derive(pool, dropped(), tmp_path / "out")["hash"] == pool.hash


def test_no_other_pool_is_replaced(pool, tmp_path):
    derive(pool, dropped((0, "leak", "x")), tmp_path / "child")
    derive(pool, dropped((1, "leak", "x")), tmp_path / "child")
    child = Pool.open(tmp_path / "child")
    derive(child, dropped((1, "leak", "x")), tmp_path / "grandchild")
    before = (tmp_path / "pool" / "pool.json").read_text()
    for made, out in ((child, "pool"), (pool, "grandchild")):
        with pytest.raises(PoolArgumentError, match=f"{out} holds another pool, not made from"):
            derive(made, dropped((0, "leak", "x")), tmp_path / out)
    assert (tmp_path / "pool" / "pool.json").read_text() == before


def test_what_is_left_out_is_counted_by_reason_and_source(pool):
    found = counted(pool, dropped((7, "leak", "x"), (2, "leak", "y"), (3, "copy", "z")))
    assert found == {"dropped": {"leak": 2, "copy": 1}, "sources": {"text_only": 3}}


def test_wrong_arguments_write_nothing(pool, tmp_path):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(PoolArgumentError, match="is the pool itself"):
        derive(pool, dropped(), tmp_path / "pool")
    with pytest.raises(PoolArgumentError, match="not a folder"):
        derive(pool, dropped(), tmp_path / "data.json")
    with pytest.raises(PoolError, match="all 9 samples"):
        derive(pool, dropped(*[(row, "leak", "") for row in range(9)]), tmp_path / "out")
    for row in (-1, 9):
        with pytest.raises(IndexError, match=f"row {row} of a pool with 9 rows"):
            derive(pool, dropped((row, "leak", "")), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
