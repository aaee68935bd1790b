"""Answers of other tools: read, joined to the questions of a mirror, refused where they differ, scored."""

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from benchmark_mirror import gold, write_mirror, wrong

from evaluation import foreign
from evaluation.foreign import (
    ForeignError,
    dataset_of,
    read_samples,
    read_sheet,
    task_of,
    version_in,
)
from evaluation.imported import identity_of, main, recorded_score
from evaluation.joined import same_question
from evaluation.results import ResultsError, Run, check_protocol, read_rows, read_summary
from evaluation.suite import load_suite

REPOSITORIES = ["", "Lin-Chen/MMStar", "BLINK-Benchmark/BLINK"] + [
    f"lmms-lab-encoder/{name}" for name in ("MME", "ai2d", "DocVQA", "MMMU", "MMVet")
]
Rows = list[dict]

# --- files ------------------------------------------------------------------------------------------------

SAMPLE = {
    "doc_id": 3,
    "target": "B",
    "filtered_resps": "B",
    "token_counts": [None],
    "doc_hash": "0",
    "exact_match": 1.0,
    "input": "Which?\nA. x\nB. y",
}


def write_lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("fields", "text", "tokens"),
    [
        ({}, "B", 0),
        ({"resps": ["The answer is B."], "token_counts": [{"output_tokens": 5}]}, "The answer is B.", 5),
        ({"resps": [["(B)"]]}, "(B)", 0),
        ({"filtered_resps": "a\u2028line\x85end"}, "a\u2028line\x85end", 0),
        ({"filtered_resps": ""}, "", 0),
    ],
)
def test_a_sample_is_what_the_model_said_before_any_filter(tmp_path, fields, text, tokens):
    (record,) = read_samples(write_lines(tmp_path / "s.jsonl", [SAMPLE | fields]))
    assert (record.text, record.tokens, record.columns["doc_id"]) == (text, tokens, 3)
    assert record.references == ("B",) and record.question == SAMPLE["input"]


@pytest.mark.parametrize(
    "row", [{"doc_id": 1}, SAMPLE | {"resps": ["a", "b"]}, SAMPLE | {"doc_id": None}, ["list"]]
)
def test_what_is_no_sample_is_named_with_its_line(tmp_path, row):
    with pytest.raises(ForeignError, match=r"s\.jsonl, line 2: is no sample of lmms-eval"):
        read_samples(write_lines(tmp_path / "s.jsonl", [SAMPLE, row]))


def test_half_a_line_is_no_sample(tmp_path):
    (tmp_path / "s.jsonl").write_text(json.dumps(SAMPLE)[:40])
    with pytest.raises(ForeignError, match="line 1"):
        read_samples(tmp_path / "s.jsonl")


