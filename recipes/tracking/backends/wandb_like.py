"""What a run is told in the same way by wandb and by trackio, which has wandb's interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.tracking.contract import Artifact


class WandbLike:
    """One run of a library with wandb's interface; `api` is its module."""

    def __init__(self, api: Any, run: Any) -> None:
        self.api, self.run = api, run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def system(self, values: Mapping[str, float], step: int) -> None:
        """Does nothing: the library measures that itself."""

    def figures(self, paths: Mapping[str, Path]) -> None:
        self.run.log({name: self.api.Image(str(path)) for name, path in paths.items()})

    def artifact(self, artifact: Artifact) -> None:
        logged = self.api.Artifact(artifact.name, type=artifact.kind, metadata=dict(artifact.about))
        for name, path in artifact.files.items():
            logged.add_file(str(path), name=name)
        for name, path in artifact.references.items():
            logged.add_reference(path.resolve().as_uri(), name=name, checksum=False)
        self.run.log_artifact(logged)
