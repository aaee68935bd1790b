"""One page to look at a subset: what was picked, what was dropped, and why.

    python -m curation.explore SUBSET --pool POOL --signals SIGNALS --out page.html
    python -m curation.explore SUBSET --pool POOL --dups signals/dup_group --leaks leaks --out page.html

The page is one file that works offline. Of a large pool it holds a sample, half of it picked, by source.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandParser, fail, path, whole_number

if TYPE_CHECKING:
    from curation.explore.gather import Request
    from curation.pool.read import Pool


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page. Exit status: 2 (and one line on stderr) for a wrong command, 1 for unusable data."""
    options = _parser().parse_args(arguments)
    from curation.explore.errors import ExploreError
    from curation.explore.gather import Request
    from curation.export.errors import ExportError
    from curation.pool.errors import PoolArgumentError, PoolError
    from curation.signals.core.table import SignalError
    from curation.subset import SubsetError

    fields = {key: value for key, value in vars(options).items() if key != "out" and value is not None}
    try:
        return _run(Request(**fields), options.out)
    except (ExploreError, ExportError, PoolArgumentError) as error:
        return fail(error, 2)
    except (PoolError, SignalError, SubsetError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130


def _run(request: "Request", out: Path) -> int:
    from curation import atomic
    from curation.explore.gather import gather
    from curation.explore.page import page
    from curation.pool.read import Pool
    from curation.progress import shown

    pool = Pool.open(request.pool)
    _check_out(pool, request, out)
    data = gather(pool, request, shown)
    text = page(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, text)
    held, whole = data["held"], data["whole"]
    print(
        f"{held['samples']:,} of {whole['pool']:,} samples ({held['picked']:,} of {whole['picked']:,} picked)"
        f" and {held['quarantined']:,} of {whole['quarantined']:,} quarantined records"
    )
    print(f"{out.stat().st_size / 1e6:.1f} MB -> {out}")
    return 0


def _check_out(pool: "Pool", request: "Request", out: Path) -> None:
    """Raises ExploreError or ExportError if the page must not be written there."""
    from curation.explore.errors import ExploreError
    from curation.explore.page import MARKER
    from curation.export.guard import check_place

    if out.is_dir():
        raise ExploreError(f"{out} is a folder; --out must be the file to write, such as page.html")
    check_place(pool, request.subset, out)
    if out.exists():
        with out.open("rb") as file:
            if MARKER.encode() not in file.read(1000):
                raise ExploreError(f"{out} exists and is no page of this command; choose another --out")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m curation.explore", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("subset", type=path, help="folder with subset.parquet and manifest.json")
    parser.add_argument(
        "--pool", type=path, required=True, metavar="DIR", help="pool folder that it was chosen from"
    )
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="page to write (.html)")
    parser.add_argument(
        "--signals",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="signal folder, folder of several, or table of scores; may be repeated",
    )
    parser.add_argument("--dups", type=path, metavar="DIR", help="result of python -m curation.dedup")
    parser.add_argument(
        "--leaks", type=path, metavar="DIR", help="result of python -m curation.decontaminate"
    )
    parser.add_argument(
        "--samples", type=whole_number(1), metavar="N", help="samples of the pool on the page (default 2000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the sample (default 0)")
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="processes for images (default: all cores)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
