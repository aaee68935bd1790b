"""Answer units in worker processes, one for each GPU, and hand their batches to this process.

    ask(parts, checkpoint, folder, workers=on_workers(spec, 4))

Each worker loads the checkpoint once and takes one unit at a time, so a slow one does not hold up the others.
With GPUs, worker k sees only the k-th of them (CUDA_VISIBLE_DEVICES).
"""

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any

from evaluation.answering import Part, Respondent, Unit, Workers, answer_unit
from evaluation.questions import EvaluationError

Opened = tuple[Sequence[Part], Respondent]
Open = Callable[[], Opened]
"""Opens the parts and the respondent in a worker; must be picklable."""


def on_workers(opened: Open, n: int) -> Workers:
    """`n` worker processes for `ask`. An error in one stops all and is raised with its traceback."""

    def work(units: Sequence[Unit]) -> Iterator[tuple[int, list[tuple[int, str, Any]]]]:
        if units:
            yield from _work(opened, list(units), min(n, len(units)))

    return work


def visible_devices(n: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each of n workers: the GPUs that this process sees, in turn; None without."""
    import torch

    if not torch.cuda.is_available():
        return [None] * n
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]
    return [names[k % len(names)] for k in range(n)]


def _work(opened: Open, units: list[Unit], n: int) -> Iterator[tuple[int, list[tuple[int, str, Any]]]]:
    todo = deque(units)
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        busy = [_start(context, stack, opened, device) for device in visible_devices(n)]
        for end in busy:
            end.send(todo.popleft())
        while busy:
            waiting = wait(busy)
            for end in [end for end in busy if end in waiting]:
                kind, content = _receive(end)
                if kind == "batch":
                    yield content
                elif kind == "failed":
                    raise EvaluationError(f"a worker failed: {content}")
                elif todo:
                    end.send(todo.popleft())
                else:
                    busy.remove(end)


def _start(context: Any, stack: ExitStack, opened: Open, device: str | None) -> Connection:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opened, device), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.terminate)
    stack.callback(ours.close)
    return ours


def _receive(end: Connection) -> tuple[str, Any]:
    try:
        return end.recv()
    except (EOFError, ConnectionResetError):  # the latter if it died before it read what was sent
        return "failed", "its process died without a message (killed, or out of memory)"


def _serve(end: Connection, opened: Open, device: str | None) -> None:
    """A worker's life: units in, batches out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends its workers
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        parts, respondent = opened()
        while True:
            unit = end.recv()
            for batch in answer_unit(parts[unit.part], respondent, unit):
                end.send(("batch", batch))
            end.send(("done", None))
    except EOFError:
        return
    except Exception as error:  # whatever it is, the parent raises it with this traceback
        end.send(("failed", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
