"""Small copies of images as text for a page, or why an image has none."""

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from curation.pool.errors import PoolError
from curation.pool.image_check import FORMATS, Check
from curation.pool.images import rgb, strict_decoding
from curation.pool.isolated import Lost, WorkersFail, run
from curation.pool.reasons import short
from curation.progress import Progress

SIDE = 160
"""Pixels of a copy's longer side."""
_QUALITY = 75
_SECONDS = 60.0
_CHUNK = 16

Picture = dict[str, Any]
"""width, height (of the image, upright) and jpeg (base64); or reason and detail."""


def pictures(
    check: Check, names: Sequence[str], *, workers: int, limit: int, on_progress: Progress | None = None
) -> Iterator[Picture]:
    """One picture for each name, in order. They are decoded in processes, which a hostile file may end.

    limit: characters of all copies together; an image beyond it has the reason `page_full`. Raises PoolError
    if processes cannot start.
    """
    made: list[Picture] = [{}] * len(names)
    done = 0
    try:
        for start, results in run(partial(small, check), names, workers, chunk=_CHUNK, seconds=_SECONDS):
            for at, result in enumerate(results, start):
                made[at] = _failed("image_crash", result.why) if isinstance(result, Lost) else result
            done += len(results)
            if on_progress:
                on_progress(done, len(names))
    except WorkersFail as error:
        raise PoolError(f"{error}; the images cannot be decoded") from error
    for picture in made:
        limit -= len(picture.get("jpeg", ""))
        yield picture if limit >= 0 else _failed("page_full", "the page holds no more pictures")


def small(check: Check, name: str) -> Picture:
    """The small copy of an image that the check lets pass. Never raises for a file."""
    facts = check(name)
    if facts.reason is not None:
        return _failed(facts.reason, _without_folder(facts.detail or "", check.root))
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), strict_decoding():
            warnings.simplefilter("ignore")
            with Image.open(check.path(name), formats=FORMATS) as image:
                image.draft("RGB", (SIDE, SIDE))
                picture = rgb(image)
                picture.thumbnail((SIDE, SIDE))
                picture.save(buffer, "JPEG", quality=_QUALITY)
    except Exception as error:  # whatever a damaged file does to its decoder, the page says so
        told = _without_folder(f"{type(error).__name__}: {error}", check.root)
        return _failed("image_broken", told)
    jpeg = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"width": facts.width, "height": facts.height, "jpeg": jpeg}


def _failed(reason: str, detail: str) -> Picture:
    return {"reason": reason, "detail": short(detail)}


def _without_folder(text: str, root: str) -> str:
    """A page may be passed on: it names images as the records do, not by folders of this machine."""
    return text.replace(root.rstrip("/") + "/", "")
