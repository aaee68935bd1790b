"""One training in this process, from examples to a Hugging Face checkpoint, with LoRA or without.

    fit(FitSpec(epochs=1, lr=1e-3, batch_size=32), base, samples, out)

`out` holds the checkpoint, `fit.log.jsonl` (one line per step), `fit.rejected.jsonl`, `fit.json` (spec and
result, the same for equal trainings), `fit.times.log` and, written last, COMPLETE. During the training,
`out/checkpoints/` holds what a resume needs. `training.launch` starts the processes of a DeepSpeed training.
"""

import hashlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel, PrinterCallback, set_seed

from curation.pool.sample import Sample
from training.adapters import FOLDER as ADAPTERS
from training.adapters import AdapterKeeper, check_can_keep
from training.aspects import set_aspect
from training.collate import Collator
from training.distributed import gathered, inside_torchrun, read_config, touch_vision
from training.models import (
    COMPLETE,
    add_lora,
    checkpoint_hash,
    freeze,
    image_mode,
    load,
    load_processor,
    merge_lora,
    quiet,
    save_checkpoint,
)
from training.plan import PlannedBatches, Prepared, Rejected, TooManyBad, global_batches, prepare
from training.render import Encoded, Renderer
from training.spec import FitSpec, LoraSpec
from training.trainer import (
    Examples,
    OneDeviceArguments,
    PlannedTrainer,
    Progress,
    StepLog,
    answer_only_logits,
    last_complete,
)

__all__ = ["FitSpec", "LoraSpec", "fit"]


def fit(
    spec: FitSpec,
    base: str | Path,
    examples: Sequence[Sample | Encoded],
    out: Path,
    on_progress: Progress | None = None,
    *,
    keep_adapters: bool = False,
) -> dict[str, Any]:
    """Train `base` on `examples` into the checkpoint `out` (LoRA merged); resumes an interrupted training.

    `examples`: a list or tuple is rendered, checked and measured before the training, and bad examples are
    counted. Any other sequence is lazy data: an item is read, as Encoded, when its step comes, and a bad one
    raises RenderError; `grouping="length"` needs its method `lengths()` (int[n], any unit).
    `on_progress(step, steps, message)`. `keep_adapters`: also leave the adapter of each epoch with Adam's
    state in `out`/adapters (training/adapters.py); for LoRA in one process. Returns steps, seconds,
    samples_seen, tokens, losses (one per step), dropped {reason: count} and samples_per_second. Raises
    TooManyBad, TrainingDiverged, FileExistsError when `out` holds another training, and ValueError for
    `keep_adapters` without LoRA or with DeepSpeed, or for a DeepSpeed spec outside torchrun.
    """
    if keep_adapters:
        check_can_keep(spec)
    if spec.deepspeed and not inside_torchrun():
        raise ValueError("a DeepSpeed training runs in torchrun processes: use training.launch.launch")
    with _isolated(spec.seed), quiet():
        return _fit(spec, base, examples, Path(out), on_progress, keep_adapters)


def _fit(
    spec: FitSpec,
    base: str | Path,
    examples: Sequence[Any],
    out: Path,
    on_progress: Progress | None,
    keep_adapters: bool,
) -> dict[str, Any]:
    processor, mode = load_processor(base)
    mode = set_aspect(processor, mode, spec.image_aspect, spec.image_grids)
    renderer = Renderer(processor, mode, spec.cache_mb, spec.render_rules())
    processor.chat_template = renderer.kept_template()
    lazy = not isinstance(examples, (list, tuple))
    prepared = Prepared(examples, []) if lazy else _prepare(spec, examples, renderer)
    identity = _identity(spec, base, prepared, lazy, keep_adapters)
    if (out / COMPLETE).exists():
        return _finished(out, identity)

    batches = _batches(spec, prepared, lazy)
    steps = spec.max_steps or math.ceil(spec.epochs * batches.steps)
    if batches.rank == 0:
        _start_folder(out, identity, prepared.rejected)
    args = _arguments(spec, out, steps, batches)
    collator = Collator(renderer.pad_id, renderer.loader, mute_broken=True)
    log = StepLog(out / "fit.log.jsonl", batches, on_progress, writes=batches.rank == 0)
    data = Examples(prepared.examples, lazy, spec.max_length)
    trainer = PlannedTrainer(
        model=_model(spec, base, batches.world),
        args=args,
        train_dataset=data,
        data_collator=collator,
        callbacks=[log, *([AdapterKeeper(out, batches)] if keep_adapters else [])],
        batches=batches,
        part_lr=spec.lr_of(),
        per_microbatch=spec.loss_norm == "microbatch",
    )
    trainer.remove_callback(PrinterCallback)
    log.trainer = trainer
    seconds = _train(trainer, out)
    _limit(spec, prepared, len(collator.broken))
    result: dict[str, Any] = {
        "steps": steps,
        "seconds": round(seconds, 3),
        "samples_per_second": round(data.read / seconds, 1),
        **_volume(prepared.examples, batches, steps, lazy),
        "losses": log.losses,
        "dropped": prepared.counts | ({"broken_image_late": len(collator.broken)} if collator.broken else {}),
    }
    record = {"identity": identity, "spec": spec.model_dump(), "result": result}
    _write(trainer, spec, base, processor, out, record)
    return result


