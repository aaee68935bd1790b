"""The producers of signals by name, and producers of the user's own as `my_module:my_function`.

    produce_custom("my_module:my_function", pool, Path("signals/mine"), {"power": 2})

A producer of one's own is a function compute(pool, rows, **params) -> pyarrow.Table with column `row` (exactly `rows`) and
the signal's columns; null means missing. It is called shard by shard; what is finished is kept.
"""

import difflib
import hashlib
import importlib
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.pool.read import Pool

__all__ = ["PRODUCERS", "ProducerError", "check_params", "get_producer", "produce_custom"]

PRODUCERS: dict[str, str] = {
    "capability": "curation.signals.raters.capability:score_capabilities",
    "style": "curation.signals.raters.style:score_styles",
    "capability_by_engine": "curation.signals.raters.by_engine:score_capabilities_by_engine",
    "style_by_engine": "curation.signals.raters.by_engine:score_styles_by_engine",
    "ratings": "curation.signals.raters.ratings:score_capabilities_and_styles",
    "losses": "curation.signals.losses:score_losses",
    "embeddings": "curation.signals.vectors.embeddings:embed_pool",
    "clip": "curation.signals.vectors.clip:score_clip",
    "clusters": "curation.signals.vectors.clusters:fit_clusters",
    "quality": "curation.signals.quality.producer:score_quality",
    "gradients": "curation.signals.gradients.producer:score_gradients",
    "oracle": "curation.signals.raters.oracle:tell_truth",
}

_CUSTOM = ("pool", "rows")


class ProducerError(ValueError):
    """A signal that cannot be produced as asked: unknown producer or parameter, wrong signature."""


def get_producer(name: str) -> Callable[..., Any]:
    """The function behind a name of PRODUCERS, or behind my_module:my_function.

    Raises ProducerError for an unknown name (with the nearest), for what cannot be imported and for a wrong signature.
    """
    target = PRODUCERS.get(name, name if ":" in name else None)
    if target is None:
        raise ProducerError(
            f"unknown producer {name!r}{_nearest(name, PRODUCERS)}; there are {', '.join(PRODUCERS)}, "
            "or my_module:my_function for one of your own"
        )
    module_name, _, attribute = target.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ProducerError(f"producer {name!r} cannot be imported: {error}") from error
    if name not in PRODUCERS and (
        not callable(function) or tuple(inspect.signature(function).parameters)[:2] != _CUSTOM
    ):
        raise ProducerError(
            f"producer {name!r} must be a function compute(pool, rows, **params) -> pyarrow.Table"
        )
    return function


def check_params(name: str, params: Mapping[str, Any], given: Iterable[str] = _CUSTOM) -> None:
    """Raises ProducerError for a parameter that the producer does not take (with the nearest), or one that it lacks.

    given: what the caller passes besides `params`.
    """
    taken = {
        key: p for key, p in inspect.signature(get_producer(name)).parameters.items() if key not in set(given)
    }
    named = [key for key, parameter in taken.items() if parameter.kind is not parameter.VAR_KEYWORD]
    if len(named) == len(taken) and (unknown := [key for key in params if key not in taken]):
        listed = f"; it takes {', '.join(named)}" if named else "; it takes none"
        raise ProducerError(
            f"producer {name!r} has no parameter {unknown[0]!r}{_nearest(unknown[0], named)}{listed}"
        )
    if lacking := [
        key for key in named if taken[key].default is inspect.Parameter.empty and key not in params
    ]:
        raise ProducerError(f"producer {name!r} needs the parameter {lacking[0]!r}")


def produce_custom(
    target: str,
    pool: "Pool",
    out: Path,
    params: Mapping[str, Any] | None = None,
    *,
    shard_rows: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the signal of the user's own function `my_module:my_function` to `out`; parts that are complete are kept.

    What is kept belongs to the same pool, parameters and source of the module (only the module itself: what it imports is
    not looked at). Returns the counts of `write_signal`, rows with a null, and samples/s.
    Raises ProducerError for a function, parameters or a result that do not fit.
    """
    from curation.signals.core.table import read_signal, write_signal

    params = dict(params or {})
    function = get_producer(target)
    check_params(target, params)
    identity = {
        "producer": target,
        "pool_hash": pool.hash,
        "source_hash": _source_hash(function),
        "params": _plain(params),
    }
    start = time.perf_counter()

    def compute(rows: range, advance: Callable[[int], None]) -> "pa.Table":
        table = _checked(target, function(pool, rows, **params))
        advance(len(rows))
        return table

    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    seconds = time.perf_counter() - start
    signal = read_signal(out, pool.hash)
    return {
        **counts,
        "nulls": {name: signal[name].null_count for name in signal.column_names if name != "row"},
        "seconds": round(seconds, 3),
        "samples_per_second": round(counts["rows_computed"] / seconds, 1)
        if counts["rows_computed"]
        else None,
    }


def _checked(target: str, table: Any) -> "pa.Table":
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        raise ProducerError(f"producer {target!r} returned {type(table).__name__}, not a pyarrow.Table")
    if "row" not in table.column_names or len(table.column_names) < 2:
        raise ProducerError(
            f"producer {target!r} returned the columns {table.column_names}: `row` and at least one more are needed"
        )
    return table


def _source_hash(function: Callable[..., Any]) -> str:
    source = inspect.getsourcefile(function)
    if source is None:
        raise ProducerError(f"producer {function.__name__!r} has no source file that could be hashed")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """What JSON can hold: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
