"""Read foreign table files: Parquet, JSON Lines, or one JSON list of records.

JSON is read by duckdb in bounded memory (`pip install winnow[io]`); Parquet needs pyarrow only.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.pool.errors import PoolError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".parquet", *JSON_LINES, ".json")
ID_KINDS = ("VARCHAR", "UBIGINT", "BIGINT", "HUGEINT", "UHUGEINT")
"""JSON types of an id: texts and whole numbers, which become text."""
_KIND = "id_json_type"  # a column added by the query, removed again
_MEMORY_MB = 256
_BOM = b"\xef\xbb\xbf"
_SCALARS = {
    "BIGINT": "BIGINT",
    "UBIGINT": "UBIGINT",
    "DOUBLE": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "HUGEINT": "DOUBLE",
}
_TEXTS = ("VARCHAR", "JSON", '"NULL"', "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID")


class TableFileError(PoolError):
    """A table file that cannot be used; the message names it and says what to do."""


class IdTypeError(TableFileError):
    """Ids that are neither texts nor whole numbers."""


@dataclass(frozen=True)
class TableFile:
    """`table` with `id` as text; number of `broken` lines; names of the `ignored` (nested) columns."""

    table: pa.Table
    broken: int = 0
    ignored: tuple[str, ...] = ()


def read_table_file(path: Path, *, lenient: bool = False) -> TableFile:
    """All columns of numbers, texts, or lists of these.

    lenient: lines of JSON Lines that are not JSON objects are left out and counted; otherwise they are an
    error, as a broken Parquet file or JSON list always is. Ids that are whole numbers become text. Raises
    TableFileError.
    """
    path = Path(path)
    if not path.is_file():
        raise TableFileError(f"{path} {'is not a regular file' if path.exists() else 'does not exist'}")
    if path.suffix not in SUFFIXES:
        raise TableFileError(f"the ending of {path} must be one of {', '.join(SUFFIXES)}")
    file = _read_parquet(path) if path.suffix == ".parquet" else _read_json(path, lenient)
    if not len(file.table):
        raise TableFileError(f"{path} holds no records")
    return file


@contextmanager
def readable(path: Path) -> "Iterator[tuple[DuckDBPyConnection, str]]":
    """A duckdb connection with bounded memory, and a file name under which it can read `path`.

    duckdb refuses a byte order mark and expands wildcards in names: the first is cut off in a copy, the
    second avoided by a link with a plain name.
    """
    try:
        import duckdb
    except ImportError as error:
        raise TableFileError(f"reading {path} needs duckdb ({error}): pip install winnow[io]") from error
    with tempfile.TemporaryDirectory(prefix="winnow-") as folder, duckdb.connect() as connection:
        name = Path(folder) / f"file{path.suffix}"
        with path.open("rb") as file:
            if file.read(len(_BOM)) == _BOM:
                _copy(file, name)
            else:
                name.symlink_to(path.resolve())
        connection.execute(
            f"SET memory_limit='{_MEMORY_MB}MB'; SET threads=1; SET temp_directory='{folder}/spill'"
        )
        yield connection, str(name)


def first_repeated(values: pa.ChunkedArray) -> tuple[Any, int] | None:
    """(the first value that occurs more than once, the number of repeating rows), or None."""
    distinct = pc.count_distinct(values, mode="all").as_py()
    if distinct == len(values):
        return None
    counts = pc.value_counts(values).flatten()
    return counts[0].filter(pc.greater(counts[1], 1))[0].as_py(), len(values) - distinct


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception, path: Path) -> str:
    """The first line of a duckdb error, with the file's own name in the place of the temporary one."""
    return re.sub(r'"[^"]*/file\.\w+"', f'"{path.name}"', str(error).splitlines()[0])


def text_ids(ids: pa.ChunkedArray, path: Path, name: str = "id") -> pa.ChunkedArray:
    """Ids as large_string without outer white space. Raises IdTypeError for ids of another type."""
    if pa.types.is_null(ids.type):
        return pa.chunked_array([pa.nulls(len(ids), pa.large_string())])
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        hint = (
            ": whole numbers with missing values became floats, so write them as text"
            if pa.types.is_floating(kind)
            else ""
        )
        raise IdTypeError(
            f"{path}: column {name!r} is {ids.type}, but ids must be texts or whole numbers{hint}"
        )
    return pc.utf8_trim_whitespace(ids.cast(kind).cast(pa.large_string()))


