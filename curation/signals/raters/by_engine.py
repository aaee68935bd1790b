"""Capability scores and styles by an inference engine: vLLM in this process, or any OpenAI-compatible server.

    score_capabilities_by_engine(pool, out, engine="server", model="scorer",
    base_url="http://127.0.0.1:8000/v1")

Columns and files are those of capability.py and style.py, whose scoring in plain transformers is the
reference. An engine reuses a sample's prefix through its prefix cache, so the first query of a sample is
answered before its others are sent.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.pool.sample import Sample
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.raters.capability import score_table, summarise_scores
from curation.signals.raters.engine import DigitLogProbs, Engine, EngineError, Failed, check_engine
from curation.signals.raters.queries import Queries, load_queries
from curation.signals.raters.style import summarise_styles, text_table
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE

if TYPE_CHECKING:
    from curation.pool.read import Pool

EngineName = Literal["server", "vllm"]
STYLE_TOKENS = 64
"""Token limit of the answer to the style query; all phrases of the longest shipped prompts take about 45."""


def score_capabilities_by_engine(
    pool: "Pool",
    out: Path,
    *,
    engine: EngineName = "server",
    model: str,
    base_url: str | None = None,
    prompts: str = "official_style",
    image: str | None = None,
    shard_rows: int = 256,
    max_failed: float = 0.05,
    options: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the capability signal of a pool to `out`; parts that are complete are kept.

    model: name of the served model, or (vllm) a checkpoint directory.
    image: (vllm) the view of an image, "single" or "anyres"; default: the prompt set's, else as `options` and
        checkpoint say. A server decides itself: a given one is an error.
    options: for "server" `concurrency` and those of ChatClient (api_key_env, timeout, retries, prices,
        max_cost_usd, ...), for "vllm" those of VllmEngine.
    max_failed: share of a shard's samples for which the engine may fail (time-outs, errors, unreadable
        answers); above it the run stops before the part is written, so that the next run asks for them again.

    Returns rows, parts, `missing` rows by reason, `no_digit` (queries without a listed digit: null),
    `truncated_digits` (digits not listed: probability 0), `max_hidden_mass` (the largest bound of their mass
    in one query), digit mass, samples/s and the engine's own counts (requests, tokens, cost). Failures are
    those of this run: kept parts are not scored again.
    Raises EngineError when the engine lists no probabilities, does not see images, or fails too often, and
    what the engine raises (ChatSetupError, CostCapReached, PromptError, ImportError).
    """
    queries = load_queries(prompts)
    backend = _open(engine, pool, model, base_url, queries, image, options or {})
    check_engine(backend, queries.capability[0], _has_images(pool))
    counts = Counter(no_digit=0, truncated_digits=0)
    unlisted_mass = [0.0]

    def table(rows: range, results: list[list[DigitLogProbs | None] | Failed]) -> pa.Table:
        digits = [each for result in results if not isinstance(result, Failed) for each in result]
        listed = [each for each in digits if each is not None]
        counts["no_digit"] += len(digits) - len(listed)
        counts["truncated_digits"] += sum(each.n_unlisted for each in listed)
        unlisted_mass.append(max((each.unlisted_mass for each in listed), default=0.0))
        return capability_table(rows, results)

    summary = _score(
        pool,
        out,
        "capability",
        backend,
        queries,
        lambda samples: backend.digits(samples, queries.capability),
        table,
        shard_rows,
        max_failed,
        on_progress,
    )
    return {
        **summary,
        **summarise_scores(read_signal(out, pool.hash)),
        **counts,
        "max_hidden_mass": float(max(unlisted_mass)),
    }