def _prepare(spec: FitSpec, examples: Sequence[Any], renderer: Renderer) -> Prepared:
    """All examples rendered and checked; TooManyBad or ValueError when too few are left."""
    prepared = prepare(examples, renderer, max_length=spec.max_length, too_long=spec.too_long)
    _limit(spec, prepared)
    if not prepared.examples:
        raise ValueError("no examples to train on")
    return prepared


def _limit(spec: FitSpec, prepared: Prepared, late: int = 0) -> None:
    """TooManyBad above `max_bad_fraction`; `late` examples turned out to be bad during the training."""
    total = len(prepared.examples) + len(prepared.rejected)
    bad = prepared.bad + late
    if bad > spec.max_bad_fraction * total:
        counts = prepared.counts | ({"broken_image_late": late} if late else {})
        raise TooManyBad(counts, total, spec.max_bad_fraction)


TIMES = ("seconds", "samples_per_second")
"""Entries of the result that differ between equal trainings, kept apart so that fit.json does not."""


def _identity(spec: FitSpec, base: str | Path, prepared: Prepared, lazy: bool, keep_adapters: bool) -> str:
    """Hash of everything that decides the outcome, so that a resume never continues another training."""
    digest = hashlib.sha256(spec.model_dump_json().encode() + b"adapters" * keep_adapters)
    digest.update(checkpoint_hash(base).encode())
    digest.update(str(len(prepared.examples)).encode())
    names = {} if lazy else _image_names(prepared.examples)
    for example in [] if lazy else prepared.examples:
        for array in (example.input_ids, example.labels):
            digest.update(array.tobytes())
        digest.update(repr([names.get(str(p), "drawn") for p in example.images]).encode())
    return digest.hexdigest()


def _image_names(examples: Sequence[Encoded]) -> dict[str, str]:
    """Image path -> path below the folder that all images share: a moved data set is still the same."""
    paths = {str(p) for example in examples for p in example.images if isinstance(p, (str, Path))}
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return {path: os.path.relpath(path, shared) for path in paths}


def _finished(out: Path, identity: str) -> dict[str, Any]:
    """The result of the finished training in `out`; FileExistsError when it is not this training."""
    record = json.loads((out / "fit.json").read_text()) if (out / "fit.json").exists() else {}
    if record.get("identity") != identity:
        raise FileExistsError(
            f"{out} holds another finished checkpoint: remove it or train into another directory"
        )
    times = json.loads((out / "fit.times.log").read_text())
    return record["result"] | times


