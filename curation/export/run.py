"""One export from start to end: checks first, then the data, its table of rows and its card, then the Hub."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation import atomic
from curation.export import card, evidence, guard, output, push, side_table
from curation.export.errors import ExportError
from curation.export.formats import FORMATS, Format
from curation.export.job import SHARD_BYTES, Job, dataset_name
from curation.export.pictures import Copies, Pictures
from curation.pool.read import Pool
from curation.progress import Progress, shown
from curation.subset import read_manifest, read_subset


@dataclass(frozen=True)
class Request:
    """The options of the command line, under their names there."""

    subset: Path
    pool: Path
    out: Path
    format: str = "llava"
    name: str | None = None
    overwrite: bool = False
    images_root: Path | None = None
    copy_images: Path | None = None
    link_images: Path | None = None
    image_paths: bool = False
    shard_size: int = SHARD_BYTES
    card: bool | None = None
    licenses: Path | None = None
    signals: Sequence[Path] = ()
    dups: Path | None = None
    leaks: Path | None = None
    push: str | None = None
    private: bool = False
    dry_run: bool = False

    @property
    def as_folder(self) -> bool:
        """Whether `out` is to be a folder."""
        return FORMATS[self.format].is_folder(self.out)

    @property
    def title(self) -> str:
        """The data set's name, without characters that a reader could misunderstand."""
        return dataset_name(self.name or self.out.name.split(".")[0])


def run(request: Request) -> Iterator[str]:
    """Carry the request out; yields lines to print. Raises ExportError, SubsetError, PoolError, OSError."""
    form = FORMATS[request.format]
    _check_options(request, form)
    pool = Pool.open(request.pool)
    manifest = read_manifest(request.subset)
    if manifest["pool_hash"] != pool.hash:
        raise ExportError(
            f"{request.subset} was not chosen from {request.pool}: the pool hashes differ; "
            "give the pool that it was chosen from"
        )
    subset = read_subset(request.subset)
    if not len(subset):
        raise ExportError(f"{request.subset} is an empty subset; there is nothing to export")
    _check_outputs(request, pool)
    rows = subset["row"].to_numpy().astype(np.int64)
    found = evidence.gather(
        pool,
        subset["id"],
        signals=request.signals,
        licences=request.licenses,
        dups=request.dups,
        leaks=request.leaks,
    )
    yield from _notes(request, form, found, pool)
    if request.dry_run:
        yield from _plan(request, len(rows))
        return
    about = card.Described(
        pool, manifest, subset, request.title, request.format, _data_files(request, form), found
    )
    yield from _write(request, form, about)
    if request.push:
        files = push.listed(request.out, _companions(request))
        url = push.push(request.push, files, private=request.private, samples=len(rows))
        yield f"{len(files):,} files -> {url}"


_WHY = {
    "own": "its records name the images as the source does",
    "bytes": "it holds the images themselves",
    "either": "it holds the images themselves; --image-paths makes it name them",
    "none": "it has no images",
    "paths": "",
}
"""Images of a format -> why an option about them does not go with it."""


def _check_options(request: Request, form: Format) -> None:
    paths = form.images == "paths" or (form.images == "either" and request.image_paths)
    copies = request.copy_images or request.link_images
    for given, allowed, said in (
        (request.image_paths, form.images == "either", "--image-paths is for datasets and parquet"),
        (request.images_root, paths, f"--images-root does not go with {request.format}: {_WHY[form.images]}"),
        (
            copies,
            paths or form.images == "own",
            f"--copy-images and --link-images do not go with {request.format}: {_WHY[form.images]}",
        ),
        (
            request.copy_images and request.link_images,
            False,
            "give one of --copy-images and --link-images, not both",
        ),
        (request.private, request.push is not None, "--private needs --push"),
    ):
        if given and not allowed:
            raise ExportError(said)
    if request.push is not None:
        push.check_name(request.push)


def _companions(request: Request) -> list[Path]:
    """The files beside `out`: table of rows and card. None for a folder, which holds them."""
    if request.as_folder:
        return []
    names = ["rows.parquet", *(["card.md"] if _has_card(request) else [])]
    return [request.out.with_name(f"{request.out.name}.{name}") for name in names]


def _has_card(request: Request) -> bool:
    """By default for folders, and for what is uploaded."""
    return (request.as_folder or request.push is not None) if request.card is None else request.card


