"""Weights & Biases beside a run: stages with their seconds, the comparison as a table, pictures. It never stops a run.

    tracker = Tracker.start("offline", project="winnow", name="mmssr_30pct", run_dir=Path("runs/mmssr_30pct"), config={...})
    tracker.stage("pool", seconds=2.1, cached=False)
    print(tracker.finish())

Everything goes below `run_dir/wandb`. If wandb is missing, its server does not answer or it fails later, one loud line says
so, an online run is kept offline where possible (for `wandb sync`), and the run goes on; `status` tells what happened.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Mode = Literal["online", "offline", "disabled"]
INIT_SECONDS = 10.0
FINISH_SECONDS = 30.0


@dataclass(frozen=True)
class Status:
    """`mode` that was reached, whether it is the one asked for, and why not. `path`: what `wandb sync` takes, if there is one."""

    mode: Mode
    asked: Mode
    detail: str = ""
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return self.mode == self.asked and not self.detail

    def __str__(self) -> str:
        if self.ok:
            return f"wandb: {self.mode}" + (f" ({self.path})" if self.path else "")
        return f"wandb: {self.mode} instead of {self.asked}: {self.detail}" if self.mode != self.asked else f"wandb: {self.detail}"


def _say(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


@dataclass
class Tracker:
    """One wandb run, or nothing that pretends to be one. Make it with `start`."""

    status: Status
    run: Any = None
    say: Callable[[str], None] = _say
    _stages: list[tuple[str, float, bool]] = field(default_factory=list)

    @classmethod
    def start(cls, mode: Mode, *, project: str, name: str, run_dir: Path, config: Mapping[str, Any] | None = None,
              say: Callable[[str], None] = _say, seconds: float = INIT_SECONDS) -> "Tracker":
        """Open a run, for which an online server has `seconds` to answer."""
        if mode == "disabled":
            return cls(Status("disabled", mode), say=say)
        try:
            import wandb
        except ImportError as error:
            return cls._failed(mode, f"wandb cannot be imported ({error}); pip install 'winnow[track]'", say)
        options = {"project": project, "name": name, "dir": str(Path(run_dir)), "config": dict(config or {}), "reinit": "finish_previous"}
        problem = ""
        for tried in dict.fromkeys((mode, "offline")):
            try:
                Path(run_dir).mkdir(parents=True, exist_ok=True)
                run = wandb.init(mode=tried, settings=_settings(wandb, seconds), **options)
            except (wandb.Error, OSError) as error:
                problem = problem or f"{type(error).__name__}: {error}"
                continue
            tracker = cls(Status(tried, mode, problem, Path(run.dir).parent), run, say)
            if problem:
                say(f"{tracker.status}. The run goes on; upload later with: wandb sync {tracker.status.path}")
            return tracker
        return cls._failed(mode, problem, say)

    @classmethod
    def _failed(cls, asked: Mode, detail: str, say: Callable[[str], None]) -> "Tracker":
        say(f"wandb is off: {detail}. The run goes on without it.")
        return cls(Status("disabled", asked, detail), say=say)

    def stage(self, name: str, seconds: float, cached: bool = False) -> None:
        """One finished stage."""
        self._stages.append((name, seconds, cached))
        self._log(lambda wandb: {"stage": name, f"seconds/{name}": seconds, f"cached/{name}": int(cached)})

    def comparison(self, comparison: Mapping[str, Any]) -> None:
        """`Comparison.to_dict()` as a table, one row for each arm, and the headline values as the run's summary."""
        tasks = [benchmark["task"] for benchmark in comparison["suite"]["benchmarks"]]
        columns = ["arm", "budget", "seeds", "mean", "std", "full", "above", "difference", "low", "high", *tasks]
        rows = [_row(arm, tasks) for arm in comparison["arms"]]
        self._log(lambda wandb: {"comparison": wandb.Table(columns=columns, data=rows)})
        self._guard(lambda wandb: self.run.summary.update({f"mean/{row[0]}": row[3] for row in rows} | {f"full/{row[0]}": row[5] for row in rows}))

    def pictures(self, paths: Sequence[Path]) -> None:
        """PNG files, under their stems."""
        self._log(lambda wandb: {path.stem: wandb.Image(str(path)) for path in paths})

    def finish(self, seconds: float = FINISH_SECONDS) -> Status:
        """Close the run; an upload that takes longer than `seconds` is left behind, with what to do about it."""
        stages = [list(stage) for stage in self._stages]
        if stages:
            self._log(lambda wandb: {"stages": wandb.Table(columns=["stage", "seconds", "cached"], data=stages)})
        if self.run is None:
            return self.status
        closing = threading.Thread(target=self._guard, args=(lambda wandb: self.run.finish(),), daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self._stop(f"the upload was not finished within {seconds:.0f} s; upload with: wandb sync {self.status.path}")
        self.run = None
        return self.status

    def _log(self, make: Callable[[Any], dict[str, Any]]) -> None:
        self._guard(lambda wandb: self.run.log(make(wandb)))

    def _guard(self, act: Callable[[Any], Any]) -> None:
        """Do something with the run, if there is one. The first failure is said, ends the tracking and nothing else."""
        if self.run is None:
            return
        import wandb

        try:
            act(wandb)
        except (wandb.Error, OSError, ValueError, TypeError) as error:
            self._stop(f"{type(error).__name__}: {error}")

    def _stop(self, detail: str) -> None:
        self.status = Status(self.status.mode, self.status.asked, detail, self.status.path)
        self.say(f"wandb stopped: {detail}. The run goes on without it.")
        self.run = None


def _settings(wandb: Any, seconds: float) -> Any:
    """Short waits, no console capture, no source code, no machine statistics."""
    return wandb.Settings(init_timeout=seconds, login_timeout=seconds, silent=True, console="off", disable_git=True, disable_code=True,
                          save_code=False, x_disable_stats=True, x_disable_meta=True)


def _row(arm: Mapping[str, Any], tasks: Sequence[str]) -> list[Any]:
    difference = arm["difference"] or {"value": None, "low": None, "high": None}
    return [arm["arm"], arm["budget"], arm["units"], arm["mean"]["mean"], arm["mean"]["std"], arm["full"], arm["above"],
            difference["value"], difference["low"], difference["high"], *(arm["benchmarks"][task]["mean"] for task in tasks)]
