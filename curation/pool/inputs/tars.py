"""WebDataset shards: tar files in which members `KEY.json`, `KEY.jpg`, `KEY.1.jpg`, ... are one record."""

import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from curation.pool.dialects import picture_paths
from curation.pool.errors import PoolError
from curation.pool.inputs.codecs import opened
from curation.pool.inputs.drafts import Drafts
from curation.pool.inputs.pictures import IMAGE_NAME, MAX_BYTES
from curation.pool.reasons import BadRecord
from curation.pool.stream import decode

MAX_JSON_BYTES = 1 << 28
_EVERY = 64


class _Info(tarfile.TarInfo):
    """Notes the archive's end mark: without one, `tarfile` takes a file cut between members for whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Info":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.ended = True  # type: ignore[attr-defined]
            raise


class _Member(NamedTuple):
    """`name`: in the archive; `suffix`: after the key; `data`: None if it was not read; `fault` says why."""

    name: str
    suffix: str
    data: bytes | None
    fault: BadRecord | None = None


def add_records(path: Path, codec: str | None, drafts: Drafts) -> Iterator[None]:
    """Add the records of a shard in order, yielding now and then. Raises PoolError for a damaged archive."""
    for number, (key, members) in enumerate(_groups(_members(path, codec))):
        own_id: Any = key
        try:
            record = _record(key, members)
            own_id = record.get("id", key)
            drafts.add(_with_pictures(record, members, drafts.image_keys), number)
        except BadRecord as bad:
            drafts.add_unreadable(number, own_id, bad)
        if number % _EVERY == 0:
            yield


def _members(path: Path, codec: str | None) -> Iterator[tuple[str, _Member]]:
    last, size = "", 0
    try:
        with opened(path, codec) as file, tarfile.open(fileobj=file, mode="r|", tarinfo=_Info) as archive:
            for info in archive:
                if info.isdir():
                    continue
                info.name = info.name.removeprefix("./")
                folder, _, base = info.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                size = (size if key == last else 0) + (info.size if _is_picture(base) else 0)
                last = key
                yield key, _member(archive, info, suffix.lower(), size)
            if not getattr(archive, "ended", False):
                raise tarfile.ReadError("no end mark")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PoolError(f"{path} is a damaged or cut tar archive ({error}); download it again") from None


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo, suffix: str, together: int) -> _Member:
    """The member with its data. `together`: bytes of its record's images so far, which are held in memory."""
    is_json, limit = suffix == "json", MAX_JSON_BYTES if suffix == "json" else MAX_BYTES
    if not info.isreg():
        return _Member(info.name, suffix, None, BadRecord("image_broken", f"{info.name}: not a regular file"))
    if not (is_json or _is_picture(info.name)):
        return _Member(info.name, suffix, None)
    size = info.size if is_json else together
    if size > limit:
        fault = BadRecord("broken_json" if is_json else "image_too_large", f"{info.name}: {size:,} bytes")
        return _Member(info.name, suffix, None, fault)
    held = archive.extractfile(info)
    return _Member(info.name, suffix, held.read() if held else b"")


def _groups(members: Iterator[tuple[str, _Member]]) -> Iterator[tuple[str, list[_Member]]]:
    """Neighbours with the same key, as WebDataset groups them."""
    last: str | None = None
    group: list[_Member] = []
    for key, member in members:
        if key != last and group:
            yield str(last), group
            group = []
        last = key
        group.append(member)
    if group:
        yield str(last), group


def _record(key: str, members: list[_Member]) -> dict[str, Any]:
    found = [member for member in members if member.suffix == "json"]
    if not found:
        names = ", ".join(member.name for member in members)
        raise BadRecord("bad_conversations", f"{key} has no .json member, only {names}")
    if found[0].fault:
        raise found[0].fault
    record, fault = decode(found[0].data or b"")
    if fault:
        raise BadRecord("broken_json", f"{found[0].name}: {fault}")
    if not isinstance(record, dict):
        raise BadRecord("not_an_object", f"{found[0].name}: {type(record).__name__}")
    return record if record.get("id") is not None else record | {"id": key}


def _with_pictures(
    record: dict[str, Any], members: list[_Member], image_keys: tuple[str, ...]
) -> dict[str, Any]:
    """The record with its pictures as {bytes, path}, in the order in which it names them, else by number.

    Members that it does not use are listed under `_members`, an unknown key.
    """
    pictures = sorted((member for member in members if _is_picture(member.name)), key=_natural)
    key = next((key for key in image_keys if record.get(key)), image_keys[0])
    names = picture_paths(record.get(key), key)
    used = _matched(names, pictures) if names and pictures else pictures
    if fault := next((member.fault for member in used if member.fault), None):
        raise fault
    unused = [member.name for member in members if member.suffix != "json" and member not in used]
    extra = {"_members": unused} if unused else {}
    if not used:
        return record | extra
    paths = names or [member.name for member in used]
    entries = [{"bytes": member.data, "path": path} for member, path in zip(used, paths, strict=True)]
    return record | {key: entries} | extra


def _matched(names: list[str], pictures: list[_Member]) -> list[_Member]:
    """The member of each name: of the same file name, else in order if there are as many."""
    by_name = {posixpath.basename(member.name): member for member in pictures}
    found = [by_name.get(posixpath.basename(name)) for name in names]
    if all(found):
        return [member for member in found if member]
    if len(names) == len(pictures):
        return pictures
    missing = ", ".join(name for name, member in zip(names, found, strict=True) if not member)
    raise BadRecord(
        "image_missing", f"no member {missing}; the shard has {len(pictures)} image(s) of this record"
    )


def _is_picture(name: str) -> bool:
    return IMAGE_NAME.fullmatch(posixpath.basename(name)) is not None


def _natural(member: _Member) -> list[tuple[int, str]]:
    """`2.jpg` before `10.jpg`, and `jpg` (no number) before both."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", member.suffix)
        if part
    ]