def write_sheet(path: Path, rows: Rows) -> Path:
    """A sheet as VLMEvalKit writes it: every cell quoted in .tsv and .csv."""
    names = list(rows[0])
    if path.suffix == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        book.active.append(names)
        for row in rows:
            book.active.append([row[name] for name in names])
        book.save(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as handle:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(handle, names, delimiter=delimiter, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
    return path


SHEET = [
    {"index": 1, "question": "Which?", "answer": "B", "prediction": "B\nsince\r\nit is"},
    {"index": 1000001, "question": "Which?", "answer": "['A', 'x']", "prediction": None},
]


@pytest.mark.parametrize("kind", ["xlsx", "tsv", "csv", "json"])
def test_a_sheet_is_the_same_in_every_format(tmp_path, kind):
    rows = SHEET if kind != "xlsx" else [SHEET[0] | {"prediction": "B\nsince\nit is"}, SHEET[1]]
    first, second = read_sheet(write_sheet(tmp_path / f"model_MME.{kind}", rows))
    assert (first.text, second.text) == (rows[0]["prediction"], "")
    assert (first.references, second.references) == (("B",), ("['A', 'x']", "A", "x"))
    assert [str(record.columns["index"]) for record in (first, second)] == ["1", "1000001"]
    assert [first.row, second.row, first.question] == [1, 2, "Which?"]


def test_a_question_that_was_not_answered_is_no_answer(tmp_path):
    failed = SHEET[0] | {"prediction": "Failed to obtain answer via API."}
    with pytest.raises(ForeignError, match=r"1 of 2 questions were not answered \(first: row 2"):
        read_sheet(write_sheet(tmp_path / "m_MME.tsv", [SHEET[0], failed]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.pkl", "x", r"must be an \.xlsx, \.tsv, \.csv or \.json file"),
        ("m.json", "{", "is not valid JSON"),
        ("m.json", '{"index": [1]}', "must hold a list of rows"),
        ("m.tsv", "index\tanswer\n1\tB\n", "lacks column prediction"),
        ("m.tsv", "", "lacks column index, prediction"),
        ("m.csv", b"index,prediction\n1,\xff\n", "is not UTF-8 text"),
        ("m.xlsx", "x", r"is no \.xlsx file"),
    ],
)
def test_a_file_that_is_no_sheet_is_refused(tmp_path, name, content, message):
    if name.endswith("xlsx"):
        pytest.importorskip("openpyxl")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ForeignError, match=message):
        read_sheet(tmp_path / name)


def test_without_openpyxl_an_excel_file_is_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "m.xlsx").write_bytes(b"")
    with pytest.raises(ForeignError, match=r"needs openpyxl \(pip install openpyxl\), or save it as \.tsv"):
        read_sheet(tmp_path / "m.xlsx")


def test_names_of_files_tell_what_they_hold():
    assert task_of(Path("a/20260101_000000_samples_mme.jsonl")) == "mme"
    assert task_of(Path("mme.jsonl")) is None
    named = {
        "llava_MME.xlsx": "mme",
        "Qwen2.5-VL-7B_MMBench_DEV_EN_V11_exact_matching_result.xlsx": "mmbench_v11",
        "x_MMBench_DEV_EN.tsv": "mmbench_en",
        "x_MMT-Bench_VAL_gpt4.tsv": "mmt",
        "x_MMEX.tsv": None,
        "results.tsv": None,
    }
    assert {name: dataset_of(Path(name)) for name in named} == named
    assert version_in(Path("out/model/T20251224_G9f092656/model_MME.xlsx")) == "9f092656"
    assert version_in(Path("out/model/model_MME.xlsx")) is None


def test_every_known_data_set_is_a_benchmark_of_a_shipped_suite():
    shipped = {b.name for name in ("mm14", "mmssr10", "llava10", "rules") for b in load_suite(name)}
    assert set(foreign.DATASETS.values()) <= shipped


def test_who_answered_is_the_files_and_the_protocol_is_the_tool():
    one, again, other = (identity_of("lmms-eval", {"mme": d}, "0.7.3") for d in ("a", "a", "b"))
    assert one == again and one["checkpoint"] != other["checkpoint"]
    assert one["imported"] == other["imported"] == {"tool": "lmms-eval", "version": "0.7.3"}
    assert identity_of("lmms-eval", {}, None)["engine"] == "imported lmms-eval (version not known)"


def test_recorded_scores_of_both_tools():
    mme, ai2d = (next(b for b in load_suite("rules") if b.name == name) for name in ("mme", "ai2d"))
    assert recorded_score(mme, {"mme_cognition_score": {"score": 1.0, "category": "x"}}) == 1
    assert recorded_score(ai2d, {"exact_match": 0.0, "hit": 1}) == 0
    assert [recorded_score(mme, {"score": value}) for value in (True, "False", 1, None, "no", 7)] == [
        *(1, 0, 1),
        *(None, None, None),
    ]


def test_a_prompt_in_other_words_is_the_question_unless_it_is_anothers():
    texts = {
        i: [f"is there a {thing} in this image? please answer yes or no."] for i, thing in enumerate("xyz")
    }
    asked = "Is there a y in this image?\nAnswer with one word."
    assert same_question(asked, 1, texts)
    assert same_question("Hint. Is there a Y in this image? Please answer yes or no. Answer:", 1, texts)
    assert not same_question("Is there a z in this image? Please answer yes or no.", 1, texts)
    assert not same_question("How many legs has the animal on the left?", 1, texts)
    assert same_question("", 1, texts), "nothing is recorded"


