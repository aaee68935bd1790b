"""Tokenise a source once, in parallel processes, into the shards of a token store.

    write(PoolSource(Pool.open("pools/a")), RendererOf("checkpoints/base"), Path("stores/a"), workers=16)

An interrupted call continues where it was: the same command again writes the shards that are missing or
damaged. Several processes, also on several nodes, may write one store at the same time: each begins at
another shard and skips what the others have finished.
"""

import os
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from training.aspects import Grids, set_aspect
from training.images import ImageError, PixelLoader, image_size
from training.render import Encoded, Renderer, RenderError, RenderRules
from training.token_store.build import Columns, token_type
from training.token_store.layout import Info, Shard, StoreError, begin, check_shard, save_shard, shard_path
from training.token_store.read import TokenStore
from training.token_store.source import Part, Source
from training.token_store.workers import each, processes, rendered

if TYPE_CHECKING:
    from training.spec import FitSpec

Progress = Callable[[int, int], None]
"""Receives (rows done, rows in total)."""
RendererFactory = Callable[[], Renderer]
MAX_SHARD_ROWS = 16_384
"""A row costs a few milliseconds: a shard is less than a minute of work, which is what a kill can lose."""
MIN_SHARD_ROWS = 512
_SHARDS = 64
"""A smaller store still has this many shards, so that as many processes can share the work."""
_CHECKERS = 4


@dataclass(frozen=True)
class RendererOf:
    """Makes the renderer of a checkpoint, in any process. `image_mode` None: the checkpoint's own.

    `aspect`, `grids`: how images are fitted to the model, as `training.aspects.set_aspect` takes them.
    """

    base: str | Path
    rules: RenderRules | None = None
    image_mode: str | None = None
    aspect: str | None = None
    grids: Grids | None = None

    @classmethod
    def for_training(cls, spec: "FitSpec", base: str | Path) -> Self:
        """The renderer of a training of `base` with these settings."""
        return cls(base, spec.render_rules(), aspect=spec.image_aspect, grids=spec.image_grids)

    def __call__(self) -> Renderer:
        from training.models import load_processor

        processor, mode = load_processor(self.base)
        mode = set_aspect(processor, self.image_mode or mode, self.aspect, self.grids)
        return Renderer(processor, mode, cache_mb=0, rules=self.rules)


def write(
    source: Source,
    renderer_factory: RendererFactory,
    out: Path,
    *,
    workers: int | None = None,
    shard_rows: int | None = None,
    on_progress: Progress | None = None,
) -> TokenStore:
    """The store of `source` in `out`; what is finished there is kept, after a check of its checksum.

    `renderer_factory` is called in each process and must be picklable unless `workers` is 1. `workers`: None
    takes the cores, but fewer for a small store. `shard_rows` counts for a new store only.
    A shard with unreadable images is written again when one of them has become readable.

    Raises StoreMismatch when `out` holds another source or renderer, OSError when a file cannot be written,
    and StoreError when a process dies.
    """
    out = Path(out).absolute()
    renderer = renderer_factory()
    info = begin(out, _info(source, renderer, shard_rows))
    todo = _unfinished(out, info, renderer.loader)
    done = info.rows - sum(_size(info, shard) for shard in todo)
    report = on_progress or (lambda done, total: None)
    report(done, info.rows)
    count = min(workers or processes(info.rows - done), len(todo))
    tasks = ((shard, source.part(*info.bounds(shard), out)) for shard in _still_missing(todo, out, info))
    own, make = partial(_write_shard, renderer, out, info), partial(_writer, renderer_factory, out, info)
    died = (
        f"a process that wrote {out} has died, for lack of memory perhaps; run the same command again, with "
        "fewer workers: finished shards are kept"
    )
    for shard in each(tasks, own, make, workers=count, died=died):
        done += _size(info, shard)
        report(done, info.rows)
    report(info.rows, info.rows)
    return TokenStore.open(out, verify=False)


def _info(source: Source, renderer: Renderer, shard_rows: int | None) -> Info:
    rows = len(source)
    own = min(MAX_SHARD_ROWS, max(MIN_SHARD_ROWS, -(-rows // _SHARDS)))
    return Info(
        source=source.hash,
        renderer=renderer.fingerprint(),
        rows=rows,
        shard_rows=shard_rows or own,
        token_type=token_type(max(renderer.tokenizer.get_vocab().values()) + 1),
        image_id=renderer.image_id,
        images=source.images,
    )


def _size(info: Info, shard: int) -> int:
    start, stop = info.bounds(shard)
    return stop - start


def _unfinished(out: Path, info: Info, loader: PixelLoader) -> list[int]:
    """Shards to write: missing or damaged ones, and those whose unreadable images are readable now."""

    def unfinished(shard: int) -> bool:
        path = shard_path(out, shard)
        try:
            check_shard(path, info.key, checksum=True)
            return _recovered(Shard(path, info.key, _size(info, shard)), Path(info.images), loader)
        except StoreError:
            return True

    with ThreadPoolExecutor(_CHECKERS) as checkers:  # checksums are computed outside the interpreter's lock
        needed = checkers.map(unfinished, range(info.shards))
        return [shard for shard, is_needed in enumerate(needed) if is_needed]


def _recovered(shard: Shard, images: Path, loader: PixelLoader) -> bool:
    """Whether an image that could not be read when the shard was written can be read now."""
    for name in shard.unreadable.drop_null().to_pylist():
        try:
            loader.tokens([images / name])
            image_size(images / name)
            return True
        except ImageError:
            pass
    return False


def _still_missing(todo: Sequence[int], out: Path, info: Info) -> Iterator[int]:
    """The shards to write, without those that others finish meanwhile; each process begins at another one."""
    if not todo:
        return
    first = zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) % len(todo)
    before = {shard: _stamp(shard_path(out, shard)) for shard in todo}
    for shard in [*todo[first:], *todo[:first]]:
        if _stamp(shard_path(out, shard)) == before[shard]:
            yield shard


def _stamp(path: Path) -> tuple[int, int] | None:
    """Identity of a file; another one after it was replaced."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _writer(factory: RendererFactory, out: Path, info: Info) -> Callable[[int, Part], int]:
    return partial(_write_shard, factory(), out, info)


def _write_shard(renderer: Renderer, out: Path, info: Info, shard: int, part: Part) -> int:
    columns = Columns(info, str(out))
    for example, result in rendered(renderer, part):
        name = example.name if isinstance(example, Encoded) else example.id
        try:
            if isinstance(result, Exception):
                raise result
            columns.add(result)
        except (RenderError, ImageError) as error:
            columns.reject(name, error)
    save_shard(shard_path(out, shard), info.key, columns.batch())
    return shard
