"""JSON written record by record: as one list, or one record a line."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


def write_records(out: Path, values: Iterable[dict[str, Any]], *, lines: bool) -> None:
    """Write `values` as JSON Lines or as a JSON list with one record on each line."""
    with out.open("wb", buffering=1 << 20) as file:
        if not lines:
            file.write(b"[")
        for number, value in enumerate(values):
            if not lines:
                file.write(b",\n" if number else b"\n")
            file.write(msgspec.json.encode(value) + (b"\n" if lines else b""))
        if not lines:
            file.write(b"\n]\n")
