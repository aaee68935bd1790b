"""report.md: complete, a pure function of comparison and context, honest about what is not known."""

import re
from dataclasses import replace

import numpy as np
import pytest
from comparisons import comparison as made_up
from comparisons import context
from evaluation_data import bench, compared, toy_suite, write_evaluation

from evaluation.comparison import Spread
from evaluation.context import Context, Subset
from evaluation.report.caveats import caveats
from evaluation.report.markdown import MAX_COLUMNS, render
from evaluation.results import Run

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


def test_report_has_every_section_in_its_order(comparison):
    text = render(comparison, CONTEXT, ["forest", "means", "new_one"])
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Results", "Robustness", "Power", "Scores", "Benchmarks", "Pool", "Subsets", "Scorer",
        "Seconds by stage", "Protocol", "Notes",
    ]  # fmt: skip
    for part in (
        "# mmssr_30pct\n\nmmssr_30pct compares mmssr with random at a budget of 30%, on 1 pool x 1 to ",
        "- **mmssr** (30%) beats random (30%) on this pool:",
        "| empty_answer | 9 |\n| missing_image | 3 |\n| all | 12 |",
        "| mmssr | 1 | 1,800 | 100,000 | 30,600 | 72.6 | – |",
        "| random | 1 | 1,800 | – | – | – | – |",
        "| mmssr | – | 31.0 % |",
        "| chart | 60.0 % | 20.0 % |",
        "| all | 102.5 |",
        "0.80 (1 capabilities)",
        "## Results\n\n![forest](figures/forest.png)\n\n![new_one](figures/new_one.png)\n\n| arm |",
        "## Scores\n\n![means](figures/means.png)",
        "as frozen in the scale file",
    ):
        assert part in text, part
    assert text == render(comparison, CONTEXT, ["forest", "means", "new_one"])


def test_every_word_about_an_arm_is_that_of_its_claim(comparison):
    """Whatever the means are: with the claim taken away, no word and no mark is left."""
    bare = tuple(
        replace(arm, claim=replace(arm.claim, verdict=None, reason="too few")) if arm.claim else arm
        for arm in comparison.arms
    )
    text = render(replace(comparison, arms=bare), CONTEXT)
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert not re.search(r"\b(beats|loses to|equivalent|undecided)\b", tables) and "**" not in tables
    assert "no verdict: too few" in text
    assert "| beats |" in render(comparison, CONTEXT) and "**" in render(comparison, CONTEXT)


def test_one_seed_has_a_report_without_a_verdict(tmp_path):
    rng = np.random.default_rng(0)
    runs = [
        Run(
            arm,
            0,
            0,
            "1",
            write_evaluation(tmp_path / arm, {b.name: (rng.random(50) < p) * 1.0 for b in TOY}),
        )
        for arm, p in (("a", 0.9), ("random", 0.2))
    ]
    text = render(compared(runs, TOY), Context("one"))
    assert "- a (1) against random (1): no verdict: one repetition" in text and "| no verdict |" in text
    assert "## Robustness" in text and "## Power" not in text, "nothing is known of the error"
    assert not re.search(r"\*\*|\bbeats |\bloses |nan", text.replace("if its arm beats the baseline", ""))


def test_targeted_arms_are_marked_wherever_they_are_compared(comparison):
    assert "argeted" not in render(comparison, CONTEXT)
    arms = tuple(replace(arm, targeted=arm.arm == "mmssr") for arm in comparison.arms)
    text = render(replace(comparison, arms=arms), CONTEXT)
    assert "**mmssr** (30%, targeted) beats random (30%)" in text
    assert text.count("| mmssr (targeted) | 30% |") == 5 and "| random | 30% |" in text
    assert "Targeted (mmssr): the selector saw validation items of the benchmarks' kind" in text


