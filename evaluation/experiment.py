"""All that a comparison of arms is computed from: three files, small enough to be shipped.

    experiment = Experiment.of_runs(runs, suite)       # reads and checks the evaluations, once
    experiment.write(folder)
    compare(Experiment.read(folder))

    scores.parquet      one row for each run and question: run, question, score, score_shuffled
    questions.parquet   one row for each question: benchmark, index, id, unit, stratum, weight, leaked
    experiment.json     suite, arms, runs with their counts, roles, margin, protocol, levels, context

`run` and `question` are positions in experiment.json's runs and in questions.parquet. No text of a question,
an answer or a sample is in any of them. Equal content gives equal bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from evaluation.context import Context
from evaluation.results import (
    QUESTION_COLUMNS,
    Leaked,
    ResultsError,
    Run,
    check_arms,
    check_protocol,
    check_questions,
    entry_of,
    read_rows,
    read_summary,
)
from evaluation.suite import Suite

FORMAT = 1
"""Version of the files. A reader refuses a newer one."""
FILES = ("scores.parquet", "questions.parquet", "experiment.json")
COUNTS = ("value", "stderr", "n", "unparsed", "truncated", "lenient", "shuffled")
"""What experiment.json keeps of each run's benchmarks, see `evaluation.score`."""
QUESTIONS_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("index", pa.int32()),
        ("id", pa.string()),
        ("unit", pa.string()),
        ("stratum", pa.string()),
        ("weight", pa.float64()),
        ("leaked", pa.bool_()),
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("run", pa.int32()),
        ("question", pa.int32()),
        ("score", pa.float64()),
        ("score_shuffled", pa.float64()),
    ]
)
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ArmAbout:
    """What is known of an arm beside its runs; see `evaluation.results.Run`."""

    name: str
    budget: str
    selector: str = ""
    targeted: bool = False
    control: str = ""
    control_of: str = ""
    anchor: bool = False


