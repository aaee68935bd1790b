"""Compute a signal of a pool.

python -m curation.signals losses --pool pools/mini --model runs/seed --out signals/losses \\
    --param terms=[full,noimg]
python -m curation.signals capability_by_engine --pool pools/mini --model scorer --out signals/capability \\
    --param base_url=http://127.0.0.1:8000/v1
python -m curation.signals my_module:my_function --pool pools/mini --out signals/mine --param power=2
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curation.catalogue import COMMANDS
from curation.command import CommandError, CommandParser, fail, path, yaml_params
from curation.signals.custom import ProducerError, check_params, get_producer, produce_custom
from training.builtin import BUILTIN
from training.hub import HUB_ID, HubError, local_copy


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 (and one line on stderr) for unusable data, 2 for a wrong command, 130 if stopped."""
    given = _parser().parse_args(arguments)
    from curation.signals.raters.engine import EngineError
    from curation.teacher.chat import ChatError

    try:
        print(json.dumps(run(given), indent=1))
    except (ProducerError, CommandError) as error:
        return fail(error, 2)
    except (
        ValueError,
        ImportError,
        OSError,
        EngineError,
        ChatError,
    ) as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        print("stopped; the same command continues after the last whole shard", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:<20} {target}" for name, target in COMMANDS.items())
    parser = CommandParser(
        prog="python -m curation.signals",
        description="Compute a signal of a pool, shard by shard. The same command continues a stopped one.",
        epilog=f"producers:\n{names}\nParameters of a producer are the keyword arguments of its function.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("producer", help="a name from the list below, or my_module:my_function for your own")
    parser.add_argument(
        "--pool", type=path, required=True, metavar="DIR", help="made by python -m curation.pool build"
    )
    models = ", ".join(BUILTIN)
    parser.add_argument(
        "--model",
        metavar="DIR|HUB_ID",
        help=f"checkpoint, organisation/name on the Hub, or {models}; for an engine, its name of the model",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="where the signal is written")
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the producer, value as in YAML",
    )
    return parser


def run(given: argparse.Namespace) -> dict[str, Any]:
    """The summary of the producer that the command line asks for. Raises ProducerError, CommandError."""
    from curation.pool.read import Pool
    from curation.progress import shown

    params = yaml_params(given.param)
    make = _built_in if given.producer in COMMANDS else _custom
    job = make(given.producer, params, given.model)
    pool = Pool.open(given.pool)
    if given.out.exists() and not given.out.is_dir():
        raise CommandError(f"--out {given.out} is a file; give a directory")
    with shown(given.producer) as report:
        return job(pool, given.out, report)


def _built_in(name: str, params: dict[str, Any], model: str | None) -> Callable[..., dict[str, Any]]:
    function = get_producer(name)
    taken = inspect.signature(function).parameters
    key = (
        "model_dir" if "model_dir" in taken else "model"
    )  # an engine knows a model by the name it is served under
    if key in taken and model is None and taken[key].default is inspect.Parameter.empty:
        raise ProducerError(f"producer {name!r} needs a model: give --model")
    if key not in taken and model is not None:
        raise ProducerError(f"producer {name!r} takes no model")
    check_params(name, params, given=("pool", key, "out", "on_progress"))
    models = {} if model is None else {key: find_model(model) if key == "model_dir" else model}
    typed = {key: _typed(value, taken.get(key)) for key, value in params.items()}
    return lambda pool, out, report: function(pool=pool, out=out, on_progress=report, **models, **typed)


def _custom(name: str, params: dict[str, Any], model: str | None) -> Callable[..., dict[str, Any]]:
    get_producer(name)
    shard_rows = {"shard_rows": params.pop("shard_rows")} if "shard_rows" in params else {}
    if model is not None:
        params["model"] = str(find_model(model))
    check_params(name, params)
    return lambda pool, out, report: produce_custom(name, pool, out, params, on_progress=report, **shard_rows)


def _typed(value: Any, parameter: inspect.Parameter | None) -> Any:
    """Text, or every text of a list, becomes a Path where the producer asks for paths."""
    if parameter is None or "Path" not in str(parameter.annotation):
        return value
    if isinstance(value, list):
        return [_typed(each, parameter) for each in value]
    return Path(value) if isinstance(value, str) else value


def find_model(name: str) -> Path:
    """Directory of a checkpoint; a Hub id is fetched, or found in the cache. Raises ProducerError."""
    try:
        folder = BUILTIN.get(name, Path(name).expanduser())
        if folder.is_dir():
            return folder
    except (RuntimeError, ValueError, OSError) as error:
        raise ProducerError(f"--model {name[:200]!r}: {error}") from error
    if not re.fullmatch(HUB_ID, name):
        raise ProducerError(f"--model {name}: no such directory, and not an organisation/name on the Hub")
    try:
        return local_copy(name)
    except HubError as error:
        raise ProducerError(f"--model {error}") from error


if __name__ == "__main__":
    sys.exit(main())
