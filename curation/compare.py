"""What subsets of one pool have in common: overlap, nestedness, make-up, tokens, order.

    python -m curation.compare subsets/a subsets/b subsets/c --markdown overlap.md
    python -m curation.compare runs/mmssr_30pct --pool pools/si --signals signals --json overlap.json

A subset is any folder with subset.parquet and manifest.json; the folder of a recipe's run stands for all of its subsets.
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

from curation.imports.load import add_reading_options, join_signals, load_signals, reading_of
from curation.imports.pool_index import open_index
from curation.pool.errors import PoolError
from curation.signals.core.table import SignalError
from curation.subset import SubsetError, read_manifest, read_subset

ERRORS = (SubsetError, SignalError, PoolError, OSError)
REASONS = ("source", "style", "capability")
"""Reason columns whose shares are shown side by side."""
UNITS = ("samples", "text_tokens", "image_tokens")
POOL = "pool"
"""The name under which the whole pool stands beside the subsets."""


@dataclass(frozen=True)
class Subset:
    """`rows` int64[n] in pick order; `table` and `manifest` as `curation.subset` wrote them."""

    name: str
    rows: np.ndarray
    table: pa.Table
    manifest: dict[str, Any]

    @property
    def ranks(self) -> bool:
        """Whether the picks have an order of their own: those that stand in the pool's order have none."""
        return bool((np.diff(self.rows) < 0).any())


@dataclass(frozen=True)
class Sheet:
    """One table of texts, to be shown in any form."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The sheet as a Markdown section."""
        lines = [self.head, ["---"] + ["---:"] * (len(self.head) - 1), *self.rows]
        body = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        return f"### {self.title}\n\n{body}\n"


def open_subsets(paths: Sequence[Path]) -> list[Subset]:
    """The subsets at these folders; runs/<recipe> gives all that it has. Raises SubsetError, also where their pools differ."""
    folders = [folder for path in paths for folder in _folders(Path(path))]
    names = _names(folders)
    found = []
    for folder, name in zip(folders, names, strict=True):
        manifest, table = read_manifest(folder), read_subset(folder)
        if found and manifest["pool_hash"] != found[0].manifest["pool_hash"]:
            raise SubsetError(
                f"{folder} was chosen from pool {manifest['pool_hash']}, {folders[0]} from {found[0].manifest['pool_hash']}: "
                "subsets of different pools cannot be compared"
            )
        found.append(Subset(name, table["row"].cast(pa.int64()).to_numpy(), table, manifest))
    if len(found) < 2:
        raise SubsetError("at least two subsets are needed for a comparison")
    return found


