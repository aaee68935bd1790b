"""What is said and checked after each step: a JSON line, progress, and whether the loss is still sane."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from curation import killpoints
from training.checkpoints import newest_complete

if TYPE_CHECKING:
    from training.meters import Meters
    from training.plan import PlannedBatches

Progress = Callable[[int, int, str], None]
WINDOW, FEWEST = 50, 10
"""A spike is measured against the median of so many losses before it, once there are at least FEWEST."""
NAMED = 20
"""How many examples of a step a message names."""


class TrainingDiverged(RuntimeError):
    """The loss or the gradient norm is no longer finite, or the loss is a spike (`loss_spike`)."""


class StepLog(TrainerCallback):
    """A JSON line per step, progress calls, checks for divergence, epochs.

    `name_of`: example index -> its name, for messages. `writes`: only rank 0 writes files and reports.
    `meters` of the step are in its line, and in short in the progress.
    """

    def __init__(
        self,
        path: Path,
        batches: "PlannedBatches",
        on_progress: Progress | None,
        writes: bool,
        name_of: Callable[[int], str] = str,
        spike: float | None = None,
        meters: "Meters | None" = None,
    ) -> None:
        self.path, self.batches, self.on_progress, self.writes = path, batches, on_progress, writes
        self.name_of, self.spike, self.meters = name_of, spike, meters
        self.losses: list[float] = []
        self._last_call = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the log of the steps before a resume, with the meters that their lines have."""
        steps = [entry for entry in state.log_history if "loss" in entry]
        self.losses = [entry["loss"] for entry in steps]
        if self.writes:
            metered = {line["step"]: line for line in read_log(self.path)}
            lines = [json.dumps(metered.get(entry["step"], {}) | entry) + "\n" for entry in steps]
            self.path.write_text("".join(lines))
        if self.meters:
            self.meters.start()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the sampler's epoch, derived from the step so that it is right after a resume too."""
        self.batches.epoch = state.global_step // self.batches.steps

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Record the step's loss. Raises TrainingDiverged, before a bad state can be saved."""
        if logs is None or "loss" not in logs:
            return
        if problem := self._problem(logs):
            raise TrainingDiverged(self._explained(problem, state.global_step, Path(args.output_dir)))
        self.losses.append(logs["loss"])
        if self.writes:
            with self.path.open("a") as handle:
                meters = self.meters.record() if self.meters else {}
                handle.write(json.dumps({**logs, "step": state.global_step, **meters}) + "\n")
            self._report(state)
        killpoints.reach("step")

    def _problem(self, logs: dict[str, Any]) -> str:
        """What is wrong with a step's loss; empty if nothing is."""
        loss, norm = logs["loss"], logs.get("grad_norm") or 0.0
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        before = self.losses[-WINDOW:]
        if self.spike is None or len(before) < FEWEST or loss <= self.spike * median(before):
            return ""
        return f"loss is {loss:.4g}, more than {self.spike:g} times the median {median(before):.4g} before it"

    def _explained(self, problem: str, step: int, folder: Path) -> str:
        kept = newest_complete(folder)
        state = f"the last good state is {kept}" if kept else "no state was saved before it"
        return (
            f"{problem} at step {step}: lower the learning rate, or look at its examples "
            f"({self._names(rows_of_step(self.batches, step))}); {state}"
        )

    def _names(self, rows: Sequence[int]) -> str:
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return ", ".join(self.name_of(row) for row in rows[:NAMED]) + more

    def _report(self, state: Any) -> None:
        """Report progress, at most five times a second."""
        now = time.monotonic()
        done = state.global_step >= state.max_steps
        if self.on_progress and (done or now - self._last_call > 0.2):
            self._last_call = now
            speed = f", {self.meters.line()}" if self.meters else ""
            self.on_progress(state.global_step, state.max_steps, f"loss {self.losses[-1]:.4f}{speed}")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a step log that are whole; [] where there is none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def rows_of_step(batches: "PlannedBatches", step: int) -> list[int]:
    """The indices of the examples of optimizer step `step` (from 1)."""
    epoch, at = divmod(step - 1, batches.steps)
    return batches.steps_of(epoch)[at].tolist()
