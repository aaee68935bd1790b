"""A thin subclass of the Hugging Face Trainer: rates per part, planned batches, markers, engine check."""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from curation import killpoints
from training.models import COMPLETE, part_of
from training.plan import PlannedBatches, check
from training.render import IGNORE, Encoded

RESUME_FILE = "trained.safetensors"
Progress = Callable[[int, int, str], None]


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite."""


class OneDeviceArguments(TrainingArguments):
    """One process drives one GPU: Trainer would otherwise split batches over all visible GPUs."""

    @property
    def n_gpu(self) -> int:
        """Number of GPUs that this process uses: 0 or 1."""
        return min(super().n_gpu, 1)


class Examples(torch.utils.data.Dataset):
    """Examples by index; index -1 - i is example i without loss. `lazy` data is checked when it is read.

    `read` counts the examples that this process has read, fillers excluded.
    """

    def __init__(self, examples: Sequence[Encoded], lazy: bool, max_length: int | None) -> None:
        self.examples, self.lazy, self.max_length = examples, lazy, max_length
        self.read = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Encoded:
        if index < 0:
            return self.examples[-1 - index].muted()
        example = self.examples[index]
        self.read += 1
        if self.lazy:
            check(example, self.max_length)
        return example


def param_groups(model: torch.nn.Module, lr: dict[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups per (part, decay), every trained parameter once; biases and norms are not decayed."""
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        dims = len(getattr(parameter, "ds_shape", parameter.shape))  # a ZeRO-3 shard itself is flat
        decay = weight_decay if dims > 1 else 0.0
        new = {"params": [], "lr": lr[part], "weight_decay": decay, "name": part}
        group = groups.setdefault((part, decay), new)
        group["params"].append(parameter)
    return list(groups.values())


def answer_only_logits(model: PreTrainedModel) -> None:
    """Make `model`, when called with labels, compute logits at the labelled tokens only.

    Loss and gradients equal those of the full logits; with answers of a few tokens and Qwen2's vocabulary of
    152k it saves gigabytes. It replaces `forward` on the instance, so that it also runs inside a DeepSpeed
    engine or under LoRA.
    """
    plain = model.forward

    def forward(labels: torch.Tensor | None = None, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if labels is None:
            return plain(**kwargs)
        # The hidden state at position t predicts the token at t + 1.
        hidden = model.model(**kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        keep = targets != IGNORE
        logits = model.get_output_embeddings()(hidden[keep]).float()
        total = torch.nn.functional.cross_entropy(logits, targets[keep], reduction="sum")
        count = keep.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(loss=total / count, logits=logits)

    model.forward = forward


class PlannedTrainer(Trainer):
    """Trainer over PlannedBatches; the loss is the mean over the labels of the global batch.

    With `per_microbatch` it is the mean over the micro-batches of their own means.
    """

    def __init__(
        self,
        *,
        batches: PlannedBatches,
        part_lr: dict[str, float],
        per_microbatch: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batches, self.part_lr = batches, part_lr
        if per_microbatch:
            self.model_accepts_loss_kwargs = False  # Trainer then passes no num_items_in_batch

    def get_train_dataloader(self) -> DataLoader:
        """The planned batches of this rank. They are sharded already: accelerate must not wrap the loader."""
        data: Any = self.train_dataset
        return DataLoader(data, batch_sampler=self.batches, collate_fn=self.data_collator)

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
        if inputs["attention_mask"].dim() == 2:
            inputs.pop("attention_mask")
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """As in Trainer, but a global batch without any label (all muted) has loss 0, not 0/0."""
        samples, labels = super().get_batch_samples(*args, **kwargs)
        return samples, labels.clamp(min=1) if torch.is_tensor(labels) else labels

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what a resume needs (not a usable checkpoint): trained parameters, under in-memory names.

        Trainer's own save and load write Hugging Face names and read them back without translation, so that a
        resumed LLaVA model silently keeps the weights it started with. DeepSpeed saves and loads its engine
        by itself.
        """
        if output_dir is None:
            raise ValueError("save_model needs an output_dir")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        if not self.is_deepspeed_enabled and self.args.should_save:
            killpoints.reach("before save")
            save_file(self._trained(), Path(output_dir) / RESUME_FILE)
            killpoints.reach("inside save")  # the optimizer's state is still to be written

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        # A private method of Trainer, overridden as the counterpart of save_model. If it is ever renamed,
        # Trainer looks for its own files, and the tests that resume a killed training fail.
        saved, current = load_file(Path(resume_from_checkpoint) / RESUME_FILE), self._trained()
        if saved.keys() != current.keys():
            raise RuntimeError(f"{resume_from_checkpoint} was written by a training of different parameters")
        for name, parameter in current.items():
            parameter.copy_(saved[name])

    def _trained(self) -> dict[str, torch.Tensor]:
        model: Any = self.model
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Always 0: Trainer's estimate walks all parameters at every step and ignores the vision tower."""
        return 0


class StepLog(TrainerCallback):
    """A JSON line per step, progress calls, checks for divergence and the engine, epochs, checkpoint markers.

    `writes`: only rank 0 writes files and reports progress. Set `trainer` before the training starts.
    """

    def __init__(
        self, path: Path, batches: PlannedBatches, on_progress: Progress | None, writes: bool
    ) -> None:
        self.path, self.batches, self.on_progress, self.writes = path, batches, on_progress, writes
        self.trainer: PlannedTrainer | None = None
        self.losses: list[float] = []
        self._last_call = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse to train without the requested engine (accelerate can silently fall back to DDP)."""
        engine = self.trainer and self.trainer.model_wrapped
        if args.deepspeed and type(engine).__name__ != "DeepSpeedEngine":
            raise RuntimeError(
                "a DeepSpeed config was given, but DeepSpeed is not in use: start the training with torchrun"
            )
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if self.writes:
            lines = [json.dumps(entry) + "\n" for entry in state.log_history if "loss" in entry]
            self.path.write_text("".join(lines))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the sampler's epoch, derived from the step so that it is right after a resume too."""
        self.batches.epoch = state.global_step // self.batches.steps

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Record the step's loss; stop with TrainingDiverged when it is not finite."""
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"loss is {logs['loss']} at step {state.global_step}: lower the learning rate"
            )
        self.losses.append(logs["loss"])
        if self.writes:
            with self.path.open("a") as handle:
                handle.write(json.dumps({**logs, "step": state.global_step}) + "\n")
            self._report(state)
        killpoints.reach("step")

    def _report(self, state: Any) -> None:
        """Report progress, at most five times a second."""
        now = time.monotonic()
        done = state.global_step >= state.max_steps
        if self.on_progress and (done or now - self._last_call > 0.2):
            self._last_call = now
            self.on_progress(state.global_step, state.max_steps, f"loss {self.losses[-1]:.4f}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete after every rank has written its part, then delete older ones."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if not self.writes:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        killpoints.reach("before mark")
        (newest / COMPLETE).touch()
        killpoints.reach("after mark")
        for other in Path(args.output_dir).glob("checkpoint-*"):
            if other != newest:
                shutil.rmtree(other)


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` with a marker; one without was interrupted while being written."""
    marked = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(marked, key=lambda p: int(p.name.removeprefix("checkpoint-")), default=None)
