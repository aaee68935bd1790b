"""Scores with and without the questions that a pool repeats: units left out whole, the others reweighted."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from evaluation_data import bench, collected, compared, toy_suite, write_evaluation

from evaluation.context import Context, Subset
from evaluation.report.leaks import leak_section, stamp
from evaluation.report.markdown import render
from evaluation.results import ResultsError, Run
from evaluation.score import unit_table, without_questions

TOY = toy_suite(*(bench(f"t{k}", f"Task {k}", "ocr") for k in range(3)))


def rows(units: list[str], strata: list[str], scores: list[float], weights: list[float]) -> pa.Table:
    return pa.table(
        {
            "id": [f"q{n}" for n in range(len(units))],
            "unit": units,
            "stratum": strata,
            "weight": weights,
            "score": scores,
            "lenient": scores,
            "score_shuffled": pa.array([None] * len(units), pa.float64()),
        }
    )


def value(table: pa.Table) -> float:
    return float(np.dot(table["weight"].to_numpy(), table["score"].to_numpy()))


def test_a_unit_with_a_repeated_question_is_left_out_whole():
    # two units of two questions each, as an image of MME
    table = rows(["a", "a", "b", "b"], [""] * 4, [2, 2, 1, 1], [0.25] * 4)
    left = without_questions(table, {"q1"})
    assert left["unit"].to_pylist() == ["b", "b"] and value(left) == pytest.approx(1)
    assert value(without_questions(table, {"q2", "q3"})) == pytest.approx(2)
    assert without_questions(table, ()).equals(table) and without_questions(table, {"other"}).equals(table)
    assert len(without_questions(table, {"q0", "q2"})) == 0


def test_what_is_left_stands_for_its_category():
    # categories weigh alike: of x, one of two units is left; y is as before
    table = rows(["a", "b", "c", "d"], ["x", "x", "y", "y"], [1, 0, 1, 1], [0.25] * 4)
    assert value(table) == pytest.approx(0.75)
    left = without_questions(table, {"q1"})
    assert value(left) == pytest.approx((1 + 1) / 2) and left["weight"].to_pylist() == [0.5, 0.25, 0.25]
    alone = without_questions(table, {"q0", "q1"})
    assert value(alone) == pytest.approx(1) and alone["weight"].to_pylist() == [0.5, 0.5]
    units = unit_table(left)
    assert np.mean(units["score"].to_numpy()) == pytest.approx(value(left))
    assert units["questions"].to_pylist() == [1, 1, 1]


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Each arm is right on the first ten of fifty questions of t0 alone, which are the repeated ones."""
    found = []
    for arm, share in (("random", 0.4), ("chosen", 0.6)):
        for seed in range(2):
            rng = np.random.default_rng(seed)
            scores = {b.name: (rng.random(50) < share).astype(float) for b in TOY}
            scores["t0"] = np.array([1.0] * 10 + [0.0] * 40)
            found.append(Run(arm, seed, 0, "30%", write_evaluation(tmp_path / f"{arm}{seed}", scores)))
    return found


def ids(run: Run, benchmark: str) -> list[str]:
    import pyarrow.parquet as pq

    table = pq.read_table(run.path / "scores.parquet")
    return [row["id"] for row in table.to_pylist() if row["benchmark"] == benchmark]


def test_a_comparison_without_the_repeated_questions(runs):
    leaked = {"t0": set(ids(runs[0], "t0")[:10])}
    whole = compared(runs, TOY, leaked=leaked)
    left = whole.without_leaks
    assert (whole.n["t0"], left.n["t0"], left.units["t0"], left.n["t1"]) == (50, 40, 40, 50)
    for arm in ("random", "chosen"):
        assert whole.arm(arm).benchmarks["t0"].mean == pytest.approx(0.2)
        assert left.arm(arm).benchmarks["t0"].mean == 0
        assert left.arm(arm).benchmarks["t1"] == whole.arm(arm).benchmarks["t1"]
    assert left.arm("chosen").difference.value == pytest.approx(whole.arm("chosen").difference.value)


def test_a_benchmark_that_is_repeated_whole_is_in_no_mean(runs):
    left = compared(runs, TOY, leaked={"t0": ids(runs[0], "t0")}).without_leaks
    assert [b.name for b in left.suite] == ["t1", "t2"] and set(left.arm("chosen").benchmarks) == {"t1", "t2"}
    with pytest.raises(ResultsError, match="no question is left"):
        compared(runs, TOY, leaked={b.name: ids(runs[0], b.name) for b in TOY})


def test_results_in_long_form_have_both(runs):
    leaked = {"t0": ids(runs[0], "t0")[:10], "t1": [], "t2": ids(runs[0], "t2")}
    found = {
        (row["benchmark"], row["metric"]): (row["value"], row["n"])
        for row in collected(runs[:1], TOY, leaked).to_pylist()
    }
    metric = TOY.benchmarks[0].official
    assert found["t0", metric] == (0.2, 50) and found["t0", f"{metric}_without_leaks"] == (0, 40)
    assert ("t1", f"{metric}_without_leaks") not in found, "nothing of it is repeated"
    assert ("t2", f"{metric}_without_leaks") not in found, "nothing of it is left"


FOUND = {
    "state": "flag",
    "suite": "s",
    "data": {},
    "rows": 12,
    "of": 600,
    "items": {"t0": 10, "t2": 50},
    "kinds": {"image_exact": 12},
    "sources": {"web<b>": 12},
}


@pytest.fixture
def flagged(runs):
    leaked = {"t0": ids(runs[0], "t0")[:10], "t2": ids(runs[0], "t2")}
    return compared(runs, TOY, leaked=leaked, decontamination=FOUND)


def test_a_report_says_both_and_what_was_left_out(flagged):
    context = Context(
        "title",
        subsets=[Subset("chosen", 0, 9, leaked=3), Subset("chosen", 1, 9, leaked=4)],
        sources={"web<b>": {"kept": 90, "leaks, flagged": 12}, "quiet": {"kept": 5}},
    )
    text = render(flagged, context)
    assert "- **decontamination: flag**: 12 of 600 samples (2.00 %) of the pool repeat 60 questions" in text
    assert "| Task 0 | 50 | 10 |" in text and "## Leaks" in text
    assert "| chosen | 30% | 2 | 20.0 → 0.0 | 63.0 → – |" in text
    assert "Without the repeated questions every claim is the same (1)." in text
    assert "Task 2: all questions are repeated; left out of the means without." in text
    assert "| web&lt;b&gt; | 90 | 12 |" in text and "quiet" not in text, "of which nothing was lost"
    assert "| chosen | 2 | 9 | – | – | 4 | – | – |" in text and "repeat a question" in text
    kept = json.loads(json.dumps(flagged.to_dict()))
    assert kept["decontamination"] == FOUND and kept["without_leaks"]["n"]["t0"] == 40
    assert [b["name"] for b in kept["without_leaks"]["suite"]["benchmarks"]] == ["t0", "t1"]


def test_every_state_is_said(flagged):
    assert stamp({}) is None and "nobody has looked" in str(stamp({"state": "off"}))
    dropped = str(stamp({**FOUND, "state": "drop"}))
    assert "were taken out of the pool before anything was selected" in dropped and "12 of 600" in dropped
    assert "no sample of the pool repeats" in str(stamp({**FOUND, "rows": 0, "items": {}}))
    assert leak_section(replace(flagged, without_leaks=None)) == ""
