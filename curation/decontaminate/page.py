"""leaks.html: samples and items side by side, to judge by eye whether a leak is one.

One file without scripts, which loads nothing: its images are small copies inside it. All text of the data is
escaped, and the page's own policy forbids everything but its images and styles.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curation.decontaminate.find import KINDS, Leaks
from curation.decontaminate.fingerprints import UNREADABLE
from curation.decontaminate.targets import Targets
from curation.pool.images import rgb, strict_decoding
from curation.printable import visible

if TYPE_CHECKING:
    from curation.pool.read import Pool

EACH = 12
"""Pairs shown of each benchmark and kind, the least certain first."""
SIDE, IMAGES = 256, 4
"""Pixels of an image's longer side, and images of a sample or an item."""
_CHARACTERS = 600
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; border-top: 1px solid #ccc;
  padding: .8rem 0 }
.pair > p { grid-column: 1 / -1; margin: 0; color: #555 } .pair p { overflow-wrap: anywhere }
.pair div { min-width: 0 } img { margin-right: .4rem; border: 1px solid #ddd; max-width: 100% }
.text { white-space: pre-wrap; margin: .4rem 0 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #e8e8e8 } .pair > p { color: #aaa } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(pool: "Pool", targets: Targets, leaks: Leaks, each: int = EACH) -> str:
    """The page of some pairs of each benchmark and kind, with the counts of all."""
    title = f"Leaks of {targets.suite} in a pool of {len(pool):,} samples"
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style>",
        f"<h1>{_text(title)}</h1>",
        *_counts(leaks),
        *_missing(targets),
    ]
    for benchmark in targets.names:
        for kind in KINDS:
            parts += _section(pool, targets, _of(leaks.table, benchmark, kind), f"{benchmark}: {kind}", each)
        title = f"{benchmark}: the same words about another image, no leak unless it is the same one changed"
        parts += _section(pool, targets, _of(leaks.alike, benchmark, "question"), title, each)
    return "\n".join([*parts, "</html>", ""])


def _counts(leaks: Leaks) -> Iterable[str]:
    summary = leaks.summary
    yield (
        f"<p>{summary['leaked_samples']:,} samples share an image or a question with "
        f"{summary['leaked_items']:,} of {summary['items']:,} items: {summary['leaks']:,} pairs.</p>"
    )
    yield "<table><tr><th>kind</th><th>pairs</th></tr>"
    for kind, n in summary["by_kind"].items():
        yield f'<tr><td>{_text(kind)}</td><td class="n">{n:,}</td></tr>'
    yield "</table>"
    yield (
        "<p>image_exact, image_near: the same image with another question; with +question, the question too. "
        "question: the words alone.</p>"
    )


def _missing(targets: Targets) -> Iterable[str]:
    for name, reason in targets.missing.items():
        yield f"<p><strong>{_text(name)} was not compared</strong>: {_text(reason)}</p>"


def _of(table: pa.Table, benchmark: str, kind: str) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.and_(pc.equal(table["benchmark"], benchmark), pc.equal(table["kind"], kind)))


def _section(pool: "Pool", targets: Targets, own: pa.Table, title: str, each: int) -> Iterable[str]:
    if not len(own):
        return
    shown = own.sort_by([("score", "ascending"), ("row", "ascending")]).slice(0, each).to_pylist()
    rest = f", {len(shown)} shown, the least certain first" if len(own) > len(shown) else ""
    yield f"<h2>{_text(title)} ({len(own):,} pairs{rest})</h2>"
    for leak in shown:
        yield _pair(pool, targets, leak)


def _pair(pool: "Pool", targets: Targets, leak: dict[str, Any]) -> str:
    sample, place = pool[leak["row"]], leak["place"]
    asked = "\n".join(turn.question for turn in sample.turns)
    return "\n".join(
        [
            '<div class="pair">',
            f"<p>{_text(leak['detail'])}</p>",
            f"<div><strong>sample {_text(sample.id)}</strong> ({_text(sample.source)})"
            f'<p class="text">{_text(asked)}</p>{_images(sample.images)}</div>',
            f"<div><strong>item {_text(leak['item'])}</strong> of {_text(leak['benchmark'])}"
            f'<p class="text">{_text(targets.questions[place])}</p>{_images(targets.images(place))}</div>',
            "</div>",
        ]
    )


def _text(value: str) -> str:
    """Foreign text, cut, with its control characters shown (line ends stay) and its markup inert."""
    cut = value if len(value) <= _CHARACTERS else value[: _CHARACTERS - 1] + "…"
    return html.escape("\n".join(visible(line) for line in cut.splitlines()))


def _images(images: Sequence[Any]) -> str:
    more = f" and {len(images) - IMAGES} more images" if len(images) > IMAGES else ""
    return "".join(_image(image) for image in images[:IMAGES]) + more


def _image(image: Any) -> str:
    """A small copy of a path, of a file's bytes or of a decoded image, as part of the page."""
    from PIL import Image

    try:
        with strict_decoding():
            if isinstance(image, Path):
                image = image.read_bytes()
            picture = rgb(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image)
            picture.load()
    except UNREADABLE:
        return "<em>an image that cannot be decoded</em>"
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    width, height = picture.size
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" width="{width}" height="{height}" src="data:image/jpeg;base64,{data}">'
