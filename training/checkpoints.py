"""States to resume from, in `out`/checkpoints: when they are saved, when they are complete, what is refused.

`checkpoint-N` holds the state after step N. Its marker COMPLETE, written last, lists its files with their
sizes. The program deletes a complete one only when a newer one is complete, or with the finished training.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers import TrainerCallback

from curation import atomic, killpoints
from training.adapters import FOLDER as ADAPTERS
from training.identity import Identity
from training.interrupt import Interrupted, Signals
from training.models import COMPLETE
from training.saving import SaveError

if TYPE_CHECKING:
    from training.spec import FitSpec

FOLDER, ENGINE = "checkpoints", "engine.json"


class CheckpointError(RuntimeError):
    """A state cannot be resumed from; the message says which file or setting is why, and what to do."""


class AnotherTraining(FileExistsError):
    """A directory holds the checkpoint or the saved states of another training, which are not touched."""


@dataclass(frozen=True)
class Engine:
    """Under what a state was saved: ZeRO stage (None: without DeepSpeed), offload, number of ranks."""

    stage: int | None
    offload: bool
    world: int

    @classmethod
    def of(cls, config: dict[str, Any] | None, world: int) -> Self:
        """What a DeepSpeed config (None: no DeepSpeed) asks for."""
        if config is None:
            return cls(None, False, world)
        zero = config.get("zero_optimization", {})
        offload = zero.get("offload_optimizer", {}).get("device", "none") != "none"
        return cls(zero.get("stage", 0), offload, world)

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """What a state was saved under."""
        return cls(**json.loads((checkpoint / ENGINE).read_text()))

    def reads(self, saved: "Engine") -> bool:
        """Whether this engine reads a state of the other by itself: without DeepSpeed, over any ranks."""
        return self == saved or (self.stage is None and saved.stage is None)

    def __str__(self) -> str:
        name = "no DeepSpeed" if self.stage is None else f"ZeRO-{self.stage}{', offload' * self.offload}"
        return f"{self.world} rank{'s' * (self.world > 1)} ({name})"


# ---------------------------------------------------------------------------------------- the folder


def start_folder(out: Path, identity: Identity, names: Sequence[str] = ()) -> None:
    """Prepare `out` for this training: to go on with its own states, or to begin.

    Raises AnotherTraining when there is a complete state of another one; what is incomplete is removed.
    """
    folder = out / FOLDER
    earlier = Identity.read(folder)
    if earlier is None or earlier.hash != identity.hash:
        if complete := newest_complete(folder):
            reasons = "; ".join(identity.differences(earlier, names))
            raise AnotherTraining(
                f"{out} holds another training, saved in {complete.name}: {reasons}. Run it as it began to "
                f"finish it, train into another directory, or remove {folder} to give it up"
            )
        for left in (folder, out / ADAPTERS):
            shutil.rmtree(left, ignore_errors=True)
        folder.mkdir(parents=True)
        identity.write(folder)
    for torn in folder.glob(
        "checkpoint-*"
    ):  # an interrupted save; its files must not mix with the next one's
        if not (torn / COMPLETE).exists():
            shutil.rmtree(torn)


def refuse_finished(out: Path, identity: Identity) -> None:
    """Raise AnotherTraining when the finished checkpoint in `out` is not this training's."""
    record = json.loads((out / "fit.json").read_text()) if (out / "fit.json").exists() else {}
    if record.get("identity") == identity.hash:
        return
    earlier = Identity(**record["decides"], rows=None) if "decides" in record else None
    reasons = "; ".join(identity.without_rows().differences(earlier) or ["examples differ"])
    raise AnotherTraining(
        f"{out} holds another finished checkpoint: {reasons}. Remove it or train into another directory"
    )


def newest_complete(folder: Path) -> Path | None:
    """The newest state with a marker; one without was interrupted while being written."""
    marked = [mark.parent for mark in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(marked, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which a state was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def to_resume(folder: Path) -> Path | None:
    """The newest complete state, all of whose files are there; None if there is none.

    Raises CheckpointError for one that has lost a file: an older state is never taken silently.
    """
    newest = newest_complete(folder)
    if newest is None:
        return None
    for name, size in json.loads((newest / COMPLETE).read_text()).items():
        file = newest / name
        if file.exists() and file.stat().st_size == size:
            continue
        lost = f"has {file.stat().st_size} bytes instead of {size}" if file.exists() else "is missing"
        raise CheckpointError(
            f"{file} {lost}: restore it, or remove {newest} to resume from an earlier state or from the start"
        )
    return newest


def mark(checkpoint: Path, engine: Engine) -> None:
    """Mark a state as complete: everything is on the disk before the marker is."""
    (checkpoint / ENGINE).write_text(json.dumps(asdict(engine)))
    sizes = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        sizes[file.relative_to(checkpoint).as_posix()] = file.stat().st_size
    killpoints.reach("before mark")
    atomic.write_json(checkpoint / COMPLETE, sizes)
    killpoints.reach("after mark")


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Errors of writing inside the block become SaveError, which says what is still there."""
    try:
        yield
    # PyTorch's writer raises RuntimeError where the disk is full, safetensors its own error.
    except (OSError, RuntimeError) as error:
        kept = newest_complete(folder)
        intact = f"{kept} is intact, resume from it" if kept else "no earlier state was saved"
        free = shutil.disk_usage(folder).free / 1e9
        raise SaveError(f"cannot save into {folder} ({free:.1f} GB free): {error}; {intact}") from error


# ---------------------------------------------------------------------------------------- the cadence


class Saver(TrainerCallback):
    """Says when a state is saved, marks it, deletes older ones, and stops the training on a signal.

    All ranks do the same: rank 0 has the clock, and a signal to any of them counts for all.
    """

    def __init__(self, spec: "FitSpec", engine: Engine, signals: Signals, rank: int) -> None:
        self.steps, self.minutes = spec.save_steps, spec.save_minutes
        self.engine, self.signals, self.rank = engine, signals, rank
        self._stop = 0
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a save if one is due; after the last step the final checkpoint follows instead."""
        if state.global_step >= state.max_steps:
            return
        by_step = self.steps is not None and state.global_step % self.steps == 0
        by_time = self.minutes is not None and time.monotonic() - self._saved >= 60 * self.minutes
        late, self._stop = self._agreed(by_time and self.rank == 0, self.signals.received, args.device)
        control.should_save = bool(by_step or late or self._stop)

    def _agreed(self, late: bool, signal: int, device: torch.device) -> tuple[int, int]:
        """The largest of both values over the ranks."""
        if self.engine.world == 1:
            return int(late), signal
        values = torch.tensor([int(late), signal], device=device)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        late_anywhere, number = values.tolist()
        return late_anywhere, number

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the state once every rank has written its part, then delete older ones.

        Raises Interrupted if a signal asked for this save.
        """
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        self._barrier()
        if self.rank == 0:
            with explained(folder):
                mark(newest, self.engine)
            for other in folder.glob("checkpoint-*"):
                if other != newest:
                    shutil.rmtree(other)
        self._barrier()  # a rank that ends first would end rank 0 before it has written the marker
        self._saved = time.monotonic()
        if self._stop:
            raise Interrupted(self._stop, state.global_step, newest)

    def _barrier(self) -> None:
        if self.engine.world > 1:
            torch.distributed.barrier()
