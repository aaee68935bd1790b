"""Build a pool: read records once, audit them, make ids unique, write an index of the untouched files.

python -m curation.pool build llava_v1_5_mix665k.json --images images --out pools/665k
"""

import hashlib
import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import atomic
from curation.pool import audit_report
from curation.pool import sources as source_names
from curation.pool.assemble import (
    LEFT_OUT,
    Images,
    Judged,
    Written,
    by_frequency,
    gather,
    judge,
    open_folders,
    pool_hash,
    pool_tables,
    quarantine_table,
    write_rows,
)
from curation.pool.derive import location
from curation.pool.errors import PoolArgumentError, PoolError, TooManyBad
from curation.pool.ids import repeated_hashes
from curation.pool.image_audit import IMAGE_SCHEMA, gate
from curation.pool.image_check import LEVELS, MAX_PIXELS
from curation.pool.image_counts import image_counts
from curation.pool.inputs import InputOptions, Prepared, prepare
from curation.pool.layout import PARTS, POOL_FILES, POOL_SCHEMA
from curation.pool.parts import RANGE_BYTES, Part, Source, part_folder, scan_files, taken, usable_cores
from curation.pool.record import RecordOptions
from curation.pool.scan import Range, Scanner, write_part
from curation.pool.stream import layout_of
from curation.pool.tokens import special_tokens, token_counter

