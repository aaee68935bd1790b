"""Each gate of the regime passes and fails by a hair, and is not passed by what was not measured."""

import json

import numpy as np
import pytest
from evaluation_data import bench, compared, toy_suite, write_evaluation

from evaluation import regime
from evaluation.regime import Unmeasured, levels, regime_verdicts
from evaluation.results import Run

GAIN, BLIND, MORE, LESS, STD_FULL, STD_MORE, STD_LESS, SEEDS = range(8)
"""Places of the verdicts."""


def benchmark(task: str, direction: str = "higher") -> dict:
    return {
        "name": task,
        "label": task.upper(),
        "capability": task,
        "metric": "score",
        "direction": direction,
        "scale": 1.0,
    }


def arm(name: str, mean: float, std: float | None, units: int, **more) -> dict:
    """One entry of comparison.json; mean and std in %."""
    return {
        "arm": name,
        "budget": "",
        "units": units,
        "runs": units,
        "mean": {"mean": mean, "std": std},
        "benchmarks": {},
        **more,
    }


@pytest.fixture
def comparison() -> dict:
    """Everything passes: full 60.0 ± 1.0 (3 seeds), random 50.0 and 40.0 ± 1.0 (5 seeds), gain 0.35."""
    full = arm(
        "full",
        60.0,
        1.0,
        3,
        benchmarks={"t1": {"mean": 0.7, "std": 0.01}, "t2": {"mean": 0.5, "std": 0.01}},
        shuffled={"t1": 0.2, "t2": 0.3},
        grounded={"t1": 0.5, "t2": 0.2},
        grounded_mean={"mean": 35.0, "std": 2.0},
    )
    return {
        "suite": {"benchmarks": [benchmark("t1"), benchmark("t2")]},
        "chance": {"t1": 0.1, "t2": 0.2},
        "blind": {"t1": 0.2, "t2": 0.4},
        "n": {"t1": 300, "t2": 300},
        "arms": [full, arm("random_30", 50.0, 1.0, 5), arm("random_10", 40.0, 1.0, 5)],
    }


def passed(comparison: dict) -> list[bool]:
    return [verdict.passed for verdict in regime_verdicts(comparison)]


def failing(comparison: dict) -> list[int]:
    return [place for place, ok in enumerate(passed(comparison)) if not ok]


def test_the_numbers_that_were_fixed_in_advance():
    assert (
        regime.GROUNDED_GAIN,
        regime.FULL_ERRORS,
        regime.RANDOM_ERRORS,
        regime.SEED_STD,
        regime.FULL_SEEDS,
    ) == (0.3, 3, 2, 0.012, 3)


def test_everything_passes(comparison):
    assert len(passed(comparison)) == 8 and failing(comparison) == []


@pytest.mark.parametrize("gain, value", [(30.01, "0.3001"), (30.0, "0.3000"), (29.99, "0.2999")])
def test_grounded_gain(comparison, gain, value):
    comparison["arms"][0]["grounded_mean"] = {"mean": gain, "std": None}
    verdict = regime_verdicts(comparison)[GAIN]
    assert (verdict.value, verdict.note) == (value, "one seed evaluated both ways")
    assert failing(comparison) == ([] if gain >= 30 else [GAIN])


@pytest.mark.parametrize("blind, ok", [(0.4999, True), (0.5, False), (0.6, False)])
def test_every_benchmark_is_above_its_blind_majority(comparison, blind, ok):
    comparison["blind"]["t2"] = blind
    assert failing(comparison) == ([] if ok else [BLIND])
    verdict = regime_verdicts(comparison)[BLIND]
    assert verdict.value == ("2 of 2" if ok else "1 of 2") and ("T2" in verdict.note) != ok


def test_lower_is_better_turns_the_levels_round(comparison):
    comparison["suite"]["benchmarks"][1]["direction"] = "lower"
    assert not levels(comparison)[1].above_blind  # 0.5 against 0.4
    comparison["blind"]["t2"] = 0.51
    assert levels(comparison)[1].above_blind and failing(comparison) == []


