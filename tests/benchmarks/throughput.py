"""Samples per second of one thread: drawing the mini pool, training, scoring, losses, evaluation.

OMP_NUM_THREADS=1 python tests/benchmarks/throughput.py [--size 2000]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from curation.mini.bench import build_bench
from curation.mini.pool import build_source
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.signals.gradients.producer import score_gradients
from curation.signals.losses import score_losses
from curation.signals.raters.capability import score_capabilities
from curation.signals.raters.style import score_styles
from curation.taxonomy import CAPABILITY_KEYS
from evaluation.harness import evaluate
from training.builtin import BUILTIN
from training.fit import fit
from training.spec import FitSpec

BASE = BUILTIN["builtin:mini"]
ITEMS = 100
"""Items per benchmark."""


def rate(name: str, count: int, work: Callable[[], object]) -> None:
    """Print wall and CPU samples per second of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name}: {count / wall:.0f} samples/s ({count / cpu:.0f} per CPU second), {count} samples",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2000)
    size = parser.parse_args().size
    torch.set_num_threads(1)
    n_capabilities = len(CAPABILITY_KEYS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rate("benchmarks drawn", n_capabilities * ITEMS, lambda: build_bench(root / "bench", ITEMS))
        rate("pool drawn", size, lambda: build_source(root / "source", size, bench=root / "bench"))
        rate(
            "pool ingested",
            size,
            lambda: build_pool(root / "source" / "pool.json", root / "source", root / "pool", tokenizer=BASE),
        )
        pool = Pool.open(root / "pool")
        samples = list(pool.samples())
        fit(FitSpec(max_steps=2, batch_size=8), BASE, samples[:16], root / "warm")
        for batch, grouping in ((16, "random"), (16, "length"), (32, "random"), (32, "length")):
            spec = FitSpec(epochs=1, batch_size=batch, grouping=grouping)
            rate(
                f"training, batch {batch}, grouping {grouping}",
                size,
                partial(fit, spec, BASE, samples, root / f"fit{batch}{grouping}"),
            )
        rate(
            f"capability signal, {n_capabilities} queries",
            size,
            lambda: score_capabilities(pool, BASE, root / "capability", batch_size=16),
        )
        rate("style signal", size, lambda: score_styles(pool, BASE, root / "style"))
        rate("losses", size, lambda: score_losses(pool, BASE, root / "nll"))
        terms = ("full", "noimg", "noq", "a")
        rate("losses, four terms", size, lambda: score_losses(pool, BASE, root / "four", terms=terms))
        rate(
            "gradients, r 8, dim 1024",
            size,
            lambda: score_gradients(pool, BASE, root / "gradients", dim=1024),
        )
        evaluate(BASE, "mini", data=root / "bench", out=root / "warm_eval", limit=2)
        rate(
            f"evaluation, {n_capabilities} benchmarks",
            n_capabilities * ITEMS,
            lambda: evaluate(root / "fit16random", "mini", data=root / "bench", out=root / "eval"),
        )


if __name__ == "__main__":
    main()
