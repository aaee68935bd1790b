"""The source of a record that names none: a folder of its first image's path."""

import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

UNKNOWN, TEXT_ONLY = "unknown", "text_only"


def of_path(path: str, depth: int) -> tuple[str, str | None]:
    """(source, folder to resolve later) of an image path.

    The source is the first `depth` folders (fewer if there are not as many). A path that is absolute or
    begins with `..` has source `unknown` and its folder: `resolve` knows more once all of them are known.
    """
    head, slash, rest = path.partition("/")
    if depth == 1 and slash and rest and head not in ("", ".", ".."):
        return head, None
    folders = PurePosixPath(path).parts[:-1]
    if folders and folders[0] in ("/", "//", ".."):
        return UNKNOWN, posixpath.normpath(posixpath.dirname(path))
    return _named(folders, depth), None


def resolve(folders: Iterable[str], depth: int = 1, root: Path | None = None) -> dict[str, str]:
    """The source of each distinct folder that `of_path` left open.

    In the image folder `root`: the folders below it, as of a relative path. Elsewhere: the first `depth`
    folders below the one that all absolute (or all `..`) folders outside of `root` share, where a record in
    that shared folder itself stays `unknown`.
    """
    distinct = sorted(set(folders))
    inside = {folder: parts for folder in distinct if (parts := _below(folder, root)) is not None}
    found = {folder: _named(parts, depth) for folder, parts in inside.items()}
    for absolute in (True, False):
        group = [f for f in distinct if f not in inside and f.startswith("/") == absolute]
        shared = len(PurePosixPath(posixpath.commonpath(group)).parts) if group else 0
        found |= {folder: _named(PurePosixPath(folder).parts[shared:], depth) for folder in group}
    return found


def _below(folder: str, root: Path | None) -> tuple[str, ...] | None:
    if root is None:
        return None
    full = PurePosixPath(posixpath.normpath(posixpath.join(root.absolute().as_posix(), folder)))
    for base in {root.absolute(), root.resolve()}:
        if full.is_relative_to(base):
            return full.relative_to(base).parts
    return None


def _named(folders: tuple[str, ...], depth: int) -> str:
    kept = [folder for folder in folders if folder not in ("/", "//", "..", ".")][:depth]
    return "/".join(kept).encode("utf-8", "replace").decode() or UNKNOWN