def _start_folder(out: Path, identity: str, rejected: list[Rejected]) -> None:
    """Prepare `out`, and remove what another, unfinished training left there."""
    marker = out / "checkpoints" / "identity"
    if marker.parent.exists() and (not marker.exists() or marker.read_text() != identity):
        shutil.rmtree(marker.parent)
        shutil.rmtree(out / ADAPTERS, ignore_errors=True)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)
    (out / "fit.rejected.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in rejected))


def _batches(spec: FitSpec, prepared: Prepared, lazy: bool) -> PlannedBatches:
    """The batches of this rank."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    lengths = None
    if spec.grouping == "length":
        if lazy and not hasattr(prepared.examples, "lengths"):
            raise ValueError(
                "grouping 'length' needs a list of examples, or lazy data with a method lengths()"
            )
        own: Any = prepared.examples
        lengths = own.lengths() if lazy else np.array([len(e) for e in own])
    micro = spec.micro_batch or math.ceil(spec.batch_size / world)
    accumulation = math.ceil(spec.batch_size / (world * micro))
    return PlannedBatches(
        len(prepared.examples),
        spec.batch_size,
        spec.seed,
        lengths=lengths,
        rank=rank,
        world=world,
        accumulation=accumulation,
    )


def _arguments(spec: FitSpec, out: Path, steps: int, batches: PlannedBatches) -> OneDeviceArguments:
    return OneDeviceArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=math.ceil(spec.batch_size / (batches.world * batches.accumulation)),
        gradient_accumulation_steps=batches.accumulation,
        learning_rate=spec.lr,
        lr_scheduler_type="constant_with_warmup" if spec.schedule == "constant" else spec.schedule,
        warmup_steps=math.ceil(spec.warmup * steps),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        seed=spec.seed,
        bf16=spec.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        deepspeed=read_config(spec.deepspeed) if spec.deepspeed else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if spec.save_steps else "no",
        save_steps=spec.save_steps or 500,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )


def _model(spec: FitSpec, base: str | Path, world: int) -> Any:
    """The model ready to train. Call it after `_arguments`, which make ZeRO-3 shard the model on loading."""
    model, processor = load(
        base, dtype=torch.bfloat16 if spec.deepspeed and spec.precision == "bf16" else torch.float32
    )
    set_aspect(processor, image_mode(model), spec.image_aspect, spec.image_grids, model.config)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    answer_only_logits(model)
    if world > 1:
        touch_vision(model.model)
    freeze(model, spec.freeze)
    if not spec.lora:
        return model
    set_seed(
        spec.seed
    )  # loading draws random numbers, and different ones under ZeRO-3; adapters must not depend on it
    return add_lora(model, **spec.lora.model_dump())


def _train(trainer: PlannedTrainer, out: Path) -> float:
    """Train, from the newest complete checkpoint if there is one; returns seconds."""
    checkpoint = last_complete(out / "checkpoints")
    begin = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return time.monotonic() - begin


def _volume(examples: Sequence[Encoded], batches: PlannedBatches, steps: int, lazy: bool) -> dict[str, Any]:
    """Samples, and tokens without padding, of the whole schedule; tokens of lazy data are unknown (None)."""
    samples = tokens = 0
    lengths = np.zeros(0, dtype=int) if lazy else np.array([len(e) for e in examples])
    for epoch in range(math.ceil(steps / batches.steps)):
        plan = global_batches(batches.count, batches.batch_size, batches.seed, epoch, batches.lengths)
        for indices in islice(plan, steps - epoch * batches.steps):
            samples += len(indices)
            tokens += 0 if lazy else int(lengths[indices].sum())
    return {"samples_seen": samples, "tokens": None if lazy else tokens}


def _write(
    trainer: PlannedTrainer,
    spec: FitSpec,
    base: str | Path,
    processor: Any,
    out: Path,
    record: dict[str, Any],
) -> None:
    """Rank 0 writes the checkpoint; all ranks take part where weights are sharded."""
    if spec.deepspeed:
        model = gathered(trainer, lambda: _model(spec.model_copy(update={"deepspeed": None}), base, world=1))
    else:
        model = trainer.model
    if not trainer.args.should_save:
        return
    result = record["result"]
    times = {name: result[name] for name in TIMES}
    (out / "fit.times.log").write_text(json.dumps(times))
    kept = {name: value for name, value in result.items() if name not in TIMES}
    (out / "fit.json").write_text(json.dumps({**record, "result": kept}, indent=1))
    save_checkpoint(_plain(model), processor, out)
    shutil.rmtree(out / "checkpoints")


def _plain(model: Any) -> PreTrainedModel:
    """Adapters merged, and without the `use_cache` that Trainer writes into the config."""
    model = merge_lora(model)
    vars(model.config).pop("use_cache", None)
    return model


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Seed the block; afterwards restore random states and environment, and clear accelerate's singletons.

    Without this, a second training in the same process would differ from one in a fresh process: accelerate
    keeps precision and device of the first in process-wide state, which only its `_reset_state` clears.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment = {k: v for k, v in os.environ.items() if k.startswith("ACCELERATE_")}
    alone = (
        not inside_torchrun()
    )  # in a rank, that state holds the process group that start_engine brought up
    if alone:
        AcceleratorState._reset_state(True)
    set_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for key in [k for k in os.environ if k.startswith("ACCELERATE_")]:
            del os.environ[key]
        os.environ.update(environment)
        if alone:
            AcceleratorState._reset_state(True)
