"""Compare subsets of one pool: overlap, nestedness, composition, tokens, order.

    python -m curation.compare subsets/a subsets/b subsets/c --markdown overlap.md
    python -m curation.compare runs/mmssr_30pct --pool pools/si --signals signals --json overlap.json

A subset is a folder with subset.parquet and manifest.json; the run folder of a recipe means all its
subsets.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.command import CommandParser, fail, path
from curation.imports.load import (
    add_reading_options,
    add_signals_option,
    join_signals,
    load_signals,
    reading_of,
)
from curation.imports.pool_index import open_index
from curation.imports.table import Reading
from curation.pool.errors import PoolError
from curation.printable import inert_cell, visible
from curation.signals.core.table import SignalError
from curation.subset import SubsetError, read_manifest, read_subset

ERRORS = (SubsetError, SignalError, PoolError, OSError)
REASONS = ("source", "style", "capability")
"""Reason columns whose shares are compared."""
UNITS = ("samples", "text_tokens", "image_tokens")
POOL = "pool"
"""Name of the whole pool among the subsets."""


@dataclass(frozen=True)
class Subset:
    """`rows`: int64[n] in pick order. `table`, `manifest`: as written by `curation.subset`."""

    name: str
    rows: np.ndarray
    table: pa.Table
    manifest: dict[str, Any]

    @property
    def is_ranked(self) -> bool:
        """Whether the picks have an order of their own, which is not simply that of the pool."""
        return bool((np.diff(self.rows) < 0).any())


@dataclass(frozen=True)
class Sheet:
    """One table of text cells, independent of its output format."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table as a Markdown section, in which names of data are text alone."""
        rows = [[inert_cell(cell) for cell in row] for row in (self.head, *self.rows)]
        lines = [rows[0], ["---"] + ["---:"] * (len(self.head) - 1), *rows[1:]]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n"


def open_subsets(paths: Sequence[Path]) -> list[Subset]:
    """The subsets in these folders; a run folder gives all its subsets. Raises SubsetError."""
    folders = [folder for path in paths for folder in _folders(Path(path))]
    names = _names(folders)
    subsets: list[Subset] = []
    for folder, name in zip(folders, names, strict=True):
        manifest, table = read_manifest(folder), read_subset(folder)
        if subsets and manifest["pool_hash"] != subsets[0].manifest["pool_hash"]:
            raise SubsetError(
                f"{folder} was chosen from pool {manifest['pool_hash']}, {folders[0]} from "
                f"{subsets[0].manifest['pool_hash']}: subsets of different pools cannot be compared"
            )
        if not len(table):
            raise SubsetError(f"{folder} is an empty subset; leave it out")
        subsets.append(Subset(name, table["row"].cast(pa.int64()).to_numpy(), table, manifest))
    if len(subsets) < 2:
        raise SubsetError("a comparison needs at least two subsets")
    return subsets


