"""What every format is given: the chosen records in rank order, and how their images are referred to."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from curation.export.pictures import Pictures
from curation.export.records import records, sample
from curation.pool.read import Pool
from curation.pool.sample import Sample

SHARD_BYTES = 500_000_000
"""Default size of a shard: that of the `datasets` library."""


@dataclass(frozen=True)
class Job:
    """`rows`: int64[n] in rank order. `name`: of the data set, letters, digits, `-` and `_` alone.

    lines: JSON Lines instead of a JSON list. embed: images as bytes where the format leaves the choice.
    shard_bytes: where a format writes shards, the size that each is to have at most.
    """

    pool: Pool
    rows: np.ndarray
    pictures: Pictures
    name: str = "subset"
    lines: bool = False
    embed: bool = True
    shard_bytes: int = SHARD_BYTES
    on_progress: Callable[[int, int], None] | None = field(default=None, compare=False)

    def samples(self) -> Iterator[Sample]:
        """The samples in rank order, each parsed from a verified record."""
        for record in records(self.pool, self.rows, self.on_progress):
            yield sample(self.pool, record)


def dataset_name(text: str) -> str:
    """`text` as a name that no reader takes for a list, a path or an option."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-") or "subset"


def messages(sample: Sample) -> list[dict[str, str]]:
    """The conversation as [{role, content}] of system, user and assistant; `<image>` stays in place."""
    spoken = [{"role": "system", "content": sample.system}] if sample.system else []
    for turn in sample.turns:
        spoken += [
            {"role": "user", "content": turn.question},
            {"role": "assistant", "content": turn.answer},
        ]
    return spoken


def conversations(sample: Sample) -> list[dict[str, str]]:
    """The conversation as LLaVA's [{from, value}] of system, human and gpt."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in messages(sample)]


def with_extras(sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
    """`record` with the pool's id before it and the source after it, by which it can be joined."""
    return {"id": sample.id, **record, "source": sample.source}