def _check_outputs(request: Request, pool: Pool) -> None:
    outputs = [request.out, *_companions(request)]
    guard.check_outputs(pool, request.subset, outputs, folder=request.as_folder, overwrite=request.overwrite)
    images = request.copy_images or request.link_images
    if images is not None:
        guard.check_place(pool, request.subset, images)


def _notes(request: Request, form: Format, found: evidence.Evidence, pool: Pool) -> Iterator[str]:
    strange = sorted(set(found.licences or {}) - set(pool.table["source"].unique().to_pylist()))
    if strange:
        yield f"note: {request.licenses} names {len(strange):,} sources that the pool does not have"
    named = form.images in ("own", "paths") or (form.images == "either" and request.image_paths)
    copies = request.copy_images or request.link_images
    inside = copies is not None and request.out.resolve() in copies.resolve().parents
    if request.push and named and not (request.as_folder and inside):
        yield "note: the images are not uploaded; the records name them as they lie on this machine"


def _plan(request: Request, samples: int) -> Iterator[str]:
    yield f"would write {samples:,} samples as {request.format} -> {request.out}"
    outputs = [request.out, *_companions(request)]
    if request.push:
        kind = "private" if request.private else "public"
        what = f"all files of {request.out}" if request.as_folder else ", ".join(
            f"{out} as {push.name_of(request.out, out)}" for out in outputs
        )  # fmt: skip
        yield f"would upload to {request.push} ({kind} if new): {what}"


def _data_files(request: Request, form: Format) -> str | None:
    if not form.folder or request.as_folder:
        pattern = form.data_files
    else:
        pattern = "{out}"
    return None if pattern is None else pattern.format(out=request.out.name, name=request.title)


def _write(request: Request, form: Format, about: card.Described) -> Iterator[str]:
    if request.as_folder:
        with output.folder(request.out) as temporary:
            counts = _fill(
                request, form, about, temporary, temporary / "rows.parquet", temporary / "README.md"
            )
            _mark(about, temporary)
    else:
        with output.files([request.out, *_companions(request)]) as (data, table, *cards):
            counts = _fill(request, form, about, data, table, cards[0] if cards else None)
    yield f"{len(about.table):,} samples -> {request.out}"
    yield from (f"{name}: {count:,}" for name, count in counts.items())


def _fill(
    request: Request, form: Format, about: card.Described, data: Path, table: Path, page: Path | None
) -> dict[str, int]:
    """Write data, table of rows and card to these (temporary) paths."""
    pictures = Pictures(about.pool, request.images_root, _copies(request, data))
    with _shown_if_slow("exported") as on_progress:
        job = Job(
            about.pool,
            about.rows,
            pictures,
            name=request.title,
            lines=request.format == "jsonl" or request.out.suffix == ".jsonl" or _is_swift_lines(request),
            embed=not request.image_paths,
            shard_bytes=request.shard_size,
            on_progress=on_progress,
        )
        counts = form.write(job, data)
    side_table.write(about.pool, about.table, table)
    if page is not None and _has_card(request):
        page.write_text(card.card(about, counts), encoding="utf-8")
    return counts


def _is_swift_lines(request: Request) -> bool:
    return request.format == "swift" and request.out.suffix != ".json"


def _copies(request: Request, data: Path) -> Copies | None:
    """Copies within a folder of the export are made in the temporary folder, and named relative to it."""
    folder = request.copy_images or request.link_images
    if folder is None:
        return None
    link = request.link_images is not None
    out, target = request.out.resolve(), folder.resolve()
    if request.as_folder and out in target.parents:
        inside = target.relative_to(out)
        return Copies(data / inside, str(inside), link)
    if request.images_root is None:
        return Copies(target, str(target), link)
    root = request.images_root.resolve()
    if root != target and root not in target.parents:
        raise ExportError(f"the folder of the copies, {folder}, is not below --images-root {root}")
    return Copies(target, os.path.relpath(target, root), link)


@contextlib.contextmanager
def _shown_if_slow(name: str) -> Iterator[Progress]:
    """Progress with the remaining time, from the second second on."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        report: Progress | None = None

        def advance(done: int, total: int) -> None:
            nonlocal report
            if report is None and time.monotonic() - start > 1:
                report = stack.enter_context(shown(name))
            if report is not None:
                report(done, total)

        yield advance


def _mark(about: card.Described, folder: Path) -> None:
    about_export = {
        "format": about.format,
        "samples": len(about.table),
        "pool_hash": about.pool.hash,
        "ids_sha256": about.manifest["ids_sha256"],
    }
    atomic.write_json(folder / guard.MARKER, about_export)
