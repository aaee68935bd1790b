"""The page: one file of HTML with its data, style and script inside, which loads nothing.

All that comes from data is JSON inside a script element that no browser runs, and gets into the page as text
(`textContent`), never as markup. The page's own policy allows its one style, its one script and pictures that
it holds, and nothing else: no request, no form, no inline handler.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

MARKER = '<meta name="generator" content="python -m curation.explore">'
"""Within the first bytes of every page: such a file may be replaced by another page."""
_FOLDER = Path(__file__).parent
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(data: dict[str, Any]) -> str:
    """The whole file. `data`: see `gather`."""
    style, script = (_own(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "marker": MARKER,
        "policy": html.escape(policy, quote=False),
        "title": html.escape(f"{data['name']}: picked and dropped samples"),
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    # One pass: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _own("page.html"))


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element, whatever texts it holds. Raises ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: _ESCAPES[found[0]], text)


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