def test_a_scale_of_100_is_brought_to_one(comparison):
    comparison["suite"]["benchmarks"][0]["scale"] = 100.0
    full = comparison["arms"][0]
    for levels_of in (comparison["blind"], comparison["chance"], full["shuffled"], full["grounded"]):
        levels_of["t1"] *= 100
    full["benchmarks"]["t1"]["mean"] *= 100
    first = levels(comparison)[0]
    assert (first.full, first.blind, first.shuffled, first.gain, first.chance) == pytest.approx(
        (0.7, 0.2, 0.2, 0.5, 0.1)
    )


@pytest.mark.parametrize("place, upper, lower, errors", [(MORE, 0, 1, 3), (LESS, 1, 2, 2)])
def test_differences_in_standard_errors_over_seeds(comparison, place, upper, lower, errors):
    above, below = comparison["arms"][upper], comparison["arms"][lower]
    error = np.sqrt(1 / above["units"] + 1 / below["units"])
    for margin, ok in ((1.001, True), (0.999, False), (-5, False)):
        below["mean"]["mean"] = above["mean"]["mean"] - margin * errors * error
        assert regime_verdicts(comparison)[place].passed == ok


def test_equal_seeds_leave_the_sign_of_the_difference(comparison):
    for entry in comparison["arms"]:
        entry["mean"]["std"] = 0.0
    assert failing(comparison) == []
    comparison["arms"][1]["mean"]["mean"] = comparison["arms"][0]["mean"]["mean"]
    assert failing(comparison) == [MORE]


@pytest.mark.parametrize("place, index", [(STD_FULL, 0), (STD_MORE, 1), (STD_LESS, 2)])
def test_seed_std_is_asked_of_each_arm(comparison, place, index):
    comparison["arms"][index]["mean"]["std"] = 1.1999
    assert failing(comparison) == []
    comparison["arms"][index]["mean"]["std"] = 1.2001
    assert failing(comparison) == [place]


def test_seeds_of_full(comparison):
    comparison["arms"][0]["units"] = 2
    assert failing(comparison) == [SEEDS]


def test_one_seed_tells_nothing_about_the_spread(comparison):
    comparison["arms"][0] |= {"units": 1, "mean": {"mean": 60.0, "std": None}}
    assert failing(comparison) == [MORE, STD_FULL, SEEDS]
    assert "one seed" in regime_verdicts(comparison)[STD_FULL].note


@pytest.mark.parametrize(
    "missing, places",
    [(0, [GAIN, BLIND, MORE, STD_FULL, SEEDS]), (1, [MORE, LESS, STD_MORE]), (2, [LESS, STD_LESS])],
)
def test_a_missing_arm_is_not_passed_and_named(comparison, missing, places):
    name = comparison["arms"].pop(missing)["arm"]
    assert failing(comparison) == places
    assert all(f"no arm `{name}`" in regime_verdicts(comparison)[place].note for place in places)


@pytest.mark.parametrize("grounded, named", [(None, "T1, T2"), ({"t1": 0.5, "t2": None}, "T2")])
def test_a_missing_shuffled_score_is_not_passed_and_named(comparison, grounded, named):
    comparison["arms"][0] |= {"shuffled": grounded, "grounded": grounded, "grounded_mean": None}
    assert failing(comparison) == [GAIN]
    assert regime_verdicts(comparison)[GAIN].note == f"no shuffled-image score of {named}"


def test_a_blind_level_that_was_not_measured_is_not_passed(comparison):
    comparison["blind"]["t1"] = None
    assert failing(comparison) == [BLIND] and "T1 (not measured)" in regime_verdicts(comparison)[BLIND].note


