"""Capability scores and styles by an inference engine: vLLM in this process, or any OpenAI-compatible server.

    score_capabilities_by_engine(pool, out, engine="server", model="scorer", base_url="http://127.0.0.1:8000/v1")

The same columns and files as curation/signals/raters/capability.py and style.py write; their scorer in plain transformers stays
the reference. An engine shares a sample's prefix through its prefix cache, so the queries of one sample follow each other,
and the first is answered before the others are sent.
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
from curation.signals.raters import capability, style
from curation.signals.raters.engine import Digits, Engine, EngineError, Failed, check_engine
from curation.signals.raters.queries import Queries, load_queries
from curation.taxonomy import CAPABILITY_KEYS, MAX_SCORE

if TYPE_CHECKING:
    from curation.pool.read import Pool

EngineName = Literal["server", "vllm"]
STYLE_TOKENS = 64
"""Tokens that the answer to the style query may take; all nine phrases of the longest shipped prompts take about 45."""


def score_capabilities_by_engine(
    pool: "Pool",
    out: Path,
    *,
    engine: EngineName = "server",
    model: str,
    base_url: str | None = None,
    prompts: str = "official_style",
    shard_rows: int = 256,
    max_failed: float = 0.05,
    options: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the capability signal of a pool to `out`; parts that are complete are kept.

    model: name of the served model, or (vllm) a checkpoint directory. options: for "server" `concurrency` and those of
        ChatClient (api_key_env, timeout, retries, prices, max_cost_usd, ...), for "vllm" those of VllmEngine.
    max_failed: share of a shard's samples for which the engine may fail (time-outs, errors, unreadable answers); above it
        the run stops before the part is written, so that a new run asks for them again.
    Returns rows, parts, `missing` rows by reason, `no_digit` (queries without a score: null), `truncated_digits` (digits
    not listed: probability 0), `max_hidden_mass` (the most that those can have had in one query), digit mass,
    samples/s and the engine's own counts (requests, tokens, cost). Counts of failures are of this run: kept parts are not
    asked again.
    Raises EngineError when the engine lists no probabilities, does not see images, or fails too often, and what the
    engine raises (ChatSetupError, CostCapReached, PromptError, ImportError).
    """
    queries = load_queries(prompts)
    backend = _open(engine, pool, model, base_url, queries, options or {})
    check_engine(backend, queries.capability[0], _has_images(pool))
    counts = Counter(no_digit=0, truncated_digits=0)
    hidden = [0.0]

    def table(rows: range, results: list[list[Digits | None] | Failed]) -> pa.Table:
        found = [digits for result in results if not isinstance(result, Failed) for digits in result]
        counts["no_digit"] += found.count(None)
        counts["truncated_digits"] += sum(digits.unlisted for digits in found if digits)
        hidden.append(max((digits.hidden for digits in found if digits), default=0.0))
        return capability_table(rows, results)

    summary = _score(
        pool,
        out,
        "capability",
        backend,
        queries,
        lambda s: backend.digits(s, queries.capability),
        table,
        shard_rows,
        max_failed,
        on_progress,
    )
    return {
        **summary,
        **capability.summarise(read_signal(out, pool.hash)),
        **counts,
        "max_hidden_mass": float(max(hidden)),
    }


def score_styles_by_engine(
    pool: "Pool",
    out: Path,
    *,
    engine: EngineName = "server",
    model: str,
    base_url: str | None = None,
    prompts: str = "official_style",
    shard_rows: int = 256,
    max_failed: float = 0.05,
    options: dict[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the style signal of a pool, decoded greedily, to `out`; parts that are complete are kept.

    Parameters and errors as for `score_capabilities_by_engine`. Returns its general counts, `styles` (rows by style) and
    `other_rows` (rows with text that names no style).
    """
    queries = load_queries(prompts)
    backend = _open(engine, pool, model, base_url, queries, options or {})
    check_engine(backend, queries.style, _has_images(pool))

    def table(rows: range, results: list[str | Failed]) -> pa.Table:
        texts = [None if isinstance(text, Failed) else text for text in results]
        return style.style_table(rows, texts, queries, mode="greedy", threshold=1.0)

    summary = _score(
        pool,
        out,
        "style",
        backend,
        queries,
        lambda s: backend.write(s, queries.style, STYLE_TOKENS),
        table,
        shard_rows,
        max_failed,
        on_progress,
    )
    return {**summary, **style.summarise(read_signal(out, pool.hash))}


def capability_table(rows: range, results: list[list[Digits | None] | Failed]) -> pa.Table:
    """The capability signal's columns; null for a failed sample, and for a query at whose end no digit was listed."""
    blank = np.zeros(MAX_SCORE + 1)
    values = [
        None if isinstance(r, Failed) else np.stack([digits.log_probs if digits else blank for digits in r])
        for r in results
    ]
    table = capability.score_table(rows, values)
    for k, key in enumerate(CAPABILITY_KEYS):
        unread = pa.array([not isinstance(result, Failed) and result[k] is None for result in results])
        for name in [name for name in table.column_names if name.partition("_")[2] == key]:
            column = pc.if_else(unread, pa.scalar(None, table[name].type), table[name])
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _open(
    engine: str, pool: "Pool", model: str, base_url: str | None, queries: Queries, options: dict[str, Any]
) -> Engine:
    if engine == "server":
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

        return VllmEngine(model, queries, max_images=pc.max(pool.table["n_images"]).as_py() or 1, **options)
    raise EngineError(f"no engine {engine!r}: server (any that speaks OpenAI's protocol) or vllm")


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
    missing: Counter = Counter()
    begin = time.perf_counter()

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
        "prompts": queries.name,
        "prompt_hash": queries.hash,
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    seconds = time.perf_counter() - begin
    return {
        **counts,
        "missing": dict(sorted(missing.items())),
        "seconds": round(seconds, 3),
        "samples_per_second": round(counts["rows_computed"] / seconds, 2),
        **backend.summary(),
    }


def _check_failures(rows: range, results: list[Any], max_failed: float) -> None:
    reasons = Counter(result.reason for result in results if isinstance(result, Failed) and result.engine)
    if reasons.total() > max_failed * len(results):
        raise EngineError(
            f"the engine failed for {reasons.total()} of the {len(results)} samples from row {rows.start} ({dict(reasons)}): look at its log; "
            "a new run goes on from here"
        )
