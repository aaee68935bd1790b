"""The mini tasks through the real lmms-eval: scripted models, a tiny random checkpoint, crash and resume. One
file, as the import of lmms-eval costs many seconds."""

import io
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
import yaml
from evaluation_data import CAPABILITIES, QUESTIONS, compared, png, write_bench
from PIL import Image

pytest.importorskip("lmms_eval", reason="evaluation needs the [eval] extra")

from curation.mini.tokenizer import build_tokenizer
from evaluation.answering import Settings
from evaluation.harness import EvaluationError, evaluate
from evaluation.journal import Answer
from evaluation.mirror import MirrorError
from evaluation.model import Answerer
from evaluation.report.table import as_markdown
from evaluation.report.tables.benchmarks import benchmarks_table
from evaluation.results import Run
from evaluation.shuffled import donors, images, ring, with_images
from evaluation.suite import load_suite
from evaluation.tasks import folder_of
from training.models import build_tiny

pytestmark = pytest.mark.slow

TASKS = [b.name for b in load_suite("mini")]
N = 2 * len(QUESTIONS)
"""Questions of each benchmark in `bench_dir`."""


class Scripted:
    """Answers with fn(document), without a look at the image."""

    identity: ClassVar = {"checkpoint": "Scripted", "dtype": "none", "template": "none", "engine": "none"}

    def __init__(self, fn) -> None:
        self.fn, self.messages = fn, []

    def answers(self, questions):
        for question in questions:
            self.messages.append(question.messages())
            yield [(question, "hash", Answer(self.answer(question.doc), False, 1))]

    def answer(self, doc):
        return self.fn(doc)


ANTI = {
    "choice": "a",
    "word": "cat",
    "number": "7",
    "yes_no": "yes",
    "coordinate": "c1",
    "spell": "d o g",
    "facts": "a1 sun ; c3 dog",
}


def _sentence(doc) -> str:
    if doc["kind"] == "choice":
        return f"({doc['answer'].upper()}) {doc['options']['abcd'.index(doc['answer'])]}"
    return f"The answer is {doc['answer']}."


@pytest.mark.parametrize(
    "fn, value, unparsed",
    [
        (lambda doc: doc["answer"], 1.0, 0),
        (_sentence, 1.0, 0),
        (lambda doc: ANTI[doc["kind"]], 0.0, 0),
        (lambda doc: "§§ ...", 0.0, N),
    ],
    ids=["oracle", "verbose oracle", "anti-oracle", "garbage"],
)
def test_scripted_models(bench_dir, tmp_path, fn, value, unparsed):
    summary = evaluate(tmp_path, data=bench_dir, out=tmp_path / "out", model=Scripted(fn))
    assert list(summary["benchmarks"]) == TASKS
    for entry in summary["benchmarks"].values():
        assert (entry["value"], entry["unparsed"], entry["n"]) == (value, unparsed, N)
        assert entry["chance"] == pytest.approx(2 / 3 / N)


def test_prompt_is_image_then_question(bench_dir, tmp_path):
    model = Scripted(lambda doc: doc["answer"])
    evaluate(tmp_path, data=bench_dir, out=tmp_path / "out", model=model, only=["mini_ocr"], limit=1)
    ((message,),) = model.messages
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][0]["url"].size == (64, 64) and message["content"][1]["text"] == QUESTIONS[0][1]


