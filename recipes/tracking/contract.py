"""What a tracked run is, and what a backend has to offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Mode = Literal["online", "offline", "disabled"]
JobType = Literal["train", "experiment"]


@dataclass(frozen=True)
class RunInfo:
    """A run as a backend opens it.

    `id` is the same whenever the same work goes on, so that a resumed run continues in the tracker too;
    `name` is for readers. `commit`: of this code, None outside a repository.
    """

    id: str
    name: str
    job_type: JobType
    project: str
    group: str
    entity: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None


@dataclass(frozen=True)
class Artifact:
    """Files that belong to a run, by the names that they get, and places that are referred to only.

    `references`: name -> path of a folder or file that stays where it is and is not read. Some backends list
    the files of a folder.
    """

    name: str
    kind: str
    files: Mapping[str, Path] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """One run that is open in a backend."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step. Steps of a run ascend."""

    def system(self, values: Mapping[str, float], step: int) -> None:
        """What the machine is doing; called only where the backend does not measure that itself."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of numbers, texts and None."""

    def figures(self, paths: Mapping[str, Path]) -> None:
        """PNG files by name."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Numbers and words that stand for the whole run."""

    def artifact(self, artifact: Artifact) -> None:
        """Files and references."""

    def finish(self, complete: bool) -> None:
        """Close the run; `complete`: it will not be continued."""


class Backend(Protocol):
    """A tracker in its own process. `errors`: what it raises if it cannot go on.

    `measures`: it logs the machine's use itself. `remote`: what it does depends on the mode; the others only
    write files. Made with (mode, folder, seconds): everything is written below `folder`, and a server has
    `seconds` to answer. Raises ImportError if its library is missing.
    """

    errors: tuple[type[Exception], ...]
    measures: bool
    remote: bool

    def open(self, info: RunInfo) -> Run:
        """Begin the run, or continue the one of the same id."""
