"""Adapters of a LoRA training at the end of each epoch, with Adam's moments: LESS computes gradients at them.

    fit(spec, base, samples, out, keep_adapters=True)     # out/adapters/1, out/adapters/2, ...
    kept_adapters(out)                                    # in the order of the training

Each directory is a PEFT adapter with `adam.safetensors` and, written last, `kept.json`: the epoch, the
optimizer steps taken so far, and `lr`, the mean learning rate of the epoch's steps (eta-bar of LESS, arXiv
2402.04333, section 2).
"""

import json
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
    """ValueError unless a training by `spec` has adapters to keep, in one process."""
    if not spec.lora or spec.deepspeed:
        raise ValueError(
            "adapters are kept of a LoRA training in one process: set `lora`, and no `deepspeed`"
        )


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


def save_adapter(model: Any, optimizer: torch.optim.Optimizer, folder: Path, record: dict[str, Any]) -> None:
    """Write the adapter of `model` (a PeftModel) and Adam's state.

    The path of the base model is left out, so that the same training always writes the same bytes.
    """
    model.save_pretrained(folder, save_embedding_layers=False)
    config = folder / "adapter_config.json"
    config.write_text(
        json.dumps(
            {**json.loads(config.read_text()), "base_model_name_or_path": None}, indent=1, sort_keys=True
        )
    )
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    save_adam(model, optimizer, folder / ADAM)
    (folder / RECORD).write_text(json.dumps(record))


def save_adam(model: Any, optimizer: torch.optim.Optimizer, path: Path, adapter: str = "default") -> Path:
    """Write Adam's moments (float32) and step count for the LoRA weights of `model` (a PeftModel).

    Raises AdapterError if the optimizer has no state of them.
    """
    tensors: dict[str, torch.Tensor] = {}
    steps: set[int] = set()
    for name, parameter in model.named_parameters():
        if f".{adapter}.weight" in name and parameter in optimizer.state:
            state = optimizer.state[parameter]
            plain = plain_name(name.removesuffix(".weight"), adapter)
            tensors |= {
                f"{plain}.{kind}": state[kind].detach().cpu().contiguous()
                for kind in ("exp_avg", "exp_avg_sq")
            }
            steps.add(int(state["step"]))
    if len(steps) != 1:
        raise AdapterError(
            "the optimizer has no state of the adapter, or its weights have taken different numbers of steps"
        )
    save_file(tensors | {"step": torch.tensor(steps.pop())}, path)
    return path


def plain_name(name: str, adapter: str) -> str:
    """A layer's name without PEFT's prefix and suffix:
    `model.language_model.layers.0.self_attn.q_proj.lora_A`."""
    return name.removeprefix("base_model.model.").removesuffix(f".{adapter}")
