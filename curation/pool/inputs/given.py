"""The words of inputs: what is given, how much of it is taken, and the files that come of it."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from curation.pool.errors import PoolArgumentError

FORMATS = ("json", "jsonl", "dict", "mixture", "folder", "parquet", "datasets", "hub", "webdataset")
"""Names for --format; without one, the content tells."""

_STRATEGY = re.compile(r"(first|end|random):(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True)
class InputOptions:
    """What records are read by (as in `record.RecordOptions`), and the seed of `random:` samplings."""

    image_key: str | None = None
    source_key: str | None = None
    source_depth: int = 1
    seed: int = 0


DEFAULT = InputOptions()


@dataclass(frozen=True)
class Sampling:
    """A part of a file's records: the `first`, `end` or `random` N, or N % (rounded up), in file order."""

    rule: Literal["first", "end", "random"]
    number: float
    percent: bool
    seed: int = 0

    @classmethod
    def parse(cls, text: str, seed: int = 0, name: str = "") -> "Sampling | None":
        """`all` (None), `first:N`, `end:N%`, `random:N`, as LLaVA-NeXT writes them. Raises ValueError.

        `name` makes the draws of two files of one mixture different.
        """
        if text.strip() == "all":
            return None
        found = _STRATEGY.fullmatch(text.strip())
        if not found:
            raise ValueError(
                f"must be one of all, first:N, first:N%, end:N, end:N%, random:N, random:N%, got {text!r}"
            )
        number, percent = float(found[2]), bool(found[3])
        if (percent and number > 100) or (not percent and not number.is_integer()):
            raise ValueError(f"{text!r} is neither a whole number nor a share of at most 100%")
        return cls(found[1], number, percent, seed + zlib.crc32(name.encode()))  # type: ignore[arg-type]

    def select(self, records: int) -> np.ndarray:
        """The places (int64, ascending) of the records that are taken of so many."""
        wanted = -int(-self.number * records // 100) if self.percent else int(self.number)
        count = min(wanted, records)
        if self.rule == "random":
            drawn = np.random.default_rng(self.seed).choice(records, count, replace=False)
            return np.sort(drawn).astype(np.int64)
        start = records - count if self.rule == "end" else 0
        return np.arange(start, start + count, dtype=np.int64)


@dataclass(frozen=True)
class InputFile:
    """JSON records that can be indexed in place: `layout` "list" (one JSON list) or "lines" (JSON Lines).

    `source`: of its records that name none; None: their images' folder. `take`: the records to take; None:
    all. `unpacked`: each line was written from another format, with the place of its record in the original
    file as `idx`, and, if the record could not be read, `dialects.UNREADABLE`.
    """

    path: Path
    layout: Literal["list", "lines"]
    source: str | None = None
    take: Sampling | None = None
    unpacked: bool = False


@dataclass(frozen=True)
class Prepared:
    """`images`: the folder of unpacked images; None if none were inside. `format`: what the input was.

    `notes`: what a user should know, one line each, such as files of a folder that were left out.
    """

    files: list[InputFile]
    images: Path | None
    format: str
    notes: tuple[str, ...] = ()


def check_options(format: str | None, options: InputOptions) -> None:
    """Raises PoolArgumentError."""
    if format is not None and format not in FORMATS:
        raise PoolArgumentError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    if options.source_depth < 1:
        raise PoolArgumentError(f"--source-depth must be at least 1, got {options.source_depth}")
