"""Cosines to query examples of target tasks: those of the vectors, by the model that made them."""

from dataclasses import replace

import numpy as np
import pytest

from curation.signals.core.table import SignalError, read_metadata, read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.gradients.validation import ValidationError
from curation.signals.target_queries import by_task, score_queries
from curation.signals.vectors.embeddings import embed_pool

pytest.importorskip("torch")
TASKS = {0: "ocr", 1: "ocr", 7: "mme/count", 10: "mme/color", 4: "mme/count"}


@pytest.fixture(scope="module")
def embedding(small_pool, tiny_vlm_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedding")
    embed_pool(small_pool, tiny_vlm_dir, out, preset="position_weighted", device="cpu")
    return out


def items(pool):
    return [replace(pool[row], source=task) for row, task in TASKS.items()]


def test_cosines_are_those_of_the_vectors(small_pool, tiny_vlm_dir, embedding, tmp_path):
    summary = score_queries(
        small_pool, tiny_vlm_dir, tmp_path, vectors=embedding, validation=items(small_pool), device="cpu"
    )
    table = read_signal(tmp_path, small_pool.hash)
    assert table.column_names == ["row", "rds_mme", "rds_ocr"]
    vectors = matrix(read_signal(embedding), "emb_position_weighted")[0].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    inner = vectors @ vectors.T  # the queries are rows of the pool
    for task, rows in (("ocr", [0, 1]), ("mme", [7, 10, 4])):  # subtasks count as their task
        own = np.array(table[f"rds_{task}"].to_pylist())
        np.testing.assert_allclose(own, inner[:, rows], atol=2e-3)
    assert np.ptp(inner) > 0.05, "the vectors must differ for this test to mean anything"
    meta = read_metadata(tmp_path)
    assert meta["targeted"] is True and meta["tasks"] == {"mme": 3, "ocr": 2}
    assert summary["queries_missing"] == 0 and summary["rows_missing"] == 0


def test_other_vectors_are_refused(small_pool, tiny_vlm_dir, embedding, tmp_path):
    halves = tmp_path / "halves"
    embed_pool(small_pool, tiny_vlm_dir, halves, preset="token_halves", device="cpu")
    with pytest.raises(SignalError, match="one column"):
        score_queries(small_pool, tiny_vlm_dir, tmp_path, vectors=halves, validation=items(small_pool))


def test_queries_without_a_vector_are_left_out():
    queries = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]], np.float16)
    held = np.array([True, False, True])
    found = by_task({"a": {"x": [0], "y": [1]}, "b": {"": [2, 1]}}, queries, held)
    np.testing.assert_allclose(found["a"], [[0.6, 0.8]], atol=1e-6)
    np.testing.assert_allclose(found["b"], [[0.0, 1.0]])
    with pytest.raises(ValidationError, match="task c"):
        by_task({"c": {"": [1]}}, queries, held)
