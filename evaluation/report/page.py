"""The report as one page of HTML that needs no network: texts, sortable tables, and the figures inside it.

All texts are escaped by the template, and characters that cannot be seen are written out. The page's own
policy allows its one style, its one script and pictures that it holds, and nothing else. Without a script
it shows the same.

write_page(comparison, context, out, figures)     # out/report.html
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation import atomic
from curation.printable import visible
from evaluation.comparison import Comparison
from evaluation.context import Context
from evaluation.report.page_sections import Section, sections

WORDS = ("beats", "equivalent", "loses to", "undecided", "no verdict")
"""What arms can be filtered by."""
_FOLDER = Path(__file__).parent


def write_page(comparison: Comparison, context: Context, out: Path, figures: Sequence[Path]) -> Path:
    """Write `out`/report.html with the drawings `figures` (stems, or files of any of their forms)."""
    path = Path(out) / "report.html"
    atomic.write_text(path, page(context.title, sections(comparison, context, figures)))
    return path


def page(title: str, shown: Sequence[Section]) -> str:
    """The whole file."""
    from markupsafe import Markup

    style, script = (_own(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return _template().render(
        title=title,
        sections=shown,
        words=WORDS,
        policy=Markup(policy),
        style=Markup(style),
        script=Markup(script),
    )


@lru_cache(maxsize=1)
def _template() -> Any:
    """The template. What it prints is escaped, unless it is Markup: our own drawings, style and script."""
    import jinja2
    from markupsafe import Markup

    def printed(value: Any) -> Any:
        return value if isinstance(value, Markup) else visible(str(value))

    environment = jinja2.Environment(
        autoescape=True, finalize=printed, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_own("page.html"))


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
