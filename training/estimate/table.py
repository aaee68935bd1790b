"""Estimates as tables: what trainings cost, and which ZeRO stage of which model fits into which GPU."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from training.estimate.cost import Cost
from training.estimate.gpus import GPUS

GIB = 1 << 30
SHOWN = ("a100_40", "a100_80", "h200")
"""GPUs of the memory table; h100 has the memory of a100_80."""


def cost_table(costs: Mapping[str, Cost], title: str) -> Table:
    """One row for each training: volume, FLOPs, hours, and sizes on disk."""
    table = Table("training", title=title, title_justify="left")
    for column in ("steps", "samples", "tokens", "FLOPs", "GPU hours", "hours", "final", "state", "disk"):
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        volume = (f"{cost.steps:,}", short(cost.samples), short(cost.tokens), f"{cost.flops:.2g}")
        time = tuple("" if hours is None else f"{hours:,.1f}" for hours in (cost.gpu_hours, cost.hours))
        disk = (size(n) for n in (cost.disk.final, cost.disk.state, cost.disk.peak))
        table.add_row(name, *volume, *time, *disk)
    return table


def memory_table(rows: Sequence[tuple[str, Cost]], title: str, gpus: Sequence[str] = SHOWN) -> Table:
    """One row for each (model, cost): memory of a process by purpose, and the GPUs that it fits into."""
    table = Table("model", "ZeRO", title=title, title_justify="left")
    for column in ("parameters", "trained", "states", "activations", "loss", "buffers", "GiB", "host"):
        table.add_column(column, justify="right")
    for gpu in gpus:
        table.add_column(f"{gpu} {GPUS[gpu].gib:.0f}", justify="center")
    last = None
    for name, cost in rows:
        same, memory = name == last, cost.memory
        parts = (memory.states, memory.activations, memory.logits, memory.buffers, memory.gpu, memory.host)
        head = ("", cost.engine.name, "", "") if same else (
            name, cost.engine.name, short(cost.parameters), short(cost.trained)
        )  # fmt: skip
        fits = ("fits" if memory.gpu <= GPUS[gpu].gib * GIB else "-" for gpu in gpus)
        table.add_row(*head, *(f"{part / GIB:.1f}" for part in parts), *fits)
        last = name
    return table


def line(cost: Cost) -> str:
    """An estimate in one line."""
    memory = cost.memory
    words = [f"{cost.steps:,} steps", f"{short(cost.tokens)} tokens", f"{cost.flops:.2g} FLOPs"]
    if cost.gpu:
        words.append(f"{cost.gpu_hours:.1f} {cost.gpu} hours at {cost.mfu:.0%} MFU")
    fits = "" if cost.fits is None else " (fits)" if cost.fits else f" (more than {cost.gpu} has)"
    words.append(f"{size(memory.gpu)} a process under {cost.engine.name}{fits}")
    words.append(f"{size(cost.disk.peak)} of disk")
    return ", ".join(words)


def short(number: float) -> str:
    """A count with three digits: 665k, 7.06B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.0f}"


def size(count: float) -> str:
    """Bytes in GB (10^9), or MB when less."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
