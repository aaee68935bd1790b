"""What a build says on the screen: its steps while they last, and the counts of pool.json."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from curation.printable import printable
from curation.progress import duration

_SHOWN = 8
"""Of a list by frequency, so many entries are printed; pool.json has all."""


class Step:
    """Progress of one step: silent in its first second, then with speed and remaining time.

    In a terminal one line that is written anew, elsewhere a line each ten seconds. `unit`: "B" for bytes.
    """

    def __init__(self, name: str, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._unit, self._clock = name, unit, clock
        self._live = sys.stderr.isatty()
        self._start: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._start is None:
            # What is there from an earlier build comes with the first call; it is no measure of the speed.
            self._start, self._last = (now, done), now if not self._live else now + 0.8
            return
        began, before = self._start
        end = done >= total and now - began > 1
        if not end and now - self._last < (0.2 if self._live else 10):
            return
        self._last = now
        speed = (done - before) / max(now - began, 1e-9)
        left = f", {duration((total - done) / speed)} left" if speed and done < total else ""
        line = f"{self._name}: {done / max(total, 1):.0%} of {amount(total, self._unit)}"
        line += f", {amount(speed, self._unit)}/s{left}"
        print(
            f"\r{line:<78}" if self._live else line,
            end="\n" if end or not self._live else "",
            file=sys.stderr,
        )
        sys.stderr.flush()


def amount(number: float, unit: str) -> str:
    """`812`, `3.2k`, `2.4 GB`."""
    power = 3 if number >= 1e9 else 2 if number >= 1e6 else 1 if number >= 1e3 else 0
    prefix, number = ("", "k", "M", "G")[power], number / 1000**power
    digits = f"{number:.0f}" if not prefix or number >= 100 else f"{number:.1f}"
    return f"{digits}{' ' if unit else ''}{prefix}{unit}"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What the user should know of a pool, from its pool.json. Text of the data is made harmless."""
    ids, audit = summary["ids"], summary["audit"]
    lines = [f"note: {note}" for note in summary["notes"]]
    lines.append(f"quarantined: {_listed(summary['quarantined']) or 'none'}")
    lines.append(f"ids replaced by content hashes: {ids['missing']:,} missing, {ids['repeated']:,} repeated")
    if summary["sources"].keys() - {"text_only"} == {"unknown"}:
        lines.append(
            "all sources are unknown: name the key that holds them with --source-key, or check the image "
            "paths, whose first folders are the sources otherwise (--source-depth)"
        )
    else:
        lines.append(f"sources: {_listed(summary['sources'])}")
    if summary["unknown_keys"]:
        lines.append(f"keys that were not read: {_listed(summary['unknown_keys'])}")
    if summary["control_tokens"]:
        lines.append(
            f"control tokens in texts: {summary['control_tokens']:,} (kept, and encoded as plain text)"
        )
    if summary["repeated_content"]:
        lines.append(
            f"samples that repeat another's content under another id: {summary['repeated_content']:,}"
        )
    lines.append(_image_line(audit))
    lines.append(f"pool hash {summary['hash']}")
    return lines


def _image_line(audit: Mapping[str, Any]) -> str:
    repeated = audit["repeated_bytes"]
    counts = {name: audit[name] for name in ("alpha", "turned", "animated") if audit.get(name)}
    parts = [f"{audit['images']:,} ({audit['level']})"]
    parts += [f"{name} {number:,}" for name, number in counts.items()]
    if audit["images"]:
        parts.append(
            "equal files under other paths: not counted (--audit full)"
            if repeated is None
            else f"equal files under other paths: {repeated:,}"
        )
    return f"images: {'; '.join(parts)}"


def _listed(counts: Mapping[str, int]) -> str:
    entries = list(counts.items())
    shown = ", ".join(f"{printable(name)} {number:,}" for name, number in entries[:_SHOWN])
    more = f" and {len(entries) - _SHOWN:,} more" if len(entries) > _SHOWN else ""
    return shown + more
