"""Image files checked per CPU second, by format and level, beside plain decoding; memory of a worker.

OMP_NUM_THREADS=1 python tests/benchmarks/image_audit.py [--files 100]
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import curation.mini
from curation.pool.image_audit import gate
from curation.pool.image_check import MAX_PIXELS, Check
from curation.pool.images import rgb
from curation.pool.isolated import run

PHOTOS = Path(curation.mini.__file__).parent / "assets" / "photos"
SIZE = (640, 480)
KINDS = {
    "JPEG": ("jpg", {"quality": 90}),
    "PNG": ("png", {}),
    "WebP": ("webp", {"quality": 80}),
    "GIF": ("gif", {}),
    "TIFF": ("tif", {"compression": "tiff_lzw"}),
}


def pictures(n: int, seed: int = 0) -> list[Image.Image]:
    """n different pictures of the size and, as JPEGs, about the bytes of a COCO photograph."""
    photos = [Image.open(path).convert("RGB").resize(SIZE) for path in sorted(PHOTOS.iterdir())]
    random = np.random.default_rng(seed)
    noise = [random.normal(0, 7, (*SIZE[::-1], 3)) for _ in range(n)]
    arrays = [np.asarray(photos[k % len(photos)]) + noise[k] for k in range(n)]
    return [Image.fromarray(array.clip(0, 255).astype(np.uint8)) for array in arrays]


def decode(folder: Path, names: list[str]) -> None:
    """What a loader does at the least."""
    for name in names:
        with Image.open(folder / name) as image:
            rgb(image).load()


def per_cpu_second(work: Callable[[], object], files: int) -> float:
    """Files per CPU second of this process, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return files / min(seconds)


class Peak:
    """Checks a file in a worker, and gives the most memory that the worker has had so far, in MB."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __call__(self, name: str) -> float:
        if name:
            self._check(name)
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def peaks(folder: Path, names: list[str]) -> str:
    """Memory of a worker that has started, has checked photographs, and the largest image that is allowed."""
    side = math.isqrt(MAX_PIXELS)
    Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(folder / "large.png", compress_level=1)
    work = Peak(Check(str(folder), "full"))
    ((_, found),) = run(work, ["", *names, "large.png"], 1, chunk=len(names) + 2)
    return (
        f"peak of a worker: {found[0]:,.0f} MB at its start, {found[-2]:,.0f} MB after {len(names):,} "
        f"photographs, {found[-1]:,.0f} MB after a transparent image of {side:,} x {side:,} pixels"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100, metavar="N")
    options = parser.parse_args()
    images = pictures(options.files)
    print("| format | KB a file | header | full | plain Pillow decode | full beside plain |")
    print("| :-- | --: | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for kind, (suffix, settings) in KINDS.items():
            names = [f"{n}.{suffix}" for n in range(len(images))]
            for name, image in zip(names, images, strict=True):
                image.save(folder / name, **settings)
            size = sum((folder / name).stat().st_size for name in names) / len(names) / 1024
            gate(names[:8], folder, level="full", workers=0)  # loads what it needs
            speeds = [partial(gate, names, folder, level=level, workers=0) for level in ("header", "full")]
            header, full, plain = (
                per_cpu_second(work, len(names)) for work in (*speeds, partial(decode, folder, names))
            )
            print(
                f"| {kind} | {size:,.0f} | {header:,.0f} | {full:,.0f} | {plain:,.0f} | {full / plain:.2f} |"
            )
        print(peaks(folder, [f"{n}.jpg" for n in range(len(images))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
