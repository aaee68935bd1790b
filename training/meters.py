"""What a training achieves while it runs: tokens and samples a second, MFU, padding, balance, data wait,
memory.

    meters = Meters(ranks=8, peak=flops.peak(torch.cuda.get_device_name()))
    with meters.waiting():
        batch = next(loader)
    meters.add(batch, samples=4, flops=cost)        # each micro-step of this rank
    meters.step()                                   # ... all micro-steps of an optimizer step are done
    meters.record()                                 # {"tokens_per_second": ..., "mfu": ...}

Everything is of this rank until `step` gets the sums over the ranks. Fillers and padding are no tokens: they
take time, which is what `padding` and `balance` show.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from training.flops import mfu

IGNORE = -100


@dataclass
class Counts:
    """What was trained on. `places`: tokens with padding and fillers; the others: without.

    `supervised`: tokens with a label; `image`: tokens that stand for parts of images; `text`: all others;
    `flops`: as training/flops.py counts; `wait`: seconds spent waiting for data.
    """

    places: float = 0
    samples: float = 0
    text: float = 0
    image: float = 0
    supervised: float = 0
    flops: float = 0
    wait: float = 0

    @property
    def tokens(self) -> float:
        """Text and image tokens."""
        return self.text + self.image

    def list(self) -> list[float]:
        """The numbers in the order of the fields, to be added up over ranks."""
        return list(vars(self).values())

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.list(), other.list(), strict=True)))


def count(batch: dict[str, Any], samples: int, image_id: int, pad_id: int, flops: float = 0.0) -> Counts:
    """Counts of a padded or packed batch of the Collator, still on the CPU; `samples` 0: it is a filler.

    Padding is what attention_mask says, or in a pack the tokens `pad_id` of its last segment.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    if not samples:
        return Counts(places=ids.numel())
    real = _real(batch, pad_id)
    image = int(((ids == image_id) & real).sum())
    supervised = int((labels[:, 1:] != IGNORE).sum())
    return Counts(ids.numel(), samples, int(real.sum()) - image, image, supervised, flops)


def _real(batch: dict[str, Any], pad_id: int) -> torch.Tensor:
    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        return mask.bool()
    real = torch.ones_like(batch["input_ids"], dtype=torch.bool)
    if mask is None and "cu_seq_lens_q" in batch:
        start = int(batch["cu_seq_lens_q"][-2])
        if bool((batch["input_ids"][0, start:] == pad_id).all()):
            real[0, start:] = False
    return real


@dataclass
class Meters:
    """Counts of the last step and of all steps, and their rates.

    `ranks`: processes; `peak`: FLOP/s at most of one device, None: no MFU; `clock`: seconds.
    """

    ranks: int = 1
    peak: float | None = None
    clock: Callable[[], float] = time.monotonic
    total: Counts = field(default_factory=Counts)
    steps: int = 0

    def __post_init__(self) -> None:
        self._own, self._last, self._balance = Counts(), Counts(), 1.0
        self._loads: list[float] = []
        self._useful = self._slowest = 0.0
        self._start = self._began = self.clock()
        self._seconds = 0.0

    def start(self) -> None:
        """The training begins now: what came before, such as building the engine, is not its time."""
        self._start = self._began = self.clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in the block counts as waiting for data."""
        begin = self.clock()
        try:
            yield
        finally:
            self._own.wait += self.clock() - begin

    def add(self, counts: Counts) -> None:
        """Count a micro-step of this rank."""
        self._own += counts
        self._loads.append(counts.flops)

    def own(self) -> tuple[list[float], list[float]]:
        """Counts and FLOPs of each micro-step of this rank, for `step`: gather both from all ranks."""
        return self._own.list(), self._loads

    def step(self, ranks: Sequence[tuple[list[float], list[float]]] | None = None) -> None:
        """A step is done. `ranks`: what `own` gave on each rank, all with equally many micro-steps; default:
        this rank's alone."""
        gathered = list(ranks) if ranks is not None else [self.own()]
        self._last = sum((Counts(*counts) for counts, _ in gathered), Counts())
        self.total += self._last
        useful = sum(sum(loads) for _, loads in gathered)
        slowest = sum(max(loads) for loads in zip(*(loads for _, loads in gathered), strict=True))
        self._useful, self._slowest = self._useful + useful, self._slowest + slowest * len(gathered)
        self._balance = useful / (slowest * len(gathered)) if slowest else 1.0
        now = self.clock()
        self._seconds, self._began = now - self._began, now
        self.steps += 1
        self._own, self._loads = Counts(), []

    def record(self) -> dict[str, float | None]:
        """Meters of the last step: for fit.log.jsonl and the tracker."""
        return self._rates(self._last, self._seconds, self._balance)

    def summary(self) -> dict[str, float | None]:
        """Meters of all steps so far: for train.json."""
        balance = self._useful / self._slowest if self._slowest else 1.0
        whole = {name: int(getattr(self.total, name)) for name in ("samples", "text", "image", "supervised")}
        return self._rates(self.total, self._began - self._start, balance) | {
            f"{name}_tokens" if name != "samples" else name: value for name, value in whole.items()
        }

    def line(self) -> str:
        """The last step for the progress line, e.g. "8,120 tok/s, 41 % MFU, 1 % wait"."""
        now = self.record()
        parts = [f"{now['tokens_per_second']:,.0f} tok/s"]
        if now["mfu"] is not None:
            parts.append(f"{100 * now['mfu']:.0f} % MFU")
        return ", ".join([*parts, f"{100 * (now['data_wait'] or 0):.0f} % wait"])

    def _rates(self, counts: Counts, seconds: float, balance: float) -> dict[str, float | None]:
        seconds = max(seconds, 1e-9)
        return {
            "tokens_per_second": round(counts.tokens / seconds, 1),
            "samples_per_second": round(counts.samples / seconds, 3),
            "supervised_per_second": round(counts.supervised / seconds, 1),
            "image_share": round(counts.image / max(counts.tokens, 1), 4),
            "mfu": round(mfu(counts.flops, seconds, self.peak, self.ranks), 4) if self.peak else None,
            "padding": round(1 - counts.tokens / max(counts.places, 1), 4),
            "balance": round(balance, 4),
            "data_wait": round(counts.wait / (seconds * self.ranks), 4),
            "peak_memory_gb": peak_memory_gb(),
        }


def peak_memory_gb() -> float | None:
    """The most GPU memory that PyTorch had allocated in this process, 1e9 bytes; None without a GPU."""
    return round(torch.cuda.max_memory_allocated() / 1e9, 2) if torch.cuda.is_available() else None
