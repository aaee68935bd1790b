"""Build and inspect pools.

python -m curation.pool build llava_v1_5_mix665k.json --images images --out pools/665k
python -m curation.pool info pools/665k
"""

import argparse
import json
import sys
import time

from curation.command import CommandParser, fail, fraction, path, whole_number


def main(arguments: list[str] | None = None) -> int:
    """Command line. An error is one line on stderr; exit status 2: wrong command, 1: unusable data."""
    options = _parser().parse_args(arguments)
    from curation.pool.errors import PoolArgumentError, PoolError

    try:
        return options.run(options)
    except PoolArgumentError as error:
        return fail(error, 2)
    except (PoolError, OSError) as error:
        return fail(error, 1)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m curation.pool", description="Build and inspect pools.")
    commands = parser.add_subparsers(required=True, metavar="build|info")
    build = commands.add_parser("build", help="audit a LLaVA JSON or JSON Lines file and index it")
    build.add_argument("file", type=path, help="LLaVA records: one JSON list, or one record per line")
    build.add_argument(
        "--images",
        type=path,
        metavar="DIR",
        help="folder that image paths are relative to (default: FILE's folder)",
    )
    build.add_argument("--out", type=path, required=True, metavar="DIR", help="pool folder to write")
    build.add_argument(
        "--tokenizer", metavar="DIR|NAME", help="count text tokens with it (default: white-space words)"
    )
    build.add_argument(
        "--image-tokens",
        type=whole_number(0),
        metavar="N",
        help="tokens that one image costs (default: unknown)",
    )
    build.add_argument(
        "--max-bad-fraction",
        type=fraction,
        default=0.01,
        metavar="F",
        help="stop if a larger share of the records is unusable (default 0.01)",
    )
    build.add_argument("--limit", type=whole_number(1), metavar="N", help="read only the first N records")
    build.set_defaults(run=_build)
    info = commands.add_parser("info", help="print what a pool holds")
    info.add_argument("pool", type=path, help="pool folder")
    info.set_defaults(run=_info)
    return parser


def _build(options: argparse.Namespace) -> int:
    from curation.pool.ingest import build_pool

    start = time.perf_counter()
    summary = build_pool(
        options.file,
        options.images,
        options.out,
        tokenizer=options.tokenizer,
        image_tokens=options.image_tokens,
        max_bad_fraction=options.max_bad_fraction,
        limit=options.limit,
        on_progress=_progress if sys.stderr.isatty() else None,
    )
    seconds = time.perf_counter() - start
    print(
        f"{summary['n']:,} samples of {summary['records']:,} records in {seconds:.1f} s "
        f"({summary['records'] / seconds:,.0f}/s) -> {options.out}"
    )
    print(f"quarantined: {summary['quarantined'] or 'none'}; ids replaced: {summary['ids']}")
    print(f"pool hash {summary['hash']}")
    return 0


def _progress(done: int, total: int) -> None:
    print(
        f"\r{done / total:6.1%} of {total:,} bytes",
        end="" if done < total else "\n",
        file=sys.stderr,
        flush=True,
    )


def _info(options: argparse.Namespace) -> int:
    from curation.pool.read import Pool

    print(json.dumps(Pool.open(options.pool).info, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
