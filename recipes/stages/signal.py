"""Compute one signal of a pool: whatever producer the plan names, with the inputs and arguments that the plan gives it."""

import importlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent

RESUMES = True
FILES = {"truth": "truth.parquet"}
"""Inputs that are one file of what another stage wrote, by the parameter of the producer."""
NOT_PASSED = {"prompts", "served"}
"""Inputs that only identify: the file of a prompt set that the arguments name, the fit that a server serves."""


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the signal; returns the producer's summary without its seconds (they are the stage's)."""
    from curation.pool.read import Pool

    module, _, name = config["producer"].partition(":")
    producer = getattr(importlib.import_module(module), name)
    given = {
        key: value / FILES[key] if key in FILES else value
        for key, value in inputs.items()
        if key not in {"pool", *NOT_PASSED}
    }
    pool, arguments = Pool.open(inputs["pool"]), config["arguments"]
    with _named_errors(config):
        summary = producer(
            pool=pool, out=out, on_progress=counter(progress), **given, **arguments, **_server(config)
        )
    for line in _lines(summary, config):
        progress.say(line)
    return {key: value for key, value in summary.items() if key not in ("seconds", "say")}


def _server(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a chat-completions server as the producer's arguments."""
    if "server" not in config:
        return {}
    server = config["server"]
    options = {"concurrency": server["concurrency"], **client_options(server)}
    return {"base_url": server["url"], "max_failed": server["max_failed"], "options": options}


def _named_errors(config: dict[str, Any]) -> AbstractContextManager[None]:
    return naming(*config["keys"]) if "keys" in config else nullcontext()


def _lines(summary: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """What the summary of a producer tells the user: its own words, speed, what is missing, cost."""
    lines = [*summary.get("say", [])]
    if speed := summary.get("samples_per_second"):
        padding = summary.get("padding_efficiency")
        lines.append(f"{speed} samples/s{f', padding efficiency {padding}' if padding else ''}")
    if missing := counted(summary.get("missing") or {}):
        lines.append(missing.removeprefix("; "))
    for name, column in (
        (summary.get("columns") or {}).items() if isinstance(summary.get("columns"), dict) else ()
    ):
        lines.append(
            f"{name}: mean {column['mean']}, {column['nulls']} without a grade {column['missing'] or ''}"
        )
    if "usd" in summary:
        lines.append(f"{config['arguments'].get('model', 'server')}: {spent(summary)}")
    return lines
