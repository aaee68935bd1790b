"""Write chosen samples as a LLaVA JSON list, each record byte for byte as in the source file.

python -m curation.export SUBSET --pool POOL --out chosen.json
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from curation.command import CommandParser, fail, path
from curation.pool.errors import PoolError
from curation.pool.read import Pool
from curation.subset import SubsetError, read_manifest, read_subset


class ExportError(ValueError):
    """An export that would damage data or cannot be written; the message says what to do."""


def export_llava(pool: Pool, rows: Iterable[int], out: Path) -> int:
    """Write the records of `rows`, in that order, as one JSON list; returns their number.

    The bytes of each record are those of the source file, so an id that ingestion replaced is the original
    one again. The file appears complete or not at all. Raises IndexError for a row that the pool does not
    have, ExportError if `out` is the pool's source or would lie in the pool's folder.
    """
    _protect_pool(pool, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    count = 0
    try:
        with temporary.open("wb") as file:
            file.write(b"[")
            for count, row in enumerate(rows, start=1):
                file.write((b"\n" if count == 1 else b",\n") + pool.raw(int(row)))
            file.write(b"\n]\n")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a subset folder; exit status 2 and one line on stderr if it cannot be exported."""
    options = _parser().parse_args(arguments)
    try:
        pool = Pool.open(options.pool)
        if read_manifest(options.subset)["pool_hash"] != pool.hash:
            raise ExportError(
                f"{options.subset} was not chosen from {options.pool}: the pool hashes differ; "
                "give the pool that it was chosen from"
            )
        _protect_pool(pool, options.out)
        _check_out(options.out, options.subset, options.overwrite)
        count = export_llava(pool, read_subset(options.subset)["row"].to_pylist(), options.out)
    except (ExportError, SubsetError, PoolError, IndexError, OSError) as error:
        return fail(error, 2)
    print(f"{count} samples -> {options.out}")
    return 0


def _protect_pool(pool: Pool, out: Path) -> None:
    if out.resolve() == pool.source.resolve():
        raise ExportError(f"{out} is the source file of the pool {pool.folder}; choose another --out")
    if out.resolve().parent == pool.folder.resolve():
        raise ExportError(f"{out} lies in the pool folder {pool.folder}; choose another --out")


def _check_out(out: Path, subset: Path, overwrite: bool) -> None:
    if out.is_dir():
        raise ExportError(f"{out} is a folder; --out must be the JSON file to write")
    if out.resolve().parent == subset.resolve():
        raise ExportError(f"{out} lies in the subset folder {subset}; choose another --out")
    if out.exists() and not out.is_file():
        raise ExportError(f"{out} is not a regular file; choose another --out")
    if out.exists() and not overwrite:
        raise ExportError(f"{out} exists already; choose another --out, or replace it with --overwrite")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m curation.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subset", type=path, help="folder with subset.parquet and manifest.json")
    parser.add_argument(
        "--pool", type=path, required=True, metavar="DIR", help="pool folder that it was chosen from"
    )
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    return parser


if __name__ == "__main__":
    sys.exit(main())