def _folders(path: Path) -> list[Path]:
    if (path / "manifest.json").is_file() or not (path / "stages").is_dir():
        return [path]
    return sorted(
        p
        for p in (path / "stages").iterdir()
        if (p / "subset.parquet").is_file() and (p / "manifest.json").is_file()
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest path suffixes that are unambiguous."""
    parts = [Path(folder).absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SubsetError("a subset is given twice; give each one once")


def compare(subsets: Sequence[Subset], columns: pa.Table | None = None) -> dict[str, Any]:
    """The full comparison of `subsets`, as JSON values.

    columns: the pool's columns in row order, with or without signals. With them the composition (`mix`) is
    that of the samples (share of a style, mean score of a capability), next to the whole pool; without them
    it is that of the reasons for the picks.
    `overlap[a][b]`: `common` samples, `jaccard` = common / union, `contained` = common / size of a. `nested`:
    pairs whose outer subset holds all samples of the inner one; `prefix` if these are its first picks.
    `rank_correlation`: Spearman's over the common samples, if both subsets have an order and share at least
    three samples.
    """
    pairs = {(a.name, b.name): _pair(a, b) for a in subsets for b in subsets}
    return {
        "pool_hash": subsets[0].manifest["pool_hash"],
        "pool_samples": subsets[0].manifest["pool_samples"],
        "subsets": {
            s.name: {key: s.manifest[key] for key in ("selector", "params", "seed", "budget", "ids_sha256")}
            for s in subsets
        },
        "overlap": {a.name: {b.name: pairs[a.name, b.name] for b in subsets} for a in subsets},
        "nested": [
            {"inner": a.name, "outer": b.name, "prefix": bool(np.array_equal(a.rows, b.rows[: len(a.rows)]))}
            for a in subsets
            for b in subsets
            if a is not b and pairs[a.name, b.name]["contained"] == 1
        ],
        "rank_correlation": [
            {"a": a.name, "b": b.name, "common": pairs[a.name, b.name]["common"], "spearman": rho}
            for at, a in enumerate(subsets)
            for b in subsets[at + 1 :]
            if (rho := _rank_correlation(a, b)) is not None
        ],
        "mix": _reason_mix(subsets) if columns is None else _sample_mix(subsets, columns),
    }


def _pair(a: Subset, b: Subset) -> dict[str, Any]:
    common = len(np.intersect1d(a.rows, b.rows, assume_unique=True))
    return {
        "common": common,
        "jaccard": common / (len(a.rows) + len(b.rows) - common),
        "contained": common / len(a.rows),
    }


def _rank_correlation(a: Subset, b: Subset) -> float | None:
    if not (a.is_ranked and b.is_ranked):
        return None
    _, at, bt = np.intersect1d(a.rows, b.rows, assume_unique=True, return_indices=True)
    if len(at) < 3:
        return None
    # argsort twice turns positions into ranks among the common samples; Spearman is Pearson of ranks.
    a_ranks, b_ranks = (np.argsort(np.argsort(positions)) for positions in (at, bt))
    return float(np.corrcoef(a_ranks, b_ranks)[0, 1])


def _reason_mix(subsets: Sequence[Subset]) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> value -> subset -> share of the picks, for reason columns that at least one subset has."""
    mix: dict[str, dict[str, dict[str, float]]] = {}
    for column in REASONS:
        for subset in subsets:
            if column in subset.table.column_names:
                for value, share in _shares(subset.table[column]).items():
                    mix.setdefault(column, {}).setdefault(value, {})[subset.name] = share
    return mix


def _sample_mix(subsets: Sequence[Subset], columns: pa.Table) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> value -> subset or pool -> share of the samples with this value, or mean score."""
    scores = [name for name in columns.column_names if name.startswith("cap_")]
    columns = columns.select(["source", *(["styles"] if "styles" in columns.column_names else []), *scores])
    mix: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in ((POOL, None), *((subset.name, subset.rows) for subset in subsets)):
        part = columns if rows is None else columns.take(rows)
        composition = {"source": _shares(part["source"])}
        if "styles" in part.column_names:
            composition["style"] = _shares(pc.list_flatten(part["styles"]), len(part))
        means = {score.removeprefix("cap_"): pc.mean(part[score]).as_py() for score in scores}
        composition["capability (mean score)"] = {
            capability: mean for capability, mean in means.items() if mean is not None
        }
        for column, values in composition.items():
            for value, share in values.items():
                mix.setdefault(column, {}).setdefault(value, {})[name] = share
    return mix


def _shares(column: pa.ChunkedArray, total: int | None = None) -> dict[str, float]:
    """Share of each value except null, relative to `total` (default: all rows)."""
    values, counts = pc.value_counts(column).flatten()
    pairs = zip(values.to_pylist(), counts.to_pylist(), strict=True)
    return {str(value): count / (total or len(column)) for value, count in pairs if value is not None}


def sheets(result: dict[str, Any]) -> list[Sheet]:
    """The tables of a comparison."""
    names = list(result["subsets"])
    tables = [_budget_sheet(result), _overlap_sheet(result, names)]
    nested = [
        [pair["inner"], pair["outer"], "its first picks" if pair["prefix"] else "yes"]
        for pair in result["nested"]
    ]
    if nested:
        tables.append(Sheet("Nested", ["subset", "within", "as"], nested))
    ranked = [
        [pair["a"], pair["b"], _count(pair["common"]), f"{pair['spearman']:.3f}"]
        for pair in result["rank_correlation"]
    ]
    if ranked:
        head = ["subset", "subset", "common", "correlation"]
        tables.append(Sheet("Order of the common samples (Spearman)", head, ranked))
    return tables + [_mix_sheet(column, values, names) for column, values in result["mix"].items() if values]


def _budget_sheet(result: dict[str, Any]) -> Sheet:
    rows = [
        [name, about["selector"], str(about["seed"]), *(_count(about["budget"][unit]) for unit in UNITS)]
        for name, about in result["subsets"].items()
    ]
    head = ["subset", "selector", "seed", "samples", "text tokens", "image tokens"]
    return Sheet(f"Subsets of a pool of {result['pool_samples']:,}", head, rows)


def _overlap_sheet(result: dict[str, Any], names: list[str]) -> Sheet:
    rows = [[a, *(_overlap(result["overlap"][a][b], a == b) for b in names)] for a in names]
    title = "Overlap: common samples, share of the row's subset in the column's, Jaccard"
    return Sheet(title, ["", *names], rows)


def _mix_sheet(column: str, values: dict[str, dict[str, float]], names: list[str]) -> Sheet:
    heads = ([POOL] if any(POOL in by_subset for by_subset in values.values()) else []) + names
    form, order = ".1%", list(values)
    if "mean" in column:
        form = ".2f"  # scores keep the taxonomy's order
    else:
        order.sort(key=lambda value: (-max(values[value].values()), value))
    rows = [
        [value, *(format(values[value][name], form) if name in values[value] else "-" for name in heads)]
        for value in order
    ]
    return Sheet(f"Composition by {column}", [column, *heads], rows)


def _overlap(pair: dict[str, Any], same: bool) -> str:
    return (
        f"{pair['common']:,}"
        if same
        else f"{pair['common']:,} · {pair['contained']:.1%} · {pair['jaccard']:.3f}"
    )


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 and one line on stderr for subsets that cannot be compared."""
    options = _parser().parse_args(arguments)
    try:
        if options.signals and options.pool is None:
            raise SubsetError("--signals needs --pool")
        subsets = open_subsets(options.subsets)
        for report in filter(None, (options.json, options.markdown)):
            _check_report(report, options.subsets)
        result = compare(subsets, _columns(options, reading_of(options)))
        tables = sheets(result)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
        if options.markdown:
            options.markdown.write_text("\n".join(table.markdown() for table in tables))
    except ERRORS as error:
        return fail(error, 2)
    _print(tables)
    return 0


def _check_report(report: Path, paths: Sequence[Path]) -> None:
    """Refuse a report that would overwrite a file of a subset."""
    folders = {folder.resolve() for path in paths for folder in _folders(path)}
    if report.resolve().parent in folders:
        raise SubsetError(f"{report} lies in a subset folder; write the report elsewhere")


def _columns(options: argparse.Namespace, reading: Reading) -> pa.Table | None:
    """The columns of --pool with those of --signals; None without --pool."""
    if options.pool is None:
        return None
    index = open_index(options.pool)
    expected = read_manifest(_folders(options.subsets[0])[0])["pool_hash"]
    if index.hash != expected:
        raise SubsetError(
            f"the subsets were chosen from pool {expected}, but {options.pool} is {index.hash}; "
            "give the pool that they were chosen from"
        )
    with tempfile.TemporaryDirectory(prefix="winnow-") as workspace:
        signals = load_signals(options.signals, index, reading, Path(workspace))
        return join_signals(index, signals)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m curation.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "subsets",
        type=path,
        nargs="+",
        metavar="DIR",
        help="subset folder, or runs/<recipe> for all its subsets",
    )
    parser.add_argument(
        "--pool",
        type=path,
        metavar="P",
        help="show the composition of the samples, next to that of this pool",
    )
    add_signals_option(parser, "styles and capability scores to show the composition by; may be repeated")
    parser.add_argument("--json", type=path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=path, metavar="FILE", help="write the tables as Markdown")
    add_reading_options(parser)
    return parser


def _print(sheets: Iterable[Sheet]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left")
        for at, heading in enumerate(sheet.head):
            table.add_column(escape(heading), justify="right" if at else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(escape(visible(cell)) for cell in row))
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