def score_styles_by_engine(
    pool: "Pool",
    out: Path,
    *,
    engine: EngineName = "server",
    model: str,
    base_url: str | None = None,
    prompts: str = "official_style",
    image: str | None = None,
    shard_rows: int = 256,
    max_failed: float = 0.05,
    options: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the style signal of a pool, decoded greedily, to `out`; parts that are complete are kept.

    Parameters and errors as for `score_capabilities_by_engine`. Returns its general counts, `styles` (rows by
    style) and `other_rows` (rows with text that names no style).
    """
    queries = load_queries(prompts)
    backend = _open(engine, pool, model, base_url, queries, image, options or {})
    check_engine(backend, queries.style, _has_images(pool))

    def table(rows: range, results: list[str | Failed]) -> pa.Table:
        return text_table(rows, [None if isinstance(text, Failed) else text for text in results], queries)

    summary = _score(
        pool,
        out,
        "style",
        backend,
        queries,
        lambda samples: backend.write(samples, queries.style, queries.max_new_tokens or STYLE_TOKENS),
        table,
        shard_rows,
        max_failed,
        on_progress,
    )
    return {**summary, **summarise_styles(read_signal(out, pool.hash))}


def capability_table(rows: range, results: list[list[DigitLogProbs | None] | Failed]) -> pa.Table:
    """The capability signal's columns; null for a failed sample and for a query without a listed digit."""
    blank = np.zeros(MAX_SCORE + 1)
    log_probs = [
        None
        if isinstance(result, Failed)
        else np.stack([digits.log_probs if digits else blank for digits in result])
        for result in results
    ]
    table = score_table(rows, log_probs)
    for c, capability in enumerate(CAPABILITY_KEYS):
        unread = pa.array([not isinstance(result, Failed) and result[c] is None for result in results])
        for name in [name for name in table.column_names if name.partition("_")[2] == capability]:
            column = pc.if_else(unread, pa.scalar(None, table[name].type), table[name])
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _open(
    engine: str,
    pool: "Pool",
    model: str,
    base_url: str | None,
    queries: Queries,
    image: str | None,
    options: dict[str, Any],
) -> Engine:
    if engine == "server":
        if image:
            raise EngineError(f"image: {image} cannot be asked of a server, which prepares images itself")
        from curation.signals.raters.engine_server import ServerEngine
        from curation.teacher.chat import ChatClient

        client = {name: value for name, value in options.items() if name != "concurrency"}
        return ServerEngine(
            ChatClient(base_url, model, **client),
            concurrency=options.get("concurrency", 16),
            flat=queries.flat,
        )
    if engine == "vllm":
        from curation.signals.raters.engine_vllm import VllmEngine

        most = pc.max(pool.table["n_images"]).as_py() or 1
        # An option of the recipe's own engine goes before what the prompt set says.
        view = image or (None if options.get("allow_anyres") else queries.view)
        return VllmEngine(model, queries, max_images=most, view=view, **options)
    raise EngineError(f"engine must be server (any OpenAI-compatible server) or vllm, got {engine!r}")


def _has_images(pool: "Pool") -> bool:
    return bool(pc.max(pool.table["n_images"]).as_py())


def _score(
    pool: "Pool",
    out: Path,
    producer: str,
    backend: Engine,
    queries: Queries,
    ask: Callable[[Iterable[Sample]], Iterator[Any]],
    table: Callable[[range, list[Any]], pa.Table],
    shard_rows: int,
    max_failed: float,
    on_progress: Progress | None,
) -> dict[str, Any]:
    """Write the signal with columns `table(rows, results of ask)`; returns counts, speed, engine summary."""
    missing: Counter[str] = Counter()
    start = time.perf_counter()

    def compute(rows: range, advance: Advance) -> pa.Table:
        results = []
        for result in ask(pool.samples(rows)):
            results.append(result)
            advance(1)
        _check_failures(rows, results, max_failed)
        missing.update(result.reason for result in results if isinstance(result, Failed))
        return table(rows, results)

    identity = {
        "producer": producer,
        "pool_hash": pool.hash,
        **backend.identity(),
        **queries.identity(),
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    seconds, computed = time.perf_counter() - start, counts["rows_computed"]
    return {
        **counts,
        "missing": dict(sorted(missing.items())),
        "seconds": round(seconds, 3),
        "samples_per_second": round(computed / seconds, 2) if computed else None,
        **backend.summary(),
    }


def _check_failures(rows: range, results: list[Any], max_failed: float) -> None:
    reasons = Counter(result.reason for result in results if isinstance(result, Failed) and result.engine)
    if reasons.total() > max_failed * len(results):
        raise EngineError(
            f"the engine failed for {reasons.total()} of the {len(results)} samples from row {rows.start} "
            f"({dict(reasons)}): look at its log; the next run continues from here"
        )