# --- a whole import -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    pytest.importorskip("lmms_eval", reason="evaluation needs the [eval] extra")
    return write_mirror(tmp_path_factory.mktemp("mirror"), repositories=REPOSITORIES)


@pytest.fixture(scope="module")
def questions(mirror):
    """questions(benchmark, suite) -> its parts."""
    from evaluation.opened import open_suite

    return lambda name, suite="rules": open_suite(suite, mirror, only=[name], not_judged=False).parts[name]


def mixed(task: str, doc: dict, index: int) -> str:
    """Right for two of three questions."""
    return gold(task, doc) if index % 3 else wrong(task, doc)


def sheet_of(parts, *columns: str, answer=lambda doc: doc["answer"]) -> Rows:
    """The rows of a result sheet in the order of the data; `hit` as a rule of the other tool saw it."""
    docs = [(part.task.task, doc) for part in parts for doc in part.docs]
    return [
        {"index": at, **{name: doc[name] for name in ("question", *columns)}, "answer": answer(doc)}
        | {"prediction": mixed(task, doc, at), "hit": int(at % 3 > 0)}
        for at, (task, doc) in enumerate(docs)
    ]


@pytest.fixture
def imported(mirror, tmp_path, capsys):
    """imported(tool, file, benchmark, ...) -> (status, what is printed, error, folder of the results)."""

    def run(tool: str, *files: object, tasks: str, out: str = "out", options=(), suite: str = "rules"):
        place = ["--suite", suite, "--data", str(mirror), "--out", str(tmp_path / out), "--tasks", tasks]
        status = main([tool, *map(str, files), *place, *options])
        said = capsys.readouterr()
        return argparse.Namespace(status=status, out=said.out, err=said.err, folder=tmp_path / out)

    return run


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
def test_an_mme_sheet_is_joined_in_the_order_of_the_data(questions, imported, tmp_path):
    rows = sheet_of(questions("mme"), "category")
    sheet = write_sheet(tmp_path / "model_MME.xlsx", rows)
    done = imported("vlmevalkit", sheet, tasks="mme")
    assert done.status == 0, done.err
    entry = summary_of(done.folder)["benchmarks"]["mme"]
    scores = pq.read_table(done.folder / "scores.parquet").to_pylist()
    assert [row["item_score"] for row in scores] == [row["hit"] for row in rows]
    assert 0 < entry["value"] < 2800 and entry["value"] == pytest.approx(entry["official"])
    assert f"model_MME.xlsx: all {len(rows)} recorded scores are ours" in done.out
    suite, summary = load_suite("rules").only(("mme",)), read_summary(done.folder)
    assert len(read_rows(Run("a", 0, 0, "x", done.folder), summary, suite)) == len(rows)

    harsh = write_sheet(tmp_path / "m_MME.tsv", [row | {"hit": 0} for row in rows])
    done = imported("vlmevalkit", harsh, tasks="mme")
    right = sum(row["hit"] for row in rows)
    assert f"{right} of {len(rows)} recorded scores are not ours" in done.out
    assert "recorded 0, ours 1" in done.out


