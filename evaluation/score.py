"""The last stage of an evaluation: answers and judgements become scores. No model is asked, nothing drawn.

    part, entry = score_benchmark(benchmark, [Answered(questions, answers)])

Scoring the same answers again gives the same bytes.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evaluation.journal import Answer
from evaluation.lenient import read
from evaluation.questions import EvaluationError, Questions
from evaluation.statistics.basic import stratified_stderr
from evaluation.suite import Benchmark
from evaluation.units import Layout, layout, of_whole, unit_scores

SCORES_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("task", pa.string()),
        ("index", pa.int32()),
        ("id", pa.string()),
        ("unit", pa.string()),
        ("stratum", pa.string()),
        ("weight", pa.float64()),
        ("prediction", pa.string()),
        ("extracted", pa.string()),
        ("item_score", pa.float64()),
        ("score", pa.float64()),
        ("lenient", pa.float64()),
        ("unparsed", pa.bool_()),
        ("truncated", pa.bool_()),
        ("score_shuffled", pa.float64()),
    ]
)
"""One row per question. `score`, `lenient`, `score_shuffled` are those of the question's unit, `item_score`
its own; a unit's weight is shared by its rows, so a benchmark's value is the sum of weight x score."""

AGREEMENT = 1e-6
"""Largest accepted difference of a value to lmms-eval's own aggregate, as a share of the scale."""


@dataclass(frozen=True)
class Answered:
    """The answers to the first questions of one task, by index.

    `shuffled`: those with other images, None if not asked; a question without an entry kept its own images.
    `verdicts`: the judge's: an extracted text, or a grade in 0..1. `chance` levels come from the data.
    """

    questions: Questions
    answers: Mapping[int, Answer]
    shuffled: Mapping[int, Answer] | None = None
    verdicts: Mapping[int, str | float] = field(default_factory=dict)

    @property
    def docs(self) -> list[dict[str, Any]]:
        return self.questions.docs[: len(self.answers)]


def score_benchmark(benchmark: Benchmark, parts: Sequence[Answered]) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the summary's entry of one benchmark.

    Raises EvaluationError if the value is not lmms-eval's own, or if a score is not a finite number.
    """
    docs = [doc for part in parts for doc in part.docs]
    plan = layout(benchmark, docs)
    own = [_scored(benchmark, part) for part in parts]
    item = [value for part in own for value in part["score"]]
    lenient = [value for part in own for value in part["lenient"] or ()]  # none where a judge grades
    shuffled = _shuffled(benchmark, parts)
    answers = [part.answers[i] for part in parts for i in range(len(part.answers))]
    columns = {
        "benchmark": [benchmark.name] * len(docs),
        "task": [part.questions.task.task for part in parts for _ in part.answers],
        "index": list(range(len(docs))),
        "id": [part.questions.id(i) for part in parts for i in range(len(part.answers))],
        "unit": plan.units,
        "stratum": plan.strata,
        "weight": plan.weights,
        "prediction": [answer.text for answer in answers],
        "extracted": [value for part in own for value in part["extracted"]],
        "item_score": item,
        "score": unit_scores(benchmark.unit, plan.units, item),
        "lenient": lenient and unit_scores(benchmark.unit, plan.units, lenient),
        "unparsed": [value is None for part in own for value in part["extracted"]],
        "truncated": [answer.truncated for answer in answers],
        "score_shuffled": shuffled and unit_scores(benchmark.unit, plan.units, shuffled),
    }
    for name in ("lenient", "score_shuffled"):
        columns[name] = columns[name] or [None] * len(docs)
    table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in SCORES_SCHEMA})
    entry = _entry(benchmark, table, plan, docs)
    if benchmark.judge is None or benchmark.judge.kind == "extract":
        present = len(set(plan.strata))
        official = _official(parts, [part["results"] for part in own]) * of_whole(benchmark, present)
        if not math.isclose(entry["value"], official, abs_tol=AGREEMENT * benchmark.scale):
            raise EvaluationError(
                f"{benchmark.name}: the sum of weight x score is {entry['value']!r}, the task's own "
                f"aggregate {official!r}: the suite's unit or weight does not describe this benchmark"
            )
        entry["official"] = official
    return table, entry


def _scored(benchmark: Benchmark, part: Answered) -> dict[str, Any]:
    """Scores, lenient scores, readings and the scorer's results of one part's answers."""
    questions, docs = part.questions, part.docs
    texts = [part.answers[i].text for i in range(len(docs))]
    extracted = [read(benchmark.extractor, doc, text) for doc, text in zip(docs, texts, strict=True)]
    if benchmark.judge and benchmark.judge.kind == "score":
        grades = [float(part.verdicts[i]) for i in range(len(docs))]
        return {"score": grades, "lenient": None, "extracted": extracted, "results": []}
    judged = [str(part.verdicts.get(i, text)) for i, text in enumerate(texts)]
    results = questions.results(judged)
    scores = questions.scores(results)
    if benchmark.extractor.kind == "column":  # the official scorer reads answers by the same extractor
        return {"score": scores, "lenient": scores, "extracted": extracted, "results": results}
    plain = questions.scores(questions.results([text or "" for text in extracted]))
    lenient = [0.0 if text is None else value for text, value in zip(extracted, plain, strict=True)]
    return {"score": scores, "lenient": lenient, "extracted": extracted, "results": results}


def _shuffled(benchmark: Benchmark, parts: Sequence[Answered]) -> list[float]:
    """Each question's score with another's image; [] if no question of the benchmark could get one."""
    if all(part.shuffled is None for part in parts) or benchmark.judge:
        return []
    scores = []
    for part in parts:
        answers = {**part.answers, **(part.shuffled or {})}
        results = part.questions.results([answers[i].text for i in range(len(part.answers))])
        scores += part.questions.scores(results)
    return scores


def _official(parts: Sequence[Answered], results: Sequence[Sequence[Any]]) -> float:
    """lmms-eval's aggregate; that of several tasks is their mean, weighted by questions."""
    sizes = [len(part.answers) for part in parts]
    values = [part.questions.official(own) for part, own in zip(parts, results, strict=True)]
    return sum(value * n for value, n in zip(values, sizes, strict=True)) / sum(sizes)


