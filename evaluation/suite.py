"""A suite: the benchmarks of an experiment, as a YAML file in `evaluation/suites/`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evaluation import suites
from evaluation.tasks import folder_of


@dataclass(frozen=True)
class Benchmark:
    """One column of the result table: a line of the suite's YAML.

    Together with the task's YAML (prompt, scoring, data file) it is all that declares a benchmark.

    `task` is the lmms-eval task, `scale` the highest value of its metric, `direction` "higher" or "lower" is
    better, `chance` the expected score of a random guess (None: the mean of the data's column `chance`),
    `judge` "none" or a model.
    """

    task: str
    label: str
    capability: str
    metric: str = "score"
    direction: str = "higher"
    scale: float = 1.0
    chance: float | None = None
    judge: str = "none"

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"{self.task}: direction must be 'higher' or 'lower', got {self.direction!r}")
        if not self.scale > 0:
            raise ValueError(f"{self.task}: scale must be above 0, got {self.scale}")


@dataclass(frozen=True)
class Suite:
    """A named list of benchmarks; `tasks`: folder of the task YAMLs, in `evaluation/tasks/` or absolute."""

    name: str
    tasks: str
    benchmarks: tuple[Benchmark, ...]

    @property
    def folder(self) -> Path:
        """The directory of the task YAMLs. Raises FileNotFoundError."""
        return folder_of(self.tasks)

    def __iter__(self) -> Iterator[Benchmark]:
        return iter(self.benchmarks)

    def __len__(self) -> int:
        return len(self.benchmarks)


def load_suite(name: str | Path) -> Suite:
    """Read a suite by its name ("mini") or path. ValueError names the file and what is wrong."""
    import yaml

    try:
        path = suites.path_of(name)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    try:
        content = yaml.safe_load(path.read_text())
        benchmarks = tuple(Benchmark(**entry) for entry in content["benchmarks"])
        suite = Suite(content["name"], content["tasks"], benchmarks)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    tasks = [benchmark.task for benchmark in suite]
    if len(set(tasks)) < len(tasks) or not tasks:
        raise ValueError(f"{path}: a suite needs benchmarks, each at most once, got {tasks}")
    return suite
