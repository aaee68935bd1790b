"""Choose a subset from files alone: a pool, signals (yours or ours), a selector, a budget. No model is needed.

python -m curation.select mmssr --pool pools/si --signals signals --budget 30% --out subsets/a
python -m curation.select top_k --pool scores.parquet --param column=reward --budget tokens:2e9 --out subsets/b
python -m curation.select --list
"""

import argparse
import difflib
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
from curation.imports.load import (
    Reading,
    Signal,
    add_reading_options,
    join_signals,
    lines_of,
    load_signals,
    reading_of,
)
from curation.imports.pool_index import Index, open_index
from curation.pool.errors import PoolError
from curation.selectors import ColumnError, SelectorError
from curation.selectors.budget import choose, token_budget
from curation.selectors.registry import SELECTORS, check_params, describe, get_selector
from curation.signals import ProducerError
from curation.signals.__main__ import read_params
from curation.signals.core.table import JoinError, OtherPoolError, SignalError
from curation.subset import SubsetError, read_manifest, read_subset, write_subset

ERRORS = (SelectorError, SignalError, PoolError, SubsetError, ProducerError, OSError)
"""What a user can put right; anything else is a defect and shows its traceback."""

_MAKES = {
    "necessity": "losses --model SEED_MODEL",
    "necessity_ablated": "losses --model SEED_MODEL --param terms=[noimg,noq,a]",
    "base_losses": "losses --model BASE_MODEL --param prefix=base_",
    "base_losses_ablated": "losses --model BASE_MODEL --param prefix=base_ --param terms=[noimg,noq,a]",
    "capability": "capability --model SCORER",
    "style": "style --model STYLER",
    "clip": "clip --model DUAL_ENCODER",
    "embedding": "embeddings --model BASE_MODEL",
}
"""Signal -> what follows `python -m curation.signals`; the other signals are made by a recipe."""


@dataclass(frozen=True)
class Chosen:
    """What was written: the manifest, how many picks each source has, and what was counted on reading the signals."""

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

    budget: "30%", a number of rows, or "tokens:2e9". reference: a subset whose rows get `in_reference`. Raises one of
    `ERRORS`, each with what to do about it.
    """
    params = dict(params or {})
    function = get_selector(name)
    check_params(name, params)
    token_budget(budget)
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
    picked = pc.value_counts(index.table["source"].take(selection.rows)).flatten()
    sources = dict(
        sorted(
            zip(picked[0].to_pylist(), picked[1].to_pylist(), strict=True),
            key=lambda item: (-item[1], item[0]),
        )
    )
    ignored = [f"{index.path.name}: ignored {', '.join(index.ignored)}"] if index.ignored else []
    return Chosen(
        manifest,
        sources,
        ignored + [line for signal in loaded for line in lines_of(signal)],
        index.token_unit,
    )


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
            "column 'in_reference' comes from the signals and from --reference: give one of them only"
        )
    return columns.append_column(
        "in_reference", pa.array(np.isin(columns["row"].to_numpy(), subset["row"].to_numpy()))
    )


def _advice(column: str, columns: pa.Table, index: Index) -> str:
    """The nearest column that is there, and what gives the one that is missing."""
    near = (
        difflib.get_close_matches(column, columns.column_names, n=1, cutoff=0.8)
        if column not in columns.column_names
        else []
    )
    return "".join(f"; did you mean {name!r}?" for name in near) + _source_of(column, columns, index)


def _source_of(column: str, columns: pa.Table, index: Index) -> str:
    if column in ("text_tokens", "image_tokens"):
        return "; python -m curation.pool build counts them (--tokenizer, --image-tokens), or give them as columns of the table"
    signal = signal_of(column.replace("*", "x"))
    if column in columns.column_names:
        return ""  # it is there, but of the wrong type
    if signal is None:
        return f"; give a file with id and {column} by --signals"
    if signal == "reference":
        return "; give the subset by --reference"
    if signal in _MAKES:
        made = f"python -m curation.signals {_MAKES[signal]} --pool {index.path} --out signals/{signal}"
    else:
        made = "a recipe with this selector (python -m recipes.run)"
    return f"; the signal `{signal}` gives it, which is made by {made}; or give a file with id and {column} by --signals"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 and one message on stderr for what cannot be selected as asked."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.list:
            _print_list()
            return 0
        lacking = [flag for flag in ("name", "pool", "budget", "out") if getattr(given, flag) is None]
        if lacking:
            parser.error(
                f"give {', '.join(flag.upper() if flag == 'name' else f'--{flag}' for flag in lacking)}"
            )
        chosen = select_subset(
            given.name,
            given.pool,
            given.signals,
            given.budget,
            given.seed,
            given.out,
            read_params(given.param),
            reference=given.reference,
            reading=reading_of(given),
        )
    except ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_chosen(chosen, given.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m curation.select",
        description=__doc__.splitlines()[0],
        epilog="A signal is a signal folder, a folder of several, a Parquet, JSONL or JSON file with id or row and any columns, "
        "or the score folder of the released mmSSR code. python -m curation.select --list shows the selectors.",
    )
    parser.add_argument("name", nargs="?", help="a selector, or my_module:my_function for one of your own")
    parser.add_argument(
        "--pool",
        type=Path,
        metavar="P",
        help="pool directory, or a Parquet, JSONL or JSON table with id and source",
    )
    parser.add_argument(
        "--signals",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder or file; repeat it for several",
    )
    parser.add_argument(
        "--budget", metavar="B", help="30%%, a number of samples, or tokens:2e9 (text and image tokens)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where subset.parquet and manifest.json go")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the selector, value as in YAML",
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="a subset, for selectors that compare with one"
    )
    parser.add_argument("--list", action="store_true", help="show the selectors and stop")
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
        "cost: C0 metadata, C1 small encoder, C2 one pass of a VLM, C3 several or a generation, C4 with training, C5 gradients, C6 paid service"
    )


def _print_chosen(chosen: Chosen, out: Path) -> None:
    for line in chosen.lines:
        print(line)
    manifest, total = chosen.manifest, chosen.manifest["budget"]
    print(f"{manifest['selector']}: {total['samples']:,} of {manifest['pool_samples']:,} samples -> {out}")
    width = max(len(source) for source in chosen.sources)
    for source, count in chosen.sources.items():
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
