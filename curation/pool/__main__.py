"""Build, audit and inspect pools.

python -m curation.pool build llava_v1_5_mix665k.json --images images --out pools/665k
python -m curation.pool audit pools/665k
python -m curation.pool info pools/665k
"""

import argparse
import json
import sys
import time
from typing import Any

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
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is finished", file=sys.stderr)
        return 130


def _parser() -> CommandParser:
    from curation.pool import audit_report

    parser = CommandParser(prog="python -m curation.pool", description="Build, audit and inspect pools.")
    commands = parser.add_subparsers(required=True, metavar="build|audit|info")
    _add_build(commands)
    audit_report.add_command(commands)
    info = commands.add_parser("info", help="print what a pool holds")
    info.add_argument("pool", type=path, help="pool folder")
    info.set_defaults(run=_info)
    return parser


def _add_build(commands: Any) -> None:
    build = commands.add_parser("build", help="read records in any of the known forms, check and index them")
    build.add_argument(
        "input", type=path, nargs="+", help="files, folders, or names of Hugging Face datasets"
    )
    build.add_argument(
        "--format",
        metavar="NAME",
        help="what the inputs are: json, jsonl, dict, mixture, folder, parquet, datasets, hub or webdataset "
        "(default: detected)",
    )
    build.add_argument(
        "--images",
        type=path,
        metavar="DIR",
        help="folder that image paths are relative to (default: the input's folder)",
    )
    build.add_argument("--out", type=path, required=True, metavar="DIR", help="pool folder to write")
    build.add_argument("--image-key", metavar="KEY", help="key of the images (default: image, or an alias)")
    build.add_argument("--source-key", metavar="KEY", help="key of the source (default: source)")
    build.add_argument(
        "--source-depth",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="folders of the first image's path that name the source of a record that names none (default 1)",
    )
    build.add_argument(
        "--tokenizer", metavar="DIR|NAME", help="count text tokens with it (default: white-space words)"
    )
    build.add_argument(
        "--image-tokens",
        type=whole_number(0),
        metavar="N",
        help="tokens that one image costs (default: unknown)",
    )
    _add_checks(build)
    build.set_defaults(run=_build)


def _add_checks(build: Any) -> None:
    build.add_argument(
        "--audit",
        choices=("header", "full"),
        default="header",
        help="images: read headers and ends of files (default), or decode them and write audit.md",
    )
    build.add_argument(
        "--allow-outside", action="store_true", help="images may lie outside of the image folder"
    )
    build.add_argument(
        "--max-pixels", type=whole_number(1), metavar="N", help="do not use larger images (default: 89M)"
    )
    build.add_argument(
        "--max-bad-fraction",
        type=fraction,
        default=0.01,
        metavar="F",
        help="stop if a larger share of the records is unusable (default 0.01)",
    )
    build.add_argument("--limit", type=whole_number(1), metavar="N", help="read only the first N records")
    build.add_argument(
        "--workers", type=whole_number(0), metavar="N", help="processes (default: one for each core; 0: none)"
    )


def _build(options: argparse.Namespace) -> int:
    from curation.pool.ingest import Options, build_pool
    from curation.pool.report import Step, summary_lines

    start = time.perf_counter()
    limits = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
    summary = build_pool(
        options.input,
        options.images,
        options.out,
        options=Options(
            options.format,
            options.image_key,
            options.source_key,
            options.source_depth,
            options.audit,
            options.allow_outside,
            **limits,
        ),
        tokenizer=options.tokenizer,
        image_tokens=options.image_tokens,
        max_bad_fraction=options.max_bad_fraction,
        limit=options.limit,
        workers=options.workers,
        on_unpack=Step("unpack", "B"),
        on_progress=Step("read", "B"),
        on_images=Step("check images", ""),
    )
    seconds = time.perf_counter() - start
    print(
        f"{summary['n']:,} samples of {summary['records']:,} records in {seconds:.1f} s "
        f"({summary['records'] / seconds:,.0f}/s) -> {options.out}"
    )
    print("\n".join(summary_lines(summary)))
    if options.audit == "full":
        print(f"audit: {options.out / 'audit.md'}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from curation.pool.read import Pool

    print(json.dumps(Pool.open(options.pool).info, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
