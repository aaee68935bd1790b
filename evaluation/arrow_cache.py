"""Parquet files as one Arrow file that is mapped into memory, so that a question is read without the others.

The Arrow file is written once by the first process that needs it and shared by all; where it lies follows
from the content of the Parquet files.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import atomic
from evaluation.repository import MirrorError
from evaluation.suite import Images

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

BATCH_ROWS = 64
"""Rows in memory at a time while the Arrow file is written: about 100 MB with large images."""


def mapped(tables: Callable[[], Iterator["pa.Table"]], arrow: Path) -> "Dataset":
    """The rows of these tables from the Arrow file `arrow`, which is written if it does not exist.

    Two processes may write at once: each writes its own file and renames it, and both are the same.
    Raises what reading the tables raises.
    """
    import datasets

    if not arrow.is_file():
        arrow.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(arrow) as temporary:
            write(tables(), temporary)
    return datasets.Dataset.from_file(str(arrow))


def write(tables: Iterator["pa.Table"], path: Path) -> None:
    """Write tables of one schema as an Arrow stream."""
    import pyarrow as pa

    first = next(tables)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as stream:
        stream.write_table(first)
        for table in tables:
            stream.write_table(table)


def batches(files: Sequence[Path]) -> Iterator["pa.Table"]:
    """An empty table with the columns' Hugging Face types, then tables of up to `BATCH_ROWS` rows.

    A column of {bytes, path} is an image even if the file does not say so.
    """
    from datasets.table import table_cast

    features = features_of(files[0])
    schema = features.arrow_schema
    yield schema.empty_table()
    for file in files:
        if list(own := features_of(file)) != list(features):
            raise MirrorError(
                f"{file} has columns {', '.join(own)}; {files[0].name} has {', '.join(features)}"
            )
        for table in _read(file):
            _check_bytes(table, features, file)
            yield table_cast(table, schema)


def with_images(tables: Iterator["pa.Table"], images: "Dataset", spec: Images) -> Iterator["pa.Table"]:
    """The tables with one more column: the image of the row of `images` that each question names.

    Raises MirrorError for a name that no row or that several rows have.
    """
    import pyarrow as pa
    from datasets import Features

    names = images[spec.id][:]
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        raise MirrorError(
            f"images of {spec.config}: {len(names) - len(rows)} values of {spec.id} are not unique"
        )
    pictures = images.data.table.column(spec.column)
    for table in tables:
        wanted = table[spec.key].to_pylist()
        if missing := [name for name in wanted if name not in rows]:
            raise MirrorError(
                f"images of {spec.config}: no row with {spec.id} {missing[0]!r}, which a question names"
            )
        features = Features.from_arrow_schema(table.schema) | {spec.column: images.features[spec.column]}
        taken = pictures.take(pa.array([rows[name] for name in wanted], pa.int64()))
        yield pa.table([*table.columns, taken], schema=Features(features).arrow_schema)


def features_of(file: Path) -> "Features":
    """Columns and types of a Parquet file. Raises MirrorError if it cannot be read."""
    from datasets import Features, Image

    features = Features.from_arrow_schema(open_parquet(file).schema_arrow)
    return Features({name: _image_of(feature, Image()) for name, feature in features.items()})


def open_parquet(file: Path) -> Any:
    """A pyarrow.parquet.ParquetFile. Raises MirrorError if it is missing, truncated or no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, memory_map=True)
    except FileNotFoundError as error:
        raise MirrorError(f"{file} does not exist") from error
    except (pa.ArrowException, OSError) as error:
        raise MirrorError(
            f"{file} is not a readable Parquet file ({_first_line(error)}): fetch it again"
        ) from error


def column(file: Path, name: str) -> list[Any]:
    """The values of one column. Raises MirrorError if it is missing or cannot be read."""
    if name not in features_of(file):
        raise MirrorError(f"{file} lacks column {name}")
    return [value for table in _read(file, [name]) for value in table[name].to_pylist()]


def _read(file: Path, columns: Sequence[str] | None = None) -> Iterator["pa.Table"]:
    import pyarrow as pa

    parquet = open_parquet(file)
    try:
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise MirrorError(f"{file} is damaged ({_first_line(error)}): fetch it again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _image_of(feature: Any, image: Any) -> Any:
    """`image` in place of a struct of bytes and path, also inside a list."""
    from datasets import List, Value

    if isinstance(feature, List):
        return List(_image_of(feature.feature, image))
    # A column of paths that are all missing has the type null.
    plain = [{"bytes": Value("binary"), "path": Value(path)} for path in ("string", "null")]
    return image if feature in plain else feature


def _check_bytes(table: "pa.Table", features: "Features", file: Path) -> None:
    """MirrorError for an image that is a path without bytes: decoding it would look for it elsewhere."""
    import pyarrow.compute as pc
    from datasets import Image, List

    for name, feature in features.items():
        column = table[name].combine_chunks()
        if isinstance(feature, List) and isinstance(feature.feature, Image):
            column, feature = pc.list_flatten(column), feature.feature
        if isinstance(feature, Image):
            empty = pc.is_null(pc.struct_field(column, "bytes"))
            if pc.any(pc.and_(empty, pc.is_valid(pc.struct_field(column, "path")))).as_py():
                raise MirrorError(f"{file}: column {name!r} holds paths of images instead of the images")
