"""Image files checked per CPU second, by format and level, beside plain decoding by Pillow.

OMP_NUM_THREADS=1 python tests/benchmarks/image_audit.py [--files 100] [--workers 2]
"""

import argparse
import resource
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
from curation.pool.images import rgb

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


def in_workers(folder: Path, names: list[str], workers: int) -> str:
    """Wall and CPU seconds of a gate at level full, and the peak memory of the largest worker."""
    wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    gate(names, folder, level="full", workers=workers)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    passed, peak = time.perf_counter() - wall, after.ru_maxrss / 1024
    return (
        f"{len(names):,} JPEGs at level full in {workers} workers: {passed:.1f} s of wall time, {cpu:.1f} s "
        f"of CPU time with their start, peak of a worker {peak:,.0f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
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
        names = [f"{n}.jpg" for n in range(len(images))] * 4
        print(in_workers(folder, names, options.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
