"""A suite: the benchmarks of an experiment, as a YAML file in `evaluation/suites/`.

Together with its tasks' YAMLs (prompt, official scorer) an entry is all that declares a benchmark. Its value
is the sum over units of weight x score, see `evaluation.units`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evaluation import suites
from evaluation.tasks import folder_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Number = TypeVar("Number", float, "NDArray[np.float64]")


class Entry(BaseModel):
    """Base of all parts of a suite file: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(Entry):
    """Images that are rows of another configuration of the repository (GQA: 398 for 12,578 questions).

    Each question gets the column `column` of the row whose `id` is the question's `key`.
    """

    config: str
    split: str
    key: str = Field(description="column of the questions that names the image")
    id: str = Field("id", description="column of the images' rows that is named")
    column: str = Field("image", description="column of the images' rows with the image")


class Data(Entry):
    """Where the questions come from: a repository of the hub (or its mirror), or one file of a folder."""

    repo: str | None = Field(None, description="dataset repository, organisation/name")
    config: str | None = Field(None, description="configuration of the repository; null is its default")
    split: str = "test"
    revision: str | None = Field(None, description="commit of the repository; null: what the mirror holds")
    file: str | None = Field(None, description="Parquet file of the data folder, instead of a repository")
    id: str | None = Field(None, description="column that names a question; null: its position")
    images: Images | None = Field(None, description="where the images are, if not beside the questions")
    where: tuple[str, tuple[str, ...]] | None = Field(
        None, description="a column and the values of the rows that count; null: all rows"
    )
    columns: tuple[str, ...] = Field((), description="columns that prompts and scorers read")
    licence: str = Field("", description="licence as the repository states it")
    megabytes: float | None = Field(None, description="rough size of the download")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.repo is None) == (self.file is None):
            raise ValueError("data: give either a repository (`repo`) or a local Parquet file (`file`)")
        return self


class Task(Entry):
    """One lmms-eval task of a benchmark; `config`, `split`, `file` replace those of the benchmark's data."""

    task: str
    n: int | None = Field(None, ge=1, description="expected number of questions")
    config: str | None = None
    split: str | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """The task with the data that it names itself: a benchmark may ask one task on several data."""
        return "/".join(part for part in (self.task, self.config, self.split, self.file) if part)


class Unit(Entry):
    """What a score is a weighted sum over: questions that share the values of the columns `by`.

    `score` makes a unit's score from those of its questions: `mean`; `all` (1 if all are right: circular
    evaluation); `pair` (mean + all: accuracy and accuracy+ of MME). `modulo`: `by` holds one integer column,
    whose remainder names the unit.
    """

    name: str = Field("item", description="the word for it in reports")
    by: tuple[str, ...] = ()
    modulo: int | None = Field(None, ge=1)
    score: Literal["mean", "all", "pair"] = "mean"


class Weight(Entry):
    """Weights of units: all alike (1/n) or, with columns `by`, 1/n of the unit's category.

    `across` says how the categories' means combine. `points` is what a score of 1 is worth, so that weights
    lead to the metric's published scale. `categories`: how many categories a sum has; where a limit leaves
    some out, the sum of the others is extended to all of them.
    """

    by: tuple[str, ...] = ()
    across: Literal["mean", "sum"] = "mean"
    categories: int | None = Field(None, ge=1)
    points: float = Field(1.0, gt=0)


class Extractor(Entry):
    """The uniform reading of an answer (`evaluation.lenient`), beside the official one.

    `kind`: choice, yes_no, number, short, or `column` (the column `kind` of the data names one of
    evaluation.extract). `options`: the column or columns with the options of a choice question, or their
    number where the question's text lists them.
    """

    kind: Literal["choice", "yes_no", "number", "short", "column"]
    options: str | tuple[str, ...] | int | None = None


class Judge(Entry):
    """A benchmark that a language model judges: `extract` reads the answer's value, `score` grades it.

    `prompt` names a file of evaluation/judges; `fields` maps its variables to columns of the data.
    """

    kind: Literal["extract", "score"]
    prompt: str
    fields: dict[str, str] = {}


