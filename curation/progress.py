"""Progress of a long computation: a live bar with the remaining time in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Receives (done, total)."""


@contextmanager
def shown(name: str, every: float = 10.0) -> Iterator[Progress]:
    """Show the calls of the yielded callback on stderr; plain lines are at least `every` seconds apart."""
    if not sys.stderr.isatty():
        yield plain_lines(name, every)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]} samples/s"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, speed="?")

        def report(done: int, total: int) -> None:
            rate = bar.tasks[task].speed
            bar.update(task, completed=done, total=total, speed=f"{rate:.1f}" if rate else "?")

        yield report


def plain_lines(
    name: str,
    every: float,
    write: Callable[[str], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """A callback that writes `name: done of total (percent), samples/s, time left`.

    The speed is measured since the previous line.
    """
    write = write or (lambda line: print(line, file=sys.stderr, flush=True))
    last_time = 0.0
    last_done: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal last_time, last_done
        now = clock()
        if last_done is None or done == 0:
            # The first call comes after loading: neither loading nor kept rows count towards the speed.
            last_time, last_done = now, done
        if done == 0 or (now - last_time < every and done < total):
            return
        rate = (done - last_done) / (now - last_time) if now > last_time else 0.0
        speed = f", {rate:.1f} samples/s" if rate else ""
        left = f", {duration((total - done) / rate)} left" if rate and done < total else ""
        write(f"{name}: {done:,} of {total:,} ({done / total:.0%}){speed}{left}")
        last_time, last_done = now, done

    return report


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
