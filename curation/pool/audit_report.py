"""Audit the images of a pool that exists, and write what an audit found as a page.

python -m curation.pool audit pools/665k
python -m curation.pool audit pools/665k --drop pools/665k-sound
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import path, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.pool.read import Pool
    from curation.progress import Progress

PAGE, FOLDER = "audit.md", "audit"
_SOURCES = 8
"""Printed of each reason; the page has more."""
_SLICE = 100_000
"""Images between two saves: an interrupted audit goes on from the last one."""


def add_command(commands: Any) -> None:
    """Add `audit` to the commands of `python -m curation.pool`."""
    parser = commands.add_parser("audit", help="decode every image of a pool and report what is wrong")
    parser.add_argument("pool", type=path, help="pool folder")
    parser.add_argument(
        "--drop", type=path, metavar="OUT", help="write a pool without the samples whose images are unusable"
    )
    parser.add_argument(
        "--workers",
        type=whole_number(0),
        metavar="N",
        help="processes (default: one for each core; 0: none, and a hostile image ends the audit)",
    )
    parser.add_argument(
        "--max-pixels", type=whole_number(1), metavar="N", help="refuse larger images (default: as built)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from curation.pool.derive import check_out, derive
    from curation.pool.parts import usable_cores
    from curation.pool.read import Pool

    pool = Pool.open(options.pool)
    if options.drop is not None:
        check_out(pool, options.drop)
    workers = usable_cores() if options.workers is None else options.workers
    bad = audit(pool, workers=workers, max_pixels=options.max_pixels)
    _print_result(pool, bad)
    if options.drop is not None:
        pool = Pool.open(options.pool)  # with what the audit wrote
        note = {"audit": pool.info["audit"] | {"unusable_rows": 0}}
        info = derive(pool, bad.select(["row", "reason", "detail"]), options.drop, note=note)
        write(options.drop)
        print(f"{info['n']:,} samples -> {options.drop}")
    return 0


def audit(pool: "Pool", *, workers: int, max_pixels: int | None = None) -> "pa.Table":
    """Check the images of a pool at level full, write what was found into its folder, with the page.

    max_pixels: default as the pool was built. Returns the samples that name an unusable image: row, id,
    source, reason, detail. A second audit of unchanged files takes seconds.
    """
    from curation import atomic
    from curation.pool.image_counts import image_counts
    from curation.pool.read import read_info

    built = pool.info.get("options", {})
    limits = {key: built[key] for key in ("allow_outside", "max_pixels") if key in built}
    images = _check(pool, workers, limits | ({"max_pixels": max_pixels} if max_pixels else {}))
    bad = unusable_rows(pool.table, images)
    info = read_info(pool.folder, ("n", "hash"))
    info["audit"] = {"level": "full"} | image_counts(images) | {"unusable_rows": len(bad)}
    atomic.write_json(pool.folder / "pool.json", info)
    write(pool.folder)
    return bad


def _check(pool: "Pool", workers: int, limits: dict[str, Any]) -> "pa.Table":
    """The images at level full; images.parquet holds them, slice by slice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curation import atomic
    from curation.pool.image_audit import gate
    from curation.progress import shown

    images = pool.image_table
    with shown("images") as report:
        for start in range(0, len(images), _SLICE):
            known = images.slice(start, _SLICE)
            part = gate(
                known["path"].to_pylist(),
                pool.images,
                level="full",
                workers=workers,
                known=known,
                on_progress=partial(_report, report, start, len(images)),
                **limits,
            )
            part = part.set_column(0, "image", known["image"])
            images = pa.concat_tables([images.slice(0, start), part, images.slice(start + len(part))])
            with atomic.replacing(pool.folder / "images.parquet") as temporary:
                pq.write_table(images, temporary, compression="zstd")
    return images


def _report(report: "Progress", before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def unusable_rows(table: "pa.Table", images: "pa.Table") -> "pa.Table":
    """(row, id, source, reason, detail) of the samples of a pool that name an unusable image.

    table: pool.parquet. images: images.parquet. The reason is the one of the sample's first unusable image.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = table["image_ids"].combine_chunks()
    ids, places = lists.flatten(), pc.list_parent_indices(lists)
    bad = pc.is_valid(images["reason"].combine_chunks()).take(ids)
    first, at = np.unique(places.filter(bad).to_numpy(), return_index=True)
    worst = images.select(["reason", "detail"]).take(ids.filter(bad).take(pa.array(at)))
    samples = table.select(["row", "id", "source"]).take(pa.array(first))
    return pa.table([*samples.columns, *worst.columns], names=["row", "id", "source", "reason", "detail"])


def write(folder: Path) -> Path:
    """Write the page `audit.md` of a pool folder, with thumbnails in its folder `audit`; returns its path."""
    import pyarrow.parquet as pq

    from curation import atomic
    from curation.pool.audit_page import examples, image_sources, page
    from curation.pool.layout import QUARANTINE_SCHEMA
    from curation.pool.read import Pool

    pool = Pool.open(folder)
    images = pool.image_table
    quarantine = pq.read_table(Path(folder) / "quarantine.parquet", schema=QUARANTINE_SCHEMA)
    sources = image_sources(pool.table, images)
    shown = examples(images)
    tried = {row["image"]: row["path"] for _, rows in shown for row in rows.to_pylist() if _can_show(row)}
    thumbnails = _thumbnails(pool, tried)
    name, root = Path(folder).resolve().name, str(pool.images)
    text = page(name, pool.info, quarantine, images, sources, shown, thumbnails, root)
    atomic.write_text(Path(folder) / PAGE, text)
    return Path(folder) / PAGE


def _can_show(row: dict[str, Any]) -> bool:
    """Whether an image may be decoded for the page: not one that is outside, too large or dangerous."""
    return row["format"] is not None and row["reason"] in (None, "image_truncated", "image_broken")


def _thumbnails(pool: "Pool", paths: dict[int, str]) -> dict[int, str]:
    """image -> thumbnail, relative to the page. Those of an earlier page are deleted."""
    from curation.pool.thumbnails import write_thumbnails

    folder = pool.folder / FOLDER
    for old in folder.glob("image_*.jpg"):
        old.unlink()
    if not paths:
        return {}
    folder.mkdir(exist_ok=True)
    files = {image: folder / f"image_{image}.jpg" for image in paths}
    made = write_thumbnails({pool.images / paths[image]: file for image, file in files.items()})
    return {
        image: f"{FOLDER}/{file.name}" for image, file in files.items() if pool.images / paths[image] in made
    }


def _print_result(pool: "Pool", bad: "pa.Table") -> None:
    import pyarrow.compute as pc

    from curation.pool.image_counts import by_value
    from curation.printable import printable

    print(f"{len(bad):,} of {len(pool):,} samples name an unusable image; see {pool.folder / PAGE}")
    for reason, n in by_value(bad["reason"]).items():
        of_reason = by_value(bad["source"].filter(pc.equal(bad["reason"], reason)))
        sources = ", ".join(f"{printable(source)} {k:,}" for source, k in list(of_reason.items())[:_SOURCES])
        more = f" and {len(of_reason) - _SOURCES:,} more sources" if len(of_reason) > _SOURCES else ""
        print(f"  {reason} {n:,}: {sources}{more}")
    for row in bad.slice(0, 10).to_pylist():
        print(f"  row {row['row']} {printable(row['id'])}: {row['reason']}: {row['detail']}")
    if len(bad) > 10:
        print(f"  ... and {len(bad) - 10:,} more")
