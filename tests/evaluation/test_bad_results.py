"""Results that cannot be compared, or not in every way: each has its message, or is said to lack a claim."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_data import TOY, bench, collected, compared, toy_suite, write_evaluation
from experiments import experiment

from evaluation.aggregate import compare
from evaluation.experiment import Experiment
from evaluation.rebuild import rebuild
from evaluation.results import ResultsError, Run

PROTOCOL = {"suite": "toy", "entries": "e1", "data": "d1", "batch_size": 8, "lmms_eval": "0.5"}


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Two seeds of three arms on two benchmarks of 40 questions."""
    rng = np.random.default_rng(0)
    return [
        Run(arm, seed, 0, "10%", evaluated(tmp_path / f"{arm}-{seed}", rng), commit="c1")
        for arm in ("random", "mmssr", "less")
        for seed in range(2)
    ]


def evaluated(folder: Path, rng: np.random.Generator, n: int = 40, **protocol: object) -> Path:
    scores = {task: (rng.random(n) < 0.5).astype(float) for task in ("t1", "t2")}
    return write_evaluation(folder, scores, PROTOCOL | protocol)


def again(run: Run, **protocol: object) -> None:
    """Evaluate a run once more under another protocol."""
    evaluated(run.path, np.random.default_rng(1), **protocol)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"suite": "mm14"}, r"\(suite differ\)\. the suite: mm14 and toy\."),
        ({"data": "d2"}, r"\(data differ\)\. the edition of the benchmarks' data: d2 and d1\."),
        ({"entries": "e2"}, r"\(entries differ\)\. what the suite says of its benchmarks: e2 and e1\."),
        ({"lmms_eval": "0.6"}, r"\(lmms_eval differ\)\. lmms_eval: 0\.6 and 0\.5\."),
        ({"batch_size": None}, r"\(batch_size differ\)\. batch_size: none and 8\."),
        ({"judges": {"t1": {"judge_model": "m" * 99}}}, r"judges: \{.*m{20,}\.\.\. and none\."),
        ({"suite": "x", "data": "y"}, r"\(data, suite differ\)"),
    ],
)
def test_runs_of_another_protocol_are_refused_with_both_values(runs, other, message):
    again(runs[3], **other)
    with pytest.raises(ResultsError, match=message) as error:
        compared(runs, TOY)
    assert str(runs[3].path) in str(error.value) and str(runs[0].path) in str(error.value)
    assert "Evaluate both under one protocol" in str(error.value)


