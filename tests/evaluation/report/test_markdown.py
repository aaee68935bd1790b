"""Pictures and report: pure functions of the comparison, complete, honest about what is not known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_data import bench, compared, toy_suite, write_evaluation
from PIL import Image

from evaluation.comparison import Spread
from evaluation.context import Context, Subset
from evaluation.figures.comparison import draw_all
from evaluation.report.markdown import render, write_report
from evaluation.results import Run
from evaluation.statistics.basic import Interval

TOY = toy_suite(*(bench(f"t{k}", f"Task {k}", "ocr") for k in range(4)))
CONTEXT = Context(
    title="mmssr_30pct",
    protocol={"sft.lr": 0.001, "pool": "mini"},
    pool={"samples": 6000},
    quarantined={"missing_image": 3, "empty_answer": 9},
    subsets=[
        Subset("mmssr", 0, 1800, 100_000, 30_600, {"source": {"web": 0.4, "chart": 0.6}}),
        Subset("random", 0, 1800, None, None, {"source": {"web": 0.8, "chart": 0.2}}),
    ],
    overlap={("mmssr", "random"): 0.31},
    scorer={"ocr": {"spearman": 0.8, "n": 100}, "logic": {"spearman": None, "n": 100}},
    seconds={"pool": 2.0, "train": 100.5},
    notes=["A note."],
)


@pytest.fixture
def comparison(tmp_path):
    rng = np.random.default_rng(0)
    runs = [
        Run(
            arm,
            seed,
            0,
            "30%",
            write_evaluation(
                tmp_path / f"{arm}{seed}", {b.name: (rng.random(100) < p).astype(float) for b in TOY}
            ),
        )
        for arm, n, p in (("mmssr", 3, 0.7), ("random", 3, 0.4), ("full", 1, 0.8))
        for seed in range(n)
    ]
    return compared(runs, TOY)


@pytest.mark.slow
def test_pictures_are_drawn_and_the_same_bytes_every_time(comparison, tmp_path):
    one, two = draw_all(comparison, tmp_path / "one"), draw_all(comparison, tmp_path / "two")
    assert [path.name for path in one] == ["means.png", "differences.png", "benchmarks.png", "radar.png"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    for path in one:
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert min(picture.shape[:2]) > 300 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert not list(tmp_path.glob("one/*.tmp"))


def test_pictures_of_zero_scores_and_many_arms(tmp_path):
    runs = [
        Run(f"arm{k}", 0, 0, "1", write_evaluation(tmp_path / str(k), {b.name: np.zeros(5) for b in TOY}))
        for k in range(9)
    ]
    assert len(draw_all(compared(runs, TOY, reference="arm0", baseline="arm1"), tmp_path / "out")) == 4


def test_targeted_arms_are_marked_wherever_they_are_compared(comparison):
    assert "argeted" not in render(comparison, CONTEXT)
    arms = tuple(replace(arm, targeted=arm.arm == "mmssr") for arm in comparison.arms)
    text = render(replace(comparison, arms=arms), CONTEXT)
    assert "**mmssr** (30%, targeted) is above **random** (30%)" in text
    assert text.count("| mmssr (targeted) | 30% |") == 2 and "| random | 30% |" in text
    assert "Targeted (mmssr): the selector saw validation items of the benchmarks' kind" in text


def test_report_has_every_section_and_is_reproducible(comparison, tmp_path):
    first, second = (
        write_report(comparison, CONTEXT, tmp_path / name).read_text() for name in ("one", "two")
    )
    assert first == second
    for heading in ("Results", "Pool", "Subsets", "Scorer", "Seconds by stage", "Protocol", "Notes"):
        assert f"\n## {heading}\n" in first
    for text in (
        "| empty_answer | 9 |\n| missing_image | 3 |\n| all | 12 |",
        "| mmssr | 1 | 1,800 | 100,000 | 30,600 |",
        "| random | 1 | 1,800 | – | – |",
        "| mmssr | – | 31.0 % |",
        "| chart | 60.0 % | 20.0 % |",
        "| all | 102.5 |",
        "0.80 (1 capabilities)",
        "![radar](radar.png)",
        "**mmssr** (30%) is above **random**",
        "as frozen in the scale file",
    ):
        assert text in first, text
    assert json.loads((tmp_path / "one" / "comparison.json").read_text())["baseline"] == "random"


@pytest.mark.parametrize(
    "low, high, words",
    [(0.5, 3.0, "is above"), (-3.0, -0.5, "is below"), (-1.0, 2.0, "is not clearly different from")],
)
def test_verdict_follows_the_interval(comparison, low, high, words):
    arm = replace(comparison.arm("mmssr"), difference=Interval(1.0, low, high))
    text = render(replace(comparison, arms=(arm, *comparison.arms[1:])), CONTEXT)
    assert f"**mmssr** (30%) {words} **random**" in text


def test_legend_says_why_there_are_dashes(comparison):
    assert "Not evaluated here (`evaluation.shuffled: none`)" in render(comparison, CONTEXT)
    asked = {"shuffled": {b.name: 0.2 for b in TOY}, "grounded": {b.name: 0.3 for b in TOY}}
    asked |= {"shuffled_mean": Spread(20.0, None), "grounded_mean": Spread(30.0, None)}
    arms = [replace(arm, **asked) for arm in comparison.arms]
    whole = render(replace(comparison, arms=tuple(arms)), CONTEXT)
    assert "dashes" not in whole and "| mmssr | grounded gain | +30.0 |" in whole
    text = render(replace(comparison, arms=(*arms[:2], comparison.arms[2])), CONTEXT)
    assert "Not evaluated for full, hence the dashes." in text
    alone = {"shuffled": asked["shuffled"] | {"t1": None}, "grounded": asked["grounded"] | {"t1": None}}
    arms[0] = replace(arms[0], **alone, shuffled_mean=None, grounded_mean=None)
    text = render(replace(comparison, arms=tuple(arms)), CONTEXT)
    assert (
        "Task 1: no two questions with images to swap" in text
        and "| mmssr | shuffled | 20.0 | – | 20.0 | 20.0 | – |" in text
    )


def test_what_the_numbers_are_is_said_by_benchmark(comparison):
    assert list(comparison.reading) == ["t0", "t1", "t2", "t3"] and comparison.reading["t0"]["lenient"] == 0
    pairs = bench(
        "t0", "Pairs", metric=["p", "c"], unit={"name": "image pair", "by": ["id"]}, scale=2800, chance=1050,
        tasks=[{"task": "t0", "n": 2374}], deviations=["no coin"],
    )  # fmt: skip
    circular = bench(
        "t1", "Rings", unit={"name": "ring", "by": ["i"], "modulo": 9}, tasks=[{"task": "t1", "n": 60}]
    )
    whole = replace(
        comparison,
        suite=toy_suite(pairs, circular, *comparison.suite.benchmarks[2:]),
        units={**comparison.units, "t0": 50, "t1": 60},
        chance={**comparison.chance, "t0": 1050.0},
        reading={"t0": {"unparsed": 0.25, "truncated": 0.5, "lenient": 280.0}},
        protocol={
            "suite": "toy", "engine": "hf", "template": "checkpoint", "dtype": "bfloat16",
            "not_judged": ["mmvet"],
            "deviations": {"t0": ["no coin", "no hint"]}, "imported": {"samples.jsonl": "ab12"},
            "judges": {"t1": {"judge_model": "m", "judge_version": "2", "prompt": "p", "prompt_version": 1,
                              "attempts": 3, "deviations": ["another model"]}},
        },
    )  # fmt: skip
    text = render(whole, CONTEXT)
    summary = text[: text.index("## Results")]
    assert "**data: incomplete** (Pairs 100 of 2,374 questions)" in summary, "60 rings are whole"
    assert "**not judged**: mmvet; left out of every arm's mean." in summary
    assert "**imported**: the answers were not made here (hf)" in summary
    assert "| Pairs | p+c | 2,800 | image pair | 50 | 100 | 2,374 | 1,050 | 25.0 % | 50.0 % | +10.0 |" in text
    assert "| Rings | score | 1 | ring | 60 | 60 | 60 | 0.25 | – | – | – |" in text
    assert "by the checkpoint's own chat template (template: checkpoint), weights in bfloat16" in text
    assert "- Pairs: no coin.\n- Pairs: no hint." in text and "- samples.jsonl: ab12" in text
    assert "- Rings: m (2), prompt p version 1, up to 3 attempts; another model." in text
    assert "evaluation.deviations" not in text and "evaluation.judges" not in text


def test_a_whole_evaluation_has_no_warnings(comparison):
    summary = render(comparison, CONTEXT).partition("## Results")[0]
    assert not any(word in summary for word in ("incomplete", "not judged", "imported", "protocol"))


def test_a_recipe_without_a_scale_modifies_nothing(comparison):
    text = render(comparison, replace(CONTEXT, protocol={"scale": None}, modified=["pool", "base"]))
    assert "**protocol: the recipe's own** (no scale file is named)" in text
    assert "modified" not in text and "kept out of paper tables" in text


def test_modified_protocol_is_announced_at_the_top(comparison):
    text = render(comparison, replace(CONTEXT, modified=["sft.lr: 0.001 -> 0.01"]))
    assert (
        text.index("protocol: modified") < text.index("## Results")
        and "- modified: `sft.lr: 0.001 -> 0.01`" in text
    )


def test_empty_sections_are_left_out_and_a_single_seed_is_said(comparison):
    single = replace(comparison.arm("mmssr"), units=1)
    text = render(replace(comparison, arms=(single, *comparison.arms[1:])), Context(title="x"))
    unknown = render(comparison, Context(title="x", scorer={"ocr": {"spearman": None}}))
    assert "| ocr | – |" in unknown and "Mean Spearman" not in unknown
    assert "## Pool" not in text and "## Scorer" not in text and "One side has a single seed" in text
