"""Seconds that it takes to load and plan a recipe of many arms, and to find what of it is done.

python tests/benchmarks/planning.py [--arms 10000]
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from recipes.engine import survey
from recipes.load import load
from recipes.plan import make_plan


def recipe(arms: int) -> str:
    """A recipe of that many arms, each with another subset."""
    lines = [f"  a{n}: {{selector: random, budget: 30%, seeds: [{n}]}}" for n in range(arms)]
    return "\n".join(["name: many", "scale: smoke", "arms:", *lines, "baseline: a0", "reference: a0", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "many.yaml"
        file.write_text(recipe(given.arms))
        make_plan(load("mmssr_30pct.yaml"))  # reads the sources of the stages once
        times = [time.process_time()]
        loaded = load(str(file))
        times.append(time.process_time())
        plan = make_plan(loaded)
        times.append(time.process_time())
        survey(plan, Path(folder))
        times.append(time.process_time())
    loading, planning, looking = (b - a for a, b in itertools.pairwise(times))
    print(f"{given.arms:,} arms, {len(plan.nodes):,} stages, CPU s:", end=" ")
    print(f"load {loading:.2f}, plan {planning:.2f}, survey {looking:.2f}")


if __name__ == "__main__":
    main()