def test_runs_of_several_commits_are_compared_and_kept_apart(runs, tmp_path):
    """The code of other commits may give the same scores: it is recorded, not refused."""
    mixed = [replace(runs[0], commit="c2"), *runs[1:]]
    Experiment.of_runs(mixed, TOY).write(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert [run["commit"] for run in content["runs"]] == ["c2", *["c1"] * 5]
    assert compared(mixed, TOY).arms


def test_unequal_questions_are_refused_with_their_numbers(runs):
    evaluated(runs[4].path, np.random.default_rng(1), n=39)
    with pytest.raises(ResultsError, match="answered different questions of t1: 39 and 40") as error:
        compared(runs, TOY)
    assert str(runs[4].path) in str(error.value)


def test_other_questions_of_the_same_number_are_refused(runs):
    scores = {task: np.ones(40) for task in ("t1", "t2")}
    write_evaluation(runs[4].path, scores, PROTOCOL, ids="other")
    with pytest.raises(ResultsError, match="different questions of t1; evaluate both on the same data"):
        compared(runs, TOY)


def test_questions_that_weigh_otherwise_are_refused(runs):
    """The same ids in other units: a suite that changed without saying so."""
    path = runs[4].path / "scores.parquet"
    table = pq.read_table(path)
    units = [str(int(name) // 2) for name in table["unit"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("unit"), "unit", [units]), path)
    with pytest.raises(ResultsError, match="different questions of t1"):
        compared(runs, TOY)


def test_a_missing_benchmark_is_refused(runs):
    more = toy_suite(*TOY.benchmarks, bench("t3", "Three", "data"))
    for call in (compared, collected):
        with pytest.raises(ResultsError, match="no result of benchmark 't3' for arm 'random'"):
            call(runs, more)


def test_why_a_benchmark_is_missing_is_said(runs):
    path = runs[2].path / "summary.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["t2"] = {"missing": "the judge answered nothing"}
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"arm 'mmssr' .*: the judge answered nothing"):
        compared(runs, TOY)


@pytest.mark.parametrize("where", ["score", "score_shuffled", "lenient"])
def test_a_score_that_is_no_number_is_refused(runs, where):
    path = runs[1].path / "scores.parquet"
    table = pq.read_table(path)
    values = np.array(table[where].to_pylist(), dtype=float)
    values[7] = np.nan
    pq.write_table(table.set_column(table.schema.get_field_index(where), where, [values]), path)
    with pytest.raises(ResultsError, match="disagree on t1") as error:
        compared(runs, TOY)
    assert str(runs[1].path) in str(error.value)


def test_a_value_that_is_no_number_is_refused(runs):
    nan = {"t1": np.full(40, np.nan), "t2": np.ones(40)}
    write_evaluation(runs[1].path, nan, PROTOCOL)
    with pytest.raises(ResultsError, match=r"arm 'random' .*: its value is nan"):
        compared(runs, TOY)


def test_a_baseline_that_failed_is_said(runs, tmp_path):
    """Its runs are not there: nothing is claimed, and the report says why."""
    left = [run for run in runs if run.arm != "random"]
    made = Experiment.of_runs(left, TOY)
    comparison = compare(made)
    assert comparison.baseline is None and not any(arm.difference for arm in comparison.arms)
    [note] = made.context.notes
    assert "No run of the baseline `random`" in note
    made.write(tmp_path / "files")
    rebuild(tmp_path / "files", tmp_path / "out")
    assert "No run of the baseline" in (tmp_path / "out" / "report.md").read_text()


def test_the_baseline_of_one_budget_that_failed_is_said(runs):
    both = [replace(run, budget="30%") if run.arm == "less" else run for run in runs]
    made = Experiment.of_runs(both, TOY, baseline={"10%": "random", "30%": "random_30"})
    assert ["`random_30`" in note for note in made.context.notes] == [True]
    assert [arm.arm for arm in compare(made).arms if arm.difference] == ["mmssr"]


def test_a_baseline_whose_evaluation_failed_names_its_directory(runs):
    (runs[0].path / "summary.json").unlink()
    with pytest.raises(ResultsError, match=r"no readable summary\.json.*evaluate this checkpoint again"):
        compared(runs, TOY)


def test_one_seed_has_a_difference_and_no_verdict(runs):
    """Whether it is the arm's or the baseline's."""
    of_arm = [run for run in runs if run.arm != "mmssr" or run.selection_seed == 0]
    of_base = [run for run in runs if run.arm != "random" or run.selection_seed == 0]
    for few in (of_arm, of_base):
        arm = compared(few, TOY).arm("mmssr")
        assert arm.claim.verdict is None and "one repetition" in arm.claim.reason
        assert np.isfinite(arm.difference.value) and np.isnan(arm.difference.corrected_low)
    assert compared(of_arm, TOY).arm("less").claim.family == 1, "what is not tested costs the others nothing"


def test_a_suite_with_one_benchmark(tmp_path):
    """No benchmark can be left out: nothing is said of robustness, and the whole report is written."""
    made = experiment(4, suite=toy_suite(bench("t1", "One", "ocr")))
    arm = compare(made).arm("method_0")
    assert arm.robustness is None and arm.claim.verdict is not None and arm.relative_range is None
    assert arm.difference.value == arm.benchmark_differences["t1"].value
    made.write(tmp_path / "files")
    rebuild(tmp_path / "files", tmp_path / "out")
    assert "by the score on One alone" in (tmp_path / "out" / "report.md").read_text()


def test_arms_on_different_pools_are_refused(runs):
    elsewhere = [replace(run, pool_seed=int(run.arm == "less")) for run in runs]
    with pytest.raises(
        ResultsError, match=r"'random' and 'less' were run on different pools: \[0\] and \[1\]"
    ):
        compared(elsewhere, TOY)


def test_the_same_seeds_twice_are_refused_with_both_directories(runs):
    with pytest.raises(ResultsError, match="2 runs with the same seeds") as error:
        compared([*runs, replace(runs[0], path=runs[1].path)], TOY)
    assert str(runs[0].path) in str(error.value) and str(runs[1].path) in str(error.value)


@pytest.mark.slow
def test_two_hundred_arms_are_one_family(tmp_path):
    made = experiment(200, seeds=2, questions=10, suite=TOY)
    arms = compare(made).arms
    assert {arm.claim.family for arm in arms if arm.claim and not arm.anchor} == {198}
    made.write(tmp_path / "files")
    rebuild(tmp_path / "files", tmp_path / "out")
    assert (tmp_path / "out" / "report.md").stat().st_size < 1_000_000
