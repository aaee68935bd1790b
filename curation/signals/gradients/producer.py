"""Projected gradients of each sample's loss with respect to LoRA weights, and influence on a validation set.

    score_gradients(pool, model, out, validation="bench/")  # ICONS-like
    score_gradients(
        pool, base, out, validation="val.json", adapters=["warm/1", "warm/2"], lr_weights=[2e-5, 1e-5],
        adam=["warm/1/adam.safetensors", "warm/2/adam.safetensors"], prefix="adam_",
    )  # LESS

Columns, `prefix` before each name:

- grad: a unit vector of `dim` components for each adapter, concatenated
- grad_norm float32: length of the gradient before projection (GraNd, arXiv 2107.07075)
- influence_<task> float32, with a validation set: the mean over the task's validation samples of the inner
  product of unit gradients; for a task with subtasks the largest such mean
- raw_influence_<task>, without Adam: the same with validation gradients that keep their (projected) length,
  as ICONS's released script has it for MME alone

A signal with a validation set is `targeted`: it depends on the target tasks, and its metadata record this
with the validation set's hash.

ICONS (arXiv 2501.00654, section 3) uses plain gradients of one warmed-up model. LESS (arXiv 2402.04333,
section 3) uses those of several checkpoints, with training gradients converted into Adam's updates, summed
with the learning rates as weights. Its released code's update is m / sqrt(v + 1e-8), without bias correction.
With several adapters the vectors are concatenated, each times the square root of its share of the learning
rates, so that one inner product is LESS's sum.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.pool.sample import Sample
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.core.vector_files import stack_vectors, vector_array

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.gradients.per_sample import Adapter
    from curation.signals.gradients.projection import Projection
    from training.render import Encoded


class Sketch(NamedTuple):
    """A sample's projected unit gradient float32 [dim · adapters] (None for 0), and its norm before.

    lengths: float32 [adapters], of the projected gradients before they became unit vectors.
    """

    vector: np.ndarray | None
    norm: float
    lengths: np.ndarray


def score_gradients(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    validation: Path | Sequence[Sample] | None = None,
    validation_images: Path | None = None,
    adapters: Sequence[Path] = (),
    lr_weights: Sequence[float] = (),
    adam: Sequence[Path] = (),
    direction: str = "published",
    r: int = 8,
    alpha: float = 16,
    targets: Sequence[str] = (),
    dim: int = 8192,
    seed: int = 0,
    prefix: str = "",
    max_tokens: int = 2048,
    shard_rows: int = 2048,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the gradient signal of a pool to `out`; parts that are complete are kept.

    validation: samples whose `source` is the task, or a path that `read_validation` reads.
    adapters: PEFT directories trained on the model, with `lr_weights` (default: equal). Without any, a new
        adapter of rank r and scale alpha / r on the decoder's layers `targets` (default: all seven
        projections), drawn with `seed`.
    adam: states written by `save_adam`, one for each adapter; applied to the pool's gradients, not to the
        validation set's. direction: "published", LESS's, or "clean", Adam's own update (see AdamState).
    prefix: of all column names; the selector `less` reads the columns with the prefix `adam_`.
    dim, seed: of the projection. max_tokens: padded tokens in a batch.

    Cost: a forward and a backward pass for each sample and adapter, and 2 · D · dim operations for the
    projection of D LoRA weights. The signs are generated anew for each batch, so large batches are cheaper.
    Null are samples that cannot be rendered or whose image cannot be decoded, and gradients that are not
    finite (`not_finite`); a gradient of 0 has a norm and no vector (`zero_gradient`). All are counted in
    `missing`. Returns also samples/s, padding efficiency, the number of LoRA weights, validation samples used
    and missing.
    Raises AdapterError, ValidationError.
    """
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.gradients.per_sample import TARGETS

    folders, lr_weights, adam, targets = map(_listed, (adapters, lr_weights, adam, targets or TARGETS))
    vlm, stats, validation_stats = Vlm(model_dir, dtype=dtype, device=device), PassStats(), PassStats()
    identity = vlm.identity("gradients", pool.hash)
    fresh = {"r": r, "alpha": alpha, "targets": targets, "seed": seed}
    model, attached = _attach(vlm, folders, lr_weights, adam, direction, **fresh)
    samples = _validation(validation, out, validation_images)
    identity |= _adapter_identity(folders, attached, adam, r=r, alpha=alpha, targets=targets)
    if adam:
        identity["direction"] = direction
    identity |= _target_identity(samples)
    sketch = _sketcher(vlm, model, attached, dim, seed)

    @cache  # computed with the first shard; not at all where every part is kept
    def directions() -> dict[str, np.ndarray]:
        score = partial(sketch, stats=validation_stats, adam=False)
        sketches = _run(vlm, samples, score, max_tokens, validation_stats, lambda rows: None)
        unit = {f"influence_{task}": means for task, means in task_directions(samples, sketches).items()}
        if adam:
            return unit
        raw = task_directions(samples, sketches, raw=True)
        return unit | {f"raw_influence_{task}": means for task, means in raw.items()}

    def compute(rows: range, advance: Advance) -> pa.Table:
        score = partial(sketch, stats=stats, adam=True)
        sketches = _run(vlm, pool.samples(rows), score, max_tokens, stats, advance)
        return _table(rows, sketches, dim * len(attached), directions() if samples else {}, prefix)

    identity |= {"dim": dim, "seed": seed, "prefix": prefix}
    if samples and not adam:
        identity["raw_influence"] = True  # signals without this entry lack the column
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **stats.summary(),
        **counts,
        **_summary(read_signal(out, pool.hash), prefix),
        "weights": sum(adapter.hooks.size for adapter in attached),
        "targeted": bool(samples),
        "validation_samples": validation_stats.samples - validation_stats.missing.total(),
        "validation_missing": dict(validation_stats.missing),
    }


