"""Compare the arms: long-form results, tables, plots and the report, from the artefacts of all other stages.

Where samples of a pool repeat questions, scores are given with and without these. Over several pools, scores
are means with an interval (evaluation/aggregate.py); levels, rater agreement, pool facts and subset mixes are
means over pools, and counts of lost samples are sums. agreement.json has each pool's agreement.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.stages.leaked import Leaked
from recipes.stages.pool_measures import levels, rater_agreement
from recipes.stages.pool_results import PoolResults, mean_of
from recipes.stages.report_context import context

BY_POOL = (
    "pool",
    "leaks",
    "truth",
    "labels",
    "scorer",
    "styler",
    "seed_model",
    "signal_capability",
    "signal_style",
)
"""Inputs with one entry for each pool that the report describes."""


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes results.parquet, agreement.json, levels (bench.json), comparison.json, plots and report.md."""
    import pyarrow.parquet as pq

    from evaluation.aggregate import Run, collect, compare
    from evaluation.report.markdown import write_report
    from evaluation.suite import load_suite

    pools = [
        PoolResults(seed, {key: inputs[key][at] for key in BY_POOL if key in inputs})
        for at, seed in enumerate(config["pool_seeds"])
    ]
    suite = load_suite(config["suite"])
    runs = [
        Run(
            about["arm"],
            about["selection_seed"],
            about["train_seed"],
            str(about["budget"]),
            path,
            about["pool_seed"],
            about["targeted"],
        )
        for about, path in zip(config["runs"], inputs["evaluates"], strict=True)
    ]
    leaked = Leaked(config["decontaminate"], inputs.get("leaks", ()))
    pq.write_table(collect(runs, suite, leaked.questions), out / "results.parquet")
    if "bench" in inputs and (inputs["bench"] / "bench.json").is_file():  # only the mini world has one
        by_pool = [levels(pool, inputs["bench"]) for pool in pools]
        (out / "bench.json").write_text(json.dumps(mean_of(by_pool), indent=1))
    roles = {"reference": config["reference"], "baseline": config["baseline"]}
    comparison = replace(
        compare(runs, suite, bench_dir=out, **roles),
        decontamination=leaked.stamp(),
        without_leaks=(
            compare(runs, suite, bench_dir=out, leaked=leaked.questions, **roles)
            if leaked.questions
            else None
        ),
    )
    agreement = _write_agreement(pools, out)
    write_report(comparison, context(config, inputs, pools, agreement, leaked), out)
    for arm in comparison.arms:
        gap = arm.difference
        difference = f", {gap.value:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]" if gap else ""
        progress.say(f"{arm.arm} {arm.budget}: mean {arm.mean.mean:.2f}{difference}")
    return {arm.arm: round(arm.mean.mean, 4) for arm in comparison.arms}


def _write_agreement(pools: Sequence[PoolResults], out: Path) -> dict[str, Any]:
    """Writes agreement.json; returns the agreement of the raters, mean over pools."""
    by_pool = [rater_agreement(pool) for pool in pools]
    mean = mean_of(by_pool)
    content = dict(mean)
    if len(pools) > 1:
        content["pools"] = {str(pool.seed): own for pool, own in zip(pools, by_pool, strict=True)}
    (out / "agreement.json").write_text(json.dumps(content, indent=1))
    return mean