@pytest.mark.slow
def test_rotated_copies_are_joined_by_index_in_any_order(questions, imported, tmp_path):
    (part,) = questions("mmbench_v11")
    rows = sheet_of([part], *"ABCD")
    for row, doc in zip(rows, part.docs, strict=True):
        row["index"] = float(doc["index"])
    done = imported(
        "vlmevalkit", write_sheet(tmp_path / "m_MMBench_DEV_EN_V11.tsv", rows[::-1]), tasks="mmbench_v11"
    )
    assert done.status == 0, done.err
    scores = pq.read_table(done.folder / "scores.parquet").to_pylist()
    assert [row["item_score"] for row in scores] == [row["hit"] for row in rows]
    for changed, message in (
        (rows[1:], f"questions without a row: 1 of {len(rows)} (first: 0)"),
        ([*rows, rows[0]], f"rows with the index of another: 1 of {len(rows) + 1} (first: 0)"),
        (
            [*rows, rows[0] | {"index": 77}],
            f"rows that are no question of the data: 1 of {len(rows) + 1} (first: 77)",
        ),
    ):
        sheet = write_sheet(tmp_path / "m_MMBench_DEV_EN_V11.csv", changed)
        done = imported("vlmevalkit", sheet, tasks="mmbench_v11", out="refused")
        assert done.status == 2 and f"{message}; nothing is imported" in done.err
        assert not done.folder.exists()


@pytest.mark.slow
def test_a_row_of_another_question_or_answer_is_named(questions, imported, tmp_path):
    rows = sheet_of(questions("mmstar"))
    ids = [doc["index"] for doc in questions("mmstar")[0].docs]
    assert [row["index"] for row in rows] == ids
    other = [*rows]
    other[4] = rows[4] | {"question": "How many legs has the animal on the left?"}
    done = imported("vlmevalkit", write_sheet(tmp_path / "m_MMStar.tsv", other), tasks="mmstar")
    assert done.status == 2 and "row 5: its question 'How many legs" in done.err
    assert "mmstar, question 4: '" in done.err and f"1 of {len(rows)} rows differ" in done.err
    other[4] = rows[4] | {"answer": "B" if rows[4]["answer"] == "A" else "A"}
    done = imported("vlmevalkit", write_sheet(tmp_path / "m_MMStar.tsv", other), tasks="mmstar")
    assert done.status == 2 and "row 5: its reference answer " in done.err
    shifted = [row | {"index": at} for at, row in enumerate([*rows[1:], rows[0]])]
    done = imported("vlmevalkit", write_sheet(tmp_path / "m_MMStar.tsv", shifted), tasks="mmstar")
    assert done.status == 2 and f"of {len(rows)} rows differ" in done.err


@pytest.mark.slow
def test_answers_in_another_form_and_other_splits(questions, imported, tmp_path):
    """AI2D's answer is a letter there, DocVQA's a list as text; MMMU's sheet also has the split dev."""
    ai2d = sheet_of(questions("ai2d"), answer=lambda doc: "ABCDEFGHI"[int(doc["answer"])])
    docvqa = sheet_of(questions("docvqa"), answer=lambda doc: repr([*doc["answers"], "x"]))
    (part,) = questions("mmmu")
    mmmu = sheet_of([part], "id")
    mmmu = [row | {"split": "validation"} for row in mmmu]
    dev = [row | {"index": 100 + i, "id": f"dev_{i}", "split": "dev"} for i, row in enumerate(mmmu[:2])]
    files = [
        write_sheet(tmp_path / "m_AI2D_TEST.tsv", ai2d),
        write_sheet(tmp_path / "m_DocVQA_VAL.json", docvqa),
        write_sheet(tmp_path / "m_MMMU_DEV_VAL.tsv", [*dev, *mmmu]),
    ]
    done = imported("vlmevalkit", *files, tasks="ai2d,docvqa,mmmu")
    assert done.status == 0, done.err
    assert "2 rows of other splits than validation are left out" in done.out
    scores = pq.read_table(done.folder / "scores.parquet").to_pylist()
    for name, rows in (("ai2d", ai2d), ("docvqa", docvqa), ("mmmu", mmmu)):
        own = [row["item_score"] for row in scores if row["benchmark"] == name]
        assert own == [row["hit"] for row in rows]


@pytest.mark.slow
def test_one_sheet_holds_all_sub_tasks(questions, imported, tmp_path):
    parts = questions("blink", "mmssr10")
    rows = sheet_of(parts, "idx", answer=lambda doc: doc["answer"].strip("()"))
    sheet = write_sheet(tmp_path / "m_BLINK.tsv", rows[::-1])
    done = imported("vlmevalkit", sheet, tasks="blink", suite="mmssr10")
    assert done.status == 0, done.err
    scores = pq.read_table(done.folder / "scores.parquet").to_pylist()
    assert [row["item_score"] for row in scores] == [row["hit"] for row in rows]
    assert len(list((done.folder / "answers").iterdir())) == len(parts) == 6