def test_verdicts_as_they_are_printed(comparison):
    printed = [(v.gate, v.wanted, v.value, v.n, v.note) for v in regime_verdicts(comparison)]
    std = "standard deviation of the mean over seeds"
    assert printed == [
        (
            "full: real minus shuffled image, mean of benchmarks",
            ">= 0.3",
            "0.3500",
            "2 benchmarks",
            "standard deviation over seeds 0.0200",
        ),
        ("full: benchmarks above their blind majority", "every one", "2 of 2", "2 benchmarks", ""),
        (
            "full above random_30",
            "> 3 standard errors",
            "+0.1000 (13.69 errors of 0.0073)",
            "3 and 5 seeds",
            "",
        ),
        (
            "random_30 above random_10",
            "> 2 standard errors",
            "+0.1000 (15.81 errors of 0.0063)",
            "5 and 5 seeds",
            "",
        ),
        (f"full: {std}", "<= 0.012", "0.0100", "3 seeds", ""),
        (f"random_30: {std}", "<= 0.012", "0.0100", "5 seeds", ""),
        (f"random_10: {std}", "<= 0.012", "0.0100", "5 seeds", ""),
        ("full: seeds", ">= 3", "3", "3 seeds", ""),
    ]


def test_unmeasured_values_are_dashes_and_lists_are_separated(comparison):
    comparison["blind"] = {"t1": 0.9, "t2": None}
    assert regime_verdicts(comparison)[BLIND].note == (
        "not above: T1 (0.700, blind 0.900), T2 (not measured)"
    )
    for arm in comparison["arms"]:
        arm["mean"]["std"] = 0.0
    assert regime_verdicts(comparison)[MORE].value == "+0.1000 (no error)"
    del comparison["arms"][0]
    verdict = regime_verdicts(comparison)[GAIN]
    assert (verdict.value, verdict.n, verdict.passed) == ("–", "–", False)


@pytest.mark.parametrize("std, ok", [(1.2, True), (1.2000001, False)])
def test_a_standard_deviation_at_the_limit_passes(comparison, std, ok):
    comparison["arms"][1]["mean"]["std"] = std
    assert failing(comparison) == ([] if ok else [STD_MORE])


def test_a_blind_level_that_is_only_reached_is_not_exceeded(comparison):
    comparison["suite"]["benchmarks"][1]["direction"] = "lower"
    comparison["blind"]["t2"] = 0.5
    assert failing(comparison) == [BLIND]


def test_levels_need_a_full_arm(comparison):
    del comparison["arms"][0]
    with pytest.raises(Unmeasured, match="no arm `full`"):
        levels(comparison)


def test_verdicts_of_a_comparison_as_it_is_written(tmp_path):
    """Scores of 1,000 questions; full knows 70 and 65, 70, 75 % of two benchmarks, 20 % with other images."""
    suite = toy_suite(bench("t1", "One", "spatial"), bench("t2", "Two", "ocr"))

    def right(percent: int) -> np.ndarray:
        return (np.arange(1000) < 10 * percent).astype(float)

    def run(arm: str, seed: int, budget: str, t2: int, shuffled: int | None = None) -> Run:
        others = None if shuffled is None else {task: right(shuffled) for task in ("t1", "t2")}
        return Run(
            arm,
            seed,
            seed,
            budget,
            write_evaluation(tmp_path / f"{arm}{seed}", {"t1": right(70), "t2": right(t2)}, shuffled=others),
        )

    runs = [run("full", seed, "100%", 65 + 5 * seed, 20 if seed == 0 else None) for seed in range(3)]
    runs += [run("random_30", seed, "30%", 48 + 2 * seed) for seed in range(3)] + [
        run("random_10", seed, "10%", 48 + seed) for seed in range(3)
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"spatial": {"blind": 0.7}, "ocr": {"blind": 0.1}}))
    comparison = compared(runs, suite, baseline="random_30", bench_dir=tmp_path)
    verdicts = regime_verdicts(json.loads(json.dumps(comparison.to_dict())))
    assert [verdict.value for verdict in verdicts] == [
        "0.4750",
        "1 of 2",
        "+0.1000 (6.43 errors of 0.0155)",
        "+0.0050 (0.77 errors of 0.0065)",
        "0.0250",
        "0.0100",
        "0.0050",
        "3",
    ]
    assert [verdict.passed for verdict in verdicts] == [True, False, True, False, False, True, True, True]
    assert verdicts[BLIND].note == "not above: One (0.700, blind 0.700)"
