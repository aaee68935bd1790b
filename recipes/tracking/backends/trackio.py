"""trackio: wandb's interface over a local database, which `trackio show` displays.

Offline, nothing but that database is written, whatever the environment says about Spaces and servers; online,
the variables TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say where a copy goes.
"""

import contextvars
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.tracking.backends.wandb_like import WandbLike
from recipes.tracking.contract import Mode, RunInfo


class Backend:
    """Writes below TRACKIO_DIR or, by default, `folder`; several runs are open at once."""

    measures = True
    remote = True

    def __init__(self, mode: Mode, folder: Path, seconds: float) -> None:
        if mode == "offline":
            for name in [
                name for name in os.environ if name.startswith("TRACKIO_") and name != "TRACKIO_DIR"
            ]:
                del os.environ[name]
            os.environ["HF_HUB_OFFLINE"] = "1"  # it asks the hub for the user's name
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        import trackio

        self.trackio = trackio
        self.errors: tuple[type[Exception], ...] = (OSError, ValueError)

    def open(self, info: RunInfo) -> "Run":
        """Begin a run, or continue the one of this id, which trackio knows by its name."""
        tags = {"tags": list(info.tags), "job_type": info.job_type, "commit": info.commit}
        # In a context of its own: trackio ends the run that the context knows when another one begins.
        run = contextvars.copy_context().run(
            self.trackio.init,
            project=info.project,
            name=f"{info.name} {info.id}",
            group=info.group,
            config={**info.config, **tags},
            resume="allow",
            embed=False,
        )
        return Run(self.trackio, run)


class Run(WandbLike):
    """One run of trackio."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        data = [list(row) for row in rows]
        self.run.log({name: self.api.Table(columns=list(columns), data=data)})

    def summary(self, values: Mapping[str, Any]) -> None:
        """As numbers of a last step, and a table of the words: trackio has no summary."""
        self.run.log({name: value for name, value in values.items() if isinstance(value, (int, float))})
        words = [[name, value] for name, value in values.items() if isinstance(value, str)]
        if words:
            self.table("summary", ("name", "value"), words)

    def finish(self, complete: bool) -> None:
        self.run.finish()
