"""Selection by capability at the size of the paper's pool: CPU time and peak memory.

OMP_NUM_THREADS=1 python tests/benchmarks/selection.py                  # 2.6M rows, budgets 5, 10 and 30 %
OMP_NUM_THREADS=1 python tests/benchmarks/selection.py --rows 26000000 --budgets 10 OMP_NUM_THREADS=1 python
tests/benchmarks/selection.py --folder         # the released scorer's 15 JSONL files

Times are CPU seconds of one thread, the best of `--repeats`, also as multiples of two units measured in the
same process: `np.argsort(kind="stable")` of uint16 keys (a radix sort), one key per row, and one key per row
and style. `select` is the whole call: hashing ids, encoding sources, reading scores, building bins, picking,
reasons. `picking` is the round-robin alone. `first` is the first call, which also touches its memory for the
first time.

Synthetic pool: 90 sources of log-normal size, 1 to 3 of 9 styles per row (dictionary-encoded, as signals are
read), 14 capabilities with mostly low scores, ids of 12 characters. Each configuration runs in its own
process, so that the peak memory is its own (it includes the table).
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curation.selectors.registry import get_selector  # noqa: E402  (the path of the repository has to be set first)
from curation.taxonomy import CAPABILITY_KEYS, STYLES  # noqa: E402

SELECTORS = ("mmssr", "mmssr_official")


def pool_table(rows: int, expected: bool, shuffled: bool = False, seed: int = 0) -> pa.Table:
    """row, id, source, styles, cap_<key> int8 and with `expected` exp_<key> float32; one source after
    another.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0.0, 1.5, 90)
    names = pa.array([f"source_{k:02d}" for k in range(90)])
    of_row = rng.choice(90, rows, p=sizes / sizes.sum()).astype(np.int8)
    if not shuffled:
        of_row.sort()
    sources = pa.DictionaryArray.from_arrays(pa.array(of_row), names)
    columns = {
        "row": pa.array(np.arange(rows, dtype=np.int32)),
        "id": _ids(rng, rows),
        "source": sources.cast(pa.string()),
        "styles": _styles(rng, rows),
    }
    level = np.array([0.55, 0.15, 0.12, 0.1, 0.06, 0.02]).cumsum()
    for key in CAPABILITY_KEYS:
        score = np.searchsorted(level, rng.random(rows, np.float32) * level[-1]).clip(0, 5).astype(np.int8)
        columns[f"cap_{key}"] = pa.array(score)
        if expected:
            columns[f"exp_{key}"] = pa.array((score + rng.normal(0, 0.2, rows).astype(np.float32)).clip(0, 5))
    return pa.table(columns)


def _ids(rng: np.random.Generator, rows: int) -> pa.Array:
    letters = rng.integers(97, 123, (rows, 12), dtype=np.uint8)
    letters[:, :8] = (np.arange(rows)[:, None] // 10 ** np.arange(7, -1, -1) % 10 + 48).astype(np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * 12
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])


def _styles(rng: np.random.Generator, rows: int) -> pa.Array:
    counts = rng.choice([1, 2, 3], rows, p=[0.3, 0.5, 0.2])
    ends = np.concatenate([[0], counts.cumsum()])
    first, step = rng.integers(0, 9, rows), rng.integers(1, 9, rows)
    place = np.arange(ends[-1]) - ends[:-1].repeat(counts)
    codes = (first.repeat(counts) + np.minimum(place, 1) * step.repeat(counts) + np.maximum(place - 1, 0)) % 9
    names = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(list(STYLES)))
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), names)


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of this process over `repeats` calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def sort_seconds(count: int, repeats: int) -> float:
    """CPU time of one radix argsort of `count` uint16 keys."""
    keys = np.random.default_rng(1).integers(0, 5000, count).astype(np.uint16)
    return cpu_seconds(lambda: np.argsort(keys, kind="stable"), repeats)


def measure(
    rows: int, budget: float, selector: str, expected: bool, shuffled: bool, repeats: int
) -> dict[str, float]:
    """CPU seconds of the sorts, the selection and its picking, table and peak memory in GB, of one
    configuration.
    """
    table = pool_table(rows, expected, shuffled)
    styles = len(table["styles"].combine_chunks().flatten())
    sorts = {"row_sort": sort_seconds(rows, repeats + 2), "style_sort": sort_seconds(styles, repeats + 2)}
    select, module = get_selector(selector), importlib.import_module(f"curation.selectors.{selector}")
    picking: list[float] = []
    round_robin = module.round_robin

    def timed(*args: object, **options: object) -> object:
        start = time.process_time()
        picks = round_robin(*args, **options)
        picking.append(time.process_time() - start)
        return picks

    module.round_robin = timed
    spent = [cpu_seconds(lambda: select(table, int(rows * budget), 0), 1) for _ in range(repeats)]
    return {
        **sorts,
        "select": min(spent),
        "first": spent[0],
        "picking": min(picking),
        "table_gb": table.nbytes / 1e9,
        "peak_gb": _peak(),
    }


