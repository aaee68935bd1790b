"""Text of foreign data, such as the names of sources, for the screen and for Markdown."""

import html
import re

MAX_CHARS = 80


def visible(text: str) -> str:
    """The text in one line, control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(text: str) -> str:
    """A name for the screen: visible, cut to `MAX_CHARS`; "(empty)" for no text."""
    shown = visible(text[: MAX_CHARS + 1])
    if not shown.strip():
        return "(empty)"
    return shown if len(shown) <= MAX_CHARS else shown[: MAX_CHARS - 1] + "…"


def inert(text: str) -> str:
    """The whole text for a page in Markdown, where it is text alone: no HTML, link, picture or emphasis."""
    return re.sub(r"([\\\[\]`*])", r"\\\1", html.escape(visible(text), quote=False))


def inert_markdown(text: str) -> str:
    """A name for a page in Markdown: inert, cut to `MAX_CHARS`."""
    return inert(printable(text))


def inert_cell(text: str) -> str:
    """The same in a cell of a table; nothing for no text."""
    return inert_markdown(text).replace("|", "\\|") if text else ""
