"""Comparisons with made-up values, for tests of the views: any number of arms, pools, seeds, benchmarks."""

import math
from typing import Any

import numpy as np

from evaluation.comparison import (
    ArmResult,
    Claim,
    Comparison,
    Components,
    Difference,
    Needs,
    Robustness,
    Spread,
    Verdict,
)
from evaluation.context import Context, Cost, Subset
from evaluation.suite import Suite, load_suite

CAPABILITIES = ("OCR", "counting", "spatial", "chart", "knowledge", "style & <layout>")
STYLES = ("choice", "short answer", "conversation", "caption")


def comparison(
    arms: int = 3, *, pools: int = 1, seeds: int = 3, suite: Suite | None = None, seed: int = 0
) -> Comparison:
    """`full`, `random` (the baseline of all), and `arms` - 2 others, with every verdict in turn.

    Deterministic in its arguments; the values are drawn, not computed from answers.
    """
    suite = suite or load_suite("mini")
    rng = np.random.default_rng(seed)
    level = {b.name: rng.uniform(0.3, 0.7) * b.scale for b in suite}
    results = [_arm("full", "100%", 8.0, suite, level, rng, pools, seeds, None)]
    results.append(_arm("random", "10%", 0.0, suite, level, rng, pools, seeds, None))
    verdicts: tuple[Verdict, ...] = ("beats", "undecided", "loses to", "equivalent")
    for k in range(arms - 2):
        verdict = verdicts[k % len(verdicts)]
        shift = {"beats": 2.1, "undecided": 0.7, "loses to": -3.2, "equivalent": 0.1}[verdict]
        name = f"selector_{k}" if k else "mmssr"
        results.append(_arm(name, "10%", shift, suite, level, rng, pools, seeds, verdict, arms - 2))
    return Comparison(
        suite=suite,
        reference_arm="full",
        baseline="random",
        arms=tuple(results),
        chance={b.name: 0.25 * b.scale for b in suite},
        blind={b.name: 0.3 * b.scale for b in suite},
        n={b.name: 300 for b in suite},
        protocol={"suite": "mini"},
        pools=tuple(range(pools)) if pools > 1 else (None,),
        units={b.name: 300 for b in suite},
    )


def _arm(
    name: str,
    budget: str,
    shift: float,
    suite: Suite,
    level: dict[str, float],
    rng: np.random.Generator,
    pools: int,
    seeds: int,
    verdict: Verdict | None,
    family: int = 1,
) -> ArmResult:
    benchmarks = {
        b.name: Spread(level[b.name] + b.scale * (shift + rng.normal()) / 100, 0.008 * b.scale) for b in suite
    }
    mean = 100 * float(np.mean([benchmarks[b.name].mean / b.scale for b in suite]))
    units = mean + rng.normal(0, 0.6, pools * seeds)
    fields: dict[str, Any] = {}
    if verdict:
        own = {b.name: difference(shift + float(rng.normal(0, 1.5)), 1.2) for b in suite}
        fields = {
            "baseline": "random",
            "above": sum(d.value > 0 for d in own.values()),
            "difference": difference(shift, 0.5),
            "benchmark_differences": own,
            "pool_differences": tuple(shift + rng.normal(0, 0.3, pools)),
            "claim": Claim(
                verdict,
                1.0,
                "over pools" if pools > 2 else "on these pools" if pools == 2 else "on this pool",
                family,
                needs=Needs(12, 2) if verdict == "undecided" else None,
                components=Components(0.4 if pools > 2 else None, 0.6, 0.5, 0.3, 0.2),
            ),
            "robustness": Robustness(
                {b.name: difference(shift + 0.05, 0.5) for b in suite},
                (suite.benchmarks[0].name,) if verdict == "beats" else (),
                shift - 0.1,
                difference(1.4 * shift, 0.7),
                None,
                (3, 11),
            ),
        }
    return ArmResult(
        arm=name,
        budget=budget,
        runs=pools * seeds,
        units=pools * seeds,
        unit_means=tuple(float(u) for u in units),
        pool_means=tuple(float(u) for u in units.reshape(pools, seeds).mean(1)),
        benchmarks=benchmarks,
        mean=Spread(mean, float(units.std(ddof=1)) if pools * seeds > 1 else None),
        unparsed=0.01,
        relative=100 * mean / 60,
        relative_std=1.0,
        relative_range=(90.0, 95.0),
        **{"above": None, "difference": None} | fields,
    )


def difference(value: float, stderr: float, df: float = 8.0) -> Difference:
    """A difference whose corrected interval is 1.4 times as wide as its own; p by the normal."""
    half = 2.306 * stderr
    p = math.erfc(abs(value) / stderr / math.sqrt(2))
    wide = 1.4 * half
    return Difference(
        value, value - half, value + half, stderr, df, p, value - wide, value + wide, min(1.0, 5 * p)
    )


def context(comparison: Comparison, seed: int = 0) -> Context:
    """A context with every field: costs, overlap, mixes with a joint of capability and style."""
    rng = np.random.default_rng(seed)
    arms = [arm.arm for arm in comparison.arms if arm.arm != "full"]

    def mix() -> dict[str, dict[str, float]]:
        joint = rng.dirichlet(np.ones(len(CAPABILITIES) * len(STYLES))).reshape(len(CAPABILITIES), -1)
        return {
            "source": {"vqa": 0.6, "caption | web": 0.4},
            "capability": dict(zip(CAPABILITIES, joint.sum(1).tolist(), strict=True)),
            "capability x style": {
                f"{c} | {s}": float(joint[i, j])
                for i, c in enumerate(CAPABILITIES)
                for j, s in enumerate(STYLES)
            },
        }

    return Context(
        title="mini_study",
        protocol={"scale": "mini"},
        pool={"samples": 3600, "sources": 2},
        quarantined={"broken image": 3},
        sources={"vqa": {"kept": 2000, "copies": 3}},
        subsets=[Subset(arm, 0, 360, 9000 + 400 * k, 46080, mix()) for k, arm in enumerate(arms)],
        overlap={(a, b): float(rng.uniform(0.1, 0.6)) for a in arms for b in arms if a != b},
        pool_mix=mix(),
        scorer={"OCR": {"spearman": 0.5, "n": 40}},
        seconds={"train": 100.0},
        costs={
            arm: Cost(
                0.0 if arm == "random" else 40.0 * k,
                0.0 if arm == "random" else 1e15 * k,
                0.0 if arm == "random" else 0.02 * k,
                0.0,
                60.0,
                4e15,
                0.05,
            )
            for k, arm in enumerate(arms)
        },
        notes=["made-up values"],
    )
