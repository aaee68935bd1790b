"""How far a producer is: a live bar with the remaining time in a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]
"""Receives (rows done, rows in all), the first time when work begins: what an earlier run has done is no work of this one."""


@contextmanager
def shown(name: str, every: float = 10.0) -> Iterator[Report]:
    """A callback whose calls are shown on stderr while the block runs; plain lines at least `every` seconds apart."""
    if not sys.stderr.isatty():
        yield plain_lines(name, every)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    speed = TextColumn("{task.fields[speed]} samples/s")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, TimeRemainingColumn(), speed, console=Console(stderr=True)) as bar:
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
) -> Report:
    """A callback that writes `name: done of total (share), samples/s, time left`, the speed being that since the last line."""
    write = write or (lambda line: print(line, file=sys.stderr, flush=True))
    last_time, last_done = 0.0, None

    def report(done: int, total: int) -> None:
        nonlocal last_time, last_done
        now = clock()
        if last_done is None or done == 0:  # the model is loaded now, and work begins
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
