"""The display of running stages: live bars in a terminal, plain lines elsewhere, a table at the end."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from recipes.task import Outcome


class PlainDisplay:
    """One line for each start, derived value and end of a stage; calls `on_finish` with every outcome."""

    def __init__(
        self,
        console: Console,
        expected: dict[str, float | None],
        on_finish: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.console, self.expected, self.on_finish = console, expected, on_finish
        self.begun = time.monotonic()

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing; there is nothing to close."""

    def start(self, name: str) -> None:
        expected = self.expected.get(name)
        self._line(name, f"starts (about {expected:.0f} s)" if expected else "starts")

    def total(self, name: str, n: int) -> None:
        """Does nothing: counts are not printed."""

    def advance(self, name: str, k: int) -> None:
        """Does nothing: counts are not printed."""

    def say(self, name: str, text: str) -> None:
        self._line(name, text)

    def finish(self, outcome: Outcome) -> None:
        self._line(
            outcome.name, f"{'done' if outcome.state == 'new' else 'cached'} in {outcome.seconds:.1f} s"
        )
        if self.on_finish:
            self.on_finish(outcome)

    def fail(self, name: str, waiting_for: Sequence[str]) -> None:
        self._line(name, "failed")
        if waiting_for:
            names = ", ".join(waiting_for)
            self._line(name, f"no further stage starts; waiting for {names} (Ctrl-C stops them)")

    def _line(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self.begun
        self.console.print(f"{seconds:7.1f}s  {name}: {text}", markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """A bar with the remaining time for each running stage, below the plain lines."""

    def __init__(
        self,
        console: Console,
        expected: dict[str, float | None],
        on_finish: Callable[[Outcome], None] | None = None,
    ) -> None:
        super().__init__(console, expected, on_finish)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[about]}"),
        )
        self.bars = Bars(*columns, console=console, transient=True)
        self.rows: dict[str, Any] = {}

    def __enter__(self) -> "LiveDisplay":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def start(self, name: str) -> None:
        expected = self.expected.get(name)
        about = f"(about {expected:.0f} s)" if expected else ""
        self.rows[name] = self.bars.add_task(name.replace("[", r"\["), total=None, about=about)

    def total(self, name: str, n: int) -> None:
        self.bars.update(self.rows[name], total=n)

    def advance(self, name: str, k: int) -> None:
        self.bars.advance(self.rows[name], k)

    def finish(self, outcome: Outcome) -> None:
        self.bars.remove_task(self.rows.pop(outcome.name))
        super().finish(outcome)

    def fail(self, name: str, waiting_for: Sequence[str]) -> None:
        self.bars.remove_task(self.rows.pop(name))
        super().fail(name, waiting_for)


def display(
    console: Console, expected: dict[str, float | None], on_finish: Callable[[Outcome], None] | None = None
) -> PlainDisplay:
    """A live display in a terminal, a plain one in a file or pipe."""
    return (LiveDisplay if console.is_terminal else PlainDisplay)(console, expected, on_finish)


def stage_table(
    rows: Sequence[tuple[str, str, float | None]],
    title: str,
    columns: Sequence[str] = (),
    cells: Sequence[Sequence[str]] = (),
) -> Table:
    """A table of (stage, state, seconds); unknown seconds are shown as `?`.

    `columns`, `cells`: headings and, for each row, the texts of further columns. No cell is cut or wrapped,
    headings may be; print it with `crop=False`, or a narrow console leaves out the last columns.
    """
    headings = ("stage", "state", "seconds", *columns)
    lines = [
        (name, state, "?" if seconds is None else f"{seconds:.1f}", *(cells[number] if columns else ()))
        for number, (name, state, seconds) in enumerate(rows)
    ]
    return whole_table(title, headings, lines, left=2)


def whole_table(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A table in which no cell is cut or wrapped (headings may be); the first `left` columns hold words."""
    table = Table(title=title, title_justify="left")
    for at, heading in enumerate(headings):
        words = max(map(len, heading.split()))
        width = max([words, *(len(line[at]) for line in lines)])
        table.add_column(heading, justify="left" if at < left else "right", min_width=width)
    for line in lines:
        table.add_row(*(text.replace("[", r"\[") for text in line))
    return table
