"""Compare the arms: the experiment's three files (evaluation/experiment.py), and all that is shown from them.

Where samples of a pool repeat questions, scores are given with and without these. Over several pools, scores
are means with an interval (evaluation/aggregate.py); levels, rater agreement, pool facts and subset mixes are
means over pools, and counts of lost samples are sums. agreement.json has each pool's agreement.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.stages.leaked import Leaked
from recipes.stages.pool_measures import levels, rater_agreement
from recipes.stages.pool_results import PoolResults, mean_of
from recipes.stages.report_context import context

if TYPE_CHECKING:
    from evaluation.comparison import ArmResult

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


ANCHORS = ("full", "zero")
"""Kinds of controls that are levels to read others by: nothing is claimed about them."""


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the experiment's files and, from them, all that is shown; also agreement.json and bench.json."""
    from evaluation.experiment import Experiment
    from evaluation.rebuild import rebuild
    from evaluation.suite import load_suite

    pools = [
        PoolResults(seed, {key: inputs[key][at] for key in BY_POOL if key in inputs})
        for at, seed in enumerate(config["pool_seeds"])
    ]
    leaked = Leaked(config["decontaminate"], inputs.get("leaks", ()))
    if "bench" in inputs and (inputs["bench"] / "bench.json").is_file():  # only the mini world has one
        by_pool = [levels(pool, inputs["bench"]) for pool in pools]
        (out / "bench.json").write_text(json.dumps(mean_of(by_pool), indent=1))
    agreement = _write_agreement(pools, out)
    experiment = Experiment.of_runs(
        _runs(config, inputs),
        load_suite(config["suite"]),
        reference=config["reference"],
        baseline=config["baseline"],
        margin=config["margin"],
        bench_dir=out,
        leaked=leaked.questions,
        decontamination=leaked.stamp(),
        context=context(config, inputs, pools, agreement, leaked),
    )
    experiment.write(out)
    comparison = rebuild(out, out)  # from the files, so that whoever has these can do it again
    for arm in comparison.arms:
        progress.say(f"{arm.arm} {arm.budget}: mean {arm.mean.mean:.2f}{_against(arm)}")
    return {arm.arm: round(arm.mean.mean, 4) for arm in comparison.arms}


def _runs(config: dict[str, Any], inputs: dict[str, Any]) -> list[Any]:
    """The evaluations to compare, as `evaluation.results.Run`."""
    from evaluation.results import Run

    return [
        Run(
            about["arm"],
            about["selection_seed"],
            about["train_seed"],
            str(about["budget"]),
            path,
            about["pool_seed"],
            about["targeted"],
            selector=about["selector"],
            control=about["control"] or "",
            control_of=about["control_of"] or "",
            anchor=about["arm"] == config["reference"] or about["control"] in ANCHORS,
            commit=json.loads((path / "stage.json").read_text())["commit"],
        )
        for about, path in zip(config["runs"], inputs["evaluates"], strict=True)
    ]


def _against(arm: "ArmResult") -> str:
    """The difference to the baseline with its corrected interval, and the verdict; empty without one."""
    gap, claim = arm.difference, arm.claim
    if gap is None or claim is None:
        return ""
    if claim.verdict is None:
        return f", {gap.value:+.1f} to {arm.baseline}"
    interval = f"[{gap.corrected_low:+.1f}, {gap.corrected_high:+.1f}]"
    return f", {gap.value:+.1f} {interval} to {arm.baseline}: {claim.verdict}"


def _write_agreement(pools: Sequence[PoolResults], out: Path) -> dict[str, Any]:
    """Writes agreement.json; returns the agreement of the raters, mean over pools."""
    by_pool = [rater_agreement(pool) for pool in pools]
    mean = mean_of(by_pool)
    content = dict(mean)
    if len(pools) > 1:
        content["pools"] = {str(pool.seed): own for pool, own in zip(pools, by_pool, strict=True)}
    (out / "agreement.json").write_text(json.dumps(content, indent=1))
    return mean
