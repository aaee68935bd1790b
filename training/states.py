"""Resuming under another engine or number of ranks than the state was saved under.

Parameters and Adam's moments are read by name from either kind of state - without DeepSpeed, or ZeRO 1 to 3,
which DeepSpeed's own converter lays out by parameter - and set in the engine in use, one parameter at a time.
Between two engines the numbers are the same; what follows differs by rounding, since other sums are formed.
"""

import contextlib
import io
import shutil
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from training.checkpoints import CheckpointError, Engine

MOMENTS = ("exp_avg", "exp_avg_sq")
RESUME_FILE = "trained.safetensors"
"""Parameters in a state that was saved without DeepSpeed."""


class State(ABC):
    """A saved state, by names of parameters. `step`: how many updates it has seen."""

    step: float

    @abstractmethod
    def read(self, name: str, kind: str) -> torch.Tensor:
        """`kind` "fp32" (the parameter), "exp_avg" or "exp_avg_sq" of a parameter; any shape, float32."""


class PlainState(State):
    """A state without DeepSpeed: safetensors, and PyTorch's state of the optimizer, which counts parameters.

    `names`: the trained parameters in the optimizer's order.
    """

    def __init__(self, checkpoint: Path, names: Sequence[str]) -> None:
        self._file = checkpoint / RESUME_FILE
        saved = torch.load(checkpoint / "optimizer.pt", mmap=True, weights_only=True, map_location="cpu")
        self._moments = {name: saved["state"][at] for at, name in enumerate(names) if at in saved["state"]}
        self.step = float(next(iter(self._moments.values()))["step"])

    def read(self, name: str, kind: str) -> torch.Tensor:
        if kind != "fp32" and name in self._moments:
            return self._moments[name][kind]
        with safe_open(self._file, "pt") as file:
            value = file.get_tensor(name)
        # A parameter that never had a gradient has no moments here, and zeros under ZeRO.
        return value if kind == "fp32" else torch.zeros_like(value)


class ZeroState(State):
    """A state of ZeRO 1 to 3, as `convert` has laid it out."""

    def __init__(self, folder: Path, step: float) -> None:
        self.folder, self.step = folder / "zero", step

    def read(self, name: str, kind: str) -> torch.Tensor:
        file = self.folder / name / f"{kind}.pt"
        if not file.exists():
            raise CheckpointError(f"{file} is missing: the state has no {kind} of this parameter")
        value = torch.load(file, weights_only=False, map_location="cpu")
        return value["param"] if isinstance(value, dict) else value


def convert(checkpoint: Path, out: Path) -> None:
    """Lay a ZeRO state out by parameter in `out`, with DeepSpeed's converter; needs as much space again."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(out, ignore_errors=True)
    (source,) = checkpoint.glob("global_step*")
    options = Namespace(
        input_folder=str(source),
        output_folder=str(out),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)


def restore(trainer: Any, checkpoint: Path, saved: Engine, step: int, names: Sequence[str]) -> None:
    """Set parameters, Adam's moments and the schedule of `trainer` from a state of another engine.

    All ranks must call this. `names`: the trained parameters in the optimizer's order. Raises CheckpointError
    for engines that cannot be translated.
    """
    if 0 in (saved.stage, trainer.engine.stage):
        raise CheckpointError(
            f"{checkpoint} was saved by {saved}, and this is {trainer.engine}: states of ZeRO-0 are not "
            f"translated; resume it with {saved}"
        )
    converted = checkpoint.parent / f"converted-{step}"
    if saved.stage is not None and trainer.batches.rank == 0:
        convert(checkpoint, converted)
    _barrier(trainer)
    state = PlainState(checkpoint, names) if saved.stage is None else ZeroState(converted, float(step))
    parameters = dict(trainer.model.named_parameters())
    with torch.no_grad():
        if trainer.engine.stage is None:
            _into_plain(trainer.optimizer.optimizer, parameters, state, names)
        else:
            _into_zero(trainer.deepspeed, parameters, state, names)
    schedule = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    trainer.lr_scheduler.load_state_dict(schedule)
    # The schedule sets the rate of a step at the end of the one before, so that this one is set by hand.
    for group, rate in zip(trainer.optimizer.param_groups, schedule["_last_lr"], strict=True):
        group["lr"] = rate
    _barrier(trainer)
    if trainer.batches.rank == 0:
        shutil.rmtree(converted, ignore_errors=True)


def _barrier(trainer: Any) -> None:
    if trainer.engine.world > 1:
        torch.distributed.barrier()


def _into_plain(
    optimizer: torch.optim.Optimizer, parameters: dict[str, Any], state: State, names: Sequence[str]
) -> None:
    for name in names:
        own = parameters[name]
        own.copy_(state.read(name, "fp32").view(own.shape))
        moments = {kind: state.read(name, kind).view(own.shape).to(own) for kind in MOMENTS}
        optimizer.state[own] = {"step": torch.tensor(state.step, device=own.device), **moments}


def _into_zero(engine: Any, parameters: dict[str, Any], state: State, names: Sequence[str]) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    _begin_moments(engine.optimizer, state.step)
    for name in names:
        own = parameters[name]
        shape = getattr(own, "ds_shape", own.shape)
        value = state.read(name, "fp32").view(shape).to(own.device)
        safe_set_full_fp32_param(own, value)
        for kind in MOMENTS:
            safe_set_full_optimizer_state(own, state.read(name, kind).view(shape).to(own.device), kind)
        _set_working_copy(own, value)
    engine.global_steps = int(state.step)


def _begin_moments(sharded: Any, step: float) -> None:
    """Give this rank's shares of the moments a place; DeepSpeed itself does so only at the first step."""
    third = hasattr(sharded, "fp32_partitioned_groups_flat")
    shares = sharded.fp32_partitioned_groups_flat if third else sharded.single_partition_of_fp32_groups
    for share in shares:
        sharded.optimizer.state[share] = {
            "step": torch.tensor(step, device=share.device),
            **{kind: torch.zeros_like(share.data) for kind in MOMENTS},
        }
    if not third:
        sharded._lazy_init_hp_params_optimizer_state()  # which part of a share is whose moment


def _set_working_copy(parameter: Any, value: torch.Tensor) -> None:
    """The parameter that the model computes with, beside the float32 one that is updated."""
    if not hasattr(parameter, "ds_id"):
        parameter.copy_(value)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.copy_(value)
