"""Experiments with drawn answers: any number of arms, pools, seeds, benchmarks and questions."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from evaluation.context import Context, Subset
from evaluation.experiment import QUESTIONS_SCHEMA, ArmAbout, Experiment, RunAbout
from evaluation.suite import Suite, load_suite

LIFT = {"full": 0.15, "random": 0.0, "method_0": 0.05}
"""By how much more often an arm is right than the random baseline; others: not at all."""


def experiment(
    arms: int = 3,
    *,
    seeds: int = 3,
    pools: int = 1,
    questions: int = 40,
    suite: Suite | None = None,
    leaked: int = 0,
    seed: int = 0,
    names: Sequence[str] = (),
) -> Experiment:
    """`full`, `random` (the baseline) and `arms` - 2 methods, or `names`; answers are right or wrong.

    The first `leaked` questions of each benchmark are flagged. Only `full` has shuffled images.
    """
    suite = suite or load_suite("mini")
    rng = np.random.default_rng(seed)
    names = names or ["full", "random", *(f"method_{k}" for k in range(arms - 2))]
    place = [(b.name, i) for b in suite for i in range(questions)]
    easy = rng.normal(0.5, 0.15, len(place))
    about, scores, shuffled = [], [], []
    for name in names:
        for pool in range(pools):
            for own in range(seeds):
                right = rng.random(len(place)) < easy + LIFT.get(name, 0.0) + rng.normal(0, 0.01)
                scores.append(right.astype(np.float64))
                other = rng.random(len(place)) < 0.3
                shuffled.append(other.astype(np.float64) if name == "full" else np.full(len(place), np.nan))
                about.append((name, pool if pools > 1 else None, own))
    runs = tuple(
        RunAbout(*one, one[2], f"{k:016x}", "c0ffee", _counts(suite, questions, scores[k], shuffled[k]))
        for k, one in enumerate(about)
    )
    return Experiment(
        suite=suite,
        arms=tuple(
            ArmAbout(name, "100%" if name == "full" else "10%", name, anchor=name == "full") for name in names
        ),
        runs=runs,
        questions=pa.table(
            {
                "benchmark": [name for name, _ in place],
                "index": [i for _, i in place],
                "id": [f"{name}-{i}" for name, i in place],
                "unit": [str(i) for _, i in place],
                "stratum": [""] * len(place),
                "weight": [1 / questions] * len(place),
                "leaked": [i < leaked for _, i in place],
            },
            QUESTIONS_SCHEMA,
        ),
        scores=np.stack(scores),
        shuffled=np.stack(shuffled),
        reference="full",
        baseline="random",
        margin=1.0,
        protocol={"suite": suite.name, "batch_size": 8},
        chance={b.name: 0.25 for b in suite},
        blind=dict.fromkeys((b.name for b in suite), 0.3),
        decontamination={"state": "flag", "rows": leaked, "of": 100, "items": {}} if leaked else {},
        context=Context(
            title="drawn",
            protocol={"scale": "mini"},
            pool={"samples": 3600},
            subsets=[Subset(name, 0, 360, 9000, 46080) for name in names],
            notes=["drawn answers"],
        ),
    )


def _counts(suite: Suite, questions: int, scores: np.ndarray, shuffled: np.ndarray) -> dict:
    """COUNTS of one run's benchmarks."""
    found = {}
    for k, benchmark in enumerate(suite):
        own, other = (values[k * questions : (k + 1) * questions] for values in (scores, shuffled))
        found[benchmark.name] = {
            "value": float(own.mean()),
            "stderr": float(own.std(ddof=1) / questions**0.5),
            "n": questions,
            "unparsed": 1,
            "truncated": 0,
            "lenient": float(own.mean()),
            "shuffled": None if np.isnan(other).any() else float(other.mean()),
        }
    return found


def only(made: Experiment, *arms: str) -> Experiment:
    """The experiment of these arms alone."""
    kept = [at for at, run in enumerate(made.runs) if run.arm in arms]
    return replace(
        made,
        arms=tuple(arm for arm in made.arms if arm.name in arms),
        runs=tuple(made.runs[at] for at in kept),
        scores=made.scores[kept],
        shuffled=made.shuffled[kept],
    )
