"""Find the copies in a pool, and leave them out.

python -m curation.pool build mix665k.json --images images --out pools/665k --audit full
python -m curation.dedup pools/665k --out signals/dup_group
python -m curation.dedup pools/665k --out signals/dup_group --drop pools/665k_unique
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandError, CommandParser, fail, path, whole_number

if TYPE_CHECKING:
    from curation.pool.read import Pool


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 2 (and one line on stderr) for a wrong command, 1 for unusable data, 130 if stopped."""
    given = _parser().parse_args(arguments)
    from curation.pool.errors import PoolArgumentError, PoolError
    from curation.signals.core.table import SignalError

    try:
        return _run(given)
    except (CommandError, PoolArgumentError) as error:
        return fail(error, 2)
    except (PoolError, SignalError, ImportError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m curation.dedup",
        description="Find samples that are copies: same or near pictures and same or near words. Writes the "
        "signal dup_group (dup_group, dup_kind, dup_first) with dup.json and dup.md.",
    )
    parser.add_argument(
        "pool", type=path, help="pool folder, audited in full (python -m curation.pool audit)"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="signal folder to write")
    parser.add_argument(
        "--images",
        choices=("exact", "near", "alike"),
        default="near",
        help="pictures: equal bytes; also stored again, resized or cropped a little (default); also alike by "
        "their perceptual hash, where the words are equal",
    )
    parser.add_argument(
        "--text",
        choices=("exact", "near", "any"),
        default="near",
        help="words: equal; also nearly (default); any: pictures alone make copies",
    )
    parser.add_argument(
        "--radius", type=whole_number(0), default=8, metavar="BITS", help="of near hashes (8)"
    )
    parser.add_argument(
        "--alike", type=whole_number(0), default=14, metavar="BITS", help="of alike hashes (14)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.8, metavar="J", help="Jaccard index of near words (0.8)"
    )
    parser.add_argument(
        "--vectors",
        type=path,
        action="append",
        default=[],
        metavar="DIR",
        help="signals for a semantic search",
    )
    parser.add_argument("--column", default="emb_dino", help="vectors that are compared (emb_dino)")
    parser.add_argument("--clusters", metavar="COLUMN", help="only samples of one cluster are compared")
    parser.add_argument("--cosine", type=float, default=0.97, metavar="C", help="of semantic copies (0.97)")
    parser.add_argument("--drop", type=path, metavar="DIR", help="write a pool that has one of each group")
    parser.add_argument(
        "--workers", type=whole_number(0), metavar="N", help="processes (default: one for each core; 0: none)"
    )
    return parser


def _run(given: argparse.Namespace) -> int:
    from curation.dedup.clusters import Rule
    from curation.dedup.report import lines
    from curation.dedup.signal import score_duplicates
    from curation.dedup.vectors import Vectors
    from curation.pool.read import Pool
    from curation.pool.report import Step

    try:
        rule = Rule(given.images, given.text, given.radius, threshold=given.threshold, alike=given.alike)
        vectors = (
            Vectors(given.vectors, given.column, given.clusters, given.cosine) if given.vectors else None
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    if given.clusters and not given.vectors:
        raise CommandError("--clusters needs --vectors: the signals that hold the clusters and the vectors")
    pool = Pool.open(given.pool)
    _check_folders(pool, given.out, given.drop)
    told = score_duplicates(
        pool, given.out, rule=rule, vectors=vectors, workers=given.workers, steps=lambda name: Step(name, "")
    )
    print("\n".join(lines(told)))
    print(f"-> {given.out} (signal), {given.out / 'dup.md'}")
    if given.drop is not None:
        _drop(pool, given.out, given.drop)
    return 0


def _check_folders(pool: "Pool", out: Path, drop: Path | None) -> None:
    from curation.pool.derive import check_out

    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; give a directory")
    if (out / "pool.json").exists():
        raise CommandError(f"--out {out} holds a pool; choose another folder")
    if drop is not None:
        if drop.resolve() == out.resolve():
            raise CommandError(f"--drop {drop} is --out too; the signal and the pool need a folder each")
        check_out(pool, drop)


def _drop(pool: "Pool", signal: Path, out: Path) -> None:
    from curation.dedup.signal import drop_copies

    info = drop_copies(pool, signal, out)
    print(f"{info['n']:,} samples stay -> {out}")


if __name__ == "__main__":
    sys.exit(main())
