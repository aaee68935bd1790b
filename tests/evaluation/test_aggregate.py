"""Comparison of arms: published numbers re-derived, known toy values, refusals."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import TOY, bench, collected, compared, toy_suite, write_evaluation
from experiments import experiment

from evaluation import aggregate
from evaluation.aggregate import compare, count_above, leave_one_out, relative_to_reference
from evaluation.results import ResultsError, Run, protocol_hash
from evaluation.suite import load_suite

RESULTS = Path(__file__).parents[2] / "recipes" / "results"
REFERENCE = Path(__file__).parents[2] / "recipes/reference/mmssr_main.csv"


def _published() -> tuple[dict, list]:
    rows = list(csv.DictReader(REFERENCE.open()))
    names = [name for name in rows[0] if name not in ("budget", "method", "gt_rand", "FULL")]
    return {(row["budget"], row["method"]): [float(row[name]) for name in names] for row in rows}, rows


def test_full_column_of_mmssr_is_re_derived():
    scores, rows = _published()
    assert len(rows) == 28
    for row in rows:
        ours = relative_to_reference(scores[row["budget"], row["method"]], scores["100", "full"])
        assert ours == pytest.approx(float(row["FULL"]), abs=0.01), row


def test_above_random_column_of_mmssr_is_re_derived():
    scores, rows = _published()
    checked = [row for row in rows if row["gt_rand"]]
    for row in checked:
        ours = count_above(scores[row["budget"], row["method"]], scores[row["budget"], "random"])
        assert ours == int(row["gt_rand"]), row
    assert len(checked) == 24


def test_leave_one_out_range_against_direct_computation():
    scores, _ = _published()
    full, ours = scores["100", "full"], scores["10", "mmssr"]
    direct = [relative_to_reference(ours[:k] + ours[k + 1 :], full[:k] + full[k + 1 :]) for k in range(10)]
    assert leave_one_out(ours, full) == pytest.approx((min(direct), max(direct)))


def test_full_is_undefined_when_the_full_arm_scores_zero():
    assert relative_to_reference([0.1, 0.2], [0.0, 0.5]) is None
    assert leave_one_out([0.1, 0.2], [0.0, 0.5]) is None


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    rng = np.random.default_rng(0)
    skill = {"full": 0.8, "random": 0.4, "mmssr": 0.6}
    difficulty = {task: rng.normal(0, 0.1, 200) for task in ("t1", "t2")}
    found = []
    for arm, n in (("random", 3), ("mmssr", 3), ("full", 1)):
        for seed in range(n):
            scores = {
                task: (rng.random(200) < skill[arm] + d).astype(float) for task, d in difficulty.items()
            }
            found.append(Run(arm, seed, 0, "30%", write_evaluation(tmp_path / f"{arm}-{seed}", scores)))
    return found


def test_collect_is_long_form(runs):
    table = collected(runs, TOY)
    assert len(table) == 7 * 2 * 4
    assert table.schema.names == [
        "arm",
        "budget",
        "pool_seed",
        "selection_seed",
        "train_seed",
        "benchmark",
        "metric",
        "value",
        "n",
        "stderr",
        "protocol",
        "checkpoint",
    ]
    assert set(table["metric"].to_pylist()) == {"score", "score_lenient", "unparsed_rate", "truncated_rate"}


def test_comparison_values(runs):
    result = compared(runs, TOY)
    value = {
        (run.arm, run.selection_seed): json.loads((run.path / "summary.json").read_text())["benchmarks"]
        for run in runs
    }
    per_seed = [50 * sum(value["mmssr", s][t]["value"] for t in ("t1", "t2")) for s in range(3)]
    random = [50 * sum(value["random", s][t]["value"] for t in ("t1", "t2")) for s in range(3)]
    arm = result.arm("mmssr")
    assert (arm.mean.mean, arm.mean.std) == pytest.approx((np.mean(per_seed), np.std(per_seed, ddof=1)))
    assert arm.unit_means == pytest.approx(per_seed)
    assert arm.relative == pytest.approx(
        50
        * sum(
            np.mean([value["mmssr", s][t]["value"] for s in range(3)]) / value["full", 0][t]["value"]
            for t in ("t1", "t2")
        )
    )
    assert (arm.above, arm.units, arm.runs, arm.targeted) == (2, 3, 3, False)
    assert arm.difference.value == pytest.approx(np.mean(per_seed) - np.mean(random))
    assert (
        arm.difference.low < arm.difference.value < arm.difference.high
        and arm.difference.low > 0
        and arm.difference.p < 0.05
    )


def test_baseline_and_full_rows_have_no_comparison_with_themselves(runs):
    result = compared(runs, TOY)
    assert result.arm("random").difference is None and result.arm("random").above is None
    assert result.arm("full").relative == pytest.approx(100) and result.arm("full").mean.std is None


def test_comparison_without_full_or_baseline(runs):
    result = compared([run for run in runs if run.arm == "mmssr"], TOY)
    assert (result.arms[0].relative, result.arms[0].difference, result.baseline, result.reference_arm) == (
        None,
        None,
        None,
        None,
    )


def test_comparison_is_the_same_whatever_the_order_of_runs(runs):
    one, other = compared(runs, TOY), compared(runs[::-1], TOY)
    arms = [{arm["arm"]: arm for arm in result.to_dict()["arms"]} for result in (one, other)]
    assert arms[0] == arms[1] and arms[0].keys() == {"random", "mmssr", "full"}


def test_comparison_json_is_json(runs):
    """What is not known is null: NaN is no JSON."""
    text = json.dumps(compared(runs, TOY).to_dict(), allow_nan=False)
    full = next(arm for arm in json.loads(text)["arms"] if arm["arm"] == "full")
    assert full["difference"]["value"] > 0 and full["difference"]["low"] is None


def test_training_seeds_of_one_subset_are_not_independent_selections(runs):
    again = [
        Run(run.arm, 0 if run.selection_seed < 2 else 1, run.selection_seed, run.budget, run.path)
        for run in runs
        if run.arm == "mmssr"
    ]
    arm = compared(again, TOY).arms[0]
    assert (arm.runs, arm.units) == (3, 2)


def test_training_seeds_of_the_only_selection_are_the_units(runs):
    same = [Run(run.arm, 4, run.selection_seed, run.budget, run.path) for run in runs if run.arm == "mmssr"]
    arm = compared(same, TOY).arms[0]
    assert (arm.runs, arm.units) == (3, 3)


def test_claims_are_of_the_arms_under_test(runs):
    """The full arm is a level: it is compared, with an interval of its own, and nothing is claimed."""
    arms = compared(runs, TOY)
    ours, full = arms.arm("mmssr"), arms.arm("full")
    assert (ours.claim.verdict, ours.claim.scope, ours.claim.family) == ("beats", "on this pool", 1)
    assert ours.difference.corrected_low > 0 and ours.robustness.without.keys() == {"t1", "t2"}
    assert full.anchor and full.claim.verdict is None and "repetition" in full.claim.reason
    assert math.isnan(full.difference.corrected_low)


def test_the_margin_is_the_one_that_was_declared(runs):
    wide = compared(runs, TOY, margin=60).arm("mmssr").claim
    assert (wide.margin, wide.verdict, wide.reason) == (60, "beats", "by less than 60 points")
    assert compared(runs, TOY).arm("mmssr").claim.margin == 1.0


def test_every_arm_adds_to_the_family(runs):
    again = [replace(run, arm="copy") for run in runs if run.arm == "mmssr"]
    one, two = compared(runs, TOY), compared([*runs, *again], TOY)
    alone, both = one.arm("mmssr").difference, two.arm("mmssr").difference
    assert two.arm("copy").claim.family == 2
    assert (alone.low, alone.high) == (both.low, both.high) and both.corrected_low < alone.corrected_low
    assert alone.corrected_low == pytest.approx(alone.low)


def test_missing_benchmark_is_refused(runs):
    more = toy_suite(*TOY.benchmarks, bench("t3", "Three", "data"))
    for call in (collected, compared):
        with pytest.raises(ResultsError, match="no result of benchmark 't3' for arm 'random'"):
            call(runs, more)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: (p / "summary.json").unlink(), "no readable summary.json"),
        (lambda p: (p / "summary.json").write_text('{"bench'), "no readable summary.json"),
        (lambda p: (p / "scores.parquet").write_bytes(b"PAR1"), "no readable scores.parquet"),
        (
            lambda p: write_evaluation(
                p, {"t1": np.ones(200), "t2": np.ones(200)}, protocol={"suite": "toy", "batch_size": 1}
            ),
            "batch_size",
        ),
        (
            lambda p: write_evaluation(p, {"t1": np.ones(200), "t2": np.ones(200)}, ids="other"),
            "different questions of t1",
        ),
        (lambda p: write_evaluation(p, {"t1": np.ones(200), "t2": np.full(200, np.nan)}), "its value is nan"),
        (
            lambda p: (p / "summary.json").write_text(
                (p / "summary.json").read_text().replace('"value": 0', '"value": 1')
            ),
            "disagree",
        ),
    ],
)
def test_incomparable_results_are_refused(runs, damage, message):
    damage(runs[-2].path)
    with pytest.raises(ResultsError, match=message):
        compared(runs, TOY)


def test_no_runs_and_doubled_runs_are_refused(runs):
    with pytest.raises(ResultsError, match="no runs"):
        compared([], TOY)
    with pytest.raises(ResultsError, match="same seeds"):
        compared([runs[0], runs[0]], TOY)
    with pytest.raises(ResultsError, match="several budgets"):
        compared([runs[0], Run("random", 1, 0, "10%", runs[1].path)], TOY)


def test_equal_to_the_baseline_is_not_above_it():
    assert count_above([0.5, 0.6, 0.4], [0.5, 0.5, 0.5]) == 1


def test_means_are_in_percent_of_the_scale(tmp_path):
    suite = toy_suite(bench("t1", "One", "ocr", scale=200.0), bench("t2", "Two", "data"))
    path = write_evaluation(tmp_path / "a", {"t1": np.full(4, 50.0), "t2": np.full(4, 0.5)})
    arm = compared([Run("a", 0, 0, "1", path)], suite).arms[0]
    assert (arm.mean.mean, arm.unit_means, arm.pool_means) == (37.5, (37.5,), (37.5,))
    assert {task: spread.mean for task, spread in arm.benchmarks.items()} == {"t1": 50.0, "t2": 0.5}


def test_a_reference_score_of_zero_leaves_all_relative_values_unknown(tmp_path):
    runs = [
        Run(
            arm,
            seed,
            0,
            "1",
            write_evaluation(tmp_path / f"{arm}{seed}", {"t1": np.full(4, v), "t2": np.ones(4)}),
        )
        for arm, v in (("full", 0.0), ("a", 0.5))
        for seed in range(2)
    ]
    for arm in compared(runs, TOY, baseline=None).arms:
        assert (arm.relative, arm.relative_std, arm.relative_range) == (None, None, None)


def test_lower_is_better_inverts_ratios_and_counts(tmp_path):
    suite = toy_suite(bench("t1", "One", "ocr", direction="lower"))
    runs = [
        Run(arm, 0, 0, "1", write_evaluation(tmp_path / arm, {"t1": np.full(4, v)}))
        for arm, v in (("full", 0.2), ("random", 0.5), ("mmssr", 0.4))
    ]
    arm = compared(runs, suite).arm("mmssr")
    assert arm.relative == pytest.approx(50) and arm.above == 1


def test_a_worse_arm_does_not_beat_its_baseline_where_lower_is_better(tmp_path):
    suite = toy_suite(bench("t1", "One", "ocr", direction="lower", scale=2.0), bench("t2", "Two", "ocr"))
    errors = {"random": 0.5, "worse": 1.5, "better": 0.25}
    rng = np.random.default_rng(0)
    runs = [
        Run(
            arm,
            seed,
            0,
            "1",
            write_evaluation(
                tmp_path / f"{arm}{seed}", {"t1": v + rng.normal(0, 0.02, 50), "t2": np.full(50, 0.5)}
            ),
        )
        for arm, v in errors.items()
        for seed in range(3)
    ]
    found = compared(runs, suite, reference=None)
    words = {arm.arm: arm.claim.verdict for arm in found.arms if arm.claim}
    assert words == {"worse": "loses to", "better": "beats"}
    better = found.arm("better")
    assert better.mean.mean == pytest.approx((100 - 12.5 + 50) / 2, abs=1)
    assert better.difference.value == pytest.approx(better.mean.mean - found.arm("random").mean.mean)
    assert better.benchmark_differences["t1"].value == pytest.approx(12.5, abs=1)
    assert better.benchmark_differences["t1"].corrected_low > 0 and better.robustness.without["t2"].value > 0


@pytest.mark.parametrize("baseline", ["random", {"10%": "random"}, None])
def test_an_arm_is_tested_against_the_controls_that_are_its_alone(baseline):
    made = experiment(
        names=["random", "method_0", "method_0.tokens", "method_0.compute"], seeds=5, questions=300
    )
    own = {"method_0.tokens": "10%", "method_0.compute": "as:method_0"}
    made = replace(
        made,
        baseline=baseline,
        arms=tuple(
            replace(arm, budget=own[arm.name], control="tokens", control_of="method_0")
            if arm.name in own
            else arm
            for arm in made.arms
        ),
    )
    found = compare(made)
    arm = found.arm("method_0")
    assert list(arm.own_controls) == list(own) and not found.arm("method_0.tokens").own_controls
    size = 5 if baseline else 2  # three arms against random, and one against two controls
    assert {one.claim.family for one in arm.own_controls.values()} == {size} == {aggregate.tests_of(made)}
    if baseline:
        assert {found.arm(name).baseline for name in own} == {"random"} and arm.claim.family == size
    else:
        assert (arm.claim, arm.difference) == (None, None)
    for name, against in arm.own_controls.items():
        expected = arm.mean.mean - found.arm(name).mean.mean
        assert against.difference.value == pytest.approx(expected)
        assert against.claim.verdict == "beats" and against.difference.corrected_low > 0
    assert set(found.to_dict()["arms"][1]["own_controls"]) == set(own)


def test_blind_level_is_read_from_the_benchmarks(runs, tmp_path):
    (tmp_path / "bench.json").write_text(json.dumps({"spatial": {"n": 200, "chance": 0.2, "blind": 0.3}}))
    result = compared(runs, TOY, bench_dir=tmp_path)
    assert result.blind == {"t1": 0.3, "t2": None} and result.chance == {"t1": 0.25, "t2": 0.25}


def test_shuffled_scores_of_the_runs_that_have_them(tmp_path):
    halves = {"t1": np.repeat([1.0, 0.0], 50), "t2": np.repeat([1.0, 0.0], 50)}
    shuffled = {"t1": np.repeat([1.0, 0.0], [10, 90]), "t2": None}
    runs = [
        Run("a", 0, 0, "1", write_evaluation(tmp_path / "a0", {k: 1 - 0 * v for k, v in halves.items()})),
        Run("a", 1, 1, "1", write_evaluation(tmp_path / "a1", halves, shuffled=shuffled)),
        Run("b", 0, 0, "1", write_evaluation(tmp_path / "b0", halves)),
    ]
    a, b = compared(runs, TOY, reference=None, baseline=None).arms
    assert a.shuffled == {"t1": 0.1, "t2": None} and a.grounded == {"t1": pytest.approx(0.4), "t2": None}
    assert a.shuffled_mean is None and a.grounded_mean is None, (
        "a mean over fewer benchmarks would not be comparable"
    )
    assert b.shuffled is None and b.grounded is None
    rows = collected(runs, TOY).to_pylist()
    assert [(r["benchmark"], r["arm"], r["value"]) for r in rows if r["metric"] == "score_shuffled"] == [
        ("t1", "a", 0.1)
    ]


def test_shuffled_scores_that_do_not_make_up_the_summary_are_refused(tmp_path):
    path = write_evaluation(
        tmp_path / "a", {"t1": np.ones(4), "t2": np.ones(4)}, shuffled={"t1": np.ones(4), "t2": np.ones(4)}
    )
    summary = (path / "summary.json").read_text()
    for other in ("0.5", "null"):
        (path / "summary.json").write_text(summary.replace('"shuffled": 1.0', f'"shuffled": {other}', 1))
        with pytest.raises(ResultsError, match="disagree on t1"):
            compared([Run("a", 0, 0, "1", path)], TOY)


def test_comparison_json_keeps_the_keys_of_shipped_results(runs):
    """Reports are rendered again from results of earlier versions: no name in the file changes."""
    ours = compared(runs, TOY).to_dict()
    shipped = sorted(RESULTS.glob("*/comparison.json"))
    assert shipped
    for file in shipped:
        theirs = json.loads(file.read_text())
        assert theirs.keys() <= ours.keys(), file  # older ones lack what is new
        older = {"p"}  # a test of its own until claims came with their intervals
        assert all(arm.keys() - older <= ours["arms"][0].keys() for arm in theirs["arms"]), file
    arm = next(arm for arm in ours["arms"] if arm["arm"] == "mmssr")
    assert ours["full_arm"] == "full" and 50 < arm["full"] < 100
    assert arm["full_range"][0] <= arm["full"] <= arm["full_range"][1] and 0 < arm["full_std"] < 30


def test_rates_and_identities_of_the_long_form(runs, tmp_path):
    run = Run("a", 3, 5, "30%", runs[0].path, pool_seed=7)
    rows = collected([run], TOY).to_pylist()
    summary = json.loads((run.path / "summary.json").read_text())
    assert {
        (row["arm"], row["budget"], row["pool_seed"], row["selection_seed"], row["train_seed"])
        for row in rows
    } == {("a", "30%", 7, 3, 5)}
    assert {row["checkpoint"] for row in rows} == {summary["checkpoint"]}
    assert [row["benchmark"] for row in rows] == ["t1"] * 4 + ["t2"] * 4 and {row["n"] for row in rows} == {
        200
    }
    score, lenient, rate, truncated = rows[:4]
    assert (lenient["metric"], lenient["value"]) == ("score_lenient", score["value"])
    assert (truncated["metric"], truncated["value"]) == ("truncated_rate", 0.0)
    assert (score["metric"], score["value"], score["stderr"]) == (
        "score",
        summary["benchmarks"]["t1"]["value"],
        0.01,
    )
    assert (rate["metric"], rate["value"]) == ("unparsed_rate", 1 / 200)
    assert rate["stderr"] == pytest.approx(np.sqrt(0.005 * 0.995 / 200))  # of a binomial share


def test_the_protocol_hash_is_twelve_digits_whatever_the_order_of_keys(runs):
    assert protocol_hash({"a": 1, "b": 2}) == protocol_hash({"b": 2, "a": 1}) == "d8497d9d8277"
    assert {row["protocol"] for row in collected(runs, TOY).to_pylist()} == {
        protocol_hash({"suite": "toy", "batch_size": 8})
    }


def test_only_the_differing_settings_of_two_protocols_are_named(runs, tmp_path):
    ones = {"t1": np.ones(200), "t2": np.ones(200)}
    write_evaluation(runs[1].path, ones, protocol={"suite": "toy", "batch_size": 1})
    with pytest.raises(ResultsError, match=r"protocols \(batch_size differ\)\. batch_size: 1 and 8\."):
        compared(runs, TOY)


def test_a_benchmark_without_questions_is_missing(runs):
    path = runs[0].path / "summary.json"
    path.write_text(path.read_text().replace('"n": 200', '"n": 0', 1))
    with pytest.raises(
        ResultsError, match=r"no result of benchmark 't1' for arm 'random' \(seed 0\); a mean over"
    ):
        compared(runs, TOY)


def test_a_summary_that_is_off_by_little_is_refused(runs):
    path = runs[0].path / "summary.json"
    content = json.loads(path.read_text())
    content["benchmarks"]["t1"]["value"] += 2e-6
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="disagree on t1"):
        compared(runs, TOY)


def test_relative_scores_need_a_reference_score_for_each(runs):
    with pytest.raises(ValueError, match="2 scores against 1 reference scores"):
        relative_to_reference([0.1, 0.2], [0.5])
    assert leave_one_out([0.5], [1.0]) is None
    assert leave_one_out([0.5, 1.0], [1.0, 1.0]) == pytest.approx((50, 100))


def test_mini_suite_has_a_task_for_every_capability():
    from curation.taxonomy import CAPABILITY_KEYS

    assert {b.capability for b in load_suite("mini")} == set(CAPABILITY_KEYS)


LINE = "name: a, label: A, tasks: [mini], data: {file: a.parquet}, extractor: {kind: short}"
"""The least that a benchmark of a suite file has."""


@pytest.mark.parametrize(
    "text, message",
    [
        (f"name: x\ntasks: mini\nbenchmarks: [{{{LINE}, metrik: x}}]", "benchmarks.0.metrik"),
        ("name: x\ntasks: mini\nbenchmarks: []", "benchmarks: Tuple should have at least 1 item"),
        ("name: x\ntasks: mini\nbenchmarks: [a: [", "is not valid YAML"),
        (f"name: x\ntasks: mini\nbenchmarks: [{{{LINE}}}, {{{LINE}}}]", "in a suite once, not a"),
        (
            f"name: x\ntasks: mini\nbenchmarks: [{{{LINE}, scale: 0}}]",
            "scale: Input should be greater than 0",
        ),
        (f"name: x\ntasks: mini\nbenchmarks: [{{{LINE}, direction: up}}]", "direction"),
        (f"name: x\nbenchmarks: [{{{LINE}}}]", "tasks: Field required"),
        (
            f"name: x\ntasks: mini\nbenchmarks: [{{{LINE.replace('file: a.parquet', 'split: test')}}}]",
            "either a repository",
        ),
    ],
)
def test_bad_suite_is_refused_with_its_file(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_suite(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(error.value)


def test_a_suite_by_its_path(tmp_path):
    text = f"name: x\ntasks: mini\nbenchmarks: [{{{LINE}}}]"
    for name in ("own.yaml", "own.yml"):
        (tmp_path / name).write_text(text)
        suite = load_suite(tmp_path / name)
        assert [(b.name, b.official, b.scale, b.judge, b.unit.name) for b in suite] == [
            ("a", "score", 1.0, None, "item")
        ]
        assert (suite.folder / "mini.yaml").is_file()


def test_unknown_suite_names_the_known_ones():
    with pytest.raises(ValueError, match=r"shipped are .*mini"):
        load_suite("maxi")
