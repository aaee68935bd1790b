"""A plain JSONL file for each run: one JSON object a line, for a program or `tail -f`."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.tracking.contract import Artifact, Mode, RunInfo


class Backend:
    """Writes `folder`/<run id>.jsonl; a continued run goes on in its file."""

    errors: tuple[type[Exception], ...] = (OSError,)
    measures = False
    remote = False

    def __init__(self, mode: Mode, folder: Path, seconds: float) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, info: RunInfo) -> "Run":
        """Begin or continue a run with a line `start`."""
        run = Run(self.folder / f"{info.id}.jsonl")
        run.write("start", **asdict(info))
        return run


class Run:
    """One file. Every line has `time` (seconds since 1970) and `kind`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, **content: Any) -> None:
        """Append a line. A number that JSON does not have is written as null."""
        line = {"time": round(time.time(), 3), "kind": kind, **content}
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(_finite(line), ensure_ascii=False) + "\n")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.write("log", step=step, values=dict(values))

    def system(self, values: Mapping[str, float], step: int) -> None:
        self.write("system", step=step, values=dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.write("table", name=name, columns=list(columns), rows=[list(row) for row in rows])

    def figures(self, paths: Mapping[str, Path]) -> None:
        self.write("figures", paths={name: str(path) for name, path in paths.items()})

    def summary(self, values: Mapping[str, Any]) -> None:
        self.write("summary", values=dict(values))

    def artifact(self, artifact: Artifact) -> None:
        places = {
            key: {name: str(path) for name, path in getattr(artifact, key).items()}
            for key in ("files", "references")
        }
        self.write("artifact", name=artifact.name, type=artifact.kind, about=dict(artifact.about), **places)

    def finish(self, complete: bool) -> None:
        self.write("finish", complete=complete)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
