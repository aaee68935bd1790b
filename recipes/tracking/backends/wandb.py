"""Weights & Biases, on its server or in files for `wandb sync`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.teacher.address import MASK
from recipes.tracking.backends.wandb_like import WandbLike
from recipes.tracking.contract import Mode, RunInfo

OFFLINE_SECONDS = 60.0
"""Time limit for an offline start, which waits for a local process only, in seconds."""
STATS_SECONDS = 10.0
"""How often the machine's use is logged, in seconds."""


class Backend:
    """Writes `folder`/offline-run-* or run-*; several runs are open at once."""

    measures = True
    remote = True

    def __init__(self, mode: Mode, folder: Path, seconds: float) -> None:
        # Where files of artifacts wait for their upload: beside the runs that they belong to.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "data"))
        import wandb

        self.wandb, self.mode, self.folder = wandb, mode, folder
        self.seconds = seconds if mode == "online" else OFFLINE_SECONDS
        self.errors: tuple[type[Exception], ...] = (wandb.Error, OSError)

    def open(self, info: RunInfo) -> "Run":
        """Begin a run, or continue it by its id: on the server, or when both files are synced."""
        run = self.wandb.init(
            mode=self.mode,
            id=info.id,
            resume="allow" if self.mode == "online" else None,
            name=info.name,
            project=info.project,
            entity=info.entity,
            group=info.group,
            job_type=info.job_type,
            tags=list(info.tags),
            config={**info.config, "commit": info.commit},
            dir=str(self.folder.parent),  # wandb adds its own folder to it
            settings=self._settings(info),
        )
        return Run(self.wandb, run)

    def _settings(self, info: RunInfo) -> Any:
        """Short waits; no console, source code, environment, command line or names of user and machine."""
        return self.wandb.Settings(
            init_timeout=self.seconds,
            login_timeout=self.seconds,
            silent=True,
            console="off",
            disable_git=True,
            git_commit=info.commit,
            disable_code=True,
            save_code=False,
            x_save_requirements=False,
            reinit="create_new",
            x_disable_meta=True,
            host=MASK,
            x_stats_pid=os.getppid(),  # the recipe's process, with all that it starts
            x_stats_track_process_tree=True,
            x_stats_sampling_interval=STATS_SECONDS,
        )


class Run(WandbLike):
    """One run of wandb."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        data = [list(row) for row in rows]
        table = self.api.Table(columns=list(columns), data=data, allow_mixed_types=True)
        self.run.log({name: table})

    def summary(self, values: Mapping[str, Any]) -> None:
        self.run.summary.update(dict(values))

    def finish(self, complete: bool) -> None:
        self.run.finish(exit_code=0 if complete else 1)
