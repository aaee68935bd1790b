"""The metadata teacher, the choice of labelled rows, and labels on disk."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.pool.sample import Sample
from curation.taxonomy import CAPABILITY_KEYS, STYLES
from curation.teacher.base import Cost, Teacher
from curation.teacher.draw import choose_rows, label_quotas
from curation.teacher.labels import label_pool, read_labels
from curation.teacher.metadata import MetadataTeacher
from curation.teacher.rubric import Label, LabelError, missing_label, rubric_text

N = 2000
STYLE_KEYS = list(STYLES)
TRUE_SCORES = [0 if k % 2 else 3 for k in range(len(CAPABILITY_KEYS))]


@dataclass
class ListPool:
    """The part of a Pool that labelling needs."""

    table: pa.Table
    hash: str = "pool-a"

    def __len__(self):
        return len(self.table)

    def samples(self, rows=None):
        ids, sources = self.table["id"].to_pylist(), self.table["source"].to_pylist()
        for row in range(len(ids)) if rows is None else rows:
            yield Sample(int(row), ids[row], sources[row], (), ())


@pytest.fixture(scope="module")
def pool():
    sources = ["head"] * 1500 + ["mid"] * 480 + ["tail"] * 18 + ["single"] * 2
    return ListPool(
        pa.table(
            {"row": pa.array(range(N), pa.int32()), "id": [f"s{i}" for i in range(N)], "source": sources}
        )
    )


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Scores 3 in the even capabilities, 0 in the odd ones; every fourth sample is wrong."""
    columns = {
        f"cap_{capability}": np.full(N, score, np.int8)
        for capability, score in zip(CAPABILITY_KEYS, TRUE_SCORES, strict=True)
    }
    styles = [
        [STYLE_KEYS[i % 9]] if i % 3 else [STYLE_KEYS[i % 9], "specified"][: 1 + (i % 9 != 8)]
        for i in range(N)
    ]
    path = tmp_path_factory.mktemp("truth") / "truth.parquet"
    table = {
        "id": [f"s{i}" for i in range(N)],
        **columns,
        "styles": styles,
        "wrong": np.arange(N) % 4 == 0,
        "extra": range(N),
    }
    pq.write_table(pa.table(table), path)
    return path


def scores(teacher, pool, rows=None):
    return np.array([list(label.scores.values()) for label in teacher.label(pool.samples(rows))])


def test_without_noise_the_labels_are_the_truth(pool, truth):
    teacher = MetadataTeacher(truth, noise=0)
    assert isinstance(teacher, Teacher)
    labels = list(teacher.label(pool.samples([5, 0])))
    assert [(label.row, label.id, label.missing) for label in labels] == [(5, "s5", None), (0, "s0", None)]
    assert list(labels[1].scores.values()) == TRUE_SCORES
    assert labels[1].styles == ("multi_choice", "specified") and labels[0].styles == (STYLE_KEYS[5],)


def test_noise_moves_the_stated_share_by_one(pool, truth):
    change = scores(MetadataTeacher(truth, noise=0.2, seed=3), pool) - np.array(TRUE_SCORES)
    assert set(np.unique(change)) == {-1, 0, 1}
    inner, zeros = change[:, ::2], change[:, 1::2]
    # 14,000 draws: four standard errors of a share of 0.2 are 0.014
    assert np.mean(inner != 0) == pytest.approx(0.2, abs=0.014)
    assert np.mean(inner > 0) == pytest.approx(0.1, abs=0.011)
    assert np.mean(zeros == 1) == pytest.approx(0.1, abs=0.011) and zeros.min() == 0
    assert abs(np.corrcoef(inner[:, 0], inner[:, 1])[0, 1]) < 0.09


def test_a_label_depends_on_seed_and_id_only(pool, truth):
    rows = np.arange(300)
    first = scores(MetadataTeacher(truth, seed=1), pool, rows)
    again = scores(MetadataTeacher(truth, seed=1), pool, rows[::-1])[::-1]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, scores(MetadataTeacher(truth, seed=2), pool, rows))


def test_wrong_answers_are_noticed_only_when_asked_and_at_the_stated_rate(pool, truth):
    blind = scores(MetadataTeacher(truth, noise=0), pool)
    assert np.all(blind[:, 0] == 3)
    seeing = scores(MetadataTeacher(truth, noise=0, knows_wrong=True, knows_rate=0.7), pool)
    wrong = np.arange(N) % 4 == 0
    assert np.all(seeing[~wrong] == blind[~wrong])
    penalised = np.all(seeing[wrong] == 0, axis=1)
    assert np.mean(penalised) == pytest.approx(0.7, abs=0.09)
    assert np.all(seeing[wrong][~penalised] == blind[wrong][~penalised])
    assert np.all(scores(MetadataTeacher(truth, noise=0, knows_wrong=True, knows_rate=1.0), pool)[wrong] == 0)


