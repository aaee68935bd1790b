"""A thin subclass of the Hugging Face Trainer: rates per part, planned batches, states of any engine."""

from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from curation import killpoints
from training.checkpoints import CheckpointError, Engine, explained, step_of
from training.distributed import check_engine
from training.families import of_config
from training.loader import ABOUT, Late, Waiting, batches_of, end_workers
from training.loss import filler_factor
from training.meters import Meters
from training.plan import PlannedBatches
from training.quarantine import LATE
from training.saving import named_weights, write_weights
from training.states import RESUME_FILE, restore


class OneDeviceArguments(TrainingArguments):
    """One process drives one GPU: Trainer would otherwise split batches over all visible GPUs."""

    @property
    def n_gpu(self) -> int:
        """Number of GPUs that this process uses: 0 or 1."""
        return min(super().n_gpu, 1)


def param_groups(model: Any, lr: dict[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups per (part, decay), every trained parameter once; biases and norms are not decayed."""
    family = of_config(model.config)
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = family.part_of(name)
        dims = len(getattr(parameter, "ds_shape", parameter.shape))  # a ZeRO-3 shard itself is flat
        decay = weight_decay if dims > 1 else 0.0
        new = {"params": [], "lr": lr[part], "weight_decay": decay, "name": part}
        group = groups.setdefault((part, decay), new)
        group["params"].append(parameter)
    return list(groups.values())


class PlannedTrainer(Trainer):
    """Trainer over PlannedBatches; the loss is the mean over the labels of the global batch.

    With `per_microbatch` it is the mean over the own means of the micro-batches that have labels. A state
    that was saved under another engine than `engine` is translated (training/states.py). `data_collator` is
    an Assembler, whose batches run through `workers` processes; `meters` count them, with the FLOPs `costs`
    (float64 [n], None: unknown) of their examples.
    """

    def __init__(
        self,
        *,
        batches: PlannedBatches,
        part_lr: dict[str, float],
        engine: Engine,
        per_microbatch: bool = False,
        workers: int = 0,
        meters: Meters | None = None,
        costs: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.add_callback(_EngineCheck(self))
        self.batches, self.part_lr, self.engine = batches, part_lr, engine
        self.per_microbatch, self.workers = per_microbatch, workers
        self.meters, self.costs = meters or Meters(ranks=engine.world), costs
        self._weight = 1.0
        self._late: list[Late] = []
        self._reading: Iterator[Any] | None = None
        if per_microbatch:
            self.model_accepts_loss_kwargs = False  # Trainer then passes no num_items_in_batch

    def get_train_dataloader(self) -> DataLoader:
        """The planned batches of this rank. They are sharded already: accelerate must not wrap the loader."""
        data: Any = self.train_dataset
        assembler: Any = self.data_collator
        return batches_of(data, self.batches, assembler, self.workers)

    def close(self) -> None:
        """End the loader's workers."""
        if self._reading is not None:
            end_workers(self._reading)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over the groups of `param_groups`."""
        if self.optimizer is None:
            trained: Any = model or self.model
            groups = param_groups(trained, self.part_lr, self.args.weight_decay)
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = torch.optim.AdamW(groups, betas=betas, eps=self.args.adam_epsilon, fused=True)
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The model's own loss."""
        inputs.pop("branch_index", None)
        # Under causal attention no token sees the right padding, and without a mask sdpa takes its fast path.
        if (mask := inputs.get("attention_mask")) is not None and mask.dim() == 2:
            inputs.pop("attention_mask")
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        killpoints.reach("inside step")
        if not self.per_microbatch:
            return found
        return (self._weight * found[0], found[1]) if return_outputs else self._weight * found

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """As in Trainer, but a global batch without any label (all muted) has loss 0, not 0/0.

        With `per_microbatch`, also the factor that makes Trainer's mean over all micro-batches one over those
        that have labels: fillers, and examples whose image is broken, do not weigh.
        """
        self._reading = epoch_iterator  # after a resume, of another loader than `get_train_dataloader` gave
        waiting = Waiting(epoch_iterator, self.meters)
        samples, labels = super().get_batch_samples(waiting, num_batches, device)
        for batch in samples:
            about = batch.pop(ABOUT)
            flops = 0.0 if self.costs is None else float(self.costs[list(about.rows)].sum())
            self.meters.add(replace(about.counts, flops=flops))
            self._late += about.late
        if self.per_microbatch:
            own = [batch["labels"] for batch in samples]
            self._weight = filler_factor(own, self._total, self.engine.world)
        return samples, labels.clamp(min=1) if torch.is_tensor(labels) else labels

    def _total(self, count: int) -> int:
        """The sum of a number over the ranks."""
        total = torch.tensor(count, device=self.args.device)
        if self.engine.world > 1:
            torch.distributed.all_reduce(total)
        return int(total)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer; with a step's loss, its meters are settled and its broken examples are logged."""
        entry: dict[str, Any] = dict(logs)
        if "loss" in logs and (late := self._settled()):
            entry[LATE] = [list(astuple(one)) for one in late]
        super().log(entry, start_time)

    def _settled(self) -> list[Late]:
        """The examples that a step has found to be broken on any rank; its meters are added up."""
        late, self._late = self._late, []
        counts, loads = self.meters.own()
        if self.engine.world == 1:
            self.meters.step()
            return late
        mine = torch.tensor([*counts, *loads, len(late)], dtype=torch.float64, device=self.args.device)
        gathered = [torch.empty_like(mine) for _ in range(self.engine.world)]
        torch.distributed.all_gather(gathered, mine)
        ranks = [numbers.tolist() for numbers in gathered]
        self.meters.step([(numbers[: len(counts)], numbers[len(counts) : -1]) for numbers in ranks])
        if not any(numbers[-1] for numbers in ranks):
            return []
        parts: list[Any] = [None] * self.engine.world
        torch.distributed.all_gather_object(parts, late)
        return [one for part in parts for one in part]

    # ------------------------------------------------------------------------------ states to resume from

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what a resume needs (not a usable checkpoint): trained parameters, under in-memory names.

        Trainer's own save and load write Hugging Face names and read them back without translation, so that a
        resumed LLaVA model silently keeps the weights it started with. DeepSpeed saves and loads its engine
        by itself.
        """
        if output_dir is None:
            raise ValueError("save_model needs an output_dir")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        killpoints.reach("before save")
        if not self.is_deepspeed_enabled and self.args.should_save:
            write_weights(named_weights(self._trained().items()), Path(output_dir) / RESUME_FILE)
        killpoints.reach("inside save")  # the optimizer's state is still to be written

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        # Private methods of Trainer are overridden here and below because it has no public ones for states.
        # If they are renamed, the tests that kill, resume and fill the disk fail.
        with explained(Path(str(self.args.output_dir))):
            super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        killpoints.reach(
            "optimizer saved"
        )  # the random states and Trainer's counters are still to be written
        super()._save_rng_state(output_dir)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if self._foreign(resume_from_checkpoint):
            return
        current = self._trained()
        with safe_open(Path(resume_from_checkpoint) / RESUME_FILE, "pt") as saved:
            if set(saved.keys()) != current.keys():
                raise CheckpointError(f"{resume_from_checkpoint} has other parameters than this training")
            for name, parameter in current.items():
                parameter.copy_(saved.get_tensor(name))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume: str | None) -> Any:
        foreign = self._foreign(resume)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None if foreign else resume)
        if foreign and resume is not None:
            folder = Path(resume)
            names = _in_order_of_optimizer(self.model, self.part_lr, self.args.weight_decay)
            restore(self, folder, Engine.read(folder), step_of(folder), names)
        return prepared

    def _foreign(self, checkpoint: str | None) -> bool:
        """Whether a state has to be translated."""
        return checkpoint is not None and not self.engine.reads(Engine.read(Path(checkpoint)))

    def _trained(self) -> dict[str, torch.Tensor]:
        model: Any = self.model
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Always 0: Trainer's estimate walks all parameters at every step and ignores the vision tower."""
        return 0


class _EngineCheck(TrainerCallback):
    """Refuses to train without the requested engine: accelerate can silently fall back to another."""

    def __init__(self, trainer: PlannedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare the engine with the settings. Raises WrongEngine."""
        check_engine(self.trainer.model_wrapped, args.deepspeed)


def _in_order_of_optimizer(model: Any, lr: dict[str, float], weight_decay: float) -> list[str]:
    """Names of the trained parameters in the order in which the optimizer counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, lr, weight_decay)
    return [names[id(parameter)] for group in groups for parameter in group["params"]]
