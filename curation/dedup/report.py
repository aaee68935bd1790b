"""What a search for copies found, as dup.json and dup.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.dedup.find import KINDS, Found
from curation.dedup.images import Images
from curation.dedup.pictures import is_flat
from curation.pool.image_counts import by_value
from curation.printable import inert_cell, visible

if TYPE_CHECKING:
    from curation.pool.read import Pool

_EXAMPLES = 3  # of each kind
_SOURCES = 40  # pairs of sources
_TEXT = 200  # characters of an example's question and answer


def summary(pool: "Pool", found: Found, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of dup.json: counts of groups and copies by kind and source, of pictures, and examples.

    `copies` are the samples that are not the first of their group, which `--drop` leaves out. `pictures`
    counts files and samples whatever the words.
    """
    copies = np.flatnonzero(~found.first)
    kinds = found.table["dup_kind"].take(pa.array(copies))
    sources = pool.table["source"]
    own, kept = sources.take(pa.array(copies)), sources.take(pa.array(found.group[copies]))
    return {
        **{key: identity[key] for key in ("pool_hash", "rule", "vectors_of") if key in identity},
        "samples": len(pool),
        "groups": len(np.unique(found.group[copies])),
        "copies": len(copies),
        "largest_group": int(np.bincount(found.group).max(initial=0)),
        "by_kind": by_value(kinds),
        "by_source": _by_source(sources, own),
        "between_sources": _between(own, kept),
        "pictures": _pictures(found.images, near=identity["rule"]["images"] != "exact"),
        "examples": _examples(pool, found, copies),
    }


def _by_source(sources: pa.ChunkedArray, of_copies: pa.ChunkedArray) -> dict[str, dict[str, int]]:
    all_of = by_value(sources)
    return {name: {"copies": count, "samples": all_of[name]} for name, count in by_value(of_copies).items()}


def _between(own: pa.ChunkedArray, kept: pa.ChunkedArray) -> list[dict[str, Any]]:
    """The most frequent pairs (source of a copy, source of the sample that stays)."""
    table = pa.table({"copy": own, "first": kept}).group_by(["copy", "first"]).aggregate([([], "count_all")])
    rows = table.rename_columns(["copy", "first", "copies"]).to_pylist()
    return sorted(rows, key=lambda row: (-row["copies"], row["copy"], row["first"]))[:_SOURCES]


def _pictures(images: Images, near: bool) -> dict[str, int]:
    """Files, and samples with pictures, that repeat the bytes or are in the family of another one.

    A family is a chain of near perceptual hashes: an upper bound of what looks alike, not looked at again.
    """
    used = np.unique(images.places)
    content, family = images.content[used], images.family[used]
    counts = {"files": len(used), "copies_of_another_file": len(used) - len(np.unique(content))}
    counts["flat"] = int(is_flat(images.hashes[used]).sum())
    if near:
        counts["near_another_by_hash"] = int(_repeated(family).sum())
    with_images = np.diff(images.offsets) > 0
    counts["samples_with_pictures"] = int(with_images.sum())
    compared = {"samples_that_share_bytes": images.content}
    if near:
        compared["samples_near_by_hash"] = images.family
    for name, values in compared.items():
        counts[name] = int(_repeated(images.key(values)[with_images]).sum())
    return counts


def _repeated(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def _examples(pool: "Pool", found: Found, copies: np.ndarray) -> list[dict[str, Any]]:
    """Some copies of each kind beside the sample that stays, chosen by their place in the pool."""
    examples = []
    for code, kind in enumerate(KINDS):
        for row in copies[found.kind[copies] == code][:_EXAMPLES]:
            pair = {"copy": _shown(pool, int(row)), "first": _shown(pool, int(found.group[row]))}
            examples.append({"kind": kind, **pair})
    return examples


def _shown(pool: "Pool", row: int) -> dict[str, Any]:
    sample = pool[row]
    turn = sample.turns[0]
    images = [str(path.relative_to(pool.images)) for path in sample.images[:3]]
    cut = {"question": turn.question[:_TEXT], "answer": turn.answer[:_TEXT]}
    return {"row": row, "id": sample.id, "source": sample.source, "images": images, **cut}


def lines(told: Mapping[str, Any]) -> list[str]:
    """The result in a few lines for the screen."""
    share = told["copies"] / max(told["samples"], 1)
    shown = [
        f"{told['copies']:,} of {told['samples']:,} samples ({share:.1%}) are copies of another, in "
        f"{told['groups']:,} groups"
    ]
    shown += [f"  {kind}: {count:,} ({KINDS[kind]})" for kind, count in told["by_kind"].items()]
    shown += [
        f"  from {visible(source)[:60]}: {of['copies']:,} of {of['samples']:,}"
        for source, of in list(told["by_source"].items())[:8]
    ]
    pictures = told["pictures"]
    shown.append(
        f"pictures: {pictures['copies_of_another_file']:,} of {pictures['files']:,} files repeat another's "
        f"bytes; {pictures['samples_that_share_bytes']:,} samples share their pictures with another sample"
    )
    return shown


Rows = list[tuple[str, ...]]


def markdown(told: Mapping[str, Any]) -> str:
    """dup.md: the same as a page. What the data say is inert text."""
    page = ["# Copies in the pool\n", f"{lines(told)[0]}.\n"]
    page += [f"Rule: {', '.join(f'{key} {value}' for key, value in told['rule'].items())}.\n"]
    kinds: Rows = [(kind, f"{count:,}", KINDS[kind]) for kind, count in told["by_kind"].items()]
    sources: Rows = [
        (inert_cell(source), f"{of['copies']:,}", f"{of['samples']:,}")
        for source, of in told["by_source"].items()
    ]
    between: Rows = [
        (inert_cell(pair["copy"]), inert_cell(pair["first"]), f"{pair['copies']:,}")
        for pair in told["between_sources"]
    ]
    pictures: Rows = [(name.replace("_", " "), f"{count:,}") for name, count in told["pictures"].items()]
    examples: Rows = []
    for pair in told["examples"]:
        examples += [("", "stays", *_cells(pair["first"])), (pair["kind"], "copy", *_cells(pair["copy"]))]
    page += _table(("kind", "copies", "meaning"), kinds)
    page += ["## By source\n", *_table(("source", "copies", "samples"), sources)]
    page += [
        "## Between sources\n",
        *_table(("source of the copy", "of the one that stays", "copies"), between),
    ]
    page += ["## Pictures, whatever the words\n", *_table(("what", "number"), pictures)]
    columns = ("kind", "sample", "id", "source", "pictures", "question", "answer")
    return "\n".join([*page, "## Examples\n", *_table(columns, examples)])


def _cells(shown: Mapping[str, Any]) -> tuple[str, ...]:
    cells = (shown["id"], shown["source"], ", ".join(shown["images"]), shown["question"], shown["answer"])
    return tuple(inert_cell(" ".join(cell.split())) for cell in cells)


def _table(columns: tuple[str, ...], rows: Rows) -> list[str]:
    if not rows:
        return ["None.\n"]
    marks = [":--"] * len(columns)
    return [f"| {' | '.join(cells)} |" for cells in (columns, marks, *rows)] + [""]
