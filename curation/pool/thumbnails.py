"""Small JPEGs of images, also of damaged ones, made in a worker process that a hostile file may end."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from curation.pool.isolated import run

SIDE = 160
_SECONDS = 30.0


def write_thumbnails(files: Mapping[Path, Path]) -> set[Path]:
    """Write a thumbnail for each image file (image -> JPEG to write); returns those that have one.

    What a damaged file still gives is shown; its missing part is grey or black.
    """
    pairs = list(files.items())
    made: set[Path] = set()
    for start, results in run(_write, pairs, 1, chunk=8, seconds=_SECONDS):
        made |= {pairs[start + at][0] for at, result in enumerate(results) if result is True}
    return made


def _write(pair: tuple[Path, Path]) -> bool:
    from PIL import Image, ImageFile

    from curation.pool.image_check import FORMATS
    from curation.pool.images import rgb

    warnings.simplefilter("ignore")
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # of this process alone
    try:
        with Image.open(pair[0], formats=FORMATS) as image:
            image.draft("RGB", (SIDE, SIDE))
            small = rgb(image)
            small.thumbnail((SIDE, SIDE))
            small.save(pair[1], "JPEG", quality=80)
    except Exception:  # whatever a damaged file does to its decoder: then there is no picture of it
        pair[1].unlink(missing_ok=True)
        return False
    return True
