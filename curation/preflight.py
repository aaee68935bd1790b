"""Measure every sample with the base's own tokenizer and processor, before anything is paid for.

    python -m curation.preflight pools/a --base checkpoints/base --max-length 4096 --policy drop --out pools/b
    python -m curation.preflight pools/a --base llava-hf/llava-1.5-7b-hf --preset llava15_full --out pools/b

The new pool has the tokens of text and images that a training reads, so that budgets in tokens work. Samples
that no training could read, and under the policy `drop` those that are too long, are in its quarantine.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandError, CommandParser, fail, path, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.pool.read import Pool
    from training.preflight import Limit

SHOWN_SOURCES = 20


def main(arguments: list[str] | None = None) -> int:
    """Command line. An error is one line on stderr; exit status 2: wrong command, 1: unusable data."""
    options = _parser().parse_args(arguments)
    from curation.pool.derive import check_out
    from curation.pool.errors import PoolArgumentError, PoolError
    from curation.pool.read import Pool

    try:
        pool = Pool.open(options.pool)  # before torch is imported
        check_out(pool, options.out)
        return _run(pool, options)
    except (PoolArgumentError, CommandError) as error:
        return fail(error, 2)
    except (PoolError, OSError) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is finished", file=sys.stderr)
        return 130


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m curation.preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pool", type=path, help="pool folder")
    parser.add_argument("--base", required=True, metavar="DIR|NAME", help="checkpoint that will be trained")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="pool folder to write")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="training whose rules, max_length and policy are taken (training/presets)",
    )
    parser.add_argument(
        "--max-length", type=whole_number(1), metavar="N", help="longest sample in tokens (default: no limit)"
    )
    parser.add_argument(
        "--policy",
        choices=("drop", "truncate"),
        help="what happens to longer ones: they are taken out, or cut, and taken out if no answer is left "
        "(default drop)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        metavar="N",
        help="processes (default: cores, fewer for small pools)",
    )
    return parser


def _run(pool: "Pool", options: argparse.Namespace) -> int:
    from curation.pool.errors import PoolError
    from curation.progress import shown
    from training.hub import HubError
    from training.preflight import Limit
    from training.presets import UnknownPreset, fit_spec
    from training.spec import FitSpec
    from training.token_store import RendererOf, StoreError

    try:
        spec = fit_spec(options.preset) if options.preset else FitSpec()
        factory = RendererOf.for_training(spec, options.base)
        factory()  # an unknown checkpoint, family or template is an error of the command
    except UnknownPreset as error:
        raise CommandError(f"--preset: {error}") from error
    except (HubError, OSError, ValueError) as error:
        raise CommandError(f"--base {options.base}: {error}") from error
    policy = options.policy or ("truncate" if spec.too_long == "truncate" else "drop")
    limit = Limit(options.max_length or spec.max_length, policy)
    try:
        with shown("preflight") as report:
            info = preflight(pool, factory, options.out, limit, workers=options.workers, on_progress=report)
    except StoreError as error:  # a process that died
        raise PoolError(str(error)) from error
    for line in lines(info["preflight"]):
        print(line)
    print(f"{info['n']:,} samples -> {options.out}; pool hash {info['hash']}")
    return 0


def preflight(
    pool: "Pool",
    renderer_factory: Any,
    out: Path,
    limit: "Limit",
    *,
    workers: int | None = None,
    on_progress: Any = None,
) -> dict[str, Any]:
    """Write the pool that a training by these rules can read whole; returns its pool.json.

    An interrupted call goes on where it was. Raises PoolError, StoreError.
    """
    from training.preflight import measure

    parts = Path(out) / ".preflight"
    lengths = measure(pool, renderer_factory, parts, limit, workers=workers, on_progress=on_progress)
    note = {"preflight": counts(pool.table["source"], lengths, limit)}
    info = derived(pool, lengths, to_drop(lengths), out, note)
    shutil.rmtree(parts)
    return info


def derived(
    pool: "Pool", lengths: "pa.Table", drop: "pa.Table", out: Path, note: Mapping[str, Any]
) -> dict[str, Any]:
    """The pool without the rows of `drop` (row, reason, detail), with the tokens that were measured."""
    from curation.pool.derive import derive
    from curation.pool.read import Pool

    unit = {"unit": "tokens", "rendered": True}
    known = Pool(pool.folder, pool.table, pool.info | {"text_tokens": unit}, pool.files, pool.images)
    tokens = {name: lengths[name].combine_chunks() for name in ("text_tokens", "image_tokens")}
    return derive(known, drop, Path(out), replace=tokens, note=note)


def to_drop(lengths: "pa.Table") -> "pa.Table":
    """row int32, reason, detail of the samples that no training reads."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.array(np.arange(len(lengths), dtype=np.int32))
    return (
        pa.table({"row": rows, "reason": lengths["reason"], "detail": lengths["detail"]})
        .filter(pc.is_valid(lengths["reason"]))
        .combine_chunks()
    )


def counts(of_source: "pa.ChunkedArray", lengths: "pa.Table", limit: "Limit") -> dict[str, Any]:
    """What was measured and decided, for pool.json; `of_source`: the source of each measured sample.

    `dropped`: samples by reason; `truncated`: those that are cut and stay; `sources`: both by source.
    `tokens`, `image_tokens`, `longest`: of what stays. `renderer`: the fingerprint of all that decided it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    verdict = pc.coalesce(lengths["reason"], pc.if_else(lengths["cut"], "truncated", None))
    table = pa.table({"source": of_source, "verdict": verdict})
    grouped = (
        table.filter(pc.is_valid(verdict)).group_by(["source", "verdict"]).aggregate([([], "count_all")])
    )
    sources: dict[str, dict[str, int]] = {}
    totals: dict[str, int] = {}
    for row in grouped.sort_by([("count_all", "descending"), ("source", "ascending")]).to_pylist():
        sources.setdefault(row["source"], {})[row["verdict"]] = row["count_all"]
        totals[row["verdict"]] = totals.get(row["verdict"], 0) + row["count_all"]
    whole = pc.add(lengths["text_tokens"], lengths["image_tokens"])
    truncated = totals.pop("truncated", 0)
    return {
        "max_length": limit.max_length,
        "policy": limit.policy,
        "renderer": lengths.schema.metadata[b"renderer"].decode(),
        "samples": len(lengths),
        "dropped": totals,
        "truncated": truncated,
        "tokens": pc.sum(whole).as_py() or 0,
        "image_tokens": pc.sum(lengths["image_tokens"]).as_py() or 0,
        "longest": pc.max(whole).as_py() or 0,
        "sources": sources,
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The counts as lines of text: totals, then the sources that lose most."""
    from curation.printable import printable

    limit = f"max_length {found['max_length']:,}" if found["max_length"] else "no limit of tokens"
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in found["dropped"].items()) or "none"
    out = [
        f"{found['samples']:,} samples measured: {found['tokens']:,} tokens, {found['image_tokens']:,} of "
        f"images; the longest that stays has {found['longest']:,}",
        f"{limit}, policy {found['policy']}: dropped {dropped}; truncated {found['truncated']:,}",
    ]
    lost = sorted(found["sources"].items(), key=lambda item: (-sum(item[1].values()), item[0]))
    for source, own in lost[:SHOWN_SOURCES]:
        out.append(f"  {printable(source)}: {', '.join(f'{reason} {n:,}' for reason, n in own.items())}")
    if len(lost) > SHOWN_SOURCES:
        out.append(f"  and {len(lost) - SHOWN_SOURCES:,} more sources")
    return out


if __name__ == "__main__":
    sys.exit(main())