def test_outputs(bench_dir, tmp_path):
    flip = iter([True, False] * 1000)
    out = tmp_path / "out"
    evaluate(
        tmp_path,
        data=bench_dir,
        out=out,
        model=Scripted(lambda doc: doc["answer"] if next(flip) else "?"),
        only=TASKS[:2],
    )
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert sorted(p.name for p in out.iterdir()) == ["answers", "scores.parquet", "summary.json"]
    assert (
        len(scores) == 2 * N and scores[1]["id"] == "spatial-1" and scores[N]["benchmark"] == "mini_attribute"
    )
    assert [s["score"] for s in scores[:4]] == [1, 0, 1, 0] and [s["extracted"] for s in scores[:2]] == [
        "b",
        None,
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["benchmarks"]["mini_spatial"]["value"] == 0.5 and summary["protocol"]["batch_size"] == 64
    assert set(summary["protocol"]) == {
        *(
            "suite",
            "entries",
            "tasks",
            "data",
            "lmms_eval",
            "batch_size",
            "max_batch_tokens",
            "chunk",
            "limit",
        ),
        *("dtype", "template", "engine"),
    }
    assert {(s["unit"], s["stratum"], s["weight"]) for s in scores[:1]} == {("0", "", 1 / N)}
    assert all(s["lenient"] == s["item_score"] == s["score"] and not s["truncated"] for s in scores)


class Reader(Scripted):
    """Sees by the picture which question it belongs to, and gives that question's answer."""

    def __init__(self, docs) -> None:
        super().__init__(None)
        self.docs = {png(100 * CAPABILITIES.index(doc["capability"]) + doc["index"]): doc for doc in docs}
        self.docs = {Image.open(io.BytesIO(data)).tobytes(): doc for data, doc in self.docs.items()}
        self.seen = []

    def answer(self, doc):
        (picture,) = images(self.messages[-1])
        self.seen.append((doc["id"], self.docs[picture.tobytes()]["id"]))
        return self.docs[picture.tobytes()]["answer"]


def _docs(bench_dir, *capabilities):
    return [doc for key in capabilities for doc in pq.read_table(bench_dir / f"{key}.parquet").to_pylist()]


def test_who_ignores_images_has_no_grounded_gain(bench_dir, tmp_path):
    flip = {doc["id"]: i % 3 > 0 for i, doc in enumerate(_docs(bench_dir, *CAPABILITIES))}
    model = Scripted(lambda doc: doc["answer"] if flip[doc["id"]] else ANTI[doc["kind"]])
    summary = evaluate(tmp_path, data=bench_dir, out=tmp_path / "out", model=model, shuffled=True)
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scores["score"] == scores["score_shuffled"] and not scores["score_shuffled"].null_count
    for entry in summary["benchmarks"].values():
        assert 0 < entry["value"] < 1 and entry["shuffled"] == entry["value"]


def test_who_reads_images_has_a_grounded_gain(bench_dir, tmp_path):
    model = Reader(_docs(bench_dir, "spatial", "ocr"))
    tasks = ["mini_spatial", "mini_ocr"]
    summary = evaluate(tmp_path, data=bench_dir, out=tmp_path / "out", model=model, only=tasks, shuffled=True)
    for key, entry in zip(("spatial", "ocr"), summary["benchmarks"].values(), strict=True):
        assert entry["value"] == 1 and entry["shuffled"] <= 0.5
        following = ring(f"mini_{key}", N)
        shown = dict(pair for pair in model.seen[2 * N :] if pair[0].startswith(key))
        assert shown == {f"{key}-{i}": f"{key}-{following[i]}" for i in range(N)}
    assert all(asked == shown for asked, shown in model.seen[: 2 * N])


def test_shuffled_images_do_not_change_the_real_answers(bench_dir, tmp_path, tiny):
    seen = []
    options = {"data": bench_dir, "only": TASKS[:2], "settings": Settings(batch_size=5)}
    plain = evaluate(tiny, out=tmp_path / "plain", **options)
    both = evaluate(
        tiny, out=tmp_path / "both", shuffled=True, on_progress=lambda *n: seen.append(n), **options
    )
    ours, theirs = (pq.read_table(tmp_path / name / "scores.parquet") for name in ("plain", "both"))
    assert ours.drop("score_shuffled") == theirs.drop("score_shuffled")
    assert ours["score_shuffled"].null_count == len(ours) and not theirs["score_shuffled"].null_count
    assert both["protocol"] == plain["protocol"] and seen == sorted(seen) and seen[-1] == (4 * N, 4 * N)
    for task, entry in plain["benchmarks"].items():
        assert both["benchmarks"][task] == entry | {"shuffled": both["benchmarks"][task]["shuffled"]}
        assert entry["shuffled"] is None and both["benchmarks"][task]["shuffled"] is not None


def test_limit_does_not_change_the_image_that_a_question_gets(bench_dir, tmp_path):
    model = Reader(_docs(bench_dir, "ocr"))
    evaluate(
        tmp_path,
        data=bench_dir,
        out=tmp_path / "out",
        model=model,
        only=["mini_ocr"],
        limit=1,
        shuffled=True,
    )
    assert model.seen == [("ocr-0", "ocr-0"), ("ocr-0", f"ocr-{ring('mini_ocr', N)[0]}")]


def test_a_single_question_has_no_shuffled_score(tmp_path):
    bench = write_bench(tmp_path / "bench", per_kind=1)
    pq.write_table(pq.read_table(bench / "ocr.parquet").slice(0, 1), bench / "ocr.parquet")
    model = Scripted(lambda doc: doc["answer"])
    tasks = ["mini_ocr", "mini_data"]
    summary = evaluate(tmp_path, data=bench, out=tmp_path / "out", model=model, only=tasks, shuffled=True)
    assert [entry["shuffled"] for entry in summary["benchmarks"].values()] == [None, 1]
    assert (
        pq.read_table(tmp_path / "out" / "scores.parquet")["score_shuffled"].to_pylist() == [None] + [1.0] * 7
    )


def test_questions_with_several_images_and_with_none():
    def to_messages(names):
        parts = [*({"type": "image", "url": name} for name in names), {"type": "text", "text": "?"}]
        return [{"role": "user", "content": parts}]

    def ask(docs):
        others = donors("t", [bool(doc) for doc in docs])
        asked = [
            with_images(to_messages(doc), images(to_messages(docs[others[i]])))
            if i in others
            else to_messages(doc)
            for i, doc in enumerate(docs)
        ]
        return ["".join(images(messages)) for messages in asked], others

    docs = ["AB", "", "C", "", "DEF", ""]
    answers, others = ask(docs)
    assert set(others) == {0, 2, 4} and [len(answer) for answer in answers] == [len(doc) for doc in docs]
    assert all(not set(answer) & set(doc) for answer, doc in zip(answers, docs, strict=True))
    assert {answers[2]} < {"A", "D"} and answers[0] in ("CC", "DE") and answers[4] in ("CCC", "ABA")
    assert ask(["", "AB", ""]) == (["", "AB", ""], {}), "nothing to swap with"


def test_limit_and_tasks(bench_dir, tmp_path):
    summary = evaluate(
        tmp_path,
        data=bench_dir,
        out=tmp_path / "o",
        model=Scripted(lambda d: d["answer"]),
        only=["mini_ocr"],
        limit=3,
    )
    assert {task: entry["n"] for task, entry in summary["benchmarks"].items()} == {"mini_ocr": 3}


def test_missing_data_and_unknown_task_are_errors(bench_dir, tmp_path):
    model = Scripted(lambda doc: "")
    with pytest.raises(MirrorError, match=r"lacks the data file spatial\.parquet"):
        evaluate(tmp_path, data=tmp_path, out=tmp_path / "out", model=model)
    with pytest.raises(ValueError, match="has no benchmark mini_smell"):
        evaluate(tmp_path, data=bench_dir, out=tmp_path / "out", model=model, only=["mini_smell"])


def test_broken_reference_answer_stops_the_evaluation(tmp_path):
    bench = write_bench(tmp_path / "bench", per_kind=1)
    table = pq.read_table(bench / "ocr.parquet")
    broken = table.set_column(
        table.schema.get_field_index("answer"), "answer", [["not a letter", *table["answer"].to_pylist()[1:]]]
    )
    pq.write_table(broken, bench / "ocr.parquet")
    with pytest.raises(EvaluationError, match=r"mini_ocr, question 'ocr-0': reference answer 'not a letter'"):
        evaluate(
            tmp_path,
            data=bench,
            out=tmp_path / "out",
            model=Scripted(lambda doc: "a"),
            only=["mini_ocr"],
        )
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build_tiny(
        tmp_path_factory.mktemp("tiny"), build_tokenizer(), hidden=32, layers=2, vision_layers=1
    )


def test_checkpoint_gives_the_same_bytes_again(bench_dir, tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    for name in ("one", "two"):
        evaluate(
            tiny,
            data=bench_dir,
            out=tmp_path / name,
            settings=Settings(batch_size=64),
            on_progress=lambda done, total: seen.append((done, total)),
        )
    for file in ("scores.parquet", "summary.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    everything = len(TASKS) * N
    assert seen[-1] == (everything, everything) and seen == sorted(seen[: len(seen) // 2]) * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"], (
        "nothing is written into the working directory"
    )


def test_other_weights_give_another_checkpoint_hash(bench_dir, tmp_path, tiny):
    other = build_tiny(tmp_path / "other", build_tokenizer(), hidden=32, layers=2, vision_layers=1, seed=1)
    hashes = {
        evaluate(path, data=bench_dir, out=tmp_path / "out", only=["mini_ocr"], limit=2)["checkpoint"]
        for path in (tiny, other)
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("shuffled", "fails_at", "journalled", "answers"),
    [(False, 4, 12, 2 * N), (True, 10, 32, 4 * N)],
    ids=["real images", "the 28 real and 4 shuffled answers are not asked again"],
)
def test_crash_in_the_middle_keeps_what_is_done(
    bench_dir, tmp_path, tiny, monkeypatch, shuffled, fails_at, journalled, answers
):
    options = {"data": bench_dir, "only": TASKS[:2], "settings": Settings(batch_size=4), "shuffled": shuffled}
    whole = evaluate(tiny, out=tmp_path / "whole", **options)
    real, calls = Answerer.generate, []

    def failing(self, prompts, generation):
        calls.append(len(prompts))
        if len(calls) == fails_at:
            raise RuntimeError("out of memory")
        return real(self, prompts, generation)

    monkeypatch.setattr(Answerer, "generate", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(tiny, out=tmp_path / "out", **options)
    journals = sorted((tmp_path / "out" / "answers").iterdir())
    known = sum(len(journal.read_text().splitlines()) - 1 for journal in journals)
    assert known == journalled and not (tmp_path / "out" / "summary.json").exists()
    for journal in journals:
        journal.write_text(journal.read_text() + '{"index": 3, "torn')
    calls[:] = [0] * fails_at
    assert evaluate(tiny, out=tmp_path / "out", **options) == whole
    assert sum(calls) == answers - journalled
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == (
        tmp_path / "whole" / "scores.parquet"
    ).read_bytes()


def test_two_processes_at_once_do_not_collide_nor_touch_the_shared_cache(bench_dir, tmp_path, tiny):
    import datasets

    shared = Path(datasets.config.HF_DATASETS_CACHE)
    before = sorted(shared.rglob("*"))
    context = multiprocessing.get_context("fork")  # a fresh process would spend a minute on imports
    running = [
        context.Process(
            target=evaluate,
            args=(tiny,),
            kwargs={"data": bench_dir, "out": tmp_path / name, "only": TASKS[:4]},
        )
        for name in ("a", "b")
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=300)
    assert [process.exitcode for process in running] == [0, 0]
    assert (tmp_path / "a/scores.parquet").read_bytes() == (tmp_path / "b/scores.parquet").read_bytes()
    assert sorted(shared.rglob("*")) == before


def test_nothing_is_printed(bench_dir, tmp_path, capfd):
    evaluate(
        tmp_path,
        data=bench_dir,
        out=tmp_path / "out",
        model=Scripted(lambda doc: doc["answer"]),
        only=TASKS[:1],
    )
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_lmms_eval_finds_the_model_by_its_entry_point():
    from lmms_eval.models import MODEL_REGISTRY_V2

    from evaluation.lmms_model import WinnowModel
    from evaluation.model import manifest

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    assert MODEL_REGISTRY_V2.get_model_class("winnow") is WinnowModel


def test_every_task_of_the_suite_has_its_yaml_and_data_file():
    for benchmark in load_suite("mini"):
        (task,) = benchmark.tasks
        assert yaml.load((folder_of("mini") / f"{task.task}.yaml").read_text(), yaml.BaseLoader)
        assert benchmark.data_of(task).file == f"{benchmark.capability}.parquet"


@pytest.fixture
def own_suite(tmp_path):
    """own_suite(task YAML) -> a suite of two lines, one of them a task that the project does not ship."""

    def write(task: str) -> Path:
        shutil.copytree(folder_of("mini"), tmp_path / "tasks")
        (tmp_path / "tasks" / "charts.yaml").write_text(task)
        entries = {"mini_ocr": ("OCR", "mini", "ocr"), "charts": ("Charts", "charts", "charts")}
        lines = "\n".join(
            f"  - {{name: {name}, label: {label}, capability: ocr, tasks: [{own}], "
            f"data: {{file: {file}.parquet, id: id}}, extractor: {{kind: column, options: options}}}}"
            for name, (label, own, file) in entries.items()
        )
        content = f"name: own\ntasks: {tmp_path / 'tasks'}\nbenchmarks:\n{lines}\n"
        (tmp_path / "own.yaml").write_text(content)
        return tmp_path / "own.yaml"

    return write


CHARTS = "include: mini.yaml\ntask: charts\n"


def test_a_benchmark_is_its_task_and_its_line_in_the_suite(bench_dir, tmp_path, own_suite):
    bench = tmp_path / "bench"
    shutil.copytree(bench_dir, bench)
    pq.write_table(pq.read_table(bench / "data.parquet").slice(0, 5), bench / "charts.parquet")
    suite, model = load_suite(own_suite(CHARTS)), Scripted(lambda doc: doc["answer"])
    summary = evaluate(tmp_path, suite, data=bench, out=tmp_path / "out", model=model)
    assert {task: (entry["value"], entry["n"]) for task, entry in summary["benchmarks"].items()} == {
        "mini_ocr": (1, N),
        "charts": (1, 5),
    }
    comparison = compared([Run("full", 0, 0, "100%", tmp_path / "out")], suite, bench_dir=bench)
    assert "| arm | budget | seeds | OCR | Charts | mean |" in as_markdown(benchmarks_table(comparison))
    assert comparison.blind == {"mini_ocr": 0.1, "charts": 0.1}


def test_a_task_without_its_data_is_an_error(bench_dir, tmp_path, own_suite):
    suite, model = own_suite(CHARTS), Scripted(lambda doc: "")
    with pytest.raises(MirrorError, match=r"lacks the data file charts\.parquet"):
        evaluate(tmp_path, suite, data=bench_dir, out=tmp_path / "out", model=model)


def test_a_line_without_a_task_is_an_error(bench_dir, tmp_path, own_suite):
    suite = own_suite(CHARTS)
    (tmp_path / "tasks" / "charts.yaml").unlink()
    shutil.copytree(bench_dir, tmp_path / "bench")
    shutil.copy(bench_dir / "data.parquet", tmp_path / "bench" / "charts.parquet")
    with pytest.raises(
        EvaluationError, match=r"charts: task 'charts' does not exist: neither .*charts\.yaml"
    ):
        evaluate(tmp_path, suite, data=tmp_path / "bench", out=tmp_path / "out", model=Scripted(None))


def test_prose_in_a_tasks_functions_is_no_other_protocol(bench_dir, tmp_path, own_suite):
    suite, functions = own_suite(CHARTS), tmp_path / "tasks" / "functions.py"
    shutil.copytree(bench_dir, tmp_path / "bench")
    shutil.copy(bench_dir / "data.parquet", tmp_path / "bench" / "charts.parquet")

    def digest(change: str) -> str:
        functions.write_text(functions.read_text() + change)
        options = {"data": tmp_path / "bench", "out": tmp_path / "out", "limit": 1}
        summary = evaluate(tmp_path, suite, model=Scripted(lambda doc: doc["answer"]), **options)
        return summary["protocol"]["tasks"]

    first = digest("")
    assert digest("\n# A remark.\n") == first
    assert digest("\nSCALE = 2\n") != first
