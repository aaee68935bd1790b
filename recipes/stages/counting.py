"""From the (done, total) callbacks of the other packages to the steps that a stage's progress counts."""

from collections.abc import Callable
from typing import Any


def counter(progress: Any) -> Callable[..., None]:
    """A callback (done, total, ...) that advances `progress` by the steps since the last call."""
    seen = 0

    def on_progress(done: int, total: int, *_: Any) -> None:
        nonlocal seen
        progress.total(total)
        progress.advance(done - seen)
        seen = done

    return on_progress
