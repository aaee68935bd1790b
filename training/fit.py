"""One training in this process, from examples to a Hugging Face checkpoint, with LoRA or without.

    fit(FitSpec(epochs=1, lr=1e-3, batch_size=32), base, samples, out)

`out` holds the checkpoint, `fit.log.jsonl` (a line per step: loss, rate, gradient norm, meters),
`fit.rejected.jsonl`, `fit.json` (spec and result, the same for equal trainings), `fit.times.log` and, written
last, COMPLETE. During the training,
`out/checkpoints/` holds what a resume needs (training/checkpoints.py). `training.launch` starts the processes
of a training that needs several.
"""

import json
import math
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import AutoConfig, PrinterCallback, set_seed

from curation.pool.sample import Sample
from training import flops
from training.adapters import AdapterKeeper, check_can_keep
from training.aspects import set_aspect
from training.attention import choose
from training.blocks import compile_blocks, recompute
from training.checkpoints import FOLDER, Engine, Saver, explained, refuse_finished, start_folder, to_resume
from training.collate import Collator
from training.data import Data
from training.distributed import inside_torchrun, read_config, touch_vision
from training.families import of_config
from training.hub import local_copy
from training.identity import Identity
from training.interrupt import Signals
from training.listed import listed
from training.loader import Assembler, Examples, default_workers, workers_explained
from training.loss import install
from training.meters import Meters
from training.models import (
    COMPLETE,
    add_lora,
    checkpoint_hash,
    freeze,
    image_mode,
    load,
    load_processor,
    quiet,
)
from training.plan import PlannedBatches
from training.quarantine import Quarantine
from training.render import Encoded, Renderer
from training.saving import save_model
from training.spec import FitSpec, LoraSpec
from training.step_log import Progress, StepLog
from training.trainer import OneDeviceArguments, PlannedTrainer

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

    `examples`: those of a token store, or a list or tuple, which is put into a temporary one; bad ones are
    left out and counted. Any other sequence is lazy data: an item is read, as Encoded, when its step comes,
    and a bad one raises RenderError (in a worker: RuntimeError with its text); `grouping="length"` needs its
    method `lengths()` (int[n], any unit), and it cannot be packed. An example whose image cannot be decoded
    when its turn comes is trained without loss, and counted as `broken_image_late`.

    `on_progress(step, steps, message)`. `keep_adapters`: also leave the adapter of each epoch with Adam's
    state in `out`/adapters (training/adapters.py); for LoRA without `train_parts`. Returns steps, seconds,
    samples_seen, tokens, losses (one per step), dropped {reason: count}, doubts (settings that rarely suit
    such a model), samples_per_second and meters (training/meters.py; since the last resume). Raises
    TooManyBad, TrainingDiverged, AnotherTraining when `out` holds another training, CheckpointError for a
    state that cannot be resumed from, SaveError for a disk that is full, StoreMismatch for the store of
    another tokenizer or template, TokenMismatch for an image that has changed, WorkerDied, Interrupted after
    a signal, and ValueError for `keep_adapters` without LoRA, or for a DeepSpeed spec outside torchrun.
    """
    if keep_adapters:
        check_can_keep(spec)
        if spec.train_parts:
            raise ValueError("keep_adapters keeps nothing but adapters: leave `train_parts` empty")
    if spec.deepspeed and not inside_torchrun():
        raise ValueError("a DeepSpeed training runs in torchrun processes: use training.launch.launch")
    with _isolated(spec.seed), quiet(), _in_store(spec, base, examples) as own:
        return _fit(spec, base, own, Path(out), on_progress, keep_adapters)


@contextmanager
def _in_store(spec: FitSpec, base: str | Path, examples: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The examples; those of a list from a token store that exists while the block runs."""
    if not isinstance(examples, (list, tuple)):
        yield examples
        return
    with tempfile.TemporaryDirectory(prefix="winnow-tokens-") as folder:
        yield listed(spec, base, examples, Path(folder))


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
    workers = default_workers() if spec.workers is None else spec.workers
    renderer = Renderer(processor, mode, spec.cache_mb // max(1, workers), spec.render_rules())
    processor.chat_template = renderer.kept_template()
    data = Data.of(spec, examples, renderer, lambda: _shape(base))
    batches = _batches(spec, data)
    identity = Identity.of(
        spec,
        checkpoint_hash(base),
        data.examples,
        lazy=data.lazy,
        world=batches.world,
        keep_adapters=keep_adapters,
    )
    if (out / COMPLETE).exists():
        return _finished(out, identity)

    steps = spec.max_steps or math.ceil(spec.epochs * batches.steps)
    writes = batches.rank == 0
    rejected = out / "fit.rejected.jsonl"
    quarantine = Quarantine(rejected, data.rejected, len(data.examples), spec.max_bad_fraction, writes)
    quarantine.check()
    if not len(data.examples):
        raise ValueError("no examples to train on")
    if writes:
        start_folder(out, identity, data.names)
    _all_ranks(batches)  # none may look for a state to resume from before what is torn is removed
    args = _arguments(spec, out, steps, batches)
    collator = Collator(renderer.pad_id, renderer.loader, mute_broken=True, packed=batches.packs is not None)
    meters = _meters(data, batches)
    log = StepLog(
        out / "fit.log.jsonl",
        batches,
        on_progress,
        writes,
        data.names.__getitem__,
        spec.loss_spike,
        meters,
    )
    engine = Engine.of(read_config(spec.deepspeed) if spec.deepspeed else None, batches.world)
    model, doubts = _model(spec, base, batches.world)
    if writes:
        _say(doubts, steps, on_progress)
    with Signals() as signals:
        trainer = PlannedTrainer(
            model=model,
            args=args,
            train_dataset=Examples(data.examples, data.lazy, spec.max_length),
            data_collator=Assembler(collator, renderer.image_id),
            callbacks=[
                log,
                quarantine,
                *([AdapterKeeper(out, batches)] if keep_adapters else []),
                Saver(spec, engine, signals, batches.rank),
            ],
            batches=batches,
            part_lr=spec.lr_of(),
            engine=engine,
            per_microbatch=spec.loss_norm == "microbatch",
            workers=workers,
            meters=meters,
            costs=data.costs,
        )
        trainer.remove_callback(PrinterCallback)
        seconds = _train(trainer, out)
        result: dict[str, Any] = {
            "steps": steps,
            "seconds": round(seconds, 3),
            "samples_per_second": round(meters.total.samples / seconds, 1),
            "meters": meters.summary(),
            **_volume(data, batches, steps),
            "losses": log.losses,
            "dropped": quarantine.counts,
            "doubts": doubts,
        }
        record = {"identity": identity.hash, "decides": identity.decides(), "spec": spec.model_dump()}
        _write(trainer.model, processor, out, {**record, "result": result}, batches)
    return result


def _shape(base: str | Path) -> flops.Shape:
    """Sizes of the base, as FLOPs depend on them."""
    return flops.Shape.of(AutoConfig.from_pretrained(str(local_copy(base))))


def _meters(data: Data, batches: PlannedBatches) -> Meters:
    """Meters of all ranks; MFU where FLOPs and the device's peak are known."""
    known = data.costs is not None and torch.cuda.is_available()
    return Meters(batches.world, flops.peak(torch.cuda.get_device_name()) if known else None)


TIMES = ("seconds", "samples_per_second", "meters")
"""Entries of the result that differ between equal trainings, kept apart so that fit.json does not."""


def _finished(out: Path, identity: Identity) -> dict[str, Any]:
    """The result of the finished training in `out`. Raises AnotherTraining when it is not this training."""
    refuse_finished(out, identity)
    shutil.rmtree(out / FOLDER, ignore_errors=True)  # left there by a kill right after COMPLETE was written
    times = json.loads((out / "fit.times.log").read_text())
    return json.loads((out / "fit.json").read_text())["result"] | times


def _all_ranks(batches: PlannedBatches) -> None:
    """Wait until every rank is here."""
    if batches.world > 1:
        torch.distributed.barrier()


def _batches(spec: FitSpec, data: Data) -> PlannedBatches:
    """The batches of this rank. Raises ValueError for lazy data that lacks what the settings need."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    micro = spec.micro_batch or math.ceil(spec.batch_size / world)
    by_modality = spec.grouping == "modality_length"
    batches = PlannedBatches(
        len(data.examples),
        spec.batch_size,
        spec.seed,
        lengths=data.need("lengths", "grouping 'length'") if spec.grouping == "length" else None,
        has_image=data.need("has_image", "grouping 'modality_length'") if by_modality else None,
        drop_last=spec.drop_last,
        packs=data.pack_rule(spec.pack_tokens) if spec.pack_tokens else None,
        deal=data.need("lengths", "grouping 'modality_length'") if by_modality else None,
        rank=rank,
        world=world,
        accumulation=math.ceil(spec.batch_size / (world * micro)),
    )
    if spec.pack_tokens:
        epochs = math.ceil(spec.max_steps / batches.steps if spec.max_steps else spec.epochs)
        batches.accumulation = batches.micro_steps(epochs)
    return batches


def _arguments(spec: FitSpec, out: Path, steps: int, batches: PlannedBatches) -> OneDeviceArguments:
    return OneDeviceArguments(
        output_dir=str(out / FOLDER),
        max_steps=steps,
        per_device_train_batch_size=1
        if batches.packs
        else math.ceil(spec.batch_size / (batches.world * batches.accumulation)),
        gradient_accumulation_steps=batches.accumulation,
        learning_rate=spec.lr,
        lr_scheduler_type="constant_with_warmup" if spec.schedule == "constant" else spec.schedule,
        warmup_steps=math.ceil(spec.warmup * steps),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm or 0.0,  # 0: Trainer does not clip
        seed=spec.seed,
        bf16=spec.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=True,  # else Trainer turns it off with gradient checkpointing
        deepspeed=read_config(spec.deepspeed) if spec.deepspeed else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # `Saver` says when
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
    )


def _model(spec: FitSpec, base: str | Path, world: int) -> tuple[Any, list[str]]:
    """The model ready to train, and doubts about the settings (see `FitSpec.doubts`).

    Call it after `_arguments`, which make ZeRO-3 shard the model on loading.
    """
    model, processor = load(
        base, dtype=torch.bfloat16 if spec.deepspeed and spec.precision == "bf16" else torch.float32
    )
    set_aspect(processor, image_mode(model), spec.image_aspect, spec.image_grids, model.config)
    of_config(model.config)  # raises for a family whose names in files are not known
    size = sum(getattr(each, "ds_numel", each.numel()) for each in model.parameters())
    if spec.gradient_checkpointing:
        recompute(model, every=int(spec.gradient_checkpointing))
    if spec.pack_tokens or spec.attention != "auto":
        choose(model, spec.attention, on_gpu=torch.cuda.is_available())
    install(model, spec.loss_chunk)
    if world > 1 or _sees(spec):
        touch_vision(model.model)
    freeze(model, spec.freeze)
    if spec.lora:
        # Loading draws random numbers, and different ones under ZeRO-3; adapters must not depend on it.
        set_seed(spec.seed)
        model = add_lora(model, **spec.lora.model_dump(), train_parts=spec.train_parts)
    if spec.compile:
        compile_blocks(model)
    return model, spec.doubts(size)


def _sees(spec: FitSpec) -> bool:
    """Whether something that an image reaches first is trained: one process then counts a step of texts as
    several do, with gradients of 0, from which Adam's moments and weight decay go on."""
    adapted = spec.lora.parts if spec.lora else ()
    return bool({"vision", "projector"} & {*spec.trained(), *adapted})


def _say(doubts: Sequence[str], steps: int, on_progress: Progress | None) -> None:
    """Report each doubt as progress at step 0, or as a Python warning where nobody follows the progress."""
    for doubt in doubts:
        if on_progress:
            on_progress(0, steps, f"warning: {doubt}")
        else:
            warnings.warn(doubt, stacklevel=2)


def _train(trainer: PlannedTrainer, out: Path) -> float:
    """Train, from the newest complete state if there is one; returns seconds."""
    checkpoint = to_resume(out / FOLDER)
    begin = time.monotonic()
    with workers_explained():  # what ends the workers included: the news of a dead one comes at any time
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.close()
    return time.monotonic() - begin


def _volume(data: Data, batches: PlannedBatches, steps: int) -> dict[str, Any]:
    """Samples, and tokens without padding, of the whole schedule; tokens of lazy data are unknown (None)."""
    samples = tokens = 0
    lengths = None if data.lazy else data.lengths
    for epoch in range(math.ceil(steps / batches.steps)):
        for indices in islice(batches.steps_of(epoch), steps - epoch * batches.steps):
            samples += len(indices)
            tokens += 0 if lengths is None else int(lengths[indices].sum())
    return {"samples_seen": samples, "tokens": None if lengths is None else tokens}


def _write(model: Any, processor: Any, out: Path, record: dict[str, Any], batches: PlannedBatches) -> None:
    """Rank 0 writes the checkpoint; all ranks take part where weights are sharded."""
    writes = batches.rank == 0
    if writes:
        result = record["result"]
        times = {name: result[name] for name in TIMES}
        (out / "fit.times.log").write_text(json.dumps(times))
        kept = {name: value for name, value in result.items() if name not in TIMES}
        (out / "fit.json").write_text(json.dumps({**record, "result": kept}, indent=1))
    with explained(out / FOLDER):
        save_model(model, processor, out, writes=writes)
    if writes:
        shutil.rmtree(out / FOLDER)


@contextmanager
def _isolated(seed: int) -> Iterator[None]:
    """Seed the block; afterwards restore random states and environment, and clear accelerate's singletons.

    Without this, a second training in the same process would differ from one in a fresh process: accelerate
    keeps precision and device of the first in process-wide state, which only its `_reset_state` clears.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment = {k: v for k, v in os.environ.items() if k.startswith("ACCELERATE_")}
    # In a rank, that state holds the process group that start_engine brought up.
    alone = not inside_torchrun()
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
