"""Answer losses under two perturbations (ARDS, NeurIPS 2025): a noised image, permuted options.

    score_perturbed_losses(pool, Path("warmed-up"), Path("signals/perturbed_losses"))

Columns, float32, means over the answer tokens in nats:

- nll_noised: with Gaussian noise over the images, as a diffusion adds it at `step` of 1,000; null for
  text-only samples
- nll_permuted: with every option of a choice question at the place of the next one, under other letters
  (`core/options.py`); null for samples without a choice question

The loss without a perturbation is `nll` of the signal `necessity`. The noise of a sample depends on its id
and the seed alone. Where the released code's noised pixels leave their range they wrap around (a byte's
overflow, which cannot be meant): here they stay at its ends.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.pool.sample import Sample
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.options import RENAMED, permuted
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.losses import answer_losses

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

COLUMNS = ("nll_noised", "nll_permuted")
STEPS = 1000
BLOCK = 128
"""Samples whose noised images are in memory at a time."""


def score_perturbed_losses(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    step: int = 300,
    letters: str = RENAMED,
    seed: int = 0,
    max_tokens: int = 2048,
    shard_rows: int = 2048,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the losses under perturbation of a pool to `out`; parts that are complete are kept.

    step: of the noise, from 0 to 999 (released code: 300). letters: seven, in the place of A to G.
    max_tokens: padded tokens in a batch. A value is null also where the sample cannot be rendered, its image
    cannot be decoded, or its loss is not finite; `missing` counts these by reason. Returns samples/s, padding
    efficiency, forwards, nulls by column. Raises ValueError for a step or letters out of range.
    """
    from curation.signals.core.vlm import PassStats, Vlm

    if not 0 <= step < STEPS:
        raise ValueError(f"step must be from 0 to {STEPS - 1}, got {step}")
    if len(set(letters)) != len(RENAMED) or not letters.isupper() or not letters.isalpha():
        raise ValueError(f"letters must be {len(RENAMED)} different capital letters, got {letters!r}")
    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    forwards = 0

    def compute(rows: range, advance: Advance) -> pa.Table:
        nonlocal forwards
        samples = iter(pool.samples(rows))
        columns: dict[str, list[float | None]] = {name: [] for name in COLUMNS}
        while block := list(islice(samples, BLOCK)):
            seen = stats.samples
            variants = {
                "nll_noised": [noised(sample, step, seed, stats) for sample in block],
                "nll_permuted": [permuted(sample, letters) for sample in block],
            }
            for name, changed in variants.items():
                columns[name] += _losses(vlm, changed, max_tokens, stats)
            # `Vlm.run` counts forward passes as samples; a sample is a row, however many it takes.
            forwards += stats.samples - seen
            stats.samples = seen + len(block)
            advance(len(block))
        arrays = {name: pa.array(values, pa.float32()) for name, values in columns.items()}
        return pa.table({"row": pa.array(rows, pa.int32()), **arrays})

    identity = {
        **vlm.identity("perturbed_losses", pool.hash),
        "step": step,
        "letters": letters,
        "seed": seed,
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    return {
        **stats.summary(),
        **counts,
        "forwards": forwards,
        "rows": len(signal),
        "nulls": {name: signal[name].null_count for name in COLUMNS},
    }


def noised(sample: Sample, step: int, seed: int, stats: "PassStats") -> Sample | None:
    """The sample with noise over its images; None without any, and where one is broken, which is counted."""
    from training.images import ImageError

    if not sample.images:
        return None
    key = hashlib.blake2b(f"{seed}/{sample.id}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(key, "little"))
    try:
        return replace(sample, images=tuple(noised_image(image, step, rng) for image in sample.images))
    except ImageError as error:
        stats.missing[error.reason] += 1
        return None


def noised_image(picture: Any, step: int, rng: np.random.Generator) -> Any:
    """PIL image sqrt(a) x + sqrt(1 - a) n of pixels x in [0, 1], n standard normal, a = kept(step)."""
    from PIL import Image

    from training.images import decode

    pixels = decode(picture).permute(1, 2, 0).numpy().astype(np.float32) / 255
    share = kept(step)
    noise = rng.standard_normal(pixels.shape, np.float32)
    mixed = math.sqrt(share) * pixels + math.sqrt(1 - share) * noise
    return Image.fromarray(np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8))


@cache
def kept(step: int) -> float:
    """Share of the picture's variance that is left at `step`: the product of 1 - beta up to it.

    beta rises from 1e-5 to 5e-3 along a sigmoid from -6 to 6 over 1,000 steps (released code, which took it
    from visual contrastive decoding, arXiv 2311.16922).
    """
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, STEPS))) * (5e-3 - 1e-5) + 1e-5
    return math.prod((1 - betas[: step + 1]).tolist())


def _losses(
    vlm: "Vlm", variants: Sequence[Sample | None], max_tokens: int, stats: "PassStats"
) -> list[float | None]:
    """The loss of each variant, None for None."""
    given = [variant for variant in variants if variant is not None]
    found = iter(
        vlm.run(
            given,
            encode=vlm.renderer.encode,
            make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
            score=partial(_finite_losses, vlm, stats),
            stats=stats,
            advance=lambda rows: None,
        )
    )
    return [None if variant is None else next(found) for variant in variants]


def _finite_losses(vlm: "Vlm", stats: "PassStats", examples: Sequence["Encoded"]) -> list[float | None]:
    values = answer_losses(vlm, examples)
    finite = [math.isfinite(value.nll) for value in values]
    stats.missing["not_finite"] += sum(
        not ok and value.tokens > 0 for ok, value in zip(finite, values, strict=True)
    )
    return [value.nll if ok else None for ok, value in zip(finite, values, strict=True)]