def _copy(file: BinaryIO, name: Path) -> None:
    with name.open("wb") as out:
        while chunk := file.read(1 << 24):
            out.write(chunk)


def _read_parquet(path: Path) -> TableFile:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableFileError(
            f"{path} cannot be read ({error}): it is truncated or not a Parquet file; write it again"
        ) from error
    table = table.cast(pa.schema([field.with_type(_decoded(field.type)) for field in table.schema]))
    ignored = [field.name for field in table.schema if not _flat(field.type)]
    table = table.drop_columns(ignored).replace_schema_metadata(None)
    if "id" in table.column_names:
        table = table.set_column(table.column_names.index("id"), "id", text_ids(table["id"], path))
    return TableFile(table, ignored=tuple(ignored))


def _decoded(kind: pa.DataType) -> pa.DataType:
    """The type, with lists of dictionary-encoded values (`styles` of `read_signal`) as lists of values."""
    encoded = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_dictionary(
        kind.value_type
    )
    return pa.list_(kind.value_type.value_type) if encoded else kind


def _flat(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return (
        pa.types.is_primitive(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_null(kind)
    )


def _read_json(path: Path, lenient: bool) -> TableFile:
    lines = path.suffix in JSON_LINES
    options = (
        f"format='{'newline_delimited' if lines else 'auto'}', ignore_errors={lenient and lines}, "
        "map_inference_threshold=-1"
    )
    with readable(path) as (connection, name):
        import duckdb

        try:
            described = connection.execute(
                f"DESCRIBE SELECT * FROM read_json('{name}', {options}, sample_size=-1)"
            ).fetchall()
            columns, ignored = _column_types({row[0]: row[1] for row in described})
            listed = ", ".join(f"{_quoted(column)}: '{kind}'" for column, kind in columns.items())
            selected = f"* REPLACE (id->>'$' AS id), json_type(id) AS {_KIND}" if "id" in columns else "*"
            table = connection.sql(
                f"SELECT {selected} FROM read_json('{name}', {options}, columns={{{listed}}})"
            ).to_arrow_table()
        except duckdb.Error as error:
            raise TableFileError(f"{path} cannot be read as JSON: {first_line(error, path)}") from error
    whole = len(table)
    table = _with_text_ids(_without_empty(table) if lenient else table, path)
    return TableFile(table, whole - len(table), tuple(ignored))


def _column_types(described: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The type to read each column as, and the names of columns that hold nested records."""
    types, ignored = {}, []
    for name, kind in described.items():
        scalar = kind.removesuffix("[]")
        if name == "id":
            types[name] = "JSON"
        elif scalar in _SCALARS:
            types[name] = _SCALARS[scalar] + kind[len(scalar) :]
        elif scalar in _TEXTS:
            types[name] = "VARCHAR" + kind[len(scalar) :]
        else:
            ignored.append(name)
    return types, ignored


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _with_text_ids(table: pa.Table, path: Path) -> pa.Table:
    if "id" not in table.column_names:
        return table
    kinds = set(pc.unique(table[_KIND]).to_pylist()) - {None, *ID_KINDS}
    if kinds:
        raise IdTypeError(
            f"{path}: ids of the JSON type {', '.join(sorted(kinds))}; ids must be texts or whole numbers"
        )
    return table.drop_columns([_KIND]).set_column(
        table.column_names.index("id"), "id", text_ids(table["id"], path)
    )


def _without_empty(table: pa.Table) -> pa.Table:
    """The table without all-null rows, as which duckdb returns the lines that it cannot read."""
    nulls = np.zeros(len(table), np.int64)
    for column in table.columns:
        nulls += column.is_null().to_numpy()
    return table.filter(pa.array(nulls < table.num_columns)) if (nulls == table.num_columns).any() else table
