"""The whole selection of every selector: CPU seconds and peak memory, each in a process of its own.

OMP_NUM_THREADS=1 python tests/benchmarks/selectors_100k.py                       # 100,000 rows, budget 10 %
OMP_NUM_THREADS=1 python tests/benchmarks/selectors_100k.py --rows 665000 --only d2 typiclust
OMP_NUM_THREADS=1 python tests/benchmarks/selectors_100k.py --growth --markdown figures.md

Selectors come from the registry, with their default parameters (PARAMS where they have none that run). Which
columns one reads is found out on a table of SMALL rows: it is run until it asks for no further column. So a
new selector needs no line here.

Synthetic columns have the size of real ones: vectors as wide as the published models' (WIDTHS), float16 and
memory-mapped, as signals are read; clusters with as many rows as the published number has at 665,000 (so
their number grows with the rows; `--rows 665000` has the published number); the ten sources of LLaVA-1.5's
mixture in their shares. Vectors scatter around 2,000 centres that have nothing to do with the clusters.

`select` is CPU seconds of the call. `peak` is the most anonymous memory during it, scalar columns included,
memory-mapped vectors not (they can be evicted; `mapped` is their size). `--growth` measures half the rows
too: the exponent of the rows in the time, and from it the time at 665,000 rows.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from curation import catalogue  # noqa: E402  (the path of the repository has to be set first)
from curation.selectors.contract import BudgetError, ColumnError, SelectorError, SizeError  # noqa: E402
from curation.selectors.registry import SELECTORS, get_selector  # noqa: E402
from curation.signals.vectors.presets import published  # noqa: E402
from curation.taxonomy import CAPABILITY_KEYS, STYLES  # noqa: E402

FULL = 665_000
SMALL = 3_000
SOURCES = {
    "llava": 158, "sharegpt": 40, "vqav2": 83, "gqa": 72, "okvqa": 9, "ocrvqa": 80, "aokvqa": 66,
    "textcaps": 22, "refcoco": 48, "vg": 86,
}  # fmt: skip
"""Thousands of samples of each source of LLaVA-1.5's mixture."""
TASKS = ("vqav2", "gqa", "vizwiz", "sqa", "textvqa", "pope", "mme", "mmbench", "mmbench_cn", "llava_w")
QUERIES = 30
WIDTHS = {
    "emb_tanh_attention_image": 10_240,  # five layers of TinyLLaVA-2B
    "emb_tanh_attention_text": 10_240,
    "emb_dino": 768,
    "emb_first_instruction": 384,
    "emb_clip_pair": 1_536,
    "emb_clip_turns": 1_536,
    "clip_image": 768,
    "clip_text": 768,
    "emb_ards": 8_192,
    "grad": 8_192,
    "adam_grad": 8_192,
    "adam_mean_grad": 8_192,
}
HIDDEN = 4_096
"""Width of every other vector: the hidden states of a model of 7B parameters."""
PARAMS: dict[str, dict[str, Any]] = {"top_k": {"column": "nll"}, "band": {"column": "nll"}}
CLUSTERED: dict[str, dict[str, Any]] = {
    "d2": {"within": "semdedup"},
    "self_filter": {"within": "once_select"},
    "seed": {"within": "semdedup"},
}
"""Parameters of a second try, where the first refuses as many rows as it would compare with one another."""


