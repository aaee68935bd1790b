"""Pieces of a card in Markdown; whatever they quote is text alone."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from curation.printable import inert_cell, visible

_MAX_LINES = 60
"""Lines that one summary may fill; the file that it is of has the rest."""
_MAX_VALUE, _MAX_ITEMS = 400, 40


def text(value: Any) -> str:
    """A quoted value, also within a table."""
    return inert_cell(str(value)) or "(empty)"


def code(value: Any) -> str:
    """A quoted value as code; a table's bars and code's own marks cannot stand in it."""
    shown = visible(str(value))[:_MAX_VALUE].replace("`", "'").replace("|", "¦")
    return f"`{shown}`" if shown.strip() else "(empty)"


def value(held: Any) -> str:
    """A number, text, list or mapping in one line; `none` for what is empty."""
    if isinstance(held, bool) or held is None:
        return "unknown" if held is None else "yes" if held else "no"
    if isinstance(held, int):
        return f"{held:,}"
    if isinstance(held, Mapping):
        if any(isinstance(inner, Mapping | list) for inner in held.values()):
            return code(json.dumps(_portable(held), ensure_ascii=False)) if held else "none"
        return _some([f"{text(key)} {value(inner)}" for key, inner in held.items()])
    if isinstance(held, list):
        return _some([value(inner) for inner in held])
    return text(_portable(held))


def _portable(held: Any) -> Any:
    """The value without folders of the machine that made the card; they say nothing to its readers."""
    if isinstance(held, Mapping):
        return {key: _portable(inner) for key, inner in held.items()}
    if isinstance(held, list):
        return [_portable(inner) for inner in held]
    return os.path.basename(held) if isinstance(held, str) and os.path.isabs(held) else held


def _some(shown: list[str]) -> str:
    more = len(shown) - _MAX_ITEMS
    return ", ".join([*shown[:_MAX_ITEMS], *([f"and {more:,} more"] if more > 0 else [])]) or "none"


def bullets(title: str, lines: Iterable[tuple[str, str]]) -> str:
    """A section of `- key: value`; the values are Markdown already."""
    return f"## {title}\n\n" + "\n".join(f"- {key}: {shown}" for key, shown in lines) + "\n"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A section with a table; the cells are Markdown already."""
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def summary(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, value) of a nested summary, two levels deep, cut to `_MAX_LINES`."""
    lines = list(_flat(held))
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], ("further entries", f"{len(lines) - _MAX_LINES:,}")]
    return lines


def _flat(held: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, inner in held.items():
        if isinstance(inner, Mapping) and any(isinstance(v, Mapping) for v in inner.values()):
            yield from ((f"{text(key)}, {text(name)}", value(part)) for name, part in inner.items())
        else:
            yield text(key), value(inner)


def command(parts: Sequence[str]) -> str:
    """A shell command as a line of a code block; what it quotes can end neither line nor block."""
    return "    " + shlex.join(visible(part) for part in parts)