@pytest.mark.slow
def test_a_judged_sheet_needs_a_judge_here_too(questions, imported, tmp_path):
    from chat_server import serve

    rows = sheet_of(questions("mmvet", "mm14"))
    sheet = write_sheet(tmp_path / "m_MMVet.tsv", rows)
    done = imported("vlmevalkit", sheet, tasks="mmvet", suite="mm14")
    assert done.status == 2 and "need a judge" in done.err
    with serve(answer=lambda body: "1.0") as server:
        judge = ["--judge-server", server.url, "--judge-model", "m"]
        done = imported("vlmevalkit", sheet, tasks="mmvet", suite="mm14", options=judge)
    assert done.status == 0 and summary_of(done.folder)["benchmarks"]["mmvet"]["value"] == 100


@pytest.mark.slow
def test_files_and_benchmarks_must_match(questions, imported, tmp_path):
    rows = sheet_of(questions("mmstar"))
    sheet, other = (write_sheet(tmp_path / name, rows) for name in ("m_MMStar.tsv", "mine.tsv"))
    for files, tasks, message in (
        ([sheet], "mmstar,mme", "no file for mme: give all"),
        ([sheet, sheet], "mmstar", "mmstar: two files are given"),
        ([other], "mmstar", "its name tells no data set"),
        ([f"mme={other}"], "mmstar", "'mme' is not of suite 'rules': write NAME=FILE, one of mmstar"),
    ):
        done = imported("vlmevalkit", *files, tasks=tasks)
        assert done.status == 2 and message in done.err
    assert imported("vlmevalkit", f"mmstar={other}", tasks="mmstar").status == 0


@pytest.mark.slow
def test_imported_results_are_compared_with_each_other_only(questions, imported, mirror, tmp_path):
    from evaluation.harness import evaluate
    from evaluation.journal import Answer

    class Scripted:
        identity: ClassVar = {"checkpoint": "x", "dtype": "float32", "template": "training", "engine": "hf"}

        def answers(self, questions):
            yield [(question, "hash", Answer("A", False, 1)) for question in questions]

    rows = sheet_of(questions("mmstar"))
    better = [row | {"prediction": row["answer"]} for row in rows]
    folders = []
    for name, own in (("one", rows), ("two", better)):
        folder = tmp_path / f"{name}_run" / "T20260101_G0123abcd"
        folder.mkdir(parents=True)
        done = imported("vlmevalkit", write_sheet(folder / "m_MMStar.tsv", own), tasks="mmstar", out=name)
        folders.append(done.folder)
    again = imported(
        "vlmevalkit", tmp_path / "one_run/T20260101_G0123abcd/m_MMStar.tsv", tasks="mmstar", out="one"
    )
    evaluate(tmp_path, "rules", data=mirror, out=tmp_path / "own", only=["mmstar"], model=Scripted())
    one, two, own = (summary_of(folder) for folder in (*folders, tmp_path / "own"))
    assert again.status == 0 and summary_of(folders[0]) == one, "an import can be repeated"
    assert one["protocol"] == two["protocol"] and one["checkpoint"] != two["checkpoint"]
    assert one["protocol"]["imported"] == {"tool": "vlmevalkit", "version": "0123abcd"}
    assert one["protocol"]["batch_size"] is one["protocol"]["template"] is None
    assert set(one["imported_files"]) == {"mmstar"} and "imported_files" not in own
    runs = [Run(name, 0, 0, "x", folder) for name, folder in zip("ab", folders, strict=True)]
    check_protocol(runs, [one, two])
    with pytest.raises(ResultsError, match=r"different protocols \(.*engine, imported.* differ\)"):
        check_protocol(runs, [one, own])