class Columns:
    """Makes the columns of a table of `rows` rows by their names; vectors are files in `folder`."""

    def __init__(self, rows: int, folder: Path, narrow: bool = False) -> None:
        self.rows, self.folder, self.narrow = rows, folder, narrow
        shares = np.array(list(SOURCES.values()), float)
        self.source = np.random.default_rng(0).choice(len(SOURCES), rows, p=shares / shares.sum())

    def start(self) -> dict[str, pa.Array]:
        """The pool's own columns."""
        rng = np.random.default_rng(1)
        images = np.where(self.source == list(SOURCES).index("sharegpt"), 0, 1)
        return {
            "row": pa.array(np.arange(self.rows, dtype=np.int32)),
            "id": pa.array([f"{number:012x}" for number in range(self.rows)]),
            "source": pa.array(list(SOURCES)).take(pa.array(self.source)),
            "n_images": pa.array(images.astype(np.int32)),
            "n_turns": pa.array(rng.geometric(0.3, self.rows).astype(np.int32)),
            "text_tokens": pa.array(rng.gamma(2, 80, self.rows).astype(np.int32) + 1),
            "image_tokens": pa.array((images * 576).astype(np.int32)),
        }

    def named(self, name: str) -> dict[str, pa.Array]:
        """The column `name`, or all columns that it stands for with a star."""
        if name.endswith("*"):
            parts = CAPABILITY_KEYS if name.startswith(("cap_", "exp_")) else TASKS
            return {full: array for part in parts for full, array in self.named(name[:-1] + part).items()}
        rng = np.random.default_rng(list(name.encode()))
        if name.startswith(("in_", "is_")):
            return {name: pa.array(rng.random(self.rows) < 0.05)}
        if name == "styles":
            return {name: self._styles(rng)}
        if name.startswith("rds_"):
            values = pa.array(rng.random(self.rows * QUERIES, np.float32))
            offsets = np.arange(0, self.rows * QUERIES + 1, QUERIES, dtype=np.int32)
            return {name: pa.ListArray.from_arrays(pa.array(offsets), values)}
        if name.startswith("cluster_"):
            return {name: pa.array(self._clusters(name.removeprefix("cluster_")))}
        if catalogue.holds_vectors(name):
            return {name: self._vectors(name, rng)}
        return {name: pa.array(self._scalar(name, rng))}

    def _scalar(self, name: str, rng: np.random.Generator) -> np.ndarray:
        if name.startswith("cap_"):
            return rng.choice(6, self.rows, p=[0.55, 0.15, 0.12, 0.1, 0.06, 0.02]).astype(np.int8)
        if name.startswith("exp_"):
            return (5 * rng.random(self.rows, np.float32) ** 3).astype(np.float32)
        if "influence" in name or name.endswith(("_gain", "margin", "_score", "value")):
            return rng.normal(0, 0.3, self.rows).astype(np.float32)
        if "nll" in name or name.startswith("spectrum_entropy") or name.endswith("norm"):
            return rng.gamma(2, 0.7, self.rows).astype(np.float32)
        return rng.random(self.rows, np.float32)

    def _styles(self, rng: np.random.Generator) -> pa.Array:
        first, second = rng.integers(0, len(STYLES), (2, self.rows))
        names = pa.DictionaryArray.from_arrays(
            pa.array(np.stack([first, second], axis=1).reshape(-1).astype(np.int8)), pa.array(list(STYLES))
        )
        return pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * self.rows + 1, 2, dtype=np.int32)), names)

    def _clusters(self, name: str) -> np.ndarray:
        """int32[n]: clusters of log-normal size; inside a source where the preset says so."""
        preset = published("clusters").get(name, {})
        k, inside = preset.get("k", 100), preset.get("within") == "source"
        rng = np.random.default_rng(list(name.encode()))
        parts = self.source if inside else np.zeros(self.rows, np.int64)
        found, first = np.empty(self.rows, np.int32), 0
        for part in np.unique(parts):
            members = np.flatnonzero(parts == part)
            # as many rows to a cluster as at the full size; a share is of the rows in any case
            count = len(members) * float(k[:-1]) / 100 if isinstance(k, str) else k * self.rows / FULL
            sizes = rng.lognormal(0, 0.7, max(int(count), 2))
            found[members] = first + rng.choice(len(sizes), len(members), p=sizes / sizes.sum())
            first += len(sizes)
        return found

    def _vectors(self, name: str, rng: np.random.Generator) -> pa.Array:
        """float16 vectors around a centre of each of 2,000 groups, from a file that is mapped."""
        width = 8 if self.narrow else WIDTHS.get(name, HIDDEN)
        path = self.folder / f"{name}-{self.rows}-{width}.bin"
        if not path.exists():
            centres, noise = rng.normal(0, 1, (2_000, width)), rng.normal(0, 1, (8_191, width))
            group = rng.integers(0, len(centres), self.rows)
            with path.with_suffix(".part").open("wb") as file:
                for start in range(0, self.rows, 4_096):
                    at = np.arange(start, min(start + 4_096, self.rows))
                    file.write((centres[group[at]] + noise[at % len(noise)]).astype(np.float16).tobytes())
            path.with_suffix(".part").rename(path)
        buffer = pa.memory_map(str(path)).read_buffer()
        values = pa.Array.from_buffers(pa.float16(), self.rows * width, [None, buffer])
        return pa.FixedSizeListArray.from_arrays(values, width)


