"""Producers by name or address, and producers of the user's own as `my_module:my_function`.

    produce_custom("my_module:my_function", pool, Path("signals/mine"), {"power": 2})

A user's producer is a function compute(pool, rows, **params) -> pyarrow.Table with column `row` (exactly
`rows`) and the signal's columns; null means missing. It is called shard by shard; finished shards are kept.
"""

import hashlib
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.catalogue import COMMANDS
from curation.nearest import did_you_mean
from curation.own_code import import_function

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.pool.read import Pool

_CUSTOM = ("pool", "rows")


class ProducerError(ValueError):
    """A signal that cannot be produced as requested: unknown producer or parameter, wrong signature."""


def get_producer(name: str) -> Callable[..., Any]:
    """The function behind a name of COMMANDS, or behind my_module:my_function.

    Raises ProducerError for an unknown name (with the nearest known one), a failing import and a wrong
    signature.
    """
    target = COMMANDS.get(name, name if ":" in name else None)
    if target is None:
        raise ProducerError(
            f"unknown producer {name!r}{did_you_mean(name, COMMANDS)}; must be one of {', '.join(COMMANDS)}, "
            "or my_module:my_function for your own"
        )
    try:
        function = import_function(target)
    except ImportError as error:
        raise ProducerError(f"producer {name!r} cannot be imported: {error}") from error
    own = target not in COMMANDS.values()
    if own and (not callable(function) or tuple(inspect.signature(function).parameters)[:2] != _CUSTOM):
        raise ProducerError(
            f"producer {name!r} must be a function compute(pool, rows, **params) -> pyarrow.Table"
        )
    return function


def check_params(name: str, params: Mapping[str, Any], given: Iterable[str] = _CUSTOM) -> None:
    """Raises ProducerError for a parameter that a producer does not know, or for one that it lacks.

    given: what the caller passes besides `params`.
    """
    passed = set(given)
    taken = {
        key: p for key, p in inspect.signature(get_producer(name)).parameters.items() if key not in passed
    }
    named = [key for key, parameter in taken.items() if parameter.kind is not parameter.VAR_KEYWORD]
    if len(named) == len(taken) and (unknown := [key for key in params if key not in taken]):
        listed = f"; it takes {', '.join(named)}" if named else "; it takes none"
        hint = did_you_mean(unknown[0], named)
        raise ProducerError(f"producer {name!r} has no parameter {unknown[0]!r}{hint}{listed}")
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
    model: Path | None = None,
    shard_rows: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the signal of the user's function `my_module:my_function` to `out`; complete parts are kept.

    model: passed on as the parameter `model`, as text. A part is kept if pool, parameters and source of the
    module are the same (of the module alone: what it imports is not looked at here; a recipe's stage does).
    Returns the counts of `write_signal`, rows with a null, and samples/s. Raises ProducerError for a
    function, parameters or a result that do not fit.
    """
    from curation.signals.core.table import read_signal, write_signal

    params = {**(params or {}), **({"model": str(model)} if model else {})}
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
            f"producer {target!r} returned the columns {table.column_names}; `row` and at least one more are "
            "needed"
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
