"""trackio: wandb's interface over a local database, which `trackio show` displays.

Offline, nothing but that database is written, whatever the environment says about Spaces and servers; online,
the variables TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say where a copy goes.
"""

import contextvars
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.tracking.contract import Artifact, Mode, RunInfo


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


class Run:
    """One run of trackio."""

    def __init__(self, trackio: Any, run: Any) -> None:
        self.trackio, self.run = trackio, run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def system(self, values: Mapping[str, float], step: int) -> None:
        """Does nothing: trackio measures that itself."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        data = [list(row) for row in rows]
        self.run.log({name: self.trackio.Table(columns=list(columns), data=data)})

    def figures(self, paths: Mapping[str, Path]) -> None:
        self.run.log({name: self.trackio.Image(str(path)) for name, path in paths.items()})

    def summary(self, values: Mapping[str, Any]) -> None:
        """As numbers of a last step, and a table of the words: trackio has no summary."""
        self.run.log({name: value for name, value in values.items() if isinstance(value, (int, float))})
        words = [[name, value] for name, value in values.items() if isinstance(value, str)]
        if words:
            self.table("summary", ("name", "value"), words)

    def artifact(self, artifact: Artifact) -> None:
        logged = self.trackio.Artifact(artifact.name, type=artifact.kind, metadata=dict(artifact.about))
        for name, path in artifact.files.items():
            logged.add_file(str(path), name=name)
        for name, path in artifact.references.items():
            logged.add_reference(path.resolve().as_uri(), name=name, checksum=False)
        self.run.log_artifact(logged)

    def finish(self, complete: bool) -> None:
        self.run.finish()