# --- files that lmms-eval itself wrote --------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_of_lmms_eval(questions, tmp_path_factory):
    """The folder of a run of lmms-eval's own evaluator with mixed answers on three tasks."""
    from lmms_eval import evaluator
    from lmms_eval.api.model import lmms
    from lmms_eval.loggers import EvaluationTracker

    class Mixed(lmms):
        is_simple = False

        def generate_until(self, requests):
            asked = [request.args[2:6] for request in requests]
            return [
                self.mixed(task, self.task_dict[task][split][index], index) for _, index, task, split in asked
            ]

        def mixed(self, task, doc, index):
            return mixed(task, doc, index)

        def loglikelihood(self, requests):
            raise NotImplementedError

        generate_until_multi_round = loglikelihood

    out = tmp_path_factory.mktemp("lmms")
    tasks = [part._task for name in ("mme", "ai2d", "mmstar") for part in questions(name)]
    arguments = argparse.Namespace(
        process_with_media=False, output_path=str(out), reasoning_tags=None, agentic_trace_mode="basic"
    )
    tracker = EvaluationTracker(output_path=str(out))
    results = evaluator.simple_evaluate(
        model=Mixed(),
        tasks=tasks,
        batch_size=4,
        log_samples=True,
        bootstrap_iters=0,
        cli_args=arguments,
        evaluation_tracker=tracker,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str="20260101_000000")
    for task, own in samples.items():
        tracker.save_results_samples(task_name=task, samples=own)
    return results["results"], {task_of(file): file for file in out.rglob("*_samples_*.jsonl")}


@pytest.mark.slow
def test_what_lmms_eval_wrote_comes_out_as_lmms_eval_says(run_of_lmms_eval, imported):
    theirs, files = run_of_lmms_eval
    done = imported("lmms-eval", *files.values(), tasks="mme,ai2d,mmstar", options=["--made-by", "0.7.3"])
    assert done.status == 0, done.err
    summary = summary_of(done.folder)
    ours = {name: entry["value"] for name, entry in summary["benchmarks"].items()}
    assert ours == pytest.approx(
        {
            "mme": theirs["mme"]["mme_perception_score,none"] + theirs["mme"]["mme_cognition_score,none"],
            "ai2d": theirs["ai2d"]["exact_match,flexible-extract"],
            "mmstar": theirs["mmstar"]["average,none"],
        }
    )
    assert 0 < ours["ai2d"] < 1 and done.out.count("recorded scores are ours") == 3
    assert "imported lmms-eval 0.7.3: the answers of 3 files" in done.out


@pytest.mark.slow
def test_samples_that_are_not_all_of_a_task_are_refused(run_of_lmms_eval, imported, tmp_path):
    _, files = run_of_lmms_eval
    rows = [json.loads(line) for line in files["mmstar"].read_text().splitlines()]
    n = len(rows)
    other = rows[2] | {"target": "B" if rows[2]["target"] == "A" else "A"}
    for changed, message in (
        (rows[:-3], f"questions without a row: 3 of {n} (first: {n - 3})"),
        ([*rows, *rows[:2]], f"questions with several rows: 2 of {n} (first: 0)"),
        (
            [*rows, rows[0] | {"doc_id": n}],
            f"rows that are no question of the data: 1 of {n + 1} (first: {n})",
        ),
        ([*rows[:2], other, *rows[3:]], "row 3: its reference answer"),
        ([row | {"input": rows[0]["input"]} for row in rows], "row 2: its question "),
    ):
        file = write_lines(tmp_path / "x_samples_mmstar.jsonl", changed)
        done = imported("lmms-eval", file, tasks="mmstar")
        assert done.status == 2 and message in done.err, done.err
        assert not done.folder.exists()
    done = imported("lmms-eval", write_lines(tmp_path / "mine.jsonl", rows[::-1]), tasks="mmstar")
    assert done.status == 2 and "write NAME=FILE, one of mmstar" in done.err
    assert imported("lmms-eval", f"mmstar={tmp_path / 'mine.jsonl'}", tasks="mmstar").status == 0
