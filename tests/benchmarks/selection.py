"""Selection by capability at the size of the paper's pool: CPU time as a multiple of one radix argsort, peak memory.

    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py                      # 2.6M rows, budgets 5, 10 and 30 %
    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py --rows 26000000 --budgets 10 --engines numba
    OMP_NUM_THREADS=1 python tests/benchmarks/selection.py --folder --rows 2600000   # the released scorer's 15 JSONL files

Two units, both `np.argsort(kind="stable")` of uint16 keys, which numpy sorts by radix, in the same process: a key for
each row, and a key for each row and style (what has to be put in order for a capability). `picking` is the round-robin
alone, from columns that are read and bins that are made.
Every figure is CPU time of one thread, the best of `--repeats`. Synthetic pool: 90 sources of log-normal size, 1 to 3 of
9 styles a row (dictionary-encoded, as signals are read), 14 capabilities whose scores are mostly low, ids of 12
characters. `select` is the whole call: hashing the ids, encoding sources, reading scores, making bins, picking,
reasons. Each configuration runs in a process of its own, so that the peak memory is its own (it includes the table).
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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curation.selectors import get_selector
from curation.taxonomy import CAPABILITY_KEYS, STYLES

SELECTORS = ("mmssr", "mmssr_official")


def pool_table(rows: int, expected: bool, shuffled: bool = False, seed: int = 0) -> pa.Table:
    """row, id, source, styles, cap_<key> int8 and, with `expected`, exp_<key> float32; one source after the other."""
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
    rows: int, budget: float, selector: str, engine: str, expected: bool, shuffled: bool, repeats: int
) -> dict[str, float]:
    """One configuration: CPU seconds of the sorts, of the selection and of its picking; table and peak memory in GB."""
    table = pool_table(rows, expected, shuffled)
    styles = len(table["styles"].combine_chunks().flatten())
    sorts = {"row_sort": sort_seconds(rows, repeats + 2), "style_sort": sort_seconds(styles, repeats + 2)}
    select, module = get_selector(selector), importlib.import_module(f"curation.selectors.{selector}")
    if engine == "numba":  # compile before anything is timed
        select(table.slice(0, 2000), 200, 0, engine=engine)
    picking, spent = [], []
    whole = module.round_robin

    def timed(*args: object, **options: object) -> object:
        start = time.process_time()
        found = whole(*args, **options)
        picking.append(time.process_time() - start)
        return found

    module.round_robin = timed
    for _ in range(repeats):
        spent.append(cpu_seconds(lambda: select(table, int(rows * budget), 0, engine=engine), 1))
    return {
        **sorts,
        "select": min(spent),
        "picking": min(picking),
        "table_gb": table.nbytes / 1e9,
        "peak_gb": _peak(),
    }


def convert(folder: Path) -> dict[str, float]:
    """The 15 JSONL files of the released scorer -> signal: CPU seconds, size of the files and peak memory in GB."""
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
    """pool.parquet (row, id, source) and scores/<capability>.jsonl, scores/styles.jsonl as the released code writes them."""
    table = pool_table(rows, False)
    pq.write_table(table.select(["row", "id", "source"]), folder / "pool.parquet")
    (folder / "scores").mkdir()
    said = {key: table[f"cap_{key}"].cast(pa.string()) for key in CAPABILITY_KEYS} | {
        "styles": pc.binary_join(_phrases(table["styles"]), ", ")
    }
    for name, text in said.items():
        with (folder / "scores" / f"{name}.jsonl").open("wb") as file:
            for start in range(0, rows, 1 << 18):
                ids, texts = table["id"].slice(start, 1 << 18), text.slice(start, 1 << 18)
                lines = pc.binary_join_element_wise('{"idx": "', ids, '", "text": "', texts, '"}\n', "")
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
    """Write the folder, convert it in a process of its own, say what that took."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(rows, Path(folder))
        done = subprocess.run(
            [sys.executable, __file__, "--convert", folder, "--rows", str(rows)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
    print(
        f"15 JSONL files of {found['rows']:,} rows, {found['files_gb']:.2f} GB -> Parquet: {found['seconds']:.1f} CPU s, "
        f"peak {found['peak_gb']:.2f} GB ({found['before_gb']:.2f} before)"
    )


def _peak() -> float:
    """Peak resident memory of this process in GB, without what the process that started it had (as getrusage counts)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e9


def report(asked: argparse.Namespace) -> None:
    """A line for each configuration, each measured in a process of its own."""
    print("CPU seconds, as multiples of one radix argsort with a key a row / a key a row and style")
    for selector in asked.selectors:
        for expected in (True, False) if selector == "mmssr" else (False,):
            for engine in asked.engines:
                for budget in asked.budgets:
                    job = {
                        "rows": asked.rows,
                        "budget": budget / 100,
                        "selector": selector,
                        "engine": engine,
                        "expected": expected,
                    }
                    job |= {"shuffled": asked.shuffled, "repeats": asked.repeats}
                    done = subprocess.run(
                        [sys.executable, __file__, "--one", json.dumps(job)],
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    print(line(job, json.loads(done.stdout)), flush=True)


def line(job: dict[str, object], found: dict[str, float]) -> str:
    """One configuration for a person to read."""
    times = [
        f"{name} {found[name]:.2f} s = {found[name] / found['row_sort']:.1f} / {found[name] / found['style_sort']:.1f}"
        for name in ("select", "picking")
    ]
    scores = "cap_, exp_" if job["expected"] else "cap_"
    memory = f"peak {found['peak_gb']:.2f} GB, table {found['table_gb']:.2f}"
    return f"{job['selector']} ({scores}) {job['engine']} {job['budget']:.0%} of {job['rows']:,}: {'; '.join(times)}; {memory}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--budgets", type=float, nargs="+", default=[5, 10, 30], help="per cent")
    parser.add_argument("--engines", nargs="+", default=["numpy", "numba"])
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
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(**json.loads(asked.one))))
    elif asked.convert:
        print(json.dumps(convert(asked.convert)))
    elif asked.folder:
        report_folder(asked.rows)
    else:
        report(asked)


if __name__ == "__main__":
    main()
