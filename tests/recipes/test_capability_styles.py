"""Capability and style of a pool's samples together: by the ground truth, by signals, as shares."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.signals.core.table import write_signal
from curation.taxonomy import CAPABILITY_KEYS
from recipes.stages.capability_styles import names_by_row, shares
from recipes.stages.pool_results import PoolResults

POOL_HASH = "pool"


@dataclass(frozen=True)
class Rows:
    """What is read of a pool: its ids, their number, its hash."""

    table: pa.Table
    hash: str = POOL_HASH

    def __len__(self):
        return len(self.table)


def pool_of(monkeypatch, ids, inputs):
    monkeypatch.setattr(PoolResults, "data", Rows(pa.table({"id": ids})))
    return PoolResults(0, inputs)


def signal(folder, columns, rows):
    """A signal of these columns for the rows, which the producer computes in one part."""

    def compute(_, advance):
        return pa.table({"row": pa.array(rows, pa.int32()), **columns})

    identity = {"producer": "test", "pool_hash": POOL_HASH}
    write_signal(folder, identity, len(rows), compute, shard_rows=len(rows))
    return folder


def capabilities(**scores):
    n = len(next(iter(scores.values())))
    return {f"cap_{key}": pa.array(scores.get(key, [0.0] * n), pa.float32()) for key in CAPABILITY_KEYS}


def test_the_ground_truth_comes_before_signals(monkeypatch, tmp_path):
    truth = {"id": ["b", "a"], "capability": ["ocr", "logic"], "styles": [["word"], ["yes_no", "word"]]}
    pq.write_table(pa.table(truth), tmp_path / "truth.parquet")
    pool = pool_of(monkeypatch, ["a", "b"], {"truth": tmp_path, "signal_capability": tmp_path / "none"})
    assert names_by_row(pool) == [["logic | yes_no", "logic | word"], ["ocr | word"]]


def test_signals_give_the_capability_of_the_highest_score_with_each_style(monkeypatch, tmp_path):
    scores = capabilities(spatial=[1.0, 4.0, 0.0, 2.0], ocr=[4.5, 4.0, 0.0, 2.0], stem=[None, 1.0, 0.0, 2.0])
    styles = pa.array([["word", "yes_no"], ["word"], [], None], pa.list_(pa.string()))
    inputs = {
        "signal_capability": signal(tmp_path / "capability", scores, range(4)),
        "signal_style": signal(tmp_path / "style", {"styles": styles}, range(4)),
    }
    assert names_by_row(pool_of(monkeypatch, list("abcd"), inputs)) == [
        ["ocr | word", "ocr | yes_no"],
        ["spatial | word"],  # of equal scores the first in the taxonomy
        ["none | none"],  # rated: neither a capability nor a style
        [],  # the styler gave nothing
    ]


def test_one_rater_alone_says_nothing(monkeypatch, tmp_path):
    inputs = {"signal_capability": signal(tmp_path, capabilities(ocr=[1.0, 2.0]), range(2))}
    assert names_by_row(pool_of(monkeypatch, ["a", "b"], inputs)) == []


def test_rows_without_scores_are_not_rated(monkeypatch, tmp_path):
    nothing = {key: [None, 1.0] for key in CAPABILITY_KEYS}
    styles = pa.array([["word"], ["word"]], pa.list_(pa.string()))
    inputs = {
        "signal_capability": signal(tmp_path / "capability", capabilities(**nothing), range(2)),
        "signal_style": signal(tmp_path / "style", {"styles": styles}, range(2)),
    }
    assert names_by_row(pool_of(monkeypatch, ["a", "b"], inputs)) == [[], ["spatial | word"]]


def test_shares_add_up_to_one_over_the_rated_samples():
    names = [["ocr | word", "ocr | yes_no"], ["ocr | word"], [], ["logic | word"]]
    found = shares(names, range(4))
    assert found == pytest.approx({"ocr | word": 1.5 / 3, "ocr | yes_no": 0.5 / 3, "logic | word": 1 / 3})
    assert sum(found.values()) == pytest.approx(1)
    assert shares(names, [2]) == {} and shares(names, [1, 1]) == {"ocr | word": 1.0}