def test_a_sample_outside_the_truth_gets_a_missing_label(truth):
    label = next(MetadataTeacher(truth).label([Sample(7, "stranger", "x", (), ())]))
    assert label == missing_label(7, "stranger", "not_in_truth")
    assert set(label.scores.values()) == {None}


def test_a_file_that_is_not_a_truth_table_is_refused(tmp_path, truth):
    table = pq.read_table(truth).drop_columns(["wrong", "cap_ocr"])
    pq.write_table(table, tmp_path / "half.parquet")
    with pytest.raises(LabelError, match="cap_ocr, wrong"):
        MetadataTeacher(tmp_path / "half.parquet")
    with pytest.raises(LabelError, match="between 0 and 1"):
        MetadataTeacher(truth, noise=1.5)


def test_a_label_is_checked():
    good = dict.fromkeys(CAPABILITY_KEYS, 2)
    with pytest.raises(LabelError, match="ocr = 6"):
        Label(0, "a", good | {"ocr": 6}, ())
    with pytest.raises(LabelError, match="unknown style 'haiku'"):
        Label(0, "a", good, ("haiku",))
    with pytest.raises(LabelError, match=f"{len(CAPABILITY_KEYS)} capability keys"):
        Label(0, "a", {"ocr": 1}, ())


def test_the_rubric_names_every_level_capability_and_style():
    text = rubric_text()
    for part in ["0: absent", "5: strong", "ocr: optical character recognition", *STYLES.values()]:
        assert part in text


@pytest.mark.parametrize(
    ("sizes", "budget", "floor", "expected"),
    [
        ([100, 100], 10, 0, [5, 5]),
        ([900, 90, 10], 20, 2, [15, 3, 2]),
        ([900, 90, 2], 20, 4, [13, 5, 2]),
        ([5, 5, 5], 3, 4, [1, 1, 1]),  # the floor gives way to the budget
        ([5, 5, 5], 2, 4, [1, 1, 0]),
        ([3, 1], 9, 2, [3, 1]),  # never more than the source has
    ],
)
def test_label_quotas(sizes, budget, floor, expected):
    assert label_quotas(np.array(sizes), budget, floor).tolist() == expected


@pytest.mark.parametrize(
    ("sizes", "budget", "floor", "temper", "expected"),
    [
        ([900, 90, 10], 30, 2, 0.0, [10, 10, 10]),
        ([900, 90, 10], 60, 2, 0.0, [25, 25, 10]),  # the third has too few samples; the others share the rest
        (
            [10002, 102, 3],
            117,
            2,
            0.5,
            [102, 12, 3],
        ),  # square roots of the sizes above the floor: 100, 10, 1
        ([900, 90, 10], 1000, 0, 0.3, [900, 90, 10]),
        ([7, 7, 7], 5, 0, 0.0, [2, 2, 1]),
    ],
)
def test_label_quotas_are_tempered(sizes, budget, floor, temper, expected):
    assert label_quotas(np.array(sizes), budget, floor, temper).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=20),
    share=st.floats(0, 1),
    floor=st.integers(0, 6),
    temper=st.floats(0, 1),
)
def test_tempered_quotas_are_exact_and_keep_floor_and_size(sizes, share, floor, temper):
    sizes = np.array(sizes)
    budget = round(share * sizes.sum())
    quotas = label_quotas(sizes, budget, floor, temper)
    assert quotas.sum() == budget and np.all(quotas <= sizes)
    if np.minimum(sizes, floor).sum() <= budget:
        assert np.all(quotas >= np.minimum(sizes, floor))
    assert np.all(
        np.diff(quotas[np.argsort(sizes, kind="stable")]) >= -1
    )  # a larger source never gets less, except for rounding


def test_tempering_moves_labels_from_the_head_to_the_tail(pool, truth, tmp_path):
    counts = {}
    for temper in (1.0, 0.5, 0.0):
        sources = np.array(pool.table["source"])[
            choose_rows(pool.table, 0.05, seed=0, floor=2, temper=temper)
        ]
        counts[temper] = [int(np.sum(sources == s)) for s in ("head", "mid", "tail", "single")]
        assert sum(counts[temper]) == 100
    assert counts[0.0] == [40, 40, 18, 2] and counts[1.0][0] > counts[0.5][0] > 40
    assert label_pool(pool, MetadataTeacher(truth), tmp_path, temper=0.5)["temper"] == 0.5
    with pytest.raises(ValueError, match="temper"):
        choose_rows(pool.table, 0.05, seed=0, floor=2, temper=-1)


