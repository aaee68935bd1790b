"""How long each sample of a pool is for a model, and which of them a training could not read.

lengths = measure(pool, RendererOf("checkpoints/base"), out / "parts", max_length=4096, policy="drop")

The samples are rendered as a token store renders them, but their tokens are not kept. An interrupted call
continues: row ranges that are finished lie in the folder.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import atomic
from curation.pool.read import Pool
from curation.pool.sample import Sample
from training.images import ImageError, image_size
from training.plan import check
from training.render import Encoded, Renderer, RenderError, fitted
from training.token_store import PoolSource
from training.token_store.source import Part
from training.token_store.workers import each, processes, rendered
from training.token_store.write import Progress, RendererFactory

FORMAT = 2
PART_ROWS = 8_192
"""Less than half a minute of work, which is what a kill can lose."""
Policy = Literal["drop", "truncate"]
IN_POOLS = {
    "image_count": "image_count_mismatch",
    "missing_image": "image_missing",
    "broken_image": "image_broken",
}
"""The renderer's reason -> that of `curation.pool.reasons.REASONS`, where they differ."""
SCHEMA = pa.schema(
    [
        ("text_tokens", pa.int32()),
        ("image_tokens", pa.int32()),
        ("cut", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
DETAIL = 200
"""Characters of a detail that are kept."""


@dataclass(frozen=True)
class Limit:
    """What happens to samples of more than `max_length` tokens; None: there is no limit."""

    max_length: int | None = None
    policy: Policy = "drop"


@dataclass(frozen=True)
class SizedPart:
    """Samples of a row range, and (height, width) of their images by path where the pool knows them."""

    part: Part
    sizes: dict[str, tuple[int, int]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.part)


def measure(
    pool: Pool,
    renderer_factory: RendererFactory,
    folder: Path,
    limit: Limit,
    *,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> pa.Table:
    """A row of SCHEMA for each row of the pool, in its order.

    text_tokens, image_tokens: of what a training would read, chat markup included, so that their sum is its
    length; a sample that is cut (`cut`) counts as it is then. Both are null where `reason` says, by a code of
    `curation.pool.reasons.REASONS`, why no training reads it. `folder` keeps finished row ranges until the
    caller removes it. The table's metadata has the fingerprint of the `renderer`. Raises StoreError when a
    process dies.
    """
    renderer = renderer_factory()
    fingerprint = renderer.fingerprint()
    key = _key(pool, fingerprint, limit)
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pool), PART_ROWS)
    places = [folder / f"{key}-{number:05d}.parquet" for number in range(len(starts))]
    todo = [number for number, place in enumerate(places) if not place.is_file()]
    done = sum(_rows(pool, starts[number]) for number in range(len(starts)) if places[number].is_file())
    report = on_progress or (lambda done, total: None)
    report(done, len(pool))
    count = min(workers or processes(len(pool) - done), len(todo))
    tasks = ((number, _part(pool, starts[number], folder)) for number in todo)
    own = partial(_measured, renderer, limit, places)
    died = (
        f"a process that measured {pool.folder} has died, for lack of memory perhaps; run the same command "
    )
    died += "again, with fewer workers: what is finished is kept"
    for number in each(
        tasks, own, partial(_measurer, renderer_factory, limit, places), workers=count, died=died
    ):
        done += _rows(pool, starts[number])
        report(done, len(pool))
    tables = [pq.read_table(place, schema=SCHEMA) for place in places]
    whole = pa.concat_tables(tables).combine_chunks() if tables else SCHEMA.empty_table()
    return whole.replace_schema_metadata({"renderer": fingerprint})


def _key(pool: Pool, fingerprint: str, limit: Limit) -> str:
    """16 hex digits over everything that decides the lengths."""
    parts = [FORMAT, pool.hash, fingerprint, limit.max_length, limit.policy, PART_ROWS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _rows(pool: Pool, start: int) -> int:
    return min(PART_ROWS, len(pool) - start)


def _part(pool: Pool, start: int, folder: Path) -> SizedPart:
    stop = start + _rows(pool, start)
    return SizedPart(PoolSource(pool).part(start, stop, folder), image_sizes(pool, start, stop))


def image_sizes(pool: Pool, start: int, stop: int) -> dict[str, tuple[int, int]]:
    """(height, width) in pixels of the images of these rows by path, of those that the audit has measured."""
    ids = pool.table["image_ids"].slice(start, stop - start).combine_chunks().flatten()
    chosen = pool.image_table.select(["path", "height", "width"]).take(pc.unique(ids))
    chosen = chosen.filter(pc.and_(pc.is_valid(chosen["height"]), pc.is_valid(chosen["width"])))
    columns = (column.to_pylist() for column in chosen.columns)
    return {str(pool.images / name): (height, width) for name, height, width in zip(*columns, strict=True)}


def _measurer(factory: RendererFactory, limit: Limit, places: list[Path]) -> Any:
    return partial(_measured, factory(), limit, places)


def _measured(renderer: Renderer, limit: Limit, places: list[Path], number: int, part: SizedPart) -> int:
    renderer.loader.sizes = part.sizes
    rows = [_row(renderer, limit, *pair) for pair in rendered(renderer, part)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    with atomic.replacing(places[number]) as temporary:
        pq.write_table(table, temporary)
    return number


def _row(renderer: Renderer, limit: Limit, sample: Sample, result: Any) -> tuple[Any, ...]:
    try:
        if isinstance(result, Exception):
            raise result
        whole = len(_checked(renderer, result))
        example = fitted(result, limit.max_length, limit.policy)
    except (RenderError, ImageError) as error:
        # Under this policy nothing is too long but what has no loss left.
        cut = limit.policy == "truncate" and error.reason == "too_long"
        reason = "answer_cut" if cut else IN_POOLS.get(error.reason, error.reason)
        detail = str(error).encode("utf-8", "replace").decode()[:DETAIL]
        return None, None, False, reason, detail
    images = int(np.count_nonzero(example.input_ids == renderer.image_id))
    return len(example) - images, images, len(example) < whole, None, None


def _checked(renderer: Renderer, example: Encoded) -> Encoded:
    """The example, if it has a loss and its images have readable headers; or RenderError, ImageError."""
    check(example)
    for picture in example.images:  # also where the number of tokens does not depend on the size
        if str(picture) not in renderer.loader.sizes:
            image_size(picture)
    return example
