"""Compute one signal of a pool, with the producer, inputs and arguments that the plan names."""

import importlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent

RESUMES = True
FILES = {"truth": "truth.parquet"}
"""Inputs for which the producer takes one file of the artefact, by the producer's parameter."""
NOT_PASSED = {"prompts", "served"}
"""Inputs that only enter the hash: the file of the prompt set, the fit that a server serves."""


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the signal; returns the producer's summary without its seconds, which the stage's record has."""
    from curation.pool.read import Pool

    module, _, name = config["producer"].partition(":")
    producer = getattr(importlib.import_module(module), name)
    passed = {
        key: value / FILES[key] if key in FILES else value
        for key, value in inputs.items()
        if key not in {"pool", *NOT_PASSED}
    }
    pool, arguments = Pool.open(inputs["pool"]), config["arguments"]
    with _named_errors(config):
        summary = producer(
            pool=pool, out=out, on_progress=counter(progress), **passed, **arguments, **_server(config)
        )
    for line in _lines(summary, config):
        progress.say(line)
    return {key: value for key, value in summary.items() if key not in ("seconds", "say")}


def _server(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a chat-completions server as arguments of the producer."""
    if "server" not in config:
        return {}
    server = config["server"]
    options = {"concurrency": server["concurrency"], **client_options(server)}
    return {"base_url": server["url"], "max_failed": server["max_failed"], "options": options}


def _named_errors(config: dict[str, Any]) -> AbstractContextManager[None]:
    return naming(*config["keys"]) if "keys" in config else nullcontext()


def _lines(summary: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The lines that the user sees of a producer's summary: its own lines, speed, missing samples, cost."""
    lines = [*summary.get("say", [])]
    if speed := summary.get("samples_per_second"):
        padding = summary.get("padding_efficiency")
        lines.append(f"{speed} samples/s{f', padding efficiency {padding}' if padding else ''}")
    if missing := counted(summary.get("missing") or {}):
        lines.append(missing.removeprefix("; "))
    columns = summary.get("columns")
    for name, column in columns.items() if isinstance(columns, dict) else ():
        lines.append(
            f"{name}: mean {column['mean']}, {column['nulls']} without a grade {column['missing'] or ''}"
        )
    if "usd" in summary:
        lines.append(f"{config['arguments'].get('model', 'server')}: {spent(summary)}")
    return lines