def columns_read(selector: str, params: dict[str, Any], folder: Path) -> list[str]:
    """The columns that a selector asks for with these parameters, besides those of the pool."""
    makes, found = Columns(SMALL, folder, narrow=True), []
    arrays = makes.start()
    while True:
        try:
            _select(get_selector(selector), pa.table(arrays), SMALL // 10, params)
            return found
        except ColumnError as error:
            if error.column in found:
                raise
            found.append(error.column)
            arrays |= makes.named(error.column)


@contextmanager
def peak_anonymous() -> Iterator[list[float]]:
    """A list whose only entry becomes the most anonymous memory of this process meanwhile, in GB."""
    most, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _anonymous() -> float:
    text = Path("/proc/self/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e9


def measure(selector: str, rows: int, budget: float, params: dict[str, Any], folder: Path) -> dict[str, Any]:
    """CPU and wall seconds, peak, size of the mapped vectors, and what was picked from."""
    names = columns_read(selector, params, folder)
    makes = Columns(rows, folder)
    arrays = makes.start()
    for name in names:
        arrays |= makes.named(name)
    table, count = pa.table(arrays), int(rows * budget)
    mapped = sum(a.nbytes for a in arrays.values() if pa.types.is_fixed_size_list(a.type)) / 1e9
    with peak_anonymous() as peak:
        cpu, wall = time.process_time(), time.perf_counter()
        selection, notes = _select(get_selector(selector), table, count, params)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "select": cpu,
        "wall": wall,
        "peak": peak[0],
        "mapped": mapped,
        "picked": len(selection.rows),
        "params": params,
        "notes": notes,
        "widths": {n: a.type.list_size for n, a in arrays.items() if pa.types.is_fixed_size_list(a.type)},
    }


def _select(
    select: Callable[..., Any], table: pa.Table, count: int, params: dict[str, Any]
) -> tuple[Any, str]:
    try:
        return select(table, count, 0, **params), ""
    except BudgetError as error:
        if error.available < 1:
            raise
        return select(table, error.available, 0, **params), f"{error.available:,} rows picked"


def in_process(selector: str, rows: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own; `failed` says why there is no result."""
    result: dict[str, Any] = {"failed": "no parameters"}
    tries = [PARAMS.get(selector, {}), *([CLUSTERED[selector]] if selector in CLUSTERED else [])]
    for params in tries[1:] if arguments.clustered and len(tries) > 1 else tries:
        job = {"selector": selector, "rows": rows, "budget": arguments.budget / 100, "params": params}
        command = [sys.executable, __file__, "--one", json.dumps(job), "--folder", str(folder)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=arguments.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"more than {arguments.timeout:,} s of wall time"}
        if done.returncode == 0:
            return {**json.loads(done.stdout.splitlines()[-1]), "rows": rows}
        result = {"failed": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:200]}
        if "SizeError" not in result["failed"]:
            break
    return result


HEAD = ("selector", "CPU s", "peak GB", "vectors GB", "growth", "CPU s at 665,000", "remarks")


def cells(selector: str, result: dict[str, Any], half: dict[str, Any] | None) -> tuple[str, ...]:
    """One row of the table."""
    if "failed" in result:
        return (f"`{selector}`", "", "", "", "", "", result["failed"])
    growth = full = ""
    if half and "select" in half:
        exponent = math.log2(max(result["select"], 0.01) / max(half["select"], 0.01))
        growth = f"{exponent:.1f}"
        full = f"{result['select'] * (FULL / result['rows']) ** max(exponent, 1):,.0f}"
    remarks = [result["notes"], *(f"{key}={value}" for key, value in result["params"].items())]
    sizes = f"{result['select']:.1f}", f"{result['peak']:.2f}", f"{result['mapped']:.1f}"
    return (f"`{selector}`", *sizes, growth, full, ", ".join(filter(None, remarks)))


def line(row: tuple[str, ...]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(row)} |"


def report(arguments: argparse.Namespace, folder: Path) -> None:
    """Print, and write, a row for each selector."""
    lines = [line(HEAD), line((":--", "--:", "--:", "--:", "--:", "--:", ":--"))]
    print("\n".join(lines), flush=True)
    for selector in arguments.only or [name for name in SELECTORS if name not in arguments.skip]:
        result = in_process(selector, arguments.rows, arguments, folder)
        half = in_process(selector, arguments.rows // 2, arguments, folder) if arguments.growth else None
        lines.append(line(cells(selector, result, half)))
        print(lines[-1], flush=True)
        if not arguments.folder:
            for file in folder.glob("*.bin"):
                file.unlink()
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--budget", type=float, default=10, help="per cent")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--clustered", action="store_true", help="start with the parameters of CLUSTERED")
    parser.add_argument("--growth", action="store_true", help="measure half the rows too")
    parser.add_argument("--timeout", type=int, default=3_600, help="seconds of wall time for a selector")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="keep the vectors here, up to 27 GB at 665,000")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        job = json.loads(arguments.one)
        try:
            print(json.dumps(measure(**job, folder=arguments.folder)))
        except SelectorError as error:
            sys.exit(f"{'SizeError: ' if isinstance(error, SizeError) else ''}{error}")
        return
    with tempfile.TemporaryDirectory(prefix="winnow-selectors-") as own:
        report(arguments, arguments.folder or Path(own))


if __name__ == "__main__":
    main()
