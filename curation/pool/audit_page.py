"""The page of an audit, `audit.md`: what cannot be used and why, and what the images are."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.pool.image_counts import by_side, by_value, prefixes, repeats
from curation.pool.reasons import REASONS
from curation.printable import inert_cell, inert_markdown

EXAMPLES = 8
"""Images shown of each kind."""
_SOURCES = 30
_NARROW, _TINY = 10, 16

Shown = list[tuple[str, pa.Table]]
"""(what they are examples of, rows of images.parquet)."""


def examples(images: pa.Table) -> Shown:
    """The images to look at: of each reason the first ones, and the oddest of the sound ones."""
    found = [
        (f"{reason}: {REASONS.get(reason, '')}", _first(images, pc.equal(images["reason"], reason)))
        for reason in by_value(images["reason"].drop_null())
    ]
    shorter = pc.min_element_wise(images["width"], images["height"])
    longer = pc.max_element_wise(images["width"], images["height"])
    kinds = {
        f"narrow: a side over {_NARROW} times the other": pc.greater(longer, pc.multiply(shorter, _NARROW)),
        f"tiny: a side below {_TINY} pixels": pc.less(shorter, _TINY),
        "transparent, shown on white": images["alpha"],
        "turned upright by EXIF": pc.not_equal(images["orientation"], 1),
        "animated, of which the first frame is used": pc.greater(images["frames"], 1),
    }
    sound = pc.is_null(images["reason"])
    found += [(kind, _first(images, pc.and_(sound, flags))) for kind, flags in kinds.items()]
    return [(kind, rows) for kind, rows in found if len(rows)]


def _first(images: pa.Table, flags: pa.ChunkedArray) -> pa.Table:
    return images.take(pc.indices_nonzero(flags).slice(0, EXAMPLES))


def image_sources(pool: pa.Table, images: pa.Table) -> pa.Array:
    """The source of the first sample that names each image; of one that no sample names, its first folder."""
    lists = pool["image_ids"].combine_chunks()
    ids, rows = lists.flatten().to_numpy(), pc.list_parent_indices(lists).to_numpy()
    first = np.full(len(images), -1, np.int64)
    first[ids[::-1]] = rows[::-1]  # of several the one written last stays: the first
    unnamed = first < 0
    folders = [_folder(path) for path in images["path"].filter(pa.array(unnamed)).to_pylist()]
    known = pool["source"].combine_chunks().take(pa.array(first, mask=unnamed))
    return pc.replace_with_mask(known, pa.array(unnamed), pa.array(folders, pa.string()))


def _folder(path: str) -> str:
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 and parts[0] not in ("/", "..", ".") else "unknown"


def page(
    name: str,
    info: Mapping[str, Any],
    quarantine: pa.Table,
    images: pa.Table,
    sources: pa.Array,
    shown: Shown,
    thumbnails: Mapping[int, str],
    root: str,
) -> str:
    """The Markdown. sources: of each image. thumbnails: image -> file relative to the page. root: the image
    folder.

    Every text from the data is escaped.
    """
    parts = [_head(name, info, images), _quarantine(quarantine), _quarantined_sources(quarantine)]
    parts += [_inputs(quarantine, info["files"]), _unusable(images, sources)]
    parts += [_formats(images), _sizes(images), _sources(images, sources), _copies(images)]
    parts += [_examples(kind, rows, thumbnails, root) for kind, rows in shown]
    return "\n".join(part for part in parts if part)


def _head(name: str, info: Mapping[str, Any], images: pa.Table) -> str:
    level = info.get("audit", {}).get("level", "header")
    how = {
        "full": "every file was decoded; warnings of the decoder and wrong checksums count as damage",
        "header": "headers and ends of files only; `python -m curation.pool audit` decodes them",
    }[level]
    bad = len(images) - images["reason"].null_count
    return (
        f"# Audit of {inert_markdown(name)}\n\n{info['n']:,} samples, {len(images):,} images, {bad:,} of "
        f"them unusable. Level {level}: {how}.\n\nPool hash {info['hash']}.\n"
    )


def _quarantine(quarantine: pa.Table) -> str:
    if not len(quarantine):
        return "## Records in quarantine\n\nNone.\n"
    rows = []
    for reason, n in by_value(quarantine["reason"]).items():
        first = quarantine.filter(pc.equal(quarantine["reason"], reason)).slice(0, 1).to_pylist()[0]
        rows.append([reason, f"{n:,}", REASONS.get(reason, ""), f"{first['index']:,}", first["detail"]])
    return _table("Records in quarantine", ["reason", "records", "meaning", "first", "its detail"], rows)


def _quarantined_sources(quarantine: pa.Table) -> str:
    """The reasons by source, where any is known."""
    if quarantine["source"].null_count == len(quarantine):
        return ""
    grouped = quarantine.group_by(["source", "reason"]).aggregate([([], "count_all")])
    ordered = grouped.sort_by([("count_all", "descending"), ("source", "ascending"), ("reason", "ascending")])
    rows = [
        [row["source"] or "(not known)", row["reason"], f"{row['count_all']:,}"]
        for row in ordered.to_pylist()
    ]
    return _table("The same by source", ["source", "reason", "records"], _cut(rows))


def _inputs(quarantine: pa.Table, files: Sequence[Mapping[str, Any]]) -> str:
    """The reasons by input file, if there are several."""
    if len(files) < 2 or not len(quarantine):
        return ""
    grouped = quarantine.group_by(["file", "reason"]).aggregate([([], "count_all")])
    ordered = grouped.sort_by([("file", "ascending"), ("count_all", "descending"), ("reason", "ascending")])
    rows = [
        [os.path.basename(files[row["file"]]["path"]), row["reason"], f"{row['count_all']:,}"]
        for row in ordered.to_pylist()
    ]
    return _table("The same by input", ["input", "reason", "records"], _cut(rows))


def _unusable(images: pa.Table, sources: pa.Array) -> str:
    bad = pc.is_valid(images["reason"])
    pairs = pa.table({"source": sources, "reason": images["reason"]}).filter(bad)
    if not len(pairs):
        return "## Unusable images\n\nNone.\n"
    grouped = pairs.group_by(["source", "reason"]).aggregate([([], "count_all")])
    ordered = grouped.sort_by([("count_all", "descending"), ("source", "ascending"), ("reason", "ascending")])
    rows = [[row["source"], row["reason"], f"{row['count_all']:,}"] for row in ordered.to_pylist()]
    return _table("Unusable images", ["source", "reason", "images"], _cut(rows))


def _formats(images: pa.Table) -> str:
    def flagged(rows: pa.Table, flags: Callable[[pa.Table], pa.ChunkedArray]) -> str:
        return f"{pc.sum(flags(rows), min_count=0).as_py():,}"

    columns = ["format", "bytes", "mode", "alpha", "orientation", "frames"]
    sound = images.select(columns).filter(pc.is_null(images["reason"]))
    rows = []
    for kind, n in by_value(sound["format"]).items():
        of_kind = sound.filter(pc.equal(sound["format"], kind))
        modes = ", ".join(f"{mode} {count:,}" for mode, count in by_value(of_kind["mode"]).items())
        rows.append(
            [
                kind,
                f"{n:,}",
                f"{pc.sum(of_kind['bytes']).as_py() / 1e6:,.1f}",
                modes,
                flagged(of_kind, lambda rows: rows["alpha"]),
                flagged(of_kind, lambda rows: pc.not_equal(rows["orientation"], 1)),
                flagged(of_kind, lambda rows: pc.greater(rows["frames"], 1)),
            ]
        )
    head = ["format", "images", "MB", "modes", "transparent", "turned", "animated"]
    return _table("Formats of usable images", head, rows)


def _sizes(images: pa.Table) -> str:
    counted = by_side(images.select(["width", "height"]).filter(pc.is_null(images["reason"])))
    most = max(n for _, n in counted) or 1
    rows = [[side, f"{n:,}", "█" * round(30 * n / most)] for side, n in counted]
    return _table("Longer side, in pixels", ["side", "images", ""], rows)


def _sources(images: pa.Table, sources: pa.Array) -> str:
    sound = pc.is_null(images["reason"])
    table = pa.table(
        {
            "source": sources,
            "bad": pc.invert(sound).cast("int64"),
            "alpha": pc.and_(sound, images["alpha"]).cast("int64"),
            "turned": pc.and_(sound, pc.not_equal(images["orientation"], 1)).cast("int64"),
            "pixels": pc.if_else(sound, pc.multiply(images["width"].cast("float64"), images["height"]), None),
        }
    )
    kinds = [("bad", "sum"), ("alpha", "sum"), ("turned", "sum"), ("pixels", "mean")]
    grouped = table.group_by("source").aggregate([([], "count_all"), *kinds])
    rows = [
        [
            row["source"],
            f"{row['count_all']:,}",
            *(f"{row[f'{kind}_sum'] or 0:,}" for kind in ("bad", "alpha", "turned")),
            f"{(row['pixels_mean'] or 0) / 1e6:.2f}",
        ]
        for row in grouped.sort_by([("count_all", "descending"), ("source", "ascending")]).to_pylist()
    ]
    head = ["source", "images", "unusable", "transparent", "turned", "mean megapixels"]
    return _table("Sources of images", head, _cut(rows))


def _copies(images: pa.Table) -> str:
    hashed = images.select(["bytes_hash", "phash"]).filter(pc.is_valid(images["phash"]))
    if not len(hashed):
        return ""
    same, alike = repeats(prefixes(hashed["bytes_hash"])), repeats(hashed["phash"].to_numpy())
    return (
        f"## Copies\n\n{same:,} of {len(hashed):,} images repeat the bytes of an earlier one under another "
        f"name; {alike:,} have the perceptual hash of an earlier one. `python -m curation.dedup` finds near "
        "copies too.\n"
    )


def _examples(kind: str, rows: pa.Table, thumbnails: Mapping[int, str], root: str) -> str:
    lines = []
    for row in rows.to_pylist():
        picture = f"![]({thumbnails[row['image']]})" if row["image"] in thumbnails else ""
        size = f"{row['width']:,} x {row['height']:,}" if row["width"] else ""
        detail = (row["detail"] or "").removesuffix(os.path.join(root, row["path"])).removesuffix(": ")
        lines.append([picture, *map(inert_cell, (row["path"], size, row["mode"] or "", detail))])
    return _table(kind, ["", "path", "size", "mode", "detail"], lines, escaped=True)


def _cut(rows: list[list[str]]) -> list[list[str]]:
    if len(rows) <= _SOURCES:
        return rows
    return [*rows[:_SOURCES], [f"({len(rows) - _SOURCES:,} further lines)", *[""] * (len(rows[0]) - 1)]]


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, escaped: bool = False) -> str:
    cells = [head, [":--"] * len(head), *(row if escaped else [inert_cell(c) for c in row] for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"
