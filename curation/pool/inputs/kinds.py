"""What a file is, by its first bytes; and, for what is not read, its name and what to do."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from curation.pool.errors import PoolArgumentError, PoolError
from curation.pool.inputs.codecs import CODECS, opened
from curation.printable import printable

HEAD_BYTES = 1 << 22
CONVERSATIONS = ("conversations", "messages", "query", "instruction")
"""A record has one of these keys."""
TEXT_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""UTF-32 first: its little-endian mark begins with that of UTF-16."""
_WITHOUT_BOM = {
    "utf-16-le": re.compile(rb"(?:[ \t\r\n]\0)*[\[{]\0(?!\0)"),
    "utf-16-be": re.compile(rb"(?:\0[ \t\r\n])*\0[\[{]"),
}
"""How JSON begins in UTF-16 without a mark."""

_CONVERT = "convert it to Parquet or JSON Lines"
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive", "unpack it and give the folder"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the folder"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it and give the folder"),
    (0, b"BZh", "bzip2", "unpack it (bunzip2); .gz and .zst are read as they are"),
    (0, b"\xfd7zXZ\x00", "xz", "unpack it (unxz); .gz and .zst are read as they are"),
    (0, b"\x04\x22\x4d\x18", "lz4", "unpack it (unlz4); .gz and .zst are read as they are"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", _CONVERT),
    (0, b"ARROW1", "an Arrow IPC file (Feather)", f"{_CONVERT}, or save it with datasets' save_to_disk"),
    (0, b"\xff\xff\xff\xff", "an Arrow IPC stream", "give the folder that datasets' save_to_disk wrote"),
    (0, b"FEA1", "Feather version 1", _CONVERT),
    (0, b"ORC", "ORC", _CONVERT),
    (0, b"Obj\x01", "Avro", _CONVERT),
    (0, b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (0, b"DUCK", "a DuckDB database", _CONVERT),
    (8, b"DUCK", "a DuckDB database", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"%PDF-", "a PDF", "give the records, not the document"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself (git lfs pull)"),
    (4, b"ftyp", "a video (MP4)", "video is not read; give the records"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska, WebM)", "video is not read; give the records"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the records, and the images' folder as --images"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", "give the records, and the images' folder as --images"),
    (0, b"GIF8", "a GIF image", "give the records, and the images' folder as --images"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_HTML = re.compile(rb"\s*<(?:!doctype html|html)", re.I)
_XML = re.compile(rb"\s*<\?xml")
_MIXTURE = re.compile(rb"(?:\s*#[^\n]*\n|\s*---\s*\n)*\s*datasets\s*:", re.S)
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")
_FIRST_PAIR = re.compile(r'\s*\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*', re.S)


class NoRecords(PoolArgumentError):
    """The file can be read, but holds no records: beside others in a folder, it is left out."""


def kind_of(path: Path) -> tuple[str, str | None]:
    """(kind, codec) of a file: `list`, `lines`, `dict`, `mixture`, `parquet`, `tar`; `gzip`, `zstd` or None.

    A kind with an encoding (`list:utf-16`) is text that has to be written again as UTF-8. Raises PoolError,
    with the file's kind and what to do, for all else.
    """
    with path.open("rb") as file:
        head = file.read(512)
    codec = next((name for name, magic in CODECS.items() if head.startswith(magic)), None)
    with opened(path, codec) as file:
        head = file.read(HEAD_BYTES)
    try:
        kind = _kind(path, head)
    except PoolError as error:
        raise type(error)(f"{error} (inside {codec})" if codec else str(error)) from None
    if kind == "parquet" and not codec:
        _check_columns(path)
    if codec and kind in ("parquet", "mixture"):
        raise PoolArgumentError(f"{path} is {kind} inside {codec}; unpack it first")
    return kind, codec


def is_tar(head: bytes) -> bool:
    """Whether the bytes begin a tar archive (the checksum of its first header counts, not only its name)."""
    checksum = head[148:156].strip(b" \0")
    if len(head) < 512 or not re.fullmatch(rb"[0-7]+", checksum):
        return False
    return int(checksum, 8) == sum(head[:148]) + 256 + sum(head[156:512])


def _kind(path: Path, head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    encoding = next((name for bom, name in TEXT_BOMS.items() if head.startswith(bom)), None)
    if encoding := encoding or next((n for n, begin in _WITHOUT_BOM.items() if begin.match(head)), None):
        text = head[: len(head) // 4 * 4].decode(encoding, "ignore")
        return f"{_json_kind(path, head, text)}:{encoding}"
    if not head:
        raise PoolError(f"{path} is empty")
    if is_tar(head):
        return "tar"
    if _MIXTURE.match(head) or (path.suffix in (".yaml", ".yml") and head.lstrip()[:1] not in (b"[", b"{")):
        return "mixture"
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    return _json_kind(path, head, text)


def _json_kind(path: Path, head: bytes, text: str) -> str:
    first = text.lstrip()[:1]
    if first == "[":
        return "list"
    if first == "{":
        return _object_kind(path, text)
    raise PoolArgumentError(_unknown(path, head, text))


def _object_kind(path: Path, text: str) -> str:
    """`lines`, or `dict` for one object whose values are records. Raises PoolArgumentError for others."""
    line, _, rest = text.strip().partition("\n")
    record = _parsed(line)
    if isinstance(record, dict) and (rest.lstrip()[:1] == "{" or any(key in record for key in CONVERSATIONS)):
        return "lines"
    pair = _FIRST_PAIR.match(text)
    if pair and _is_record(_first_value(text, pair.end())):
        return "dict"
    whole = None if path.name.lower().endswith((".jsonl", ".ndjson")) else _parsed(text)
    listed = [key for key, held in whole.items() if _is_list(held)] if isinstance(whole, dict) else []
    if pair and not listed and pair[1] not in CONVERSATIONS and _LIST_OF_OBJECTS.match(text, pair.end()):
        listed = [pair[1]]
    if listed:
        key = printable(listed[0])
        raise NoRecords(
            f"{path} is one JSON object with a list under {key!r}; if these are the records, write that list "
            f"alone: jq '.[\"{key}\"]'"
        )
    if isinstance(whole, dict) and not _is_record(whole):
        keys = ", ".join(map(printable, list(whole)[:8]))
        raise NoRecords(f"{path} is one JSON object that holds no records; its keys are {keys or 'none'}")
    return "lines"


def _first_value(text: str, at: int) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text, at)[0]
    except (ValueError, RecursionError):
        return None


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict)


def _check_columns(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError):  # its reader says what is wrong
        return
    if not set(names) & set(CONVERSATIONS):
        raise NoRecords(
            f"{path} has no column of conversations ({', '.join(CONVERSATIONS)}); its columns are "
            f"{', '.join(map(printable, names[:12]))}"
        )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in CONVERSATIONS)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _unknown(path: Path, head: bytes, text: str) -> str:
    for at, magic, name, advice in _MAGIC:
        if head.startswith(magic, at):
            return f"{path} is {name}, which is not read; {advice}"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return (
            f"{path} is a WebP image, which is not read; give the records, and the images' folder as --images"
        )
    if _PICKLE.match(head):
        return f"{path} is a Python pickle (or a torch file), which can run code; {_CONVERT}"
    if _HTML.match(head):
        return f"{path} is a web page, perhaps an error or a login; download the file again"
    if _XML.match(head):
        return f"{path} is XML, which is not read; {_CONVERT}"
    if b"\0" in head[:4096]:
        return f"{path} is a binary file of unknown kind (it begins with {head[:8].hex(' ')}); {_CONVERT}"
    if path.suffix.lower() in (".csv", ".tsv") or _looks_delimited(text):
        return f"{path} is a table of text (CSV, TSV), which is not read; {_CONVERT}"
    return (
        f"{path} starts with neither '[' (a JSON list) nor '{{' (JSON Lines), but with "
        f"{printable(text.lstrip()[:20])!r}; a pool is built from records with conversations"
    )


def _looks_delimited(text: str) -> bool:
    lines = [line for line in text[:4096].splitlines()[:3] if line]
    counts = [[line.count(mark) for line in lines] for mark in ",\t;"]
    return len(lines) > 1 and any(min(count) == max(count) > 0 for count in counts)
