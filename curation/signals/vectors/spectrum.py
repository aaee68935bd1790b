"""Spectrum of a sample's token states: how many directions they fill (DataTailor, arXiv 2412.06293).

    score_spectrum(pool, Path("llava-7b"), Path("signals/spectrum"))

Columns, float32: of the shares p = sigma / sum of the singular values sigma of the matrix [tokens, hidden
size], `spectrum_entropy` is - sum p ln p in nats (from 0 to the log of the number of tokens), `spectrum_top`
the largest share. All tokens count, those of images too, as the model sees them; padding does not.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal

if TYPE_CHECKING:
    import torch

    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from training.render import Encoded

COLUMNS = ("spectrum_entropy", "spectrum_top")


def score_spectrum(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    layer: int = -1,
    max_tokens: int = 2048,
    shard_rows: int = 8192,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the spectrum of a pool's token states to `out`; parts that are complete are kept.

    layer: block of the decoder whose output is read, from 0, negative from the end, before any final norm.
    The released code reads the last one (-1), the paper's text the one before it (-2). max_tokens: padded
    tokens in a batch. A value is null where the sample cannot be rendered, its image cannot be decoded, or
    its states are not finite. Returns samples/s, padding efficiency, rows without a value by reason, means of
    the columns. Raises LayerError.
    """
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.vectors.decoder import decoder_layers, resolve_layers

    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    (chosen,) = resolve_layers([layer], len(decoder_layers(vlm.model)))

    def compute(rows: range, advance: Advance) -> pa.Table:
        values = vlm.run(
            pool.samples(rows),
            encode=vlm.renderer.encode,
            make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
            score=partial(spectra, vlm, layer=chosen, stats=stats),
            stats=stats,
            advance=advance,
        )
        columns = {
            name: pa.array([value and value[place] for value in values], pa.float32())
            for place, name in enumerate(COLUMNS)
        }
        return pa.table({"row": pa.array(rows, pa.int32()), **columns})

    identity = {**vlm.identity("spectrum", pool.hash), "layer": chosen}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    signal = read_signal(out, pool.hash)
    known = {name: signal[name].drop_null().to_numpy() for name in COLUMNS}
    return {
        **stats.summary(),
        **counts,
        "rows": len(signal),
        "nulls": {name: signal[name].null_count for name in COLUMNS},
        **{f"mean_{name}": float(values.mean()) if len(values) else None for name, values in known.items()},
    }


def spectra(
    vlm: "Vlm", examples: Sequence["Encoded"], *, layer: int, stats: "PassStats"
) -> list[tuple[float, float] | None]:
    """(entropy, largest share) of every example after block `layer`; None, counted, if not finite."""
    from curation.signals.vectors.decoder import captured

    batch = vlm.batch(examples)
    with captured(vlm.model, [layer], "hidden") as outputs:
        vlm.hidden(batch)
    used = batch["attention_mask"].bool()
    found = [spectrum(states[mask]) for states, mask in zip(outputs[layer], used, strict=True)]
    stats.missing["not_finite"] += sum(value is None for value in found)
    return found


def spectrum(states: "torch.Tensor") -> tuple[float, float] | None:
    """(entropy in nats, largest share) of the singular values of [T, H]; None for states not finite or 0."""
    import torch

    if not torch.isfinite(states).all() or not states.any():
        return None
    values = torch.linalg.svdvals(states.float()).double()
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum()), float(shares.max())
