"""A suite: the list of benchmarks that an experiment is judged by, as a YAML file in `evaluation/suites/`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Benchmark:
    """One column of the result table.

    `task` is the lmms-eval task, `scale` the highest value of its metric, `direction` "higher" or "lower" is better,
    `chance` the value of a blind guess (None: the mean of the data's own `chance` column), `judge` "none" or a model.
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
            raise ValueError(f"{self.task}: direction is {self.direction!r}, must be 'higher' or 'lower'")
        if not self.scale > 0:
            raise ValueError(f"{self.task}: scale must be above 0, is {self.scale}")


@dataclass(frozen=True)
class Suite:
    """A named tuple of benchmarks; `tasks` names the folder below `evaluation/tasks/` that holds their YAMLs."""

    name: str
    tasks: str
    benchmarks: tuple[Benchmark, ...]

    def __iter__(self) -> Iterator[Benchmark]:
        return iter(self.benchmarks)

    def __len__(self) -> int:
        return len(self.benchmarks)


def load_suite(name: str | Path) -> Suite:
    """Read a suite by its name ("mini") or path. ValueError names the file and what is wrong; unknown keys are
    refused."""
    import yaml

    path = SUITES / f"{name}.yaml" if Path(name).suffix not in (".yaml", ".yml") else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.yaml")))
        raise ValueError(f"no suite {str(name)!r}: {path} does not exist (known suites: {known})")
    content = yaml.safe_load(path.read_text())
    try:
        benchmarks = tuple(Benchmark(**entry) for entry in content["benchmarks"])
        suite = Suite(content["name"], content["tasks"], benchmarks)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    tasks = [benchmark.task for benchmark in suite]
    if len(set(tasks)) < len(tasks) or not tasks:
        raise ValueError(f"{path}: a suite needs benchmarks, each once; has {tasks}")
    return suite
