"""The process that runs wandb; started by `recipes.tracker`, not by hand.

Reads the options and then messages as JSON lines from stdin until that is closed; writes lines of {"mode",
"detail", "path", "retry"} to stdout. After an error it exits by os._exit, because wandb's exit handlers would
wait for a server that does not answer.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.tracker import Mode

OFFLINE_SECONDS = 60.0
"""Time limit for an offline start, which waits for a local process only, in seconds."""


def main() -> None:
    """Run wandb with the mode in argv[1] until stdin is closed."""
    mode: Mode = sys.argv[1]  # type: ignore[assignment]  # the tracker passes a Mode
    options = json.loads(sys.stdin.readline())
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what wandb prints must not mix with the reports
    try:
        import wandb
    except ImportError as error:
        _report(report, "disabled", f"wandb cannot be imported ({error}); pip install 'winnow[track]'")
        return
    try:
        run = wandb.init(
            mode=mode,
            project=options["project"],
            name=options["name"],
            dir=options["dir"],
            config=options["config"],
            settings=_settings(wandb, options["seconds"] if mode == "online" else OFFLINE_SECONDS),
        )
        path = str(Path(run.dir).parent)
        _report(report, mode, "", path)
        for line in sys.stdin:
            _log(wandb, run, json.loads(line))
        run.finish(quiet=True)
    except (wandb.Error, OSError) as error:
        _report(report, "disabled", f"{type(error).__name__}: {error}", retry=True)
        os._exit(1)


def _report(report: Any, mode: str, detail: str, path: str | None = None, retry: bool = False) -> None:
    print(json.dumps({"mode": mode, "detail": detail, "path": path, "retry": retry}), file=report, flush=True)


def _settings(wandb: Any, seconds: float) -> Any:
    """Settings with short waits, and without console capture, source code and machine statistics."""
    return wandb.Settings(
        init_timeout=seconds,
        login_timeout=seconds,
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_meta=True,
    )


def _log(wandb: Any, run: Any, message: Mapping[str, Any]) -> None:
    if message["kind"] == "stage":
        run.log(
            {
                f"seconds/{message['name']}": message["seconds"],
                f"cached/{message['name']}": int(message["cached"]),
            }
        )
    elif message["kind"] == "training":
        run.define_metric(f"{message['name']}/*", step_metric=f"{message['name']}/step")
        for step in training_steps(message["name"], Path(message["path"])):
            run.log(step)
    elif message["kind"] == "pictures":
        run.log({Path(path).stem: wandb.Image(path) for path in message["paths"]})
    elif message["kind"] == "comparison":
        columns, rows = comparison_rows(message["comparison"])
        run.log({"comparison": wandb.Table(columns=columns, data=rows)})
        run.summary.update(
            {f"{name}/{row[0]}": row[columns.index(name)] for row in rows for name in ("mean", "full")}
        )
    else:
        raise ValueError(f"unknown message {message['kind']!r}")


def training_steps(name: str, log: Path) -> Iterator[dict[str, float]]:
    """The numbers of each line of a training's step log, their keys preceded by its name."""
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        yield {f"{name}/{key}": value for key, value in entry.items() if isinstance(value, (int, float))}


COLUMNS = (
    *("arm", "budget", "seeds", "mean", "std", "full", "above"),
    *("difference", "low", "high", "shuffled", "grounded"),
)
"""Columns of the comparison table, before those of the benchmarks."""


def comparison_rows(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows) of comparison.json: a row for each arm, the chance level and the blind level."""
    benchmarks = comparison["suite"]["benchmarks"]
    tasks = [benchmark["name"] for benchmark in benchmarks]
    rows = [_arm_row(arm, tasks) for arm in comparison["arms"]]
    rows += [_level_row(name, comparison[name], benchmarks) for name in ("chance", "blind")]
    return [*COLUMNS, *tasks], rows


def _arm_row(arm: Mapping[str, Any], tasks: Sequence[str]) -> list[Any]:
    difference = arm["difference"] or {"value": None, "low": None, "high": None}
    return [
        *(arm["arm"], arm["budget"], arm["units"], arm["mean"]["mean"], arm["mean"]["std"]),
        *(arm["full"], arm["above"]),
        *(difference["value"], difference["low"], difference["high"]),
        *(arm[name] and arm[name]["mean"] for name in ("shuffled_mean", "grounded_mean")),
        *(arm["benchmarks"][task]["mean"] for task in tasks),
    ]


def _level_row(name: str, levels: Mapping[str, Any], benchmarks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """A level's mean in % (None unless it is known for every benchmark) and its value on each benchmark."""
    values = [levels[benchmark["name"]] for benchmark in benchmarks]
    percents = [
        100 * value / benchmark["scale"]
        for value, benchmark in zip(values, benchmarks, strict=True)
        if value is not None
    ]
    mean = sum(percents) / len(percents) if len(percents) == len(benchmarks) else None
    empty = [None] * (len(COLUMNS) - COLUMNS.index("std"))
    return [name, "", None, mean, *empty, *values]


if __name__ == "__main__":
    main()
