"""A pool of samples over solid-colour images, and the renderer of a tiny checkpoint."""

import json
from collections.abc import Callable

import pytest

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.sample import Sample
from training.token_store import PoolSource, RendererOf, TokenStore, write

SHARD_ROWS = 8


def records(samples: list[Sample]) -> list[dict]:
    """The samples as LLaVA records."""
    return [
        {
            "id": sample.id,
            "image": [image.name for image in sample.images],
            "conversations": [
                {"from": role, "value": text}
                for turn in sample.turns
                for role, text in (("human", turn.question), ("gpt", turn.answer))
            ],
        }
        for sample in samples
    ]


@pytest.fixture
def pool_of(tmp_path, samples_of) -> Callable[..., Pool]:
    """pool_of(count, name="pool", seed=0) -> a pool in tmp_path."""

    def make(count: int, name: str = "pool", seed: int = 0) -> Pool:
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(records(samples_of(count, seed))))
        build_pool(file, tmp_path, tmp_path / name)
        return Pool.open(tmp_path / name)

    return make


@pytest.fixture
def factory(base) -> RendererOf:
    return RendererOf(base)


@pytest.fixture
def stored(tmp_path, factory) -> Callable[..., TokenStore]:
    """stored(pool, name="store") -> its token store in shards of SHARD_ROWS, written in this process."""

    def make(pool: Pool, name: str = "store") -> TokenStore:
        return write(PoolSource(pool), factory, tmp_path / name, workers=1, shard_rows=SHARD_ROWS)

    return make
