"""Gradients of each sample's loss with respect to LoRA weights, projected, and their agreement with a validation set's.

Columns, behind `prefix`: `grad`, a vector of `dim` numbers for each adapter, of length 1; `grad_norm` float32, length of the gradient before
projection (GraNd, arXiv 2107.07075); with a validation set, `influence_<task>` float32: the mean over the task's validation
samples of the inner product of unit gradients, or the largest such mean where a task has subtasks. Such a signal is
`targeted`: it has seen the target, and its metadata says so with the validation set's hash.

    score_gradients(pool, model, out, validation="bench/")                                            # ICONS-like
    score_gradients(pool, base, out, validation="val.json", adapters=["warm/1", "warm/2"], lr_weights=[2e-5, 1e-5],
                    adam=["warm/1/adam.safetensors", "warm/2/adam.safetensors"], prefix="adam_")      # LESS

ICONS (arXiv 2501.00654, section 3) takes plain gradients of one warmed-up model; LESS (arXiv 2402.04333, section 3) those of
several checkpoints, training gradients turned into Adam's steps, summed with their learning rates. With several adapters the
vectors are laid side by side, each times the root of its share of the learning rates, so that one inner product is LESS's sum.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.pool.sample import Sample
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.core.vector_files import vector_array

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.vlm import Pass, Vlm
    from curation.signals.gradients.per_sample import Adapter
    from curation.signals.gradients.projection import Projection
    from training.render import Encoded


class Sketch(NamedTuple):
    """A sample's projected gradient, float32 [dim x adapters] of length 1 (None where it is 0), and its length before."""

    vector: np.ndarray | None
    norm: float


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

    validation: samples whose `source` is the task, or what `read_validation` reads. adapters: PEFT directories trained on
    the model; without, new ones of rank r and scale alpha / r on the decoder's layers `targets` (default: all seven
    projections), drawn with `seed`. adam: states written by `save_adam`, one for each adapter; they shape the pool's
    gradients, never the validation set's. prefix: of all column names; the selector `less` reads those behind `adam_`. dim, seed: of the projection. max_tokens: padded tokens in a batch.

    Cost: a forward and a backward pass for each sample and adapter, and 2 · D · dim operations for the projection, D being
    the number of LoRA weights; signs are made anew for each batch, so that large batches are cheaper.
    Null: what cannot be rendered or read, and gradients that are not finite (`not_finite`); a gradient of 0 has a norm and
    no vector (`zero_gradient`). All are counted in `missing`. Returns also samples/s, padding efficiency, the number of
    weights, validation samples used and missing. Raises AdapterError, ValidationError.
    """
    from curation.signals.core.vlm import Pass, Vlm
    from curation.signals.gradients.per_sample import TARGETS

    adapters, lr_weights, adam, targets = map(_listed, (adapters, lr_weights, adam, targets or TARGETS))
    vlm, done, seen = Vlm(model_dir, dtype=dtype, device=device), Pass(), Pass()
    identity = vlm.identity("gradients", pool.hash)
    model, found = _attach(vlm, adapters, lr_weights, adam, r=r, alpha=alpha, targets=targets, seed=seed)
    samples = _validation(validation, out, validation_images)
    identity |= _adapter_identity(
        adapters, found, adam, r=r, alpha=alpha, targets=targets
    ) | _target_identity(samples)
    sketch = _sketcher(vlm, model, found, dim, seed)

    @cache
    def directions() -> dict[str, np.ndarray]:
        vectors = _run(vlm, samples, partial(sketch, done=seen, adam=False), max_tokens, seen, lambda k: None)
        return task_directions(samples, vectors)

    def compute(rows: range, advance: Advance) -> pa.Table:
        values = _run(
            vlm, pool.samples(rows), partial(sketch, done=done, adam=True), max_tokens, done, advance
        )
        return _table(rows, values, dim * len(found), directions() if samples else {}, prefix)

    identity |= {"dim": dim, "seed": seed, "prefix": prefix}
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    return {
        **done.summary(),
        **counts,
        **_summary(read_signal(out, pool.hash), prefix),
        "weights": sum(adapter.taps.size for adapter in found),
        "targeted": bool(samples),
        "validation_samples": seen.samples - sum(seen.missing.values()),
        "validation_missing": dict(seen.missing),
    }


def task_directions(samples: Sequence[Sample], sketches: Sequence[Sketch | None]) -> dict[str, np.ndarray]:
    """Task -> float32 [subtasks, dim]: the mean unit gradient of each subtask.

    Raises ValidationError where a subtask has no gradient at all.
    """
    from curation.signals.gradients.validation import ValidationError, tasks_of

    directions = {}
    for task, subtasks in tasks_of(samples).items():
        means = []
        for subtask, indices in subtasks.items():
            known = [
                sketches[i].vector
                for i in indices
                if sketches[i] is not None and sketches[i].vector is not None
            ]
            if not known:
                raise ValidationError(
                    f"none of the {len(indices)} validation samples of {task}/{subtask} has a gradient"
                )
            means.append(np.mean(known, axis=0))
        directions[task] = np.stack(means)
    return directions


def influence(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """float32 [n]: inner products of unit gradients [n, dim] with a task's [subtasks, dim], the largest over subtasks.

    ICONS (arXiv 2501.00654, section 3.2) and LESS (arXiv 2402.04333, section 3.3).
    """
    return (vectors @ direction.T).max(axis=1)


def _listed(value: Any) -> list[Any]:
    """One value alone, as a command line gives it, is a list of one; None is an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _attach(
    vlm: "Vlm", folders: list[Path], weights: list[float], adam: list[Path], **fresh: Any
) -> tuple[Any, list["Adapter"]]:
    from curation.signals.gradients.per_sample import AdapterError, fresh_adapter, trained_adapters

    if folders:
        return trained_adapters(vlm, folders, weights, adam)
    if weights or adam:
        raise AdapterError("lr_weights and adam belong to trained adapters: give `adapters` too")
    return fresh_adapter(vlm, **fresh)