def _folders(path: Path) -> list[Path]:
    if (path / "manifest.json").is_file() or not (path / "stages").is_dir():
        return [path]
    return sorted(
        p
        for p in (path / "stages").iterdir()
        if (p / "subset.parquet").is_file() and (p / "manifest.json").is_file()
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart."""
    parts = [Path(folder).absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SubsetError("a subset is named twice")


def compare(subsets: Sequence[Subset], columns: pa.Table | None = None) -> dict[str, Any]:
    """Everything that can be said about `subsets`, as JSON can hold it.

    columns: the pool's columns in row order, with or without signals; the make-up is then that of the samples (a style's
    share, a capability's mean score), with the whole pool beside it, otherwise that of the reasons for the picks.
    `overlap[a][b]`: `common` samples, `jaccard` common / union, `contained` common / size of a. `nested`: pairs of which
    the outer one holds all samples of the inner one, `prefix` where these are its first picks. `rank_correlation`:
    Spearman's over the common samples, where both have an order and three samples are common.
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
    if not (a.ranks and b.ranks):
        return None
    _, at, bt = np.intersect1d(a.rows, b.rows, assume_unique=True, return_indices=True)
    if len(at) < 3:
        return None
    places = [np.argsort(np.argsort(ranks)) for ranks in (at, bt)]
    return float(np.corrcoef(*places)[0, 1])


def _reason_mix(subsets: Sequence[Subset]) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> value -> subset -> share of the picks; only what some subset gives as a reason."""
    mix: dict[str, dict[str, dict[str, float]]] = {}
    for column in REASONS:
        for subset in subsets:
            if column in subset.table.column_names:
                for value, share in _shares(subset.table[column]).items():
                    mix.setdefault(column, {}).setdefault(value, {})[subset.name] = share
    return mix


def _sample_mix(subsets: Sequence[Subset], columns: pa.Table) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> value -> subset or pool -> share of the samples that have it, or mean score."""
    scores = [name for name in columns.column_names if name.startswith("cap_")]
    columns = columns.select(["source", *(["styles"] if "styles" in columns.column_names else []), *scores])
    mix: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in ((POOL, None), *((subset.name, subset.rows) for subset in subsets)):
        part = columns if rows is None else columns.take(rows)
        found = {"source": _shares(part["source"])}
        if "styles" in part.column_names:
            found["style"] = _shares(pc.list_flatten(part["styles"]), len(part))
        means = {score.removeprefix("cap_"): pc.mean(part[score]).as_py() for score in scores}
        found["capability (mean score)"] = {key: mean for key, mean in means.items() if mean is not None}
        for column, values in found.items():
            for value, share in values.items():
                mix.setdefault(column, {}).setdefault(value, {})[name] = share
    return mix


def _shares(column: pa.ChunkedArray, total: int | None = None) -> dict[str, float]:
    """Share of each value, of `total` (default: of all), null left out."""
    values, counts = pc.value_counts(column).flatten()
    found = zip(values.to_pylist(), counts.to_pylist(), strict=True)
    return {str(value): count / (total or len(column)) for value, count in found if value is not None}


def sheets(result: dict[str, Any]) -> list[Sheet]:
    """The tables of a comparison."""
    names = list(result["subsets"])
    share = [[a, *(_overlap(result["overlap"][a][b], a == b) for b in names)] for a in names]
    made = [
        Sheet(
            f"Subsets of a pool of {result['pool_samples']:,}",
            ["subset", "selector", "seed", "samples", "text tokens", "image tokens"],
            [
                [
                    name,
                    about["selector"],
                    str(about["seed"]),
                    *(_count(about["budget"][unit]) for unit in UNITS),
                ]
                for name, about in result["subsets"].items()
            ],
        ),
        Sheet(
            "Overlap: common samples, share of the row's subset in the column's, Jaccard", ["", *names], share
        ),
    ]
    nested = [[p["inner"], p["outer"], "its first picks" if p["prefix"] else "yes"] for p in result["nested"]]
    made += [Sheet("Nested", ["subset", "within", "as"], nested)] if nested else []
    ranked = [
        [p["a"], p["b"], _count(p["common"]), f"{p['spearman']:.3f}"] for p in result["rank_correlation"]
    ]
    made += (
        [
            Sheet(
                "Order of the common samples (Spearman)",
                ["subset", "subset", "common", "correlation"],
                ranked,
            )
        ]
        if ranked
        else []
    )
    for column, values in result["mix"].items():
        heads = ([POOL] if any(POOL in found for found in values.values()) else []) + names
        form = ".2f" if "mean" in column else ".1%"
        order = (
            sorted(values, key=lambda value: (-max(values[value].values()), value))
            if form == ".1%"
            else list(values)
        )
        rows = [
            [value, *(format(values[value][name], form) if name in values[value] else "-" for name in heads)]
            for value in order
        ]
        made += [Sheet(f"Make-up by {column}", [column, *heads], rows)] if rows else []
    return made


def _overlap(pair: dict[str, Any], same: bool) -> str:
    return (
        f"{pair['common']:,}"
        if same
        else f"{pair['common']:,} · {pair['contained']:.1%} · {pair['jaccard']:.3f}"
    )


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 and one message on stderr for subsets that cannot be compared."""
    given = _parser().parse_args(arguments)
    try:
        if given.signals and given.pool is None:
            raise SubsetError("--signals need --pool")
        result = compare(open_subsets(given.subsets), _columns(given))
        made = sheets(result)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")
        if given.markdown:
            given.markdown.write_text("\n".join(sheet.markdown() for sheet in made))
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(made)
    return 0


def _columns(given: argparse.Namespace) -> pa.Table | None:
    if given.pool is None:
        return None
    index = open_index(given.pool)
    wanted = read_manifest(_folders(given.subsets[0])[0])["pool_hash"]
    if index.hash != wanted:
        raise SubsetError(f"the subsets were chosen from pool {wanted}, {given.pool} is {index.hash}")
    with tempfile.TemporaryDirectory(prefix="winnow-") as workspace:
        return join_signals(index, load_signals(given.signals, index, reading_of(given), Path(workspace)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m curation.compare", description=__doc__.splitlines()[0])
    parser.add_argument(
        "subsets",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="subset folder, or runs/<recipe> for all of its subsets",
    )
    parser.add_argument(
        "--pool", type=Path, metavar="P", help="show the make-up of the samples, beside that of this pool"
    )
    parser.add_argument(
        "--signals",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="styles and capability scores to show it by",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    add_reading_options(parser)
    return parser


def _print(made: Iterable[Sheet]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    for sheet in made:
        table = Table(title=sheet.title, title_justify="left")
        for at, heading in enumerate(sheet.head):
            table.add_column(escape(heading), justify="right" if at else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(escape, row))
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
