"""Named points at which a process ends itself by SIGKILL, so that tests can interrupt any step of a run.

    WINNOW_KILL="train[mmssr,0]/step/3" python -m recipes.run ...   # in that stage, at its third step
    WINNOW_KILL="list:points.txt" python -m recipes.run ...         # kill nothing, list the points reached

Without the variable a point costs one look-up. This module is the only one that reads it.
"""

import os
import signal
from collections import Counter

VARIABLE = "WINNOW_KILL"
STAGE = "WINNOW_KILL_STAGE"
"""Carries the stage's name to the processes that a stage starts, such as the ranks of a training."""
_reached: Counter[str] = Counter()


def enter(stage: str) -> None:
    """From here on this process works on `stage`; its points are counted from one."""
    if VARIABLE in os.environ:
        os.environ[STAGE] = stage
        _reached.clear()


def reach(point: str) -> None:
    """End the process here if this is the point that was asked for."""
    if (wanted := os.environ.get(VARIABLE)) is None:
        return
    _reached[point] += 1
    name = f"{os.environ.get(STAGE, 'start')}/{point}/{_reached[point]}"
    if wanted.startswith("list:"):
        with open(wanted.removeprefix("list:"), "a", encoding="utf-8") as listed:
            listed.write(f"{name}\n")
    elif name == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