def _validation(given: Path | Sequence[Sample] | None, out: Path, images: Path | None) -> list[Sample]:
    from curation.signals.gradients.validation import read_validation, tasks_of

    if given is None:
        return []
    samples = (
        read_validation(given, out / "validation", images) if isinstance(given, str | Path) else list(given)
    )
    tasks_of(samples)  # refuses names that cannot be columns before anything is computed
    return [
        replace(sample, id=f"validation/{number}") for number, sample in enumerate(samples)
    ]  # no id of the pool's


def _adapter_identity(
    folders: list[Path], found: list["Adapter"], adam: list[Path], **fresh: Any
) -> dict[str, Any]:
    from curation.signals.gradients.per_sample import adapter_hash

    if not folders:
        return {"lora": fresh}
    return {
        "adapters": [adapter_hash(folder) for folder in folders],
        "lr_weights": [adapter.weight for adapter in found],
        "adam": [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in adam],
    }


def _target_identity(samples: list[Sample]) -> dict[str, Any]:
    from curation.signals.gradients.validation import tasks_of, validation_hash

    if not samples:
        return {"targeted": False}
    return {"targeted": True, "validation_hash": validation_hash(samples), "tasks": list(tasks_of(samples))}


def _run(
    vlm: "Vlm", samples: Any, sketch: Any, max_tokens: int, done: "Pass", advance: Advance
) -> list[Sketch | None]:
    return vlm.run(
        samples,
        encode=vlm.renderer.encode,
        make_batches=partial(batches_by_tokens, max_tokens=max_tokens),
        score=sketch,
        done=done,
        advance=advance,
    )


def _sketcher(vlm: "Vlm", model: Any, adapters: list["Adapter"], dim: int, seed: int) -> Any:
    """A function (examples, done, adam) -> sketches of one batch."""
    import torch

    from curation.signals.gradients.projection import Projection

    projection = Projection(dim, seed)

    def sketch(examples: Sequence["Encoded"], done: "Pass", adam: bool) -> list[Sketch | None]:
        with torch.inference_mode(False), torch.no_grad():
            parts, norms = [], torch.zeros(len(examples), dtype=torch.float64)
            for adapter in adapters:
                if len(adapters) > 1:
                    model.set_adapter(adapter.name)
                projected, lengths, tokens = project_batch(vlm, adapter, projection, examples, adam)
                parts.append(adapter.weight**0.5 * projected / projected.norm(dim=1, keepdim=True))
                norms += adapter.weight * lengths
            vectors = torch.cat(parts, dim=1).cpu().numpy()
        return [_sketch(*values, done) for values in zip(vectors, norms.tolist(), tokens, strict=True)]

    return sketch


def project_batch(
    vlm: "Vlm", adapter: "Adapter", projection: "Projection", examples: Sequence["Encoded"], adam: bool
) -> tuple[Any, Any, list[int]]:
    """(projected gradients float32 [B, dim], their lengths before float64 [B] on the CPU, answer tokens of each)."""
    import torch

    from curation.signals.gradients.per_sample import sample_gradients

    total = torch.zeros(len(examples), projection.dim, device=vlm.device)
    squares = torch.zeros(len(examples), dtype=torch.float64, device=vlm.device)

    def sink(index: int, gradient: torch.Tensor) -> None:
        squares.add_(gradient.double().square().sum(dim=1))
        if adam and adapter.adam is not None:
            gradient = adapter.adam.direction(index, gradient)
        projection.add(total, gradient, adapter.taps.offsets[index])

    tokens = sample_gradients(vlm, adapter.taps, examples, sink)
    return total, squares.sqrt().cpu(), tokens


def _sketch(vector: np.ndarray, norm: float, tokens: int, done: "Pass") -> Sketch | None:
    if not tokens:  # its image is broken, which is counted elsewhere
        return None
    if (norm and not np.isfinite(vector).all()) or not np.isfinite(norm):
        done.missing["not_finite"] += 1
        return None
    if not norm:
        done.missing["zero_gradient"] += 1
        return Sketch(None, norm)
    return Sketch(vector, norm)


def _table(
    rows: range, values: list[Sketch | None], size: int, directions: dict[str, np.ndarray], prefix: str
) -> pa.Table:
    known = np.array([value is not None and value.vector is not None for value in values])
    vectors = np.zeros((len(values), size), np.float32)
    if known.any():
        vectors[known] = np.stack([value.vector for value, has in zip(values, known, strict=True) if has])
    columns = {
        "row": pa.array(rows, pa.int32()),
        f"{prefix}grad": vector_array(vectors, known),
        f"{prefix}grad_norm": pa.array([value and value.norm for value in values], pa.float32()),
    }
    for task, direction in directions.items():
        columns[f"{prefix}influence_{task}"] = pa.array(
            influence(vectors, direction), pa.float32(), mask=~known
        )
    return pa.table(columns)


def _summary(signal: pa.Table, prefix: str) -> dict[str, Any]:
    norms = signal[f"{prefix}grad_norm"].drop_null().to_numpy()
    return {
        "rows": len(signal),
        "rows_missing": signal[f"{prefix}grad"].null_count,
        "mean_grad_norm": float(norms.mean()) if len(norms) else None,
    }
