"""TensorBoard's event files, which `tensorboard --logdir runs` shows; a folder for each run.

TensorBoard has no tables, summaries and artifacts: they are written as texts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.tracking.contract import Artifact, Mode, RunInfo


class Backend:
    """Writes `folder`/<name>.<run id>/; a continued run adds a file to its folder."""

    errors: tuple[type[Exception], ...] = (OSError,)
    measures = False
    remote = False

    def __init__(self, mode: Mode, folder: Path, seconds: float) -> None:
        import tensorboard  # noqa: F401  # the writer needs it, and says less clearly that it is missing

        self.folder = folder

    def open(self, info: RunInfo) -> "Run":
        """A writer whose first texts are what the run is."""
        from torch.utils.tensorboard import SummaryWriter

        name = re.sub(r"[^\w.,=-]+", "-", info.name).strip("-")
        run = Run(SummaryWriter(str(self.folder / f"{name}.{info.id}"), flush_secs=5))
        about = {"name": info.name, "group": info.group, "tags": info.tags, "commit": info.commit}
        run.text("run", about | {"config": info.config})
        return run


class Run:
    """One SummaryWriter."""

    def __init__(self, writer: Any) -> None:
        self.writer, self._step = writer, 0

    def text(self, name: str, value: Any) -> None:
        """A text: JSON, indented as code."""
        lines = json.dumps(value, indent=1, ensure_ascii=False, default=str).splitlines()
        self.writer.add_text(name, "\n".join(f"    {line}" for line in lines), self._step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._step = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def system(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self.writer.add_text(name, "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))

    def figures(self, paths: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, path in paths.items():
            with Image.open(path) as image:
                self.writer.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")

    def summary(self, values: Mapping[str, Any]) -> None:
        self.text("summary", values)

    def artifact(self, artifact: Artifact) -> None:
        places = {**artifact.files, **artifact.references}
        paths = {name: str(path) for name, path in places.items()}
        self.text(f"artifact/{artifact.name}", {"paths": paths, "about": artifact.about})

    def finish(self, complete: bool) -> None:
        self.writer.close()


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