__all__ = ["POOL_SCHEMA", "Options", "build_pool", "pool_hash"]
_EARLY = 2000
"""If most of so many first records are bad (a wrong --images folder, for instance), the rest is not read."""
_EARLY_BYTES = 1 << 20
_IMAGES_AT_ONCE = 1 << 17
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How inputs are read and images checked.

    `format`: of the inputs, None: detected. `image_key`, `source_key`, `source_depth`: see
    `record.RecordOptions`. `audit`: "header" or "full". `allow_outside`: images may lie outside of the image
    folder. `max_pixels`: larger images are not used.
    """

    format: str | None = None
    image_key: str | None = None
    source_key: str | None = None
    source_depth: int = 1
    audit: str = "header"
    allow_outside: bool = False
    max_pixels: int = MAX_PIXELS

    def inputs(self) -> InputOptions:
        """The options of `inputs.prepare`."""
        return InputOptions(self.image_key, self.source_key, self.source_depth)

    def record(
        self, default_source: str | None = None, control_tokens: tuple[str, ...] = ()
    ) -> RecordOptions:
        """The options of the records of a file."""
        depth = self.source_depth
        return RecordOptions(self.image_key, self.source_key, depth, default_source, control_tokens)


def build_pool(
    source: Path | str | Sequence[Path | str],
    images: Path | None,
    out: Path,
    *,
    options: Options = Options(),
    tokenizer: str | Path | None = None,
    image_tokens: int | None = None,
    max_bad_fraction: float = 0.01,
    limit: int | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
    on_images: Progress | None = None,
    on_unpack: Progress | None = None,
    range_bytes: int = RANGE_BYTES,
) -> dict[str, Any]:
    """Ingest records of one or several inputs; returns the content of pool.json.

    `source`: files or folders of any form that `inputs` reads, or names of Hugging Face datasets. `images` is
    the folder that image paths are relative to (default: the input's own; images inside an input are unpacked
    to the pool's folder, and a note says so if `images` is given). `tokenizer` counts text tokens (default:
    white-space words), and its control tokens are looked for in the texts; `image_tokens` is the number of
    tokens an image costs (default: unknown, null). `limit` reads only the first records. `workers`: processes
    (default: one for each core if the files are large; 0: none). `on_unpack` and `on_progress` receive (bytes
    read, bytes in total), `on_images` (images checked, images).

    Writes `quarantine.parquet`, `images.parquet`, `pool.parquet` (in input order) and, last, `pool.json`;
    with audit "full" also the page `audit.md`. A build that was killed goes on where it was. Raises
    PoolArgumentError for an argument that no data could satisfy, BrokenJson for a truncated or malformed
    file, TooManyBad (after writing quarantine.parquet) if more than `max_bad_fraction` of the records are
    unusable, PoolError if none is usable.
    """
    given = [source] if isinstance(source, Path | str) else list(source)
    out = Path(out)
    _check_paths(given, images, out)
    _check_numbers(image_tokens, max_bad_fraction, limit, options)
    unit = token_counter(tokenizer)[1]
    prepared = prepare(
        given,
        out,
        format=options.format,
        options=options.inputs(),
        workers=usable_cores() if workers is None else workers,
        on_progress=on_unpack,
    )
    notes = [*prepared.notes, *_unused_images(prepared, images)]
    root = prepared.images or (Path(images) if images is not None else _default_root(given, out))
    out.mkdir(parents=True, exist_ok=True)
    (out / "pool.json").unlink(missing_ok=True)
    build = _Build(root, out, options, tokenizer, max_bad_fraction, limit, workers, range_bytes)
    build.scan(prepared, on_progress)
    judged = build.judge(on_images)
    tables = pool_tables(build.parts, judged, image_tokens, build.folder_sources())
    written = write_rows(out / "pool.parquet", tables)
    summary = _summary(judged, written, build.parts, limit)
    summary |= {"text_tokens": unit | {"total": written.text_tokens}, "image_tokens_each": image_tokens}
    summary |= {"format": prepared.format, "options": asdict(options), "notes": notes}
    summary |= {"audit": {"level": options.audit} | _image_counts(out)}
    summary |= {"files": _files(build.sources, out)}
    summary |= {"images": location(root, out)}
    summary["versions"] = {name: importlib.metadata.version(name) for name in ("numpy", "pyarrow", "pillow")}
    atomic.write_json(out / "pool.json", summary)
    shutil.rmtree(out / PARTS)
    if options.audit == "full":
        audit_report.write(out)
    return summary


class _Build:
    """The steps of a build, in order."""

    def __init__(
        self,
        root: Path,
        out: Path,
        options: Options,
        tokenizer: str | Path | None,
        max_bad: float,
        limit: int | None,
        workers: int | None,
        range_bytes: int,
    ) -> None:
        self._root, self._out, self._options, self._limit = root, out, options, limit
        self._max_bad, self._workers, self._range = max_bad, workers, range_bytes
        self._tokenizer, self._scanner = tokenizer, Scanner(tokenizer)
        self.sources: list[Source] = []
        self.parts: list[Part] = []

    def scan(self, prepared: Prepared, on_progress: Progress | None) -> None:
        """Read all files; stops early if most of the first records are bad."""
        own = special_tokens(self._tokenizer)
        self.sources = [
            Source(layout_of(file.path), self._options.record(file.source, own), file.unpacked, file.take)
            for file in prepared.files
            if not (file.unpacked and file.path.stat().st_size == 0)
        ]
        settings = asdict(self._options) | {"root": str(self._root.resolve()), "limit": self._limit}
        settings |= {"tokenizer": str(self._tokenizer), "range": self._range}
        self._folder = part_folder(self._out / PARTS, self.sources, settings)
        self._stop_early()
        size = sum(source.bytes for source in self.sources)
        several = size > self._range and (self._limit is None or self._limit > _EARLY)
        self.parts = scan_files(
            self.sources,
            self._scanner,
            self._folder,
            limit=self._limit,
            workers=(usable_cores() if several else 0) if self._workers is None else self._workers,
            range_bytes=self._range,
            on_progress=on_progress,
        )

    def judge(self, on_images: Progress | None) -> Judged:
        """The fate of each record; writes images.parquet and quarantine.parquet."""
        records = gather(self.parts)
        records.fate[~taken(self.parts, self.sources, self._limit)] = LEFT_OUT
        images = Images.write(self._out / "images.parquet", self._checked(records.names, on_images))
        judged = judge(records, images)
        quarantine = quarantine_table(self.parts, judged, images, self.folder_sources())
        with atomic.replacing(self._out / "quarantine.parquet") as temporary:
            pq.write_table(quarantine, temporary)
        _stop_if_too_bad(quarantine, judged, self._max_bad, self._out)
        return judged

    def folder_sources(self) -> dict[str, str]:
        """The source of each image folder that tells it only beside the others."""
        folders = open_folders(self.parts)
        return source_names.resolve(folders, self._options.source_depth, self._root) if folders else {}

    def _checked(self, names: pa.Array, on_images: Progress | None) -> Iterator[pa.Table]:
        """The rows of images.parquet, from checks that are kept beside the parts."""
        for start in range(0, len(names), _IMAGES_AT_ONCE):
            kept = self._folder / f"images-{start:09d}.parquet"
            known = pq.read_table(kept, schema=IMAGE_SCHEMA) if kept.exists() else None
            report = on_images and partial(_shifted, on_images, start, len(names))
            table = self._gate(names.slice(start, _IMAGES_AT_ONCE), self._options.audit, known, report)
            if len(names) > _IMAGES_AT_ONCE:
                with atomic.replacing(kept) as temporary:
                    pq.write_table(table, temporary)
            yield table

    def _gate(
        self, names: pa.Array, level: str, known: pa.Table | None = None, report: Progress | None = None
    ) -> pa.Table:
        return gate(
            names.to_pylist(),
            self._root,
            level=level,
            allow_outside=self._options.allow_outside,
            max_pixels=self._options.max_pixels,
            workers=usable_cores() if self._workers is None else self._workers,
            on_progress=report,
            known=known,
        )

    def _stop_early(self) -> None:
        source = self.sources[0] if self.sources else None
        if source is None or source.take is not None or source.bytes < _EARLY_BYTES:
            return
        path = self._folder / "first.arrow"
        first = Range(source.layout, 0, None, path, limit=_EARLY, options=source.options)
        batches, notes = self._scanner.scan(first)
        if notes.records < _EARLY:
            return
        write_part(path, batches, notes)
        parts = [Part(path, 0, 0, notes.records, notes)]
        records = gather(parts)
        tables = iter([self._gate(records.names, "header")])
        images = Images.write(self._folder / "first.parquet", tables)
        judged = judge(records, images)
        if sum(judged.counts().values()) - _repeated(judged) > max(0.5, self._max_bad) * _EARLY:
            quarantine = quarantine_table(parts, judged, images, {})
            pq.write_table(quarantine, self._out / "quarantine.parquet")
            _stop_if_too_bad(quarantine, judged, self._max_bad, self._out)


def _shifted(report: Progress, start: int, total: int, done: int, _: int) -> None:
    report(start + done, total)


def _repeated(judged: Judged) -> int:
    return sum(n for reason, n in judged.counts().items() if reason.startswith("duplicate_"))


def _default_root(given: Sequence[Path | str], out: Path) -> Path:
    """The folder of the inputs; that of the pool for a data set by its name."""
    paths = [Path(one) for one in given if Path(one).exists()]
    folders = {(path if path.is_dir() else path.parent).resolve(): path for path in paths}
    if len(folders) > 1:
        raise PoolArgumentError(
            f"the inputs lie in {len(folders)} folders; name the one that image paths are relative to with "
            "--images"
        )
    return next((path if path.is_dir() else path.parent for path in folders.values()), out)


def _unused_images(prepared: Prepared, images: Path | None) -> list[str]:
    """What a user should know who named an image folder for inputs that hold their images.

    Raises PoolArgumentError if another input needs the folder: a pool has one.
    """
    if prepared.images is None or images is None:
        return []
    if other := next((file.path for file in prepared.files if not file.unpacked), None):
        raise PoolArgumentError(
            f"of the inputs some hold their images themselves, and {other} names images in {images}: build "
            "two pools"
        )
    return [f"the inputs hold their images themselves: nothing is read from the image folder {images}"]


def _check_paths(given: Sequence[Path | str], images: Path | None, out: Path) -> None:
    if images is not None and not Path(images).exists():
        raise PoolArgumentError(f"image folder {images} does not exist")
    if images is not None and not Path(images).is_dir():
        raise PoolArgumentError(f"image folder {images} is not a folder")
    if out.exists() and not out.is_dir():
        raise PoolArgumentError(f"output {out} is not a folder; choose another --out")
    written, place = {(out / name).resolve() for name in POOL_FILES}, out.resolve()
    for path in map(Path, given):
        if path.resolve() in written:
            raise PoolArgumentError(
                f"a pool in {out} would overwrite its source {path}; choose another --out"
            )
        if path.is_dir() and place.is_relative_to(path.resolve()):
            raise PoolArgumentError(
                f"output {out} lies in the input folder {path}, and would be read as records; choose another "
                "--out"
            )


def _check_numbers(
    image_tokens: int | None, max_bad_fraction: float, limit: int | None, options: Options
) -> None:
    if not 0 <= max_bad_fraction <= 1:  # NaN fails this too
        raise PoolArgumentError(f"max_bad_fraction must be a number from 0 to 1, got {max_bad_fraction}")
    if image_tokens is not None and image_tokens < 0:
        raise PoolArgumentError(f"image_tokens must be at least 0, got {image_tokens}")
    for name, number in (("limit", limit), ("max_pixels", options.max_pixels)):
        if number is not None and number < 1:
            raise PoolArgumentError(f"{name} must be at least 1, got {number}")
    if options.audit not in LEVELS:
        raise PoolArgumentError(f"audit must be one of {', '.join(LEVELS)}, got {options.audit!r}")


def _stop_if_too_bad(quarantine: pa.Table, judged: Judged, allowed: float, out: Path) -> None:
    counts, records = judged.counts(), judged.read()
    listed = ", ".join(f"{reason} {n:,}" for reason, n in counts.items())
    if records == 0:
        raise PoolError("the file holds no records")
    if len(quarantine) > allowed * records:
        first = quarantine.slice(0, 1).to_pylist()[0]
        raise TooManyBad(
            f"{len(quarantine):,} of the {records:,} records read are unusable ({listed}), more than "
            f"max_bad_fraction {allowed:g} allows. First: record {first['index']}, {first['reason']}: "
            f"{first['detail']}. See {out / 'quarantine.parquet'}; correct the data or --images, or raise "
            "max_bad_fraction",
            counts,
        )
    if len(quarantine) == records:
        raise PoolError(
            f"none of the {records:,} records is usable ({listed}); see {out / 'quarantine.parquet'}"
        )


def _summary(judged: Judged, written: Written, parts: Sequence[Part], limit: int | None) -> dict[str, Any]:
    notes = [part.notes for part in parts]
    unknown: Counter[str] = sum((note.unknown for note in notes), Counter())
    return {
        "hash": written.hash,
        "n": written.rows,
        "records": judged.read(),
        "limit": limit,
        "quarantined": judged.counts(),
        "sources": written.sources,
        "ids": {"missing": judged.ids.missing, "repeated": judged.ids.repeated},
        "skipped_turns": {
            "answer_before_question": sum(note.skipped_first for note in notes),
            "question_without_answer": sum(note.skipped_last for note in notes),
        },
        "unknown_keys": by_frequency(unknown),
        "control_tokens": sum(note.control_tokens for note in notes),
        "repeated_content": repeated_hashes(judged.records.content.filter(pa.array(judged.fate == 0))),
    }


def _image_counts(out: Path) -> dict[str, Any]:
    names = ["format", "mode", "reason"]
    columns = [*names, "alpha", "orientation", "frames", "bytes_hash"]
    return image_counts(pq.read_table(out / "images.parquet", columns=columns, read_dictionary=names))


def _files(sources: Sequence[Source], out: Path) -> list[dict[str, Any]]:
    entries = []
    for source in sources:
        path = source.layout.path
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entry = location(path, out) | {"bytes": source.bytes, "sha256": digest}
        entries.append(entry | ({"unpacked": True} if source.unpacked else {}))
    return entries
