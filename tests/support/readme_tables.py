"""Tables of a README against the rows that the code gives; rows that differ are printed for pasting."""

from collections.abc import Sequence
from pathlib import Path

CELL = "\\|"
"""A vertical bar inside a cell of a Markdown table."""


def row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', CELL) for cell in cells)} |".replace("|  |", "| |")


def check(readme: Path, heading: str, expected: Sequence[str], extra: Sequence[str] = ()) -> None:
    """The table whose header starts with `heading` must hold the rows `expected`, then those of `extra`."""
    lines = iter(readme.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(heading) for line in lines), f"{readme.name} has no table {heading}"
    next(lines)  # alignment
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    wanted = [*expected, *extra]
    assert rows == wanted, f"the rows of the table {heading} in {readme.name} should be:\n" + "\n".join(
        wanted
    )
