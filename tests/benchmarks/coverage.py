"""What intervals and words of a comparison promise, by simulation: the tables of RESULTS.md, "Statistics".

python tests/benchmarks/coverage.py [--experiments 2000]
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from drawn_experiments import (  # noqa: E402  (the path of the repository has to be set first)
    World,
    claimed,
    coverage,
    equivalent,
    grid,
    null_tables,
    power,
)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    print("|", " | ".join(head), "|\n|", " | ".join([":--"] + ["--:"] * (len(head) - 1)), "|")
    for row in rows:
        print("|", " | ".join(row), "|", flush=True)
    print()


def covered(experiments: int) -> Iterator[Sequence[str]]:
    """A row for each design and noise: one benchmark and fourteen, stable and noisy answers."""
    rows: dict[str, list[float]] = {}
    for name, world in grid().items():
        rows.setdefault(", ".join(name.split(", ")[:3]), []).append(coverage(world, experiments))
    for name, values in rows.items():
        yield [name, *(f"{value:.1f}" for value in values)]
    every = [value for values in rows.values() for value in values]
    yield [f"mean {np.mean(every):.2f}, lowest {min(every):.1f}, highest {max(every):.1f}", "", "", "", ""]


def nulls(tables: int) -> Iterator[Sequence[str]]:
    for name, world in null_tables().items():
        louder, base = replace(world, unit=1.53), replace(world, base_unit=1.53)
        alone = claimed(world, 19, tables, corrected=False)
        yield [name, f"{alone:.1f}", *(f"{claimed(w, 19, tables):.1f}" for w in (world, louder, base))]


def found(experiments: int) -> Iterator[Sequence[str]]:
    for name, before, world in (
        ("1 pool x 3", "15", World(1, 3)),
        ("3 pools x 5", "24", World(3, 5, pool_effect=0.8)),
        ("15 pools x 1", "52", World(15, 1, pool_effect=0.8)),
    ):
        shifted = power(replace(world, shift=1.0), experiments)
        yield [name, before, f"{shifted:.0f}"]


def alike(experiments: int) -> Iterator[Sequence[str]]:
    quiet = {"stable": True, "pool_effect": 0.3}
    for pools, seeds in ((1, 10), (3, 5), (15, 1), (15, 3)):
        worlds = [World(pools, seeds, shift=shift, **quiet) for shift in (1.0, 0.0)]  # type: ignore[arg-type]
        yield [f"{pools} x {seeds}", *(f"{equivalent(world, 1.0, experiments):.1f}" for world in worlds)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=2000)
    n = parser.parse_args().experiments
    table(["+1 point is found (%)", "before", "now"], found(n))
    table(["19 nulls, a claim (%)", "uncorrected", "corrected", "arms 1.7", "baseline 1.7"], nulls(n))
    table(["called equivalent within 1 (%)", "true difference 1", "none"], alike(n))
    table(["95 % interval holds (%)", "1 stable", "14 stable", "1 noisy", "14 noisy"], covered(n))


if __name__ == "__main__":
    main()