class Benchmark(Entry):
    """One column of the result table.

    `metric`: the official metric, a key of what the task's scorer returns; several are summed. `item`: the
    key of a question's score where the scorer returns a mapping. `filter`: lmms-eval's filter that the metric
    reads. `scale`: the highest value. `chance`: the expected value of a random guess (None: the mean of the
    data's column `chance`). `deviations`: what differs from lmms-eval's own task.
    """

    name: str
    label: str
    capability: str | None = None
    tasks: tuple[Task, ...]
    metric: tuple[str, ...] = ("score",)
    item: str | None = None
    filter: str = "none"
    unit: Unit = Unit()
    weight: Weight = Weight()
    scale: float = Field(1.0, gt=0)
    direction: Literal["higher", "lower"] = "higher"
    chance: float | None = None
    data: Data
    generation: dict[str, Any] = {}
    judge: Judge | None = None
    extractor: Extractor
    gpu_minutes: float = Field(0.0, ge=0, description="rough minutes of a 7B model on one H100")
    deviations: tuple[str, ...] = ()

    @field_validator("tasks", mode="before")
    @classmethod
    def _short_tasks(cls, value: Any) -> Any:
        """A task may be written as its name alone."""
        if isinstance(value, list):
            return [{"task": entry} if isinstance(entry, str) else entry for entry in value]
        return value

    @field_validator("metric", mode="before")
    @classmethod
    def _one_metric(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("tasks", "metric")
    @classmethod
    def _not_empty(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("must not be empty")
        return value

    @field_validator("tasks")
    @classmethod
    def _different(cls, value: tuple[Task, ...]) -> tuple[Task, ...]:
        if len({task.name for task in value}) < len(value):
            raise ValueError("a task may be asked more than once on different data only")
        return value

    @property
    def sign(self) -> int:
        """1, or -1 where lower is better."""
        return 1 if self.direction == "higher" else -1

    def percent(self, score: "Number") -> "Number":
        """A score as means over benchmarks count it: in % of the scale, or what is missing to the whole scale
        where lower is better."""
        share = 100 * score / self.scale
        return share if self.direction == "higher" else 100 - share

    @property
    def official(self) -> str:
        """The name of the official metric in tables of results."""
        return "+".join(self.metric)

    @property
    def expected(self) -> int | None:
        """Number of questions of the whole benchmark; None if a task does not say."""
        counts = [task.n for task in self.tasks]
        return None if None in counts else sum(n for n in counts if n is not None)

    def data_of(self, task: Task) -> Data:
        """The data of one of the benchmark's tasks."""
        own = {name: value for name in ("config", "split", "file") if (value := getattr(task, name))}
        return self.data.model_copy(update=own)


class Suite(Entry):
    """A named list of benchmarks. `tasks`: folder of its own task YAMLs, in `evaluation/tasks/` or absolute.

    A task that the folder does not hold is lmms-eval's own.
    """

    name: str
    tasks: str
    description: str = ""
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each benchmark may be in a suite once, not {', '.join(twice)}")
        return self

    @property
    def folder(self) -> Path:
        """The directory of the suite's own task YAMLs. Raises FileNotFoundError."""
        return folder_of(self.tasks)

    def __iter__(self) -> Iterator[Benchmark]:  # type: ignore[override]
        return iter(self.benchmarks)

    def __len__(self) -> int:
        return len(self.benchmarks)

    def only(self, names: tuple[str, ...]) -> "Suite":
        """The suite reduced to these benchmarks, in their order. Raises ValueError for an unknown one."""
        known = {benchmark.name: benchmark for benchmark in self}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"suite {self.name!r} has no benchmark {', '.join(unknown)}; it has {', '.join(known)}"
            )
        return self.model_copy(update={"benchmarks": tuple(known[name] for name in names)})

    def judged(self, left_out: Sequence[str]) -> "Suite":
        """The suite without the benchmarks that no judge has judged."""
        kept = tuple(benchmark for benchmark in self if benchmark.name not in left_out)
        return self.model_copy(update={"benchmarks": kept})


def load_suite(name: str | Path) -> Suite:
    """Read a suite by its name ("mini") or path. ValueError names the file and what is wrong."""
    import yaml

    try:
        path = suites.path_of(name)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    try:
        return Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(f"{path}: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    """Each problem of a suite file with the path of its key."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()
    )