def convert(folder: Path) -> dict[str, float]:
    """Convert the released scorer's 15 JSONL files: CPU seconds, size of the files and peak memory in GB."""
    from curation.imports.official_folder import read_official_folder

    pool = pq.read_table(folder / "pool.parquet")
    before, start = _peak(), time.process_time()
    counts = read_official_folder(folder / "scores", pool, folder / "signal", pool_hash="benchmark")
    size = sum(file.stat().st_size for file in (folder / "scores").iterdir())
    return {
        "seconds": time.process_time() - start,
        "rows": counts["rows"],
        "files_gb": size / 1e9,
        "before_gb": before,
        "peak_gb": _peak(),
    }


def write_folder(rows: int, folder: Path) -> None:
    """pool.parquet (row, id, source), and scores/<capability>.jsonl and styles.jsonl as the released code
    does.
    """
    table = pool_table(rows, False)
    pq.write_table(table.select(["row", "id", "source"]), folder / "pool.parquet")
    (folder / "scores").mkdir()
    texts = {key: table[f"cap_{key}"].cast(pa.string()) for key in CAPABILITY_KEYS} | {
        "styles": pc.binary_join(_phrases(table["styles"]), ", ")
    }
    for name, column in texts.items():
        with (folder / "scores" / f"{name}.jsonl").open("wb") as file:
            for start in range(0, rows, 1 << 18):
                ids, values = table["id"].slice(start, 1 << 18), column.slice(start, 1 << 18)
                lines = pc.binary_join_element_wise('{"idx": "', ids, '", "text": "', values, '"}\n', "")
                file.write(
                    pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines.combine_chunks()), "")[
                        0
                    ].as_buffer()
                )


def _phrases(styles: pa.ChunkedArray) -> pa.ListArray:
    lists = styles.combine_chunks()
    keys = pc.index_in(lists.flatten().cast(pa.string()), pa.array(list(STYLES)))
    return pa.ListArray.from_arrays(lists.offsets, pa.array(list(STYLES.values())).take(keys))


def report_folder(rows: int) -> None:
    """Write the folder, convert it in its own process, and print the cost."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(rows, Path(folder))
        done = subprocess.run(
            [sys.executable, __file__, "--convert", folder, "--rows", str(rows)],
            capture_output=True,
            text=True,
            check=True,
        )
        result = json.loads(done.stdout)
    print(
        f"15 JSONL files of {result['rows']:,} rows, {result['files_gb']:.2f} GB -> Parquet: "
        f"{result['seconds']:.1f} CPU s, peak {result['peak_gb']:.2f} GB ({result['before_gb']:.2f} before)"
    )


def _peak() -> float:
    """Peak resident memory of this process in GB; getrusage would include that of the parent process."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e9


def report(arguments: argparse.Namespace) -> None:
    """A line for each configuration, each measured in its own process."""
    print("CPU seconds, as multiples of one radix argsort with a key a row / a key a row and style")
    for selector in arguments.selectors:
        for expected in (True, False) if selector == "mmssr" else (False,):
            for budget in arguments.budgets:
                job = {
                    "rows": arguments.rows,
                    "budget": budget / 100,
                    "selector": selector,
                    "expected": expected,
                }
                job |= {"shuffled": arguments.shuffled, "repeats": arguments.repeats}
                done = subprocess.run(
                    [sys.executable, __file__, "--one", json.dumps(job)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                print(line(job, json.loads(done.stdout)), flush=True)


def line(job: dict[str, Any], result: dict[str, float]) -> str:
    """One configuration for a person to read."""
    times = "; ".join(
        f"{name} {result[name]:.2f} s = {result[name] / result['row_sort']:.1f}"
        f" / {result[name] / result['style_sort']:.1f}"
        for name in ("select", "first", "picking")
    )
    scores = "cap_, exp_" if job["expected"] else "cap_"
    memory = f"peak {result['peak_gb']:.2f} GB, table {result['table_gb']:.2f}"
    return f"{job['selector']} ({scores}) {job['budget']:.0%} of {job['rows']:,}: {times}; {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--budgets", type=float, nargs="+", default=[5, 10, 30], help="per cent")
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument(
        "--shuffled",
        action="store_true",
        help="sources mixed row by row, instead of one after the other as pools are made",
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--folder", action="store_true", help="convert a folder of the released scorer instead"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--convert", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
    elif arguments.convert:
        print(json.dumps(convert(arguments.convert)))
    elif arguments.folder:
        report_folder(arguments.rows)
    else:
        report(arguments)


if __name__ == "__main__":
    main()