@dataclass(frozen=True)
class RunAbout:
    """Seeds and origin of one run, and COUNTS of each benchmark. `commit`: of the code that scored it."""

    arm: str
    pool_seed: int | None
    selection_seed: int
    train_seed: int
    checkpoint: str
    commit: str | None
    benchmarks: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """Arms, their runs, and every run's score of every question.

    `questions`: QUESTIONS_SCHEMA, benchmarks in the order of the suite. `scores`, `shuffled`: float64[runs,
    questions], of the question's unit (`evaluation.score`); `shuffled` is NaN where not measured. `margin`:
    points within which two arms are called equivalent. `chance`, `blind`: levels in the metric's scale.
    """

    suite: Suite
    arms: tuple[ArmAbout, ...]
    runs: tuple[RunAbout, ...]
    questions: pa.Table
    scores: Scores
    shuffled: Scores
    reference: str | None
    baseline: str | dict[str, str] | None
    margin: float
    protocol: dict[str, Any]
    chance: dict[str, float]
    blind: dict[str, float | None]
    decontamination: dict[str, Any] = field(default_factory=dict)
    context: Context = field(default_factory=lambda: Context(title=""))

    @classmethod
    def of_runs(
        cls,
        runs: Sequence[Run],
        suite: Suite,
        *,
        reference: str | None = "full",
        baseline: str | Mapping[str, str] | None = "random",
        margin: float = 1.0,
        bench_dir: Path | None = None,
        leaked: Leaked | None = None,
        decontamination: Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> "Experiment":
        """Read the evaluations of all runs; ResultsError if they cannot be compared.

        `reference` is the arm trained on the full data, `baseline` what arms are compared with, or a mapping
        {budget: arm}. `bench_dir` has the blind level of each benchmark (bench.json). `leaked` flags
        questions that samples of a pool repeat.
        """
        if not runs:
            raise ResultsError("no runs to compare")
        check_arms(runs)
        summaries = [read_summary(run.path) for run in runs]
        check_protocol(runs, summaries)
        protocol = summaries[0]["protocol"]
        suite = suite.judged(protocol.get("not_judged", ()))
        if not len(suite):
            raise ResultsError(f"no benchmark of suite {protocol.get('suite')!r} was judged")
        questions, scores, shuffled = _read_all(runs, summaries, suite)
        first: dict[str, Run] = {}
        for run in runs:
            first.setdefault(run.arm, run)
        return cls(
            suite=suite,
            arms=tuple(_arm_about(run, reference) for run in first.values()),
            runs=tuple(_about(run, summary, suite) for run, summary in zip(runs, summaries, strict=True)),
            questions=_flagged(questions, leaked or {}),
            scores=scores,
            shuffled=shuffled,
            reference=reference,
            baseline=dict(baseline) if isinstance(baseline, Mapping) else baseline,
            margin=margin,
            protocol=protocol,
            chance={
                b.name: summaries[0]["benchmarks"][b.name]["chance"] if b.chance is None else b.chance
                for b in suite
            },
            blind=_blind(bench_dir, suite),
            decontamination=dict(decontamination or {}),
            context=_with_absent(context or Context(title=""), baseline, first),
        )

    def runs_of(self, arm: str) -> list[int]:
        """Positions of an arm's runs."""
        return [at for at, run in enumerate(self.runs) if run.arm == arm]

    def write(self, folder: Path) -> None:
        """Write the three files; experiment.json last: it says that the others are complete."""
        folder.mkdir(parents=True, exist_ok=True)
        runs, questions = self.scores.shape
        table = pa.table(
            {
                "run": np.repeat(np.arange(runs, dtype=np.int32), questions),
                "question": np.tile(np.arange(questions, dtype=np.int32), runs),
                "score": self.scores.ravel(),
                "score_shuffled": pa.array(self.shuffled.ravel(), mask=np.isnan(self.shuffled.ravel())),
            },
            schema=SCORES_SCHEMA,
        )
        _write_table(table, folder / "scores.parquet")
        _write_table(self.questions, folder / "questions.parquet")
        text = json.dumps(self._content(), indent=1, ensure_ascii=False)
        (folder / "experiment.json").write_text(text + "\n", encoding="utf-8")

    def _content(self) -> dict[str, Any]:
        """The content of experiment.json."""
        return {
            "format": FORMAT,
            "suite": self.suite.model_dump(mode="json"),
            "arms": [asdict(arm) for arm in self.arms],
            "runs": [asdict(run) for run in self.runs],
            "roles": {"reference": self.reference, "baseline": self.baseline},
            "margin": self.margin,
            "protocol": self.protocol,
            "chance": self.chance,
            "blind": self.blind,
            "decontamination": self.decontamination,
            "context": self.context.to_dict(),
        }

    @classmethod
    def read(cls, folder: Path) -> "Experiment":
        """The experiment that `write` wrote; ResultsError for missing, damaged or newer files."""
        folder = Path(folder)
        content = _read_content(folder / "experiment.json")
        questions = _read_table(folder / "questions.parquet", QUESTIONS_SCHEMA)
        table = _read_table(folder / "scores.parquet", SCORES_SCHEMA)
        try:
            fields = {
                "suite": Suite.model_validate(content["suite"]),
                "arms": tuple(ArmAbout(**arm) for arm in content["arms"]),
                "runs": tuple(RunAbout(**run) for run in content["runs"]),
                **content["roles"],
                **{k: content[k] for k in ("margin", "protocol", "chance", "blind", "decontamination")},
                "context": Context.from_dict(content["context"]),
            }
        except (KeyError, TypeError, ValidationError) as error:
            raise ResultsError(
                f"{folder / 'experiment.json'}: not the content of an experiment ({error!r}); copy the "
                "folder again, or run its recipe again"
            ) from error
        shape = (len(fields["runs"]), len(questions))
        scores, shuffled = _matrices(table, shape, folder)
        own = cls(questions=questions, scores=scores, shuffled=shuffled, **fields)
        own._check(folder)
        return own

    def _check(self, folder: Path) -> None:
        """ResultsError if the three files in `folder` are not of one experiment."""
        counts = {run.arm for run in self.runs} == {arm.name for arm in self.arms}
        asked = self.questions["benchmark"].to_pylist()
        in_order = [b.name for b in self.suite] == list(dict.fromkeys(asked))
        if (
            not counts
            or not in_order
            or any(
                run.benchmarks[b.name]["n"] != asked.count(b.name) for run in self.runs for b in self.suite
            )
        ):
            raise ResultsError(
                f"{folder}: experiment.json and questions.parquet are not of one experiment; copy all of "
                f"{', '.join(FILES)} from one folder"
            )


def _with_absent(
    context: Context, baseline: str | Mapping[str, str] | None, arms: Mapping[str, Run]
) -> Context:
    """The context with a note for each baseline that has no run: its arms are compared with nothing."""
    named = baseline.values() if isinstance(baseline, Mapping) else [baseline] if baseline else []
    notes = [
        f"No run of the baseline `{name}` is among these: the arms that it is the baseline of have no "
        "difference, and nothing is claimed of them."
        for name in dict.fromkeys(named)
        if name not in arms
    ]
    return replace(context, notes=[*context.notes, *notes])


def _arm_about(run: Run, reference: str | None) -> ArmAbout:
    about = (str(run.budget), run.selector, run.targeted, run.control, run.control_of)
    return ArmAbout(run.arm, *about, anchor=run.anchor or run.arm == reference)


def _about(run: Run, summary: Mapping[str, Any], suite: Suite) -> RunAbout:
    entries = {b.name: entry_of(run, summary, b) for b in suite}
    counts = {name: {key: entry[key] for key in COUNTS} for name, entry in entries.items()}
    seeds = (run.pool_seed, run.selection_seed, run.train_seed)
    return RunAbout(run.arm, *seeds, summary["checkpoint"], run.commit, counts)


def _read_all(
    runs: Sequence[Run], summaries: Sequence[Mapping[str, Any]], suite: Suite
) -> tuple[pa.Table, Scores, Scores]:
    """(questions without `leaked`, scores, scores with shuffled images) of evaluations that agree."""
    first = read_rows(runs[0], summaries[0], suite)
    scores, shuffled = (np.full((len(runs), len(first)), np.nan) for _ in range(2))
    for at, (run, summary) in enumerate(zip(runs, summaries, strict=True)):
        rows = first if at == 0 else read_rows(run, summary, suite)
        check_questions(run, rows, runs[0], first)
        scores[at], shuffled[at] = (rows[name].to_numpy() for name in ("score", "score_shuffled"))
    return first.select(QUESTION_COLUMNS), scores, shuffled


def _flagged(questions: pa.Table, leaked: Leaked) -> pa.Table:
    """QUESTIONS_SCHEMA: the questions with the column `leaked`."""
    pairs = zip(questions["benchmark"].to_pylist(), questions["id"].to_pylist(), strict=True)
    flags = [question in leaked.get(benchmark, ()) for benchmark, question in pairs]
    return questions.append_column("leaked", pa.array(flags, pa.bool_())).cast(QUESTIONS_SCHEMA)


def _blind(bench_dir: Path | None, suite: Suite) -> dict[str, float | None]:
    """Score of the best guess without the image, from bench.json; None if it was not measured."""
    path = Path(bench_dir) / "bench.json" if bench_dir else None
    content = json.loads(path.read_text()) if path and path.is_file() else {}
    return {b.name: content.get(b.capability, {}).get("blind") for b in suite}


# ---------------------------------------------------------------------------------------------- files


def _write_table(table: pa.Table, path: Path) -> None:
    """One row group, dictionaries and zstd: scores take few values, and positions repeat for every run."""
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=9,
        use_dictionary=True,
        row_group_size=max(len(table), 1),
        write_statistics=False,
    )