def test_it_is_said_why_there_are_dashes(comparison):
    assert "Not evaluated with shuffled images (`evaluation.shuffled: none`)" in render(comparison, CONTEXT)
    asked = {"shuffled": {b.name: 0.2 for b in TOY}, "grounded": {b.name: 0.3 for b in TOY}}
    asked |= {"shuffled_mean": Spread(20.0, None), "grounded_mean": Spread(30.0, None)}
    arms = [replace(arm, **asked) for arm in comparison.arms]
    whole = render(replace(comparison, arms=tuple(arms)), CONTEXT)
    assert "dashes" not in whole and "| mmssr | 30% | grounded gain | +30.0 |" in whole
    text = render(replace(comparison, arms=(*arms[:2], comparison.arms[2])), CONTEXT)
    assert "Not evaluated with shuffled images: full." in text
    alone = {"shuffled": asked["shuffled"] | {"t1": None}, "grounded": asked["grounded"] | {"t1": None}}
    arms[0] = replace(arms[0], **alone, shuffled_mean=None, grounded_mean=None)
    text = render(replace(comparison, arms=tuple(arms)), CONTEXT)
    assert "Task 1: no two questions with images to swap" in text
    assert "| mmssr | 30% | shuffled | 20.0 | – | 20.0 | 20.0 | – |" in text


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
    assert "- **data: incomplete** (Pairs 100 of 2,374 questions)" in summary, "60 rings are whole"
    assert "- **not judged**: mmvet; left out of every arm's mean." in summary
    assert "- **imported**: the answers were not made here (hf)" in summary
    assert "the caveats below: data: incomplete, not judged and imported." in summary
    assert "| Pairs | p+c | 2,800 | image pair | 50 | 100 | 2,374 | 1,050 | 25.0 % | 50.0 % | +10.0 |" in text
    assert "| Rings | score | 1 | ring | 60 | 60 | 60 | 0.25 | – | – | – |" in text
    assert "by the checkpoint's own chat template (template: checkpoint), weights in bfloat16" in text
    assert "- Pairs: no coin.\n- Pairs: no hint." in text and "- samples.jsonl: ab12" in text
    assert "- Rings: m (2), prompt p version 1, up to 3 attempts; another model." in text
    assert "evaluation.deviations" not in text and "evaluation.judges" not in text


def test_a_whole_evaluation_has_no_caveats(comparison):
    assert caveats(comparison, CONTEXT) == []
    assert "caveats" not in render(comparison, CONTEXT)


def test_a_recipe_without_a_scale_modifies_nothing(comparison):
    text = render(comparison, replace(CONTEXT, protocol={"scale": None}, modified=["pool", "base"]))
    assert "- **protocol: the recipe's own** (no scale file is named)" in text
    assert "Protocol: the recipe's own." in text and "modified" not in text


def test_a_modified_protocol_is_said_first(comparison):
    text = render(comparison, replace(CONTEXT, modified=["sft.lr: 0.001 -> 0.002"]))
    assert text.index("**protocol: modified** (1 frozen settings overridden") < text.index("**mmssr** (30%)")
    assert "- modified: `sft.lr: 0.001 -> 0.002`" in text and "Protocol: modified." in text


def test_a_suite_of_one_benchmark_has_no_leave_one_out(tmp_path):
    one = toy_suite(bench("t0", "Task 0", "ocr"))
    rng = np.random.default_rng(0)
    runs = [
        Run(
            arm,
            s,
            0,
            "1",
            write_evaluation(tmp_path / f"{arm}{s}", {"t0": (rng.random(60) < p).astype(float)}),
        )
        for arm, p in (("a", 0.8), ("random", 0.3))
        for s in range(3)
    ]
    text = render(compared(runs, one), Context("one"))
    assert "- **one benchmark**: everything is about Task 0 alone; no benchmark can be left out" in text
    assert "The suite has one benchmark, so that none can be left out." in text
    assert "of 1 benchmarks" not in text and "by the score on Task 0 alone" in text


def test_many_arms_are_readable_and_none_is_lost_silently():
    found = made_up(200, pools=3, seeds=1)
    text = render(found, context(found))
    assert "22 of 200 arms are shown: the baselines, and of each group those of highest and lowest" in text
    assert f"{MAX_COLUMNS} of 199 arms are shown; all are in `tables/overlap.csv`." in text
    assert len(text) < 60_000 and max(map(len, text.splitlines())) < 4_000
    assert sum(line.startswith("- **selector") for line in text.splitlines()) <= 22


def test_costs_and_pools_have_their_tables():
    found = made_up(4, pools=3)
    text = render(found, context(found))
    assert "## Costs" in text and "| selection, FLOPs |" in text and "| pool 2 |" in text
    assert "Everything was repeated on 3 pools." in text


def test_a_table_of_sources_names_what_was_lost():
    sources = {f"s{k}": {"kept": 9, "copies": k} for k in range(60)}
    text = render(made_up(3), Context("t", sources=sources))
    assert "| s59 | 9 | 59 |" in text and "9 more sources lost samples, fewer each." in text
    assert "| s0 |" not in text, "of which nothing was lost"


def test_a_line_break_in_a_value_breaks_no_table_and_no_list():
    found = made_up(3)
    hostile = replace(
        context(found),
        protocol={"scale": "mini", "template": "first\nsecond | third"},
        modified=["sft.lr: 1 -> 2\n# heading"],
        pool={"na\nme": 3},
        notes=["one\n\n# two"],
    )
    lines = render(found, hostile).splitlines()
    assert "| template | first\\nsecond \\| third |" in lines and "| na\\nme | 3 |" in lines
    assert "- one\\n\\n# two" in lines and "- modified: `sft.lr: 1 -> 2\\n# heading`" in lines
    assert not {line for line in lines if line in ("# two", "# heading")}
