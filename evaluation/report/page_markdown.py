"""Sections of report.md as parts of the page, so that both say the same.

They are read by markdown-it; paragraphs, lists, tables, bold, italics and code become markup, nothing else.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from curation.printable import visible
from evaluation.report.page_parts import Part, lines, plain_table, text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markupsafe import Markup

LEFT_OUT = ["link", "image", "autolink", "html_inline", "html_block", "reference"]
LEFT_OUT += ["heading", "lheading", "blockquote", "code", "fence", "hr"]
"""Rules of Markdown that are not read: what they would make of a text is shown as it stands."""


def parts(markdown: str) -> Iterator[Part]:
    """The paragraphs, lists and tables of a section."""
    tokens = _reader().parse(markdown)
    place = 0
    while place < len(tokens):
        end = _end(tokens, place)
        block = tokens[place:end]
        kind = block[0].type
        if kind == "paragraph_open":
            yield text(_inline(block[1]))
        elif kind in ("bullet_list_open", "ordered_list_open"):
            yield lines(_inline(token) for token in block if token.type == "inline")
        elif kind == "table_open":
            yield plain_table(*_cells(block))
        else:
            raise ValueError(f"the report has a part that its page cannot show: {kind}")
        place = end


def _end(tokens: Sequence["Token"], start: int) -> int:
    """The place after the block that begins at `start`."""
    depth = 0
    for place in range(start, len(tokens)):
        depth += tokens[place].nesting
        if depth == 0:
            return place + 1
    raise AssertionError("markdown-it closes every block")


def _cells(block: Sequence["Token"]) -> tuple[list["Markup"], list[list["Markup"]]]:
    """Header and rows of a table."""
    rows: list[list[Markup]] = []
    for token in block:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_inline(token))
    return rows[0], rows[1:]


def _inline(token: "Token") -> "Markup":
    """Text with bold, italics and code; all else escaped, characters that cannot be seen written out."""
    from markupsafe import Markup

    reader = _reader()
    html = reader.renderer.render(token.children or [], reader.options, {})
    return Markup(" ".join(visible(line) for line in html.splitlines()))


@lru_cache(maxsize=1)
def _reader() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(LEFT_OUT)
    for name in ("em", "strong"):
        for end in ("open", "close"):
            reader.add_render_rule(f"{name}_{end}", _emphasis)
    return reader


def _emphasis(self: Any, tokens: Sequence["Token"], place: int, *_: Any) -> str:
    """Stars are emphasis, underscores belong to names."""
    token = tokens[place]
    if token.markup.startswith("_"):
        return token.markup
    return f"<{'/' if token.nesting < 0 else ''}{token.tag}>"
