"""Semantic copies: by the cosine of stored vectors, inside clusters, each near the first of its group."""

import numpy as np
import pyarrow as pa
import pytest
from copies_pool import CopiesPool

from curation.dedup import vectors as module
from curation.dedup.find import find_duplicates
from curation.dedup.vectors import Vectors
from curation.pool.errors import PoolArgumentError
from curation.signals.core.table import OtherPoolError, write_signal
from curation.signals.core.vector_files import vector_array


@pytest.fixture
def pool(tmp_path):
    world = CopiesPool(tmp_path)
    for number in range(40):
        world.add(f"r{number}", f"Question {number} about something?", f"Thing number {number} of forty.")
    world.add("again", "Question 0 about something?", "Thing number 0 of forty.")
    return world.build()


def signal(pool, folder, values, known=None, clusters=None, pool_hash=None):
    columns = {"row": pa.array(np.arange(len(pool), dtype=np.int32)), "emb": vector_array(values, known)}
    if clusters is not None:
        columns["cluster_emb"] = pa.array(clusters, pa.int32())
    identity = {"producer": "test", "pool_hash": pool_hash or pool.hash}
    write_signal(folder, identity, len(pool), lambda rows, advance: pa.table(columns), shard_rows=len(pool))
    return folder


def planted(pool):
    """Random directions; 5 is that of 4, turned a little; 6 is half way between 7 and 8."""
    values = np.random.default_rng(0).normal(size=(len(pool), 64))
    values[5] = values[4] + 0.1 * values[10]
    values[6] = values[7] + values[8]
    return values


def test_near_vectors_are_copies(pool, tmp_path):
    folder = signal(pool, tmp_path / "emb", planted(pool))
    found = find_duplicates(pool, vectors=Vectors([folder], "emb", None, 0.97))
    kinds = found.table["dup_kind"].to_pylist()
    assert found.group[4] == found.group[5] and {kinds[4], kinds[5]} == {"semantic"}
    assert found.group[0] == found.group[40] and kinds[0] == kinds[40] == "exact"
    assert (~found.first).sum() == 2
    assert all(found.first[found.group])


def test_only_inside_clusters(pool, tmp_path):
    clusters = np.arange(len(pool)) % 2
    folder = signal(pool, tmp_path / "emb", planted(pool), clusters=clusters)
    found = find_duplicates(pool, vectors=Vectors([folder], "emb", "cluster_emb", 0.97))
    assert (~found.first).sum() == 1  # 4 and 5 are in different clusters


def test_a_row_without_a_vector_is_no_copy(pool, tmp_path):
    values = planted(pool)
    values[20:30] = 0
    folder = signal(pool, tmp_path / "emb", values, known=~np.isin(np.arange(len(pool)), np.arange(20, 30)))
    found = find_duplicates(pool, vectors=Vectors([folder], "emb"))
    assert found.first[20:30].all()


def test_a_row_in_between_joins_one_group_only(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    folder = signal(pool, tmp_path / "emb", planted(pool))
    found = find_duplicates(pool, vectors=Vectors([folder], "emb", None, 0.6))
    units = planted(pool) / np.linalg.norm(planted(pool), axis=1, keepdims=True)
    for row in range(1, 40):  # the first one has an exact copy, of another vector
        assert units[row] @ units[found.group[row]] >= 0.59
    assert (~found.first).sum() >= 3


def test_what_does_not_fit_is_said(pool, tmp_path, monkeypatch):
    folder = signal(pool, tmp_path / "emb", planted(pool))
    with pytest.raises(PoolArgumentError, match=r"no column 'emb_dino' in .*curation\.signals embeddings"):
        find_duplicates(pool, vectors=Vectors([folder]))
    with pytest.raises(PoolArgumentError, match=r"no column 'cluster_x' .*curation\.signals clusters"):
        find_duplicates(pool, vectors=Vectors([folder], "emb", "cluster_x"))
    other = signal(pool, tmp_path / "other", planted(pool), pool_hash="p")
    with pytest.raises(OtherPoolError):
        find_duplicates(pool, vectors=Vectors([other], "emb"))
    monkeypatch.setattr(module, "FEW", 10)
    with pytest.raises(PoolArgumentError, match="40 samples have a vector, too many to compare"):
        find_duplicates(pool, vectors=Vectors([folder], "emb"))
    with pytest.raises(ValueError, match="cosine must be above 0"):
        Vectors([folder], cosine=0)
