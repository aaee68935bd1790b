"""Write a subset's samples for a training framework, with a table of their rows and a data set card.

    python -m curation.export SUBSET --pool POOL --out chosen.json
    python -m curation.export SUBSET --pool POOL --out chosen --format llamafactory
    python -m curation.export SUBSET --pool POOL --out chosen --format parquet --push ORG/NAME --private

--list shows the formats. Beside a file OUT lie OUT.rows.parquet and, with --card, OUT.card.md; a folder holds
rows.parquet and README.md.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from curation.command import CommandParser, fail, path
from curation.export.errors import ExportError
from curation.export.formats import FORMATS
from curation.pool.errors import PoolError
from curation.subset import SubsetError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a subset folder; exit status 2 and one line on stderr if it cannot be exported."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from curation.export.run import Request, run

    try:
        if options.list:
            return _print_formats()
        required = {"subset": "SUBSET", "pool": "--pool", "out": "--out"}
        if lacking := [flag for key, flag in required.items() if getattr(options, key) is None]:
            parser.error(f"the following arguments are required: {', '.join(lacking)}")
        fields = {key: value for key, value in vars(options).items() if key != "list"}
        for line in run(Request(**fields)):
            print(line)
    except (ExportError, SubsetError, PoolError, IndexError, OSError) as error:
        return fail(error, 2)
    return 0


def _print_formats() -> int:
    width = max(map(len, FORMATS))
    for name, form in FORMATS.items():
        print(f"{name:<{width}}  {form.about}")
    return 0


def _size(text: str) -> int:
    """Type of an argument that is a size: 500MB, 2G, or bytes."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} must be a size such as 500MB or 2GB")
    return size


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m curation.export",
        description=(__doc__ or "").splitlines()[0],
        epilog="--list shows the formats.",
    )
    parser.add_argument("subset", type=path, nargs="?", help="folder with subset.parquet and manifest.json")
    parser.add_argument("--pool", type=path, metavar="DIR", help="pool folder that it was chosen from")
    parser.add_argument("--out", type=path, metavar="PATH", help="file or folder to write")
    parser.add_argument("--format", choices=FORMATS, default="llava", help="default llava")
    parser.add_argument("--list", action="store_true", help="show the formats and exit")
    parser.add_argument("--name", help="name of the data set (default: that of --out)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    _add_image_options(parser)
    _add_card_options(parser)
    parser.add_argument("--push", metavar="ORG/NAME", help="upload the export to this data set on the Hub")
    parser.add_argument("--private", action="store_true", help="make the data set private if it is new")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be written and uploaded, and do neither"
    )
    return parser


def _add_image_options(parser: CommandParser) -> None:
    images = parser.add_argument_group("images")
    images.add_argument(
        "--images-root",
        type=path,
        metavar="DIR",
        help="name images relative to this folder (default: absolute)",
    )
    images.add_argument(
        "--copy-images",
        type=path,
        metavar="DIR",
        help="copy the images there; in a folder of the export, such as OUT/images, they are part of it",
    )
    images.add_argument(
        "--link-images", type=path, metavar="DIR", help="the same with hard links instead of copies"
    )
    images.add_argument(
        "--image-paths", action="store_true", help="datasets, parquet: paths instead of the images themselves"
    )
    images.add_argument(
        "--shard-size", type=_size, default=_size("500MB"), metavar="SIZE", help="default 500MB"
    )


def _add_card_options(parser: CommandParser) -> None:
    about = parser.add_argument_group("data set card")
    about.add_argument(
        "--card",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write the card (default: for folders and uploads)",
    )
    about.add_argument("--licenses", type=path, metavar="YAML", help="licence of each source")
    about.add_argument(
        "--signals",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of signals, to name the models that made them; may be repeated",
    )
    about.add_argument("--dups", type=path, metavar="DIR", help="result of python -m curation.dedup")
    about.add_argument("--leaks", type=path, metavar="DIR", help="result of python -m curation.decontaminate")


if __name__ == "__main__":
    sys.exit(main())
