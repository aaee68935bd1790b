"""CPU seconds to load and plan a recipe of many arms, and to find which of its stages are done.

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
    """A recipe with that many arms, each with another subset."""
    lines = [f"  a{n}: {{selector: random, budget: 30%, seeds: [{n}]}}" for n in range(arms)]
    return "\n".join(["name: many", "scale: smoke", "arms:", *lines, "baseline: a0", "reference: a0", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arms", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "many.yaml"
        file.write_text(recipe(options.arms))
        make_plan(load("mmssr_30pct.yaml"))  # parses the sources of the stages, which are cached then
        times = [time.process_time()]
        loaded = load(str(file))
        times.append(time.process_time())
        plan = make_plan(loaded)
        times.append(time.process_time())
        survey(plan, Path(folder))
        times.append(time.process_time())
    loading, planning, surveying = (after - before for before, after in itertools.pairwise(times))
    print(
        f"{options.arms:,} arms, {len(plan.nodes):,} stages: "
        f"load {loading:.2f}, plan {planning:.2f}, survey {surveying:.2f} CPU s"
    )


if __name__ == "__main__":
    main()
