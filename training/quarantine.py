"""The examples that a training leaves out: known before it, or found when their image was to be decoded."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from training.plan import Rejected, TooManyBad

LATE = "late"
"""Key of a step's log: [row, name, detail] of each example that the step found to be broken."""
REASON = "broken_image_late"


class Quarantine(TrainerCallback):
    """The list `fit.rejected.jsonl`, the counts by reason, and the limit of bad ones.

    `rejected`: of the input's examples those that are not trained on; `kept`: the number of the others. A
    late one stays in its batch without loss. The log history, which a resume restores, remembers them.
    """

    def __init__(
        self, path: Path, rejected: Sequence[Rejected], kept: int, limit: float, writes: bool
    ) -> None:
        self.path, self.rejected, self.kept = path, list(rejected), kept
        self.limit, self.writes = limit, writes
        self.late: dict[int, Rejected] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples for each reason."""
        return dict(Counter(one.reason for one in [*self.rejected, *self.late.values()]))

    def check(self) -> None:
        """Raise TooManyBad above the limit; those that are too long by policy do not count."""
        total = self.kept + len(self.rejected)
        bad = len(self.late) + sum(one.reason != "too_long" for one in self.rejected)
        if bad > self.limit * total:
            raise TooManyBad(self.counts, total, self.limit)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the list, with the late ones of the steps before a resume."""
        self.late.clear()
        if self.writes:
            self.path.write_text("")
            self._append(self.rejected)
        for entry in state.log_history:
            self._add(entry.get(LATE, ()))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Take over what the step has found. Raises TooManyBad."""
        if logs and LATE in logs:
            self._add(logs[LATE])
            self.check()

    def _add(self, late: Sequence[Sequence[Any]]) -> None:
        """Each example counts once, however often its turn comes."""
        new = {row: (name, detail) for row, name, detail in late if row not in self.late}
        if not new:
            return
        before = np.array([one.index for one in self.rejected], dtype=np.int64)
        places = np.setdiff1d(np.arange(self.kept + len(before)), before)  # row -> its index in the input
        found = {row: Rejected(int(places[row]), name, REASON, text) for row, (name, text) in new.items()}
        self.late |= found
        if self.writes:
            self._append(found.values())

    def _append(self, rejected: Any) -> None:
        with self.path.open("a") as handle:
            handle.writelines(json.dumps(asdict(one)) + "\n" for one in rejected)
