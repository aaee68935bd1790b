"""The three files that everything is computed from: same bytes, what is refused, what is not in them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_data import TOY, write_evaluation
from experiments import experiment, only

from evaluation.aggregate import compare
from evaluation.experiment import FILES, FORMAT, Experiment
from evaluation.rebuild import rebuild
from evaluation.results import ResultsError, Run
from evaluation.suite import load_suite


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    experiment(suite=TOY, leaked=3).write(tmp_path / "shipped")
    return tmp_path / "shipped"


def test_what_is_written_is_read_back(folder, tmp_path):
    made, read = experiment(suite=TOY, leaked=3), Experiment.read(folder)
    assert sorted(contents(folder)) == sorted(FILES)
    assert np.array_equal(read.scores, made.scores)
    assert np.array_equal(read.shuffled, made.shuffled, equal_nan=True)
    assert read.questions.equals(made.questions)
    for name in ("suite", "arms", "runs", "reference", "baseline", "margin", "protocol", "chance", "blind"):
        assert getattr(read, name) == getattr(made, name), name
    assert read.context.to_dict() == json.loads(json.dumps(made.context.to_dict()))
    read.write(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_a_comparison_is_that_of_the_files(folder):
    assert compare(Experiment.read(folder)).to_dict() == compare(experiment(suite=TOY, leaked=3)).to_dict()


def test_scores_are_those_of_the_evaluations(tmp_path):
    values = {"t1": np.array([1.0, 0.0, 1.0]), "t2": np.array([0.0, 0.5])}
    other = {"t1": np.array([0.0, 0.0, 1.0]), "t2": None}
    runs = [
        Run("random", 0, 0, "10%", write_evaluation(tmp_path / "a", values), selector="random"),
        Run("full", 0, 0, "100%", write_evaluation(tmp_path / "b", values, shuffled=other), commit="abc"),
    ]
    made = Experiment.of_runs(runs, TOY, leaked={"t2": ["q1"]}, margin=0.5)
    assert made.scores.tolist() == [[1, 0, 1, 0, 0.5]] * 2
    assert np.isnan(made.shuffled[0]).all() and made.shuffled[1, :3].tolist() == [0, 0, 1]
    assert np.isnan(made.shuffled[1, 3:]).all()
    assert made.questions["leaked"].to_pylist() == [False] * 4 + [True]
    assert [(arm.name, arm.budget, arm.selector, arm.anchor) for arm in made.arms] == [
        ("random", "10%", "random", False),
        ("full", "100%", "", True),
    ]
    assert (made.runs[1].checkpoint, made.runs[1].commit, made.margin) == ("b", "abc", 0.5)
    assert made.runs[0].benchmarks["t1"]["value"] == pytest.approx(2 / 3)


def test_no_text_of_an_answer_leaves(tmp_path):
    path = write_evaluation(tmp_path / "a", {"t1": np.ones(4), "t2": np.ones(4)})
    table = pq.read_table(path / "scores.parquet")
    secret = pa.array(["the patient's name"] * len(table))
    for name in ("prediction", "extracted"):
        table = table.set_column(table.schema.get_field_index(name), name, secret)
    pq.write_table(table, path / "scores.parquet")
    Experiment.of_runs([Run("a", 0, 0, "1", path)], TOY).write(tmp_path / "out")
    for name in FILES[:2]:
        assert "prediction" not in pq.read_table(tmp_path / "out" / name).schema.names
    assert not any(b"patient" in data for data in contents(tmp_path / "out").values())
    assert not any(str(tmp_path).encode() in data for data in contents(tmp_path / "out").values())


def test_the_files_are_small(tmp_path):
    experiment(45, seeds=3, questions=300, suite=load_suite("mini")).write(tmp_path)
    assert sum(len(data) for data in contents(tmp_path).values()) < 1_000_000


def test_all_files_are_rebuilt_alike_elsewhere(folder, tmp_path):
    rebuild(folder, tmp_path / "one")
    moved = tmp_path / "another" / "place"
    shutil.copytree(folder, moved)
    shutil.rmtree(folder)
    rebuild(moved, tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert {"comparison.json", "report.md", "results.parquet"} <= one.keys()


def test_long_form_has_the_values_without_leaks(folder, tmp_path):
    rebuild(folder, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    made = experiment(suite=TOY, leaked=3)
    [row] = [
        r
        for r in rows
        if (r["arm"], r["train_seed"], r["benchmark"], r["metric"])
        == ("random", 1, "t1", "score_without_leaks")
    ]
    at = next(k for k, run in enumerate(made.runs) if (run.arm, run.train_seed) == ("random", 1))
    assert row["n"] == 37 and row["value"] == pytest.approx(made.scores[at, 3:40].mean())


# ---------------------------------------------------------------------------------------------- refused


def test_a_missing_file_is_named(folder):
    for name in FILES:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ResultsError, match=name):
            Experiment.read(folder)
        (folder / name).write_bytes(kept)


def edited(folder: Path, change) -> None:
    content = json.loads((folder / "experiment.json").read_text())
    change(content)
    (folder / "experiment.json").write_text(json.dumps(content))


def rows_changed(folder: Path, name: str, change) -> None:
    pq.write_table(change(pq.read_table(folder / name)), folder / name)


def with_nan(table: pa.Table) -> pa.Table:
    values = table["score"].to_numpy().copy()
    values[85] = np.nan
    return table.set_column(2, "score", pa.array(values))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "experiment.json").write_text('{"format'), "cannot be read"),
        (lambda f: (f / "experiment.json").write_text("[]"), "names no format"),
        (lambda f: edited(f, lambda c: c.update(format=FORMAT + 1)), f"has format {FORMAT + 1}.*update"),
        (lambda f: edited(f, lambda c: c.pop("margin")), "not the content of an experiment"),
        (lambda f: edited(f, lambda c: c["runs"][0].update(sead=1)), "not the content.*sead"),
        (lambda f: edited(f, lambda c: c["runs"].pop()), "does not have the 8 runs x 80 questions"),
        (lambda f: edited(f, lambda c: c["arms"].pop()), "not of one experiment"),
        (lambda f: (f / "scores.parquet").write_bytes(b"PAR1"), "scores.parquet cannot be read"),
        (lambda f: (f / "questions.parquet").write_bytes(b""), "questions.parquet cannot be read"),
        (
            lambda f: rows_changed(f, "scores.parquet", lambda t: t.drop_columns("score")),
            "scores.parquet cannot be read",
        ),
        (lambda f: rows_changed(f, "scores.parquet", lambda t: t.slice(1)), "each once and in order"),
        (lambda f: rows_changed(f, "scores.parquet", with_nan), r"row 85 \(run 1, question 5\) has no score"),
        (
            lambda f: rows_changed(f, "questions.parquet", lambda t: t.take(list(range(79, -1, -1)))),
            "not of one",
        ),
    ],
)
def test_damaged_files_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ResultsError, match=message) as error:
        Experiment.read(folder)
    assert str(folder) in str(error.value)


def test_files_of_two_experiments_are_not_mixed(folder, tmp_path):
    experiment(suite=TOY, questions=20).write(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "questions.parquet", folder)
    with pytest.raises(ResultsError, match="runs x 40 questions"):
        Experiment.read(folder)


def test_arms_can_be_left_out():
    made = only(experiment(4, suite=TOY), "random", "method_1")
    assert [arm.arm for arm in compare(made).arms] == ["random", "method_1"]
    assert compare(replace(made, baseline=None)).arm("method_1").difference is None
