"""Choose a subset from files alone: a pool, signals, a selector and a budget. No model is needed.

python -m curation.select mmssr --pool pools/si --signals signals --budget 30% --out subsets/a
python -m curation.select top_k --pool scores.parquet --param column=reward --budget tokens:2e9 --out b
python -m curation.select --list
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.catalogue import signal_of
from curation.command import CommandError, CommandParser, fail, path, whole_number, yaml_params
from curation.imports.load import (
    Reading,
    Signal,
    add_reading_options,
    add_signals_option,
    join_signals,
    load_signals,
    reading_of,
    summary_lines,
)
from curation.imports.pool_index import Index, open_index
from curation.nearest import nearest
from curation.pool.errors import PoolError
from curation.printable import printable
from curation.selectors import ColumnError, SelectorError
from curation.selectors.budget import TOKEN_COLUMNS, check_form, choose
from curation.selectors.registry import SELECTORS, check_params, describe, get_selector
from curation.signals.core.table import JoinError, OtherPoolError, SignalError
from curation.signals.vectors.presets import published
from curation.subset import SubsetError, read_manifest, read_subset, write_subset

ERRORS = (SelectorError, SignalError, PoolError, SubsetError, CommandError, OSError)
"""Errors that the user can correct; anything else is a defect and shows its traceback."""

_PRODUCERS = {
    "necessity": "losses --model SEED_MODEL",
    "necessity_ablated": "losses --model SEED_MODEL --param terms=[noimg,noq,a]",
    "base_losses": "losses --model BASE_MODEL --param prefix=base_",
    "base_losses_ablated": "losses --model BASE_MODEL --param prefix=base_ --param terms=[noimg,noq,a]",
    "capability": "capability --model SCORER",
    "style": "style --model STYLER",
    "clip": "clip --model DUAL_ENCODER",
}
"""Signal -> arguments of `python -m curation.signals` that compute it; recipes compute the others."""


@dataclass(frozen=True)
class Chosen:
    """A written subset: its manifest, picks by source, and messages about the import of pool and signals."""

    manifest: dict[str, Any]
    sources: dict[str, int]
    lines: list[str] = field(default_factory=list)
    token_unit: str | None = None


def select_subset(
    name: str,
    pool: Path,
    signals: Sequence[Path],
    budget: str | int,
    seed: int,
    out: Path,
    params: Mapping[str, Any] | None = None,
    *,
    reference: Path | None = None,
    reading: Reading | None = None,
) -> Chosen:
    """Read pool and signals, select, and write `out`/subset.parquet and `out`/manifest.json.

    budget: "30%", a number of rows, or "tokens:2e9". reference: a subset whose rows are marked in column
    `in_reference`. Raises one of `ERRORS`, whose message says what to do.
    """
    params = dict(params or {})
    function = get_selector(name)
    check_params(name, params)
    check_form(budget)
    _check_out(out, pool, signals, reference)
    index = open_index(pool)
    with tempfile.TemporaryDirectory(prefix="winnow-") as workspace:
        loaded = load_signals(signals, index, reading or Reading(), Path(workspace))
        columns = join_signals(index, loaded)
        if reference is not None:
            columns = _with_reference(columns, index, reference)
        try:
            selection = choose(function, columns, budget, seed, params)
        except ColumnError as error:
            raise SelectorError(f"{error}{_advice(error.column, columns, index)}") from error
    manifest = write_subset(
        out,
        index.table,
        index.hash,
        selection,
        selector=name,
        params=params,
        seed=seed,
        signal_hashes={signal.name: signal.identity for signal in loaded},
        extra=_extra(budget, loaded, reference, index),
    )
    lines = [f"{index.path.name}: ignored {', '.join(index.ignored)}"] if index.ignored else []
    lines += [line for signal in loaded for line in summary_lines(signal)]
    return Chosen(manifest, _picks_by_source(index, selection.rows), lines, index.token_unit)


def _check_out(out: Path, pool: Path, signals: Sequence[Path], reference: Path | None) -> None:
    """Refuse an output folder in which subset.parquet or manifest.json would damage what is read."""
    if (out / "pool.json").exists() or (out / "signal.json").exists():
        raise SubsetError(f"{out} holds a pool or a signal; choose another --out")
    written = {(out / name).resolve() for name in ("subset.parquet", "manifest.json")}
    inputs = [pool, *signals, *([reference / "manifest.json"] if reference is not None else [])]
    if overwritten := [path for path in inputs if path.resolve() in written]:
        raise SubsetError(f"a subset in {out} would overwrite {overwritten[0]}; choose another --out")


def _picks_by_source(index: Index, rows: np.ndarray) -> dict[str, int]:
    """Number of picks by source, largest first."""
    sources, counts = pc.value_counts(index.table["source"].take(rows)).flatten()
    pairs = zip(sources.to_pylist(), counts.to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _extra(
    budget: str | int, signals: Sequence[Signal], reference: Path | None, index: Index
) -> dict[str, Any]:
    counts = {signal.name: signal.counts for signal in signals if signal.counts}
    extra: dict[str, Any] = {"budget_asked": str(budget)}
    if index.token_unit:
        extra["text_token_unit"] = index.token_unit
    if counts:
        extra["imported"] = counts
    return extra | ({"reference": read_manifest(reference)["ids_sha256"]} if reference is not None else {})


def _with_reference(columns: pa.Table, index: Index, reference: Path) -> pa.Table:
    subset, manifest = read_subset(reference), read_manifest(reference)
    if manifest["pool_hash"] != index.hash:
        raise OtherPoolError(
            f"{reference} was chosen from pool {manifest['pool_hash']}, not from {index.path} ({index.hash})"
        )
    if "in_reference" in columns.column_names:
        raise JoinError(
            "column 'in_reference' comes from the signals and from --reference; give only one of them"
        )
    return columns.append_column(
        "in_reference", pa.array(np.isin(columns["row"].to_numpy(), subset["row"].to_numpy()))
    )


def _advice(column: str, columns: pa.Table, index: Index) -> str:
    """What to do about a column that is missing or unusable: the most similar name, and its origin."""
    if column in TOKEN_COLUMNS:
        return (
            "; python -m curation.pool build counts them (--tokenizer, --image-tokens), "
            "or give them as columns of the table"
        )
    if column in columns.column_names:
        return ""  # it exists, but has the wrong type
    near = nearest(column, columns.column_names, cutoff=0.8)
    return (f"; did you mean {near!r}?" if near else "") + _origin(column, index)


def _origin(column: str, index: Index) -> str:
    signal = signal_of(column.replace("*", "x"))  # `cap_*` stands for the columns of a whole signal
    if signal is None:
        return f"; give a file with id and {column} by --signals"
    if signal == "reference":
        return "; give the subset by --reference"
    if producer := _producer(signal):
        command = f"python -m curation.signals {producer} --pool {index.path} --out signals/{signal}"
    else:
        command = "a recipe with this selector (python -m recipes.run)"
    return (
        f"; it belongs to the signal `{signal}`, which is computed by {command}; "
        f"or give a file with id and {column} by --signals"
    )


def _producer(signal: str) -> str | None:
    """Arguments of `python -m curation.signals` that compute a signal; None for one that recipes compute."""
    if signal in _PRODUCERS:
        return _PRODUCERS[signal]
    name = signal.removeprefix("embedding_")
    if name == signal:
        return None
    settings = "preset" if name in published("embeddings") else "name"
    return f"embeddings --model MODEL --param {settings}={name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 and one line on stderr if the selection cannot be made."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.list:
            _print_list()
            return 0
        required = {"name": "NAME", "pool": "--pool", "budget": "--budget", "out": "--out"}
        if lacking := [flag for key, flag in required.items() if getattr(options, key) is None]:
            parser.error(f"give {', '.join(lacking)}")
        chosen = select_subset(
            options.name,
            options.pool,
            options.signals,
            options.budget,
            options.seed,
            options.out,
            yaml_params(options.param),
            reference=options.reference,
            reading=reading_of(options),
        )
    except ERRORS as error:
        return fail(error, 2)
    _print_chosen(chosen, options.out)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m curation.select",
        description=(__doc__ or "").splitlines()[0],
        epilog="A signal is a signal folder, a folder of several, a Parquet, JSONL or JSON file with id or "
        "row and any columns, or the score folder of the released mmSSR code. --list shows the selectors.",
    )
    parser.add_argument("name", nargs="?", help="a selector, or my_module:my_function")
    parser.add_argument(
        "--pool",
        type=path,
        metavar="P",
        help="pool folder, or a Parquet, JSONL or JSON table with id and source",
    )
    add_signals_option(parser, "signal folder or file; may be repeated")
    parser.add_argument(
        "--budget", metavar="B", help="30%%, a number of samples, or tokens:2e9 (text and image tokens)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="default 0")
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="folder to write subset.parquet and manifest.json to"
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the selector, value as in YAML; may be repeated",
    )
    parser.add_argument(
        "--reference", type=path, metavar="DIR", help="a subset, for selectors that need one for comparison"
    )
    parser.add_argument("--list", action="store_true", help="show the selectors and exit")
    add_reading_options(parser)
    return parser


def _print_list() -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Selectors", title_justify="left")
    for heading in ("selector", "needs", "cost", "targeted", "what it does"):
        table.add_column(heading, overflow="fold")
    for name in SELECTORS:
        about = describe(name)
        table.add_row(
            name,
            ", ".join(about.needs) or "-",
            about.cost,
            "targeted" if about.targeted else "blind",
            escape(about.summary),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(
        "cost: C0 metadata, C1 small encoder, C2 one pass of a VLM, C3 several passes or generation, "
        "C4 with training, C5 gradients, C6 paid service"
    )


def _print_chosen(chosen: Chosen, out: Path) -> None:
    for line in chosen.lines:
        print(line)
    manifest, total = chosen.manifest, chosen.manifest["budget"]
    print(f"{manifest['selector']}: {total['samples']:,} of {manifest['pool_samples']:,} samples -> {out}")
    sources = [(printable(source), count) for source, count in chosen.sources.items()]
    width = max(len(source) for source, _ in sources)
    for source, count in sources:
        print(f"  {source:<{width}}  {count:>9,}  {count / total['samples']:6.1%}")
    notes = ", ".join(f"{name} {count:,}" for name, count in manifest["notes"].items())
    print(f"notes: {notes or 'none'}")
    counted = {
        name: "unknown" if total[name] is None else f"{total[name]:,}"
        for name in ("text_tokens", "image_tokens")
    }
    unit = f" ({chosen.token_unit})" if chosen.token_unit else ""
    print(f"text tokens {counted['text_tokens']}{unit}, image tokens {counted['image_tokens']}")


if __name__ == "__main__":
    sys.exit(main())
