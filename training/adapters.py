"""Adapters of a LoRA training at the end of each epoch, with Adam's moments: LESS computes gradients at them.

    fit(spec, base, samples, out, keep_adapters=True)     # out/adapters/1, out/adapters/2, ...
    kept_adapters(out)                                    # in the order of the training

Each directory is a PEFT adapter with `adam.safetensors` and, written last, `kept.json`: the epoch, the
optimizer steps taken so far, and `lr`, the mean learning rate of the epoch's steps (eta-bar of LESS, arXiv
2402.04333, section 2).
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

if TYPE_CHECKING:
    from training.plan import PlannedBatches
    from training.spec import FitSpec

FOLDER, ADAM, RECORD = "adapters", "adam.safetensors", "kept.json"


class AdapterError(ValueError):
    """Adapters that do not exist or do not match; the message says which, and what to do."""


@dataclass(frozen=True)
class Kept:
    """One kept adapter: directory, mean learning rate of its epoch, optimizer steps taken so far."""

    folder: Path
    lr: float
    step: int

    @property
    def adam(self) -> Path:
        """The file with Adam's state."""
        return self.folder / ADAM


def check_can_keep(spec: "FitSpec") -> None:
    """ValueError unless a training by `spec` has adapters to keep."""
    if not spec.lora:
        raise ValueError("adapters are kept of a LoRA training: set `lora`")


def kept_adapters(out: Path) -> list[Kept]:
    """The adapters that a training with `keep_adapters` left in `out`, first epoch first. AdapterError if
    there are none."""
    records = [
        (json.loads(file.read_text()), file.parent) for file in (Path(out) / FOLDER).glob(f"*/{RECORD}")
    ]
    if not records:
        raise AdapterError(f"{out} holds no adapters: train with LoRA and keep_adapters=True")
    return [
        Kept(folder, record["lr"], record["step"])
        for record, folder in sorted(records, key=lambda pair: pair[0]["epoch"])
    ]


class AdapterKeeper(TrainerCallback):
    """Writes the adapter at the end of each epoch, and at the end of a training that stops within one."""

    def __init__(self, out: Path, batches: "PlannedBatches") -> None:
        self.folder, self.batches = out / FOLDER, batches

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Save the adapter if this step ends an epoch or the training.

        Called after each step, when its learning rate is in the log history (which a resume restores).
        """
        ended = state.global_step % self.batches.steps == 0 or state.global_step == state.max_steps
        if logs is None or "loss" not in logs or not ended:
            return
        epoch = -(-state.global_step // self.batches.steps)
        first = (epoch - 1) * self.batches.steps
        rates = [
            entry["learning_rate"] for entry in state.log_history if "loss" in entry and entry["step"] > first
        ]
        record = {"epoch": epoch, "step": state.global_step, "lr": fmean(rates)}
        save_adapter(kwargs["model"], kwargs["optimizer"], self.folder / str(epoch), record)


def save_adapter(model: Any, optimizer: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write the adapter of `model` (a PeftModel) and Adam's state; rank 0 writes, and all ranks must call it.

    The path of the base model is left out, so that the same training always writes the same bytes.
    """
    weights = [weight for _, weight in _adapter_weights(model)]
    with _whole(weights):
        if _writes():
            model.save_pretrained(folder, save_embedding_layers=False)
    if _writes():
        config = folder / "adapter_config.json"
        config.write_text(
            json.dumps(
                {**json.loads(config.read_text()), "base_model_name_or_path": None}, indent=1, sort_keys=True
            )
        )
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    save_adam(model, optimizer, folder / ADAM)
    if _writes():
        (folder / RECORD).write_text(json.dumps(record))


def save_adam(model: Any, optimizer: Any, path: Path, adapter: str = "default") -> Path:
    """Write Adam's moments (float32) and step count for the LoRA weights of `model` (a PeftModel).

    `optimizer` is PyTorch's, or accelerate's or DeepSpeed's around it; under DeepSpeed all ranks must call
    this, and rank 0 writes. Raises AdapterError if the optimizer has no state of the adapter.
    """
    tensors: dict[str, torch.Tensor] = {}
    steps = _steps(optimizer)
    for name, weight in _adapter_weights(model, adapter):
        plain = plain_name(name.removesuffix(".weight"), adapter)
        for kind in ("exp_avg", "exp_avg_sq"):
            moment = _moment(optimizer, weight, kind)
            if moment is not None:
                tensors[f"{plain}.{kind}"] = moment.detach().float().cpu().contiguous()
    if not tensors or len(steps) != 1:
        raise AdapterError(
            "the optimizer has no state of the adapter, or its weights have taken different numbers of steps"
        )
    if _writes():
        save_file(tensors | {"step": torch.tensor(steps.pop())}, path)
    return path


def _adapter_weights(model: Any, adapter: str = "default") -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if f".{adapter}.weight" in name]


def _writes() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _whole(weights: list[torch.nn.Parameter]) -> AbstractContextManager[Any]:
    """While the block runs, every rank has the whole of these weights, which ZeRO-3 spreads over them."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(weights)
    return context


def _moment(optimizer: Any, weight: torch.nn.Parameter, kind: str) -> torch.Tensor | None:
    """The whole moment of a weight: from the ranks that share it under ZeRO, else from the optimizer."""
    if hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_optimizer_state

        moment: torch.Tensor | None = safe_get_full_optimizer_state(weight, kind)
        return moment
    state = optimizer.state.get(weight)
    return state[kind] if state else None


def _steps(optimizer: Any) -> set[int]:
    """The numbers of steps that the weights (under ZeRO: this rank's share of them) have taken."""
    while hasattr(optimizer, "optimizer"):  # accelerate's and DeepSpeed's wrappers
        optimizer = optimizer.optimizer
    return {int(state["step"]) for state in optimizer.state.values() if "step" in state}


def plain_name(name: str, adapter: str) -> str:
    """A layer's name without PEFT's prefix and suffix:
    `model.language_model.layers.0.self_attn.q_proj.lora_A`."""
    return name.removeprefix("base_model.model.").removesuffix(f".{adapter}")
