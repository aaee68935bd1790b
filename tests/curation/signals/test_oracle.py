"""The oracle's signal: the ground truth in the columns of the learned signals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.mini.draft import Defects
from curation.mini.pool import build_source
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.selectors.registry import get_selector
from curation.signals.core.table import OtherPoolError, join, read_metadata, read_signal
from curation.signals.raters.capability import score_table
from curation.signals.raters.oracle import tell_truth
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.metadata import WRONG_PENALTY

CAPS = [f"cap_{key}" for key in CAPABILITY_KEYS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pool with many wrong answers, and its truth in the order of the pool."""
    place = tmp_path_factory.mktemp("oracle")
    build_source(place / "source", 120, seed=3, defects=Defects(wrong_answers=0.3, leaks=0))
    build_pool(place / "source" / "pool.json", place / "source", place / "pool")
    pool = Pool.open(place / "pool")
    truth = {t["id"]: t for t in pq.read_table(place / "source" / "truth.parquet").to_pylist()}
    return pool, place / "source" / "truth.parquet", [truth[id] for id in pool.table["id"].to_pylist()]


def scores(table, names=CAPS):
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def test_the_signal_is_the_truth(world, tmp_path):
    pool, path, truth = world
    tell_truth(pool, path, tmp_path, shard_rows=50)
    signal = read_signal(tmp_path, pool.hash)
    assert signal["row"].to_pylist() == list(range(len(pool)))
    assert np.array_equal(scores(signal), [[t[name] for name in CAPS] for t in truth])
    assert signal["styles"].to_pylist() == [t["styles"] for t in truth]
    assert np.array_equal(scores(signal, [f"exp_{key}" for key in CAPABILITY_KEYS]), scores(signal))
    assert (scores(signal, [f"mass_{key}" for key in CAPABILITY_KEYS]) == 1).all()


def test_its_columns_are_those_of_the_learned_signals(world, tmp_path):
    pool, path, _ = world
    tell_truth(pool, path, tmp_path)
    signal, learned = (
        read_signal(tmp_path),
        score_table([0], [np.log(np.full((len(CAPABILITY_KEYS), 6), 1 / 6))]),
    )
    assert set(learned.schema.names) | {"styles"} == set(signal.schema.names)
    assert all(signal.schema.field(field.name).type == field.type for field in learned.schema)
    assert str(signal.schema.field("styles").type).startswith("list<")
    chosen = get_selector("mmssr")(join(pool.table, [signal]), 30, 0)
    assert len(chosen.rows) == 30


def test_wrong_answers_are_marked_down_with_knows_wrong_only(world, tmp_path):
    pool, path, truth = world
    for knows in (False, True):
        tell_truth(pool, path, tmp_path / str(knows), knows_wrong=knows)
    blind, knowing = (scores(read_signal(tmp_path / name)) for name in ("False", "True"))
    wrong = np.array([t["wrong"] for t in truth])
    assert wrong.sum() > 10
    assert np.array_equal(knowing[~wrong], blind[~wrong])
    assert np.array_equal(knowing[wrong], np.maximum(blind[wrong] - WRONG_PENALTY, 0))
    assert read_metadata(tmp_path / "True")["identity"] != read_metadata(tmp_path / "False")["identity"]


def test_the_truth_of_another_pool_is_refused(world, tmp_path):
    pool, _, _ = world
    build_source(tmp_path / "other", 20, seed=4, defects=Defects(leaks=0))
    with pytest.raises(OtherPoolError, match="belongs to another pool"):
        tell_truth(pool, tmp_path / "other" / "truth.parquet", tmp_path / "signal")


def test_parts_of_another_truth_are_not_kept(world, tmp_path):
    """The same pool with a revised truth table."""
    pool, path, _ = world
    tell_truth(pool, path, tmp_path / "signal")
    table = pq.read_table(path)
    revised = table.set_column(
        table.column_names.index("cap_ocr"), "cap_ocr", pa.array([5] * len(table), table["cap_ocr"].type)
    )
    pq.write_table(revised, tmp_path / "truth.parquet")
    tell_truth(pool, tmp_path / "truth.parquet", tmp_path / "signal")
    assert set(read_signal(tmp_path / "signal")["cap_ocr"].to_pylist()) == {5}
