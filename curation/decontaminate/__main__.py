"""Find the samples of a pool that repeat images or questions of a suite's benchmarks.

    python -m curation.decontaminate pools/a --suite mm14 --mirror benchmarks --out leaks/a
    python -m curation.decontaminate pools/a --suite mm14 --mirror benchmarks --out leaks/a --drop pools/b

Writes leaks.parquet (a row for each pair of sample and item), alike.parquet (pairs of the same words about
another image, which are no leaks), leaks.html (pairs side by side) and leaks.json (counts, and all that
decided them). Images are compared by the hashes of a full audit of the pool. Exit status 2: wrong command, 1:
unusable data.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandError, CommandParser, fail, fraction, path, whole_number
from curation.printable import printable

if TYPE_CHECKING:
    from curation.decontaminate.find import Leaks, Rules
    from curation.decontaminate.targets import Targets
    from curation.pool.read import Pool

GRAMS = (8, 13)
"""Least and most words of an n-gram (Brown et al. 2020, appendix C)."""
SHOWN_SOURCES = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    from curation.pool.errors import PoolArgumentError, PoolError
    from evaluation.questions import EvaluationError
    from evaluation.repository import MirrorError

    try:
        _check(options)
        return _run(options)
    except PoolError as error:
        return fail(error, 2 if isinstance(error, PoolArgumentError) else 1)
    except (MirrorError, EvaluationError, OSError) as error:
        return fail(error, 1)
    except ValueError as error:  # of the command or the suite
        return fail(error, 2)
    except KeyboardInterrupt:
        print("stopped; the same command begins again", file=sys.stderr)
        return 130


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m curation.decontaminate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pool", type=path, help="pool folder")
    parser.add_argument("--suite", required=True, help="name of a suite, or path of its YAML file")
    parser.add_argument(
        "--mirror",
        type=path,
        required=True,
        metavar="DIR",
        help="folder of the benchmarks' data, as python -m evaluation.data fetch leaves it",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--benchmarks", metavar="A,B", help="these benchmarks of the suite only")
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="go on without benchmarks whose data are not in the mirror; they are named",
    )
    parser.add_argument(
        "--drop", type=path, metavar="OUT_POOL", help="write the pool without the leaked samples"
    )
    parser.add_argument(
        "--kinds",
        default="image_exact,image_near,question",
        metavar="A,B",
        help="kinds of leaks that --drop drops (default %(default)s)",
    )
    parser.add_argument("--only", choices=("images", "questions"), help="compare these alone")
    parser.add_argument(
        "--radius",
        type=whole_number(0),
        metavar="BITS",
        help="bits in which perceptual hashes of near images may differ (default 10)",
    )
    parser.add_argument(
        "--ngram", type=whole_number(GRAMS[0]), metavar="N", help="words of an n-gram, 8 to 13 (default 8)"
    )
    parser.add_argument(
        "--share",
        type=fraction,
        metavar="F",
        help="a question is found above this share of its words in common n-grams (default 0.5)",
    )
    parser.add_argument(
        "--workers", type=whole_number(1), metavar="N", help="threads that decode images (default: CPUs)"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse what no data could satisfy. Raises CommandError."""
    from curation.decontaminate.find import KINDS

    options.kinds = tuple(options.kinds.split(","))
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        raise CommandError(f"--kinds: {', '.join(map(printable, unknown))} must be of {', '.join(KINDS)}")
    if options.ngram and options.ngram > GRAMS[1]:
        raise CommandError(f"--ngram must be from {GRAMS[0]} to {GRAMS[1]}, got {options.ngram}")
    if options.share == 1:
        raise CommandError("--share must be below 1: a question is found above it")
    if options.radius and options.radius > 16:
        raise CommandError(f"--radius {options.radius}: beyond 16 of 64 bits hashes tell no images apart")
    if options.out.exists() and not options.out.is_dir():
        raise CommandError(f"--out {options.out} is not a folder")
    if (options.out / "pool.json").exists():
        raise CommandError(f"--out {options.out} is a pool; give another folder")


def _run(options: argparse.Namespace) -> int:
    from curation.decontaminate.find import find_leaks
    from curation.decontaminate.pictures import hashed_images
    from curation.decontaminate.targets import read_targets
    from curation.decontaminate.write import drop_leaks, write_leaks
    from curation.pool.derive import check_out
    from curation.pool.read import Pool
    from curation.progress import shown
    from evaluation.items import open_items

    pool, rules = Pool.open(options.pool), _rules(options)
    if options.drop:
        check_out(pool, options.drop)
    if rules.images:
        hashed_images(pool)  # refused before the benchmarks' images are decoded
    workers = options.workers or os.cpu_count() or 1
    only = options.benchmarks.split(",") if options.benchmarks else None
    opened = open_items(options.suite, options.mirror, only=only, allow_missing=options.allow_missing)
    with shown("benchmarks") as report:
        targets = read_targets(opened, images=rules.images is not None, workers=workers, on_progress=report)
    leaks = find_leaks(pool, targets, rules, workers=workers, watch=shown)
    write_leaks(pool, targets, leaks, options.out)
    _say(pool, targets, leaks, options.out)
    if options.drop:
        left = drop_leaks(pool, leaks, options.drop, options.kinds)
        print(f"{left['n']:,} samples are left in {options.drop} ({len(pool) - left['n']:,} dropped)")
    return 0


def _rules(options: argparse.Namespace) -> "Rules":
    from dataclasses import replace

    from curation.decontaminate.find import Rules
    from curation.decontaminate.pictures import ImageRule
    from curation.decontaminate.questions import QuestionRule

    images, questions = ImageRule(), QuestionRule()
    if options.radius is not None:
        images = replace(images, radius=options.radius)
    if options.ngram is not None:
        questions = replace(questions, n=options.ngram)
    if options.share is not None:
        questions = replace(questions, share=options.share)
    return Rules(
        None if options.only == "questions" else images, None if options.only == "images" else questions
    )


def _say(pool: "Pool", targets: "Targets", leaks: "Leaks", out: Path) -> None:
    summary = leaks.summary
    for name, reason in targets.missing.items():
        print(f"NOT COMPARED {name}: {reason}")
    print(
        f"{summary['leaked_samples']:,} of {len(pool):,} samples share an image or a question with "
        f"{summary['leaked_items']:,} of {summary['items']:,} items of {len(targets.names)} benchmarks"
    )
    for name, own in summary["by_benchmark"].items():
        if own["samples"]:
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in own["by_kind"].items())
            print(f"  {printable(name)}: {own['samples']:,} samples, {own['items']:,} items ({kinds})")
    by_source = sorted(summary["by_source"].items(), key=lambda entry: (-entry[1]["samples"], entry[0]))
    for name, own in by_source[:SHOWN_SOURCES]:
        print(f"  from {printable(name)}: {own['samples']:,} samples, {own['items']:,} items")
    if (more := len(by_source) - SHOWN_SOURCES) > 0:
        print(f"  and {more:,} more sources: leaks.json")
    images, questions = summary["images"], summary["questions"]
    if unreadable := images["unreadable_of_pool"] + images["unreadable_of_benchmarks"]:
        print(f"{unreadable:,} images cannot be decoded and were compared by their files alone")
    print(
        f"{images['flat']:,} images of benchmarks show one colour and are found as the same file only; "
        f"{questions['short']:,} questions are too short to be found without their image"
    )
    if other := questions["other_image"]:
        print(f"{other:,} pairs share their words and not their image: alike.parquet, not counted as leaks")
    print(f"pairs to look at: {out / 'leaks.html'}")


if __name__ == "__main__":
    sys.exit(main())
