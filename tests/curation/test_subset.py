"""Subsets on disk: content of the manifest, equal bytes for equal input, alterations are refused."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selector_tables import random_table

from curation.selectors.registry import get_selector
from curation.subset import SubsetError, ids_hash, read_manifest, read_subset, write_subset


@pytest.fixture
def pool():
    table = random_table(4, 50).select(["row", "id", "source"])
    table = table.append_column("text_tokens", pa.array(np.arange(50), pa.int32()))
    return table.append_column("image_tokens", pa.array([17] * 50, pa.int32()))


def write(folder, pool, **changes):
    table = random_table(4, 50)
    options = {
        "selector": "mmssr",
        "params": {"bins": "style"},
        "seed": 3,
        "signal_hashes": {"capability": "c1"},
    } | changes
    selection = get_selector("mmssr")(table, 20, options["seed"], bins="style")
    return selection, write_subset(folder, pool, "p00l", selection, **options)


def test_manifest_and_table(tmp_path, pool):
    selection, manifest = write(tmp_path, pool, extra={"arm": "mmssr_40"})
    table = read_subset(tmp_path)
    assert table.column_names[:5] == ["row", "id", "rank", "capability", "style"]
    assert table["row"].to_pylist() == selection.rows.tolist() and table["rank"].to_pylist() == list(
        range(20)
    )
    ids = pool["id"].to_pylist()
    assert table["id"].to_pylist() == [ids[row] for row in selection.rows]
    assert manifest == read_manifest(tmp_path)
    digest = hashlib.sha256(
        "".join(f"{name}\n" for name in sorted(table["id"].to_pylist())).encode()
    ).hexdigest()
    assert manifest["ids_sha256"] == digest
    assert manifest["budget"] == {
        "samples": 20,
        "text_tokens": int(selection.rows.sum()),
        "image_tokens": 340,
    }
    assert (manifest["pool_hash"], manifest["pool_samples"], manifest["arm"]) == ("p00l", 50, "mmssr_40")
    assert (manifest["selector"], manifest["params"], manifest["seed"]) == ("mmssr", {"bins": "style"}, 3)
    assert manifest["signals"] == {"capability": "c1"} and manifest["notes"] == selection.notes
    assert set(manifest["versions"]) == {"numpy", "pyarrow", "winnow"}


def test_equal_input_gives_equal_bytes(tmp_path, pool):
    for name in ("one", "two"):
        write(tmp_path / name, pool)
    write(tmp_path / "seed", pool, seed=4)
    for file in ("subset.parquet", "manifest.json"):
        one, two, other = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "seed"))
        assert one == two != other


def test_ids_hash_depends_on_the_set_only():
    assert ids_hash(["b", "a"]) == ids_hash(["a", "b"]) != ids_hash(["ab"])


def test_unknown_image_tokens_are_null(tmp_path, pool):
    column = pa.array([None] + [17] * 49, pa.int32())
    selection = get_selector("all")(pool, 50, 0)
    manifest = write_subset(
        tmp_path,
        pool.set_column(4, "image_tokens", column),
        "p",
        selection,
        selector="all",
        params={},
        seed=0,
    )
    assert manifest["budget"]["image_tokens"] is None
    assert "null" in (tmp_path / "manifest.json").read_text()


def test_incomplete_or_altered_subsets_are_refused(tmp_path, pool):
    write(tmp_path, pool)
    table = pq.read_table(tmp_path / "subset.parquet")
    pq.write_table(table.slice(0, 19), tmp_path / "subset.parquet")
    with pytest.raises(SubsetError, match=r"not those of manifest.json"):
        read_subset(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(SubsetError, match="no finished subset"):
        read_subset(tmp_path)


def test_rows_of_another_pool_are_refused(tmp_path, pool):
    selection = get_selector("random")(random_table(4, 50), 50, 0)
    with pytest.raises(ValueError, match="pool with 40 rows"):
        write_subset(tmp_path, pool.slice(0, 40), "p", selection, selector="random", params={}, seed=0)
    assert not (tmp_path / "manifest.json").exists()


def test_parameters_that_json_cannot_hold_leave_no_manifest(tmp_path, pool):
    with pytest.raises(TypeError):
        write(tmp_path, pool, params={"x": object()})
    with pytest.raises(SubsetError):
        json.dumps(read_manifest(tmp_path))
