"""What an export must never write over: the pool's source files, pools, subsets, signals and image files."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc

from curation.export.errors import ExportError
from curation.pool.read import Pool

MARKER = "export.json"
"""The file that says that a folder is an export, and so may be replaced by another one."""
_MARKERS = {"pool.json": "pool", "signal.json": "signal folder"}


def check_outputs(
    pool: Pool, subset: Path | None, outputs: Iterable[Path], *, folder: bool, overwrite: bool
) -> None:
    """Raise ExportError if one of `outputs` may not be written.

    Links are followed, and hard links are found by device and inode, because a path says little about which
    file it is. folder: the first of them is to be a folder.
    """
    for number, out in enumerate(outputs):
        if out.is_dir() and not (folder and number == 0):
            raise ExportError(f"{out} is a folder; --out must be the file to write")
        check_place(pool, subset, out)
        if folder and number == 0:
            _check_folder(out, overwrite)
        else:
            _check_file(out, overwrite)


def check_place(pool: Pool, subset: Path | None, out: Path) -> None:
    """Raise ExportError if `out` is, holds or lies in something that the pool or the subset consists of."""
    real = out.resolve()
    for source in pool.files:
        if same_file(out, source):
            raise ExportError(f"{out} is the source file of the pool {pool.folder}; choose another --out")
        if _within(source.resolve(), real):
            raise ExportError(f"{out} holds the source file {source}; choose another --out")
    _check_outside(out, pool.folder, "pool")
    if subset is not None:
        _check_outside(out, subset, "subset")
    for parent in real.parents:
        for marker, noun in _MARKERS.items():
            if (parent / marker).is_file() and not (parent / MARKER).is_file():
                raise ExportError(f"{out} lies in the {noun} {parent}; choose another --out")
    if real == pool.images.resolve() or _within(pool.images.resolve(), real):
        raise ExportError(f"{out} is or holds the image folder {pool.images}; choose another --out")
    if is_image_of(pool, out):
        raise ExportError(f"{out} is an image of the pool {pool.folder}; choose another --out")


def same_file(path: Path, other: Path) -> bool:
    """Whether both are one file, through any links; False if one does not exist."""
    try:
        return os.path.samefile(path, other)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_image_of(pool: Pool, out: Path) -> bool:
    """Whether an existing `out` is an image file of the pool, however its path is spelt, or a hard link."""
    if not out.is_file():
        return False
    names = pool.image_table["path"]
    if out.stat().st_nlink == 1:  # else it may be an image under any name
        likely = pc.or_(pc.ends_with(names, out.name), pc.ends_with(names, out.resolve().name))
        names = names.filter(likely)
    return any(same_file(out, pool.images / name) for name in names.to_pylist())


def _within(path: Path, folder: Path) -> bool:
    return folder in path.parents


def _check_outside(out: Path, folder: Path, noun: str) -> None:
    real, inside = out.resolve(), folder.resolve()
    if real == inside or _within(real, inside):
        raise ExportError(f"{out} lies in the {noun} folder {folder}; choose another --out")
    if _within(inside, real):
        raise ExportError(f"{out} holds the {noun} folder {folder}; choose another --out")
    if any(same_file(out, file) for file in inside.iterdir()):
        raise ExportError(f"{out} is a file of the {noun} folder {folder}; choose another --out")


def _check_file(out: Path, overwrite: bool) -> None:
    if os.path.lexists(out) and not out.is_file():
        raise ExportError(f"{out} is not a regular file; choose another --out")
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists already; choose another --out, or replace it with --overwrite")


def _check_folder(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise ExportError(f"{out} is not a folder; --out must be the folder to write")
    if not (out / MARKER).is_file():
        raise ExportError(f"{out} is a folder of other things (it has no {MARKER}); choose another --out")
    if not overwrite:
        raise ExportError(f"{out} exists already; choose another --out, or replace it with --overwrite")