def task_directions(
    samples: Sequence[Sample], sketches: Sequence[Sketch | None], raw: bool = False
) -> dict[str, np.ndarray]:
    """Task -> float32 [subtasks, dim]: the mean unit gradient of each subtask, or mean gradient if `raw`.

    Raises ValidationError where a subtask has no gradient at all.
    """
    from curation.signals.gradients.validation import ValidationError, tasks_of

    directions = {}
    for task, subtasks in tasks_of(samples).items():
        means = []
        for subtask, indices in subtasks.items():
            known = [sketch for sketch in (sketches[i] for i in indices) if sketch is not None]
            vectors = [
                _lengthened(sketch.vector, sketch.lengths) if raw else sketch.vector
                for sketch in known
                if sketch.vector is not None
            ]
            if not vectors:
                raise ValidationError(
                    f"none of the {len(indices)} validation samples of {task}/{subtask} has a gradient"
                )
            means.append(np.mean(vectors, axis=0))
        directions[task] = np.stack(means)
    return directions


def _lengthened(vector: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The vector [dim · adapters] before its parts were scaled to unit length."""
    return (vector.reshape(len(lengths), -1) * lengths[:, None]).reshape(-1)


def influence(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """float32 [n]: the largest inner product of unit gradients [n, dim] with a task's [subtasks, dim].

    ICONS (arXiv 2501.00654, section 3.2) and LESS (arXiv 2402.04333, section 3.3).
    """
    return (vectors @ direction.T).max(axis=1)


def _listed(value: Any) -> list[Any]:
    """A single value, as given on a command line, becomes a list of one; None becomes an empty list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _attach(
    vlm: "Vlm",
    folders: list[Path],
    weights: list[float],
    adam: list[Path],
    direction: str,
    **fresh: Any,
) -> tuple[Any, list["Adapter"]]:
    from curation.signals.gradients.per_sample import AdapterError, fresh_adapter, trained_adapters

    if folders:
        return trained_adapters(vlm, folders, weights, adam, direction)
    if weights or adam:
        raise AdapterError("lr_weights and adam need trained adapters: set adapters too")
    return fresh_adapter(vlm, **fresh)


def _validation(given: Path | Sequence[Sample] | None, out: Path, images: Path | None) -> list[Sample]:
    from curation.signals.gradients.validation import read_validation, tasks_of

    if given is None:
        return []
    samples = (
        read_validation(given, out / "validation", images) if isinstance(given, str | Path) else list(given)
    )
    tasks_of(samples)  # raises for names that cannot be columns, before any work
    # The collator records broken images by sample id: validation samples must not share ids with the pool's.
    return [replace(sample, id=f"validation/{number}") for number, sample in enumerate(samples)]


def _adapter_identity(
    folders: list[Path], attached: list["Adapter"], adam: list[Path], **fresh: Any
) -> dict[str, Any]:
    from curation.signals.gradients.per_sample import adapter_hash

    if not folders:
        return {"lora": fresh}
    return {
        "adapters": [adapter_hash(folder) for folder in folders],
        "lr_weights": [adapter.weight for adapter in attached],
        "adam": [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in adam],
    }


def _target_identity(samples: list[Sample]) -> dict[str, Any]:
    from curation.signals.gradients.validation import tasks_of, validation_hash

    if not samples:
        return {"targeted": False}
    return {"targeted": True, "validation_hash": validation_hash(samples), "tasks": list(tasks_of(samples))}


def _run(
    vlm: "Vlm",
    samples: Iterable[Sample],
    score: Callable[[list["Encoded"]], list[Sketch | None]],
    max_tokens: int,
    stats: "PassStats",
    advance: Advance,
) -> list[Sketch | None]:
    return vlm.run(
        samples,
        encode=vlm.renderer.encode,
        make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
        score=score,
        stats=stats,
        advance=advance,
    )


def _sketcher(
    vlm: "Vlm", model: Any, adapters: list["Adapter"], dim: int, seed: int
) -> Callable[..., list[Sketch | None]]:
    """A function (examples, stats, adam) -> sketches of a batch; adam: convert into Adam's updates."""
    import torch

    from curation.signals.gradients.projection import Projection

    projection = Projection(dim, seed)

    def sketch(examples: Sequence["Encoded"], stats: "PassStats", adam: bool) -> list[Sketch | None]:
        # `Vlm.run` is in inference mode, whose tensors cannot enter a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            parts, sizes = [], []
            norms = torch.zeros(len(examples), dtype=torch.float64)
            tokens: list[int] = []
            for adapter in adapters:
                if len(adapters) > 1:
                    model.set_adapter(adapter.name)
                projected, lengths, tokens = project_batch(vlm, adapter, projection, examples, adam)
                size = projected.norm(dim=1, keepdim=True)
                parts.append(adapter.weight**0.5 * projected / size)
                sizes.append(size)
                norms += adapter.weight * lengths
            vectors, lengths = (torch.cat(values, dim=1).cpu().numpy() for values in (parts, sizes))
        each = zip(vectors, norms.tolist(), lengths, tokens, strict=True)
        return [_sketch(*values, stats) for values in each]

    return sketch


def project_batch(
    vlm: "Vlm", adapter: "Adapter", projection: "Projection", examples: Sequence["Encoded"], adam: bool
) -> tuple[Any, Any, list[int]]:
    """(projected gradients float32 [B, dim], norms before that float64 [B] on the CPU, answer tokens)."""
    import torch

    from curation.signals.gradients.per_sample import sample_gradients

    total = torch.zeros(len(examples), projection.dim, device=vlm.device)
    squares = torch.zeros(len(examples), dtype=torch.float64, device=vlm.device)

    def sink(index: int, gradient: torch.Tensor) -> None:
        squares.add_(gradient.double().square().sum(dim=1))
        if adam and adapter.adam is not None:
            gradient = adapter.adam.direction(index, gradient)
        projection.add(total, gradient, adapter.hooks.offsets[index])

    tokens = sample_gradients(vlm, adapter.hooks, examples, sink)
    return total, squares.sqrt().cpu(), tokens


def _sketch(
    vector: np.ndarray, norm: float, lengths: np.ndarray, tokens: int, stats: "PassStats"
) -> Sketch | None:
    if not tokens:  # a broken image, which `Vlm.run` counts
        return None
    if (norm and not np.isfinite(vector).all()) or not np.isfinite(norm):
        stats.missing["not_finite"] += 1
        return None
    if not norm:
        stats.missing["zero_gradient"] += 1
        return Sketch(None, norm, lengths)
    return Sketch(vector, norm, lengths)


def _table(
    rows: range, sketches: list[Sketch | None], size: int, directions: dict[str, np.ndarray], prefix: str
) -> pa.Table:
    vectors, known = stack_vectors([sketch and sketch.vector for sketch in sketches], size)
    columns = {
        "row": pa.array(rows, pa.int32()),
        f"{prefix}grad": vector_array(vectors, known),
        f"{prefix}grad_norm": pa.array([sketch and sketch.norm for sketch in sketches], pa.float32()),
    }
    for column, direction in directions.items():
        columns[f"{prefix}{column}"] = pa.array(influence(vectors, direction), pa.float32(), mask=~known)
    return pa.table(columns)


def _summary(signal: pa.Table, prefix: str) -> dict[str, Any]:
    norms = signal[f"{prefix}grad_norm"].drop_null().to_numpy()
    return {
        "rows": len(signal),
        "rows_missing": signal[f"{prefix}grad"].null_count,
        "mean_grad_norm": float(norms.mean()) if len(norms) else None,
    }
