"""The benchmarks that every checkpoint answers: suite, data, how it is asked, and who judges."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from recipes.schema.base import NameOrFile, PathText, Section
from recipes.schema.teachers import Server

NOT_JUDGED = "not judged"


class BenchmarkData(Section):
    """Where the benchmarks' data are."""

    mirror: PathText = Field(
        description="folder with the repositories of the benchmarks (`python -m evaluation.data fetch`), or "
        "with the Parquet files that a suite of your own names; nothing is loaded from elsewhere"
    )


class EvaluationJudge(Section):
    """The model that judges answers which no rule can score."""

    model: str = Field(min_length=1, description="the model's name on the server; part of the protocol")
    version: str = Field("", description="what the name does not say, such as a date; part of the protocol")
    deadline: float = Field(120.0, gt=0, description="seconds for one whole answer, all bytes of it")
    attempts: int = Field(3, ge=1, description="replies asked for until one has the form that is required")
    server: Server = Server()


def _judge(value: Any) -> Any:
    return {"declared": NOT_JUDGED} if value == NOT_JUDGED else value


class NotJudged(Section):
    """The declaration that no judge is used: judged benchmarks are left out of every arm's mean alike."""

    declared: Literal["not judged"]


class Evaluation(Section):
    """Benchmarks of every checkpoint."""

    suite: NameOrFile = Field(
        "mini", description="list of benchmarks: a name in evaluation/suites, or a path"
    )
    data: BenchmarkData | None = Field(None, description="data of the suite; the mini world makes its own")
    batch_size: int = Field(64, ge=1)
    max_batch_tokens: int | None = Field(
        None, ge=1, description="limit of rows x longest prompt of a batch, image tokens counted"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights; auto is bfloat16 on a GPU that has it, else float32"
    )
    template: Literal["auto", "training", "checkpoint"] = Field(
        "auto", description="the prompt's form: as in training, or the checkpoint's own chat template"
    )
    judge: Annotated[EvaluationJudge | NotJudged | None, BeforeValidator(_judge)] = Field(
        None, description="needed by suites with judged benchmarks; or `not judged` to leave those out"
    )
    loaders: int = Field(0, ge=0, le=64, description="processes that decode images ahead of the model")
    shuffled: Literal["all", "first", "none"] = Field(
        "first",
        description="repetitions of each arm that are also evaluated with shuffled images",
    )