def _entry(
    benchmark: Benchmark, table: pa.Table, plan: Layout, docs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The summary of one benchmark; values in the metric's scale."""
    weight = table["weight"].to_numpy()
    columns = {name: table[name] for name in ("score", "lenient", "score_shuffled")}
    value, lenient, shuffled = (
        None if column.null_count else _total(weight * column.to_numpy()) for column in columns.values()
    )
    chance = benchmark.chance
    if chance is None:
        chance = float(np.mean([doc["chance"] for doc in docs]))
    units = unit_table(table)
    return {
        "value": value,
        "n": len(table),
        "units": len(units),
        "stderr": stratified_stderr(units["score"], units["stratum"].to_pylist()),
        "chance": chance,
        "unparsed": sum(table["unparsed"].to_pylist()),
        "truncated": sum(table["truncated"].to_pylist()),
        "lenient": lenient,
        "shuffled": shuffled,
    }


def _total(products: NDArray[np.float64]) -> float:
    """Their sum without the noise of the last digits: weights such as 1/14 are not exact."""
    return round(math.fsum(products), 12)


def unit_table(table: pa.Table) -> pa.Table:
    """The units of one benchmark's rows, in the order of their first question: what each adds to the value.

    score, lenient, score_shuffled: float64, weight x score times the number of units, so that their means are
    the benchmark's values; null where null. `id`: the unit's first question; `stratum`: its category;
    `questions`: how many it has.
    """
    places: dict[str, int] = {}
    place = [places.setdefault(name, len(places)) for name in table["unit"].to_pylist()]
    _, first = np.unique(place, return_index=True)
    weight = np.bincount(place, weights=table["weight"].to_numpy()) * len(places)
    units = table.select(["id", "stratum", "score", "lenient", "score_shuffled"]).take(first)
    for name in ("score", "lenient", "score_shuffled"):
        column = pc.multiply(pc.cast(units[name], pa.float64()), pa.array(weight))
        units = units.set_column(units.schema.get_field_index(name), name, column)
    return units.append_column("questions", pa.array(np.bincount(place, minlength=len(places))))


def without_questions(table: pa.Table, questions: Collection[str]) -> pa.Table:
    """One benchmark's rows without the units that hold any of `questions` (by id).

    Weights are raised so that the units which are left stand for all of their category, and the categories
    which are left for all categories: the sum of weight x score stays in the metric's scale.
    """
    units = table["unit"].combine_chunks()
    gone = pc.unique(units.filter(pc.is_in(table["id"], pa.array(questions, pa.string()))))
    kept = table.filter(pc.invert(pc.is_in(units, gone)))
    if not len(gone) or not len(kept):
        return kept
    before, after = _units_of_strata(table), _units_of_strata(kept)
    across = len(before) / len(after)
    factors = pa.array([across * before[name] / after[name] for name in kept["stratum"].to_pylist()])
    at = kept.schema.get_field_index("weight")
    return kept.set_column(at, "weight", pc.multiply(kept["weight"], factors))


def _units_of_strata(table: pa.Table) -> dict[str, int]:
    """Number of units of each category."""
    counted = table.group_by("stratum").aggregate([("unit", "count_distinct")])
    return dict(zip(counted["stratum"].to_pylist(), counted["unit_count_distinct"].to_pylist(), strict=True))