def _read_content(path: Path) -> dict[str, Any]:
    """experiment.json of a format that this version reads."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ResultsError(
            f"{path} does not exist; a folder of results needs {', '.join(FILES)}, which a run of the recipe "
            "makes"
        ) from error
    except (OSError, ValueError) as error:
        raise ResultsError(
            f"{path} cannot be read ({error}); copy the folder again, or run its recipe again"
        ) from error
    number = content.get("format") if isinstance(content, dict) else None
    if not isinstance(number, int):
        raise ResultsError(f"{path} names no format; it is not the file of an experiment")
    if number > FORMAT:
        raise ResultsError(
            f"{path} has format {number}, this version reads {FORMAT}; update Winnow to read it"
        )
    return content


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, columns=schema.names).cast(schema)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ResultsError(
            f"{path} cannot be read ({error}); copy the folder again, or run its recipe again"
        ) from error


def _matrices(table: pa.Table, shape: tuple[int, int], folder: Path) -> tuple[Scores, Scores]:
    """Scores as float64[runs, questions]. ResultsError if a score is missing, twice there or no number."""
    run, question = (table[name].to_numpy().astype(np.int64) for name in ("run", "question"))
    expected = np.arange(shape[0] * shape[1])
    scores = table["score"].to_numpy()
    if len(run) != len(expected) or not np.array_equal(run * shape[1] + question, expected):
        what = (
            f"does not have the {shape[0]} runs x {shape[1]} questions of its folder, each once and in order"
        )
    elif not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        what = f"row {row} (run {run[row]}, question {question[row]}) has no score"
    else:
        return scores.reshape(shape), table["score_shuffled"].to_numpy().reshape(shape)
    raise ResultsError(f"{folder / 'scores.parquet'}: {what}; copy the folder again, or run its recipe again")