def test_labelled_rows_are_stratified_and_independent_of_the_pool_order(pool):
    rows = choose_rows(pool.table, 0.05, seed=0, floor=2)
    assert len(rows) == 100 and len(set(rows)) == 100 and np.all(np.diff(rows) > 0)
    sources = np.array(pool.table["source"])[rows]
    counts = {s: int(np.sum(sources == s)) for s in ("head", "mid", "tail", "single")}
    assert (
        counts["single"] == 2
        and counts["tail"] >= 2
        and 65 <= counts["head"] <= 75
        and 20 <= counts["mid"] <= 25
    )
    shuffled = pool.table.take(np.random.default_rng(0).permutation(N))
    assert np.array_equal(choose_rows(shuffled, 0.05, seed=0, floor=2), rows)
    assert not np.array_equal(choose_rows(pool.table, 0.05, seed=1, floor=2), rows)


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
def test_a_share_outside_the_pool_is_refused(pool, share):
    with pytest.raises(ValueError, match="share"):
        choose_rows(pool.table, share, seed=0, floor=1)


def test_labels_come_back_from_disk_with_their_counts(pool, truth, tmp_path):
    seen = []
    summary = label_pool(
        pool,
        MetadataTeacher(truth, noise=0),
        tmp_path,
        share=0.1,
        on_progress=lambda i, n: seen.append((i, n)),
    )
    table = read_labels(tmp_path, "pool-a")
    assert len(table) == 200 == summary["n"] and seen[-1] == (200, 200)
    assert table["cap_spatial"].to_pylist() == [3] * 200 and table["cap_attribute"].to_pylist() == [0] * 200
    assert summary["scores"]["spatial"] == [0, 0, 0, 200, 0, 0] and summary["missing"] == {}
    assert summary["share_labelled"] == 0.1 and summary["noise"] == 0 and summary["cost"]["usd"] == 0
    assert json.loads((tmp_path / "labels.json").read_text()) == summary


class PartialTeacher:
    """Labels every second sample, or none."""

    name = "partial"

    def __init__(self, answers):
        self.answers = answers

    def label(self, samples):
        for k, sample in enumerate(samples):
            if k % 2 or not self.answers:
                yield missing_label(sample.row, sample.id, "refused")
            else:
                yield Label(
                    sample.row, sample.id, dict.fromkeys(CAPABILITY_KEYS, 1) | {"ocr": None}, ("word",)
                )

    def describe(self):
        return {"teacher": self.name}

    def cost(self):
        return Cost(requests=3, usd=0.5)


def test_missing_labels_are_null_and_counted_never_zero(pool, tmp_path):
    summary = label_pool(pool, PartialTeacher(answers=True), tmp_path, share=0.1)
    table = read_labels(tmp_path, "pool-a")
    assert (
        summary["missing"] == {"refused": 100}
        and summary["missing_scores"] == 100 * len(CAPABILITY_KEYS) + 100
    )
    assert table["cap_ocr"].null_count == 200 and table["cap_spatial"].null_count == 100
    assert summary["scores"]["spatial"] == [0, 100, 0, 0, 0, 0] and summary["cost"]["usd"] == 0.5


def test_a_teacher_without_any_answer_is_an_error(pool, tmp_path):
    with pytest.raises(LabelError, match=r"no usable label for 200 samples: \{'refused': 200\}"):
        label_pool(pool, PartialTeacher(answers=False), tmp_path, share=0.1)
    assert not (tmp_path / "labels.json").exists()


def test_labels_of_another_pool_unfinished_or_damaged_are_refused(pool, truth, tmp_path):
    label_pool(pool, MetadataTeacher(truth), tmp_path, share=0.01)
    with pytest.raises(LabelError, match="pool-b"):
        read_labels(tmp_path, "pool-b")
    content = (tmp_path / "labels.parquet").read_bytes()
    (tmp_path / "labels.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(LabelError, match="damaged"):
        read_labels(tmp_path, "pool-a")
    (tmp_path / "labels.json").unlink()
    with pytest.raises(LabelError, match="no finished labels"):
        read_labels(tmp_path, "pool-a")
