"""A mirror and a pool with planted leaks, searched once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from planted_leaks import BENCHMARKS, SUITE, Plant, full_pool, write_leaky_mirror, write_leaky_source

from curation.decontaminate.find import Leaks, find_leaks
from curation.decontaminate.targets import Targets, read_targets
from curation.pool.read import Pool
from evaluation.items import open_items


@dataclass(frozen=True)
class World:
    mirror: Path
    pool: Pool
    plants: list[Plant]
    targets: Targets
    leaks: Leaks

    def pairs(self, plant: Plant) -> list[dict]:
        """The leaks of a planted sample with its item."""
        key = (plant.id, plant.benchmark, plant.item)
        return [row for row in self.rows if (row["id"], row["benchmark"], row["item"]) == key]

    @property
    def rows(self) -> list[dict]:
        return self.leaks.table.to_pylist()


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("leaks")
    mirror = write_leaky_mirror(folder / "mirror", rows=36)
    opened = open_items(SUITE, mirror, only=BENCHMARKS)
    plants = write_leaky_source(opened, folder / "source")
    pool, targets = full_pool(folder / "source", folder / "pool"), read_targets(opened)
    return World(mirror, pool, plants, targets, find_leaks(pool, targets))
