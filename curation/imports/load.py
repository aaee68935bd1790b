"""Load signals for a pool: signal folders, table files with scores, and the score folder of the mmSSR code.

A table file is Parquet, JSONL or JSON with `id` or `row` and any further columns. A foreign file or score
folder can be imported once, which writes a signal folder:

    python -m curation.imports.load results/ --pool pools/si --out signals/mmssr
    python -m curation.imports.load scores.parquet --pool pools/si --out signals/scores
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation import atomic
from curation.command import CommandParser, fail, path
from curation.imports.official_folder import KEYS, read_official_folder
from curation.imports.pool_index import Index, open_index
from curation.imports.score_text import MODES, nearest_style
from curation.imports.table import Reading, Signal, import_file, import_table
from curation.imports.table_file import JSON_LINES, SUFFIXES, file_hash
from curation.pool.errors import PoolError
from curation.signals.core.table import (
    Advance,
    JoinError,
    MissingPartError,
    OtherPoolError,
    SignalError,
    join,
    read_metadata,
    read_signal,
    write_signal,
)
from curation.signals.core.vector_files import VectorError

_SHARD = 1 << 18


def load_signals(paths: Sequence[Path], index: Index, reading: Reading, workspace: Path) -> list[Signal]:
    """The signals at `paths`, and the further columns of a plain pool table; equal names are numbered.

    workspace: an empty folder for temporary imports. Raises SignalError and PoolError, and their subclasses.
    """
    signals = [signal for path in paths for signal in _open(Path(path), index, reading, workspace)]
    if index.extra is not None:
        signals.insert(0, import_table(index.path, index.extra, {}, index, reading))
    if reading.mapping and not any("files" in signal.counts for signal in signals):
        raise _unused_mapping(reading)
    names = Counter(signal.name for signal in signals)
    repeated = {name: count(1) for name, times in names.items() if times > 1}
    return [
        replace(signal, name=f"{signal.name}-{next(repeated[signal.name])}")
        if signal.name in repeated
        else signal
        for signal in signals
    ]


def _unused_mapping(reading: Reading) -> SignalError:
    name = next(iter(reading.mapping))
    return SignalError(f"--map {name}=... is for the score folder of mmSSR, and none is given")


def join_signals(index: Index, signals: Sequence[Signal]) -> pa.Table:
    """The columns of the pool and of every signal. Raises JoinError for a column that two of them have."""
    owner = dict.fromkeys(index.table.column_names, str(index.path))
    for signal in signals:
        for name in signal.table.column_names[1:]:
            if name in owner:
                raise JoinError(
                    f"column {name!r} comes from {owner[name]} and from {signal.name}; give only one of them"
                )
            owner[name] = signal.name
    return join(index.table, [signal.table for signal in signals])


def _open(path: Path, index: Index, reading: Reading, workspace: Path) -> list[Signal]:
    if path.is_file():
        return [import_file(path, index, reading)]
    if not path.is_dir():
        raise SignalError(
            f"{path} is neither a file nor a folder" if path.exists() else f"{path} does not exist"
        )
    if _is_signal(path):
        return [_own(path, index)]
    inside = sorted(folder for folder in path.iterdir() if folder.is_dir() and _is_signal(folder))
    if inside:
        if beside := sorted(file.name for file in path.iterdir() if file.suffix in (".parquet", *JSON_LINES)):
            raise SignalError(
                f"{path} holds signal folders and, beside them, {', '.join(beside)}: "
                "give each file by its own path"
            )
        return [_own(folder, index) for folder in inside]
    if any(file.suffix in JSON_LINES for file in path.iterdir()):
        return [_official(path, index, reading, workspace / f"{len(list(workspace.iterdir()))}")]
    raise MissingPartError(
        f"{path} holds no signal: neither signal.json, nor folders with one, nor the JSONL files of mmSSR; "
        f"give a file ({', '.join(SUFFIXES)}) by its own path"
    )


def _is_signal(folder: Path) -> bool:
    """Whether it is a signal, finished or not; `read_metadata` refuses an unfinished one."""
    return (folder / "signal.json").is_file() or any(folder.glob("part-*.parquet"))


def _own(folder: Path, index: Index) -> Signal:
    meta = read_metadata(folder)
    if meta["pool_hash"] != index.hash and not index.path.is_dir():
        raise OtherPoolError(
            f"{folder} belongs to pool {meta['pool_hash']}, but {index.path} is a plain table with the hash "
            f"{index.hash}; give the pool folder that the signal was computed on"
        )
    return Signal(folder.name, read_signal(folder, index.hash), meta["identity"])


def _official(folder: Path, index: Index, reading: Reading, out: Path) -> Signal:
    counts = read_official_folder(
        folder,
        index.table,
        out,
        pool_hash=index.hash,
        mapping=reading.mapping,
        mode=reading.mode,
        max_bad_fraction=reading.max_bad_fraction,
        key=reading.key,
    )
    return Signal(folder.name, read_signal(out, index.hash), read_metadata(out)["identity"], counts)


def summary_lines(signal: Signal) -> list[str]:
    """The counts of a foreign signal (missing, repeated, unreadable values) as lines of text."""
    if "files" in signal.counts:
        lines = [
            _listed(f"{signal.name}/{name} ({file['column']})", file)
            for name, file in signal.counts["files"].items()
            if set(file) - {"column", "lines"}
        ]
        lines.insert(0, f"{signal.name}: its lines are joined by the pool's {signal.counts['key']}")
        absent = signal.counts["absent"]
        lines += [f"{signal.name}: no file for {', '.join(absent)}"] if absent else []
        return lines + _unknown_styles(signal.name, signal.counts["unknown_styles"])
    flat = {key: value for key, value in signal.counts.items() if key not in ("lines", "columns")}
    lines = [_listed(signal.name, flat)] if flat else []
    for column, reasons in signal.counts.get("columns", {}).items():
        plain = {key: value for key, value in reasons.items() if key != "unknown"}
        lines += [_listed(f"{signal.name}, {column}", plain)] if plain else []
        lines += _unknown_styles(signal.name, reasons.get("unknown", {}))
    return lines


def _listed(name: str, counts: Mapping[str, Any]) -> str:
    words = [
        f"{key} {', '.join(n) if isinstance(n, list) else format(n, ',')}"
        for key, n in counts.items()
        if key not in ("column", "lines")
    ]
    return f"{name}: {'; '.join(words)}"


def _unknown_styles(name: str, unknown: Mapping[str, int]) -> list[str]:
    if not unknown:
        return []
    listed = [f"{phrase!r} {rows:,}{_near(phrase)}" for phrase, rows in list(unknown.items())[:5]]
    more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
    return [f"{name}: unknown styles, counted as `other`: {', '.join(listed)}{more}"]


def _near(phrase: str) -> str:
    near = nearest_style(phrase)
    return f" (nearest: {near})" if near else ""


def write_import(path: Path, index: Index, out: Path, reading: Reading) -> Signal:
    """Import a file or a score folder as the signal folder `out`; the counts go to `out`/import.json."""
    if (out / "pool.json").exists():
        raise SignalError(f"{out} holds a pool; choose another --out")
    if path.is_dir():
        return _official(path, index, reading, out)
    if reading.mapping:
        raise _unused_mapping(reading)
    signal = import_file(path, index, reading)
    identity = {
        "producer": "import",
        "pool_hash": index.hash,
        "sha256": file_hash(path),
        "mode": reading.mode,
    }

    def compute(rows: range, advance: Advance) -> pa.Table:
        advance(len(rows))
        return signal.table.slice(rows.start, len(rows))

    write_signal(out, identity, len(index), compute, shard_rows=_SHARD)
    atomic.write_json(out / "import.json", signal.counts)
    return signal


def add_signals_option(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--signals`, which may be repeated; `text` is its help."""
    parser.add_argument("--signals", type=path, action="append", default=[], metavar="DIR", help=text)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `reading_of` reads."""
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="clean",
        help="how texts are read: clean = scores 0..5 and known styles; official = as the released code does",
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FILE=KEY",
        help="base name of a JSONL file of mmSSR -> capability key, `styles` or `ignore`; may be repeated",
    )
    parser.add_argument(
        "--key",
        choices=KEYS,
        help="what the `idx` of a score folder of mmSSR names; default: the records' `idx`, else `id`",
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="stop if a larger share of the values is unreadable (default 0.01)",
    )


def reading_of(options: argparse.Namespace) -> Reading:
    """The reading options of a command line. Raises SignalError for a mapping that is not FILE=KEY."""
    pairs = [pair.partition("=") for pair in options.map]
    for name, sign, key in pairs:
        if not (name and sign and key):
            raise SignalError(f"--map {name}{sign}{key} is not FILE=KEY")
    mapping = {name: key for name, _, key in pairs}
    return Reading(options.mode, options.max_bad_fraction, options.key, mapping)


def main(arguments: Sequence[str] | None = None) -> int:
    """Import once; exit status 2 and one line on stderr for files that cannot be used."""
    parser = CommandParser(
        prog="python -m curation.imports.load", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("path", type=path, help="Parquet, JSONL or JSON file, or the score folder of mmSSR")
    parser.add_argument("--pool", type=path, required=True, help="pool folder, or a table with id and source")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="signal folder to write")
    add_reading_options(parser)
    options = parser.parse_args(arguments)
    try:
        index = open_index(options.pool)
        signal = write_import(options.path, index, options.out, reading_of(options))
    except (SignalError, PoolError, VectorError, OSError) as error:
        return fail(error, 2)
    for line in summary_lines(signal):
        print(line)
    print(f"{len(signal.table.column_names) - 1} columns for {len(index):,} samples -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
