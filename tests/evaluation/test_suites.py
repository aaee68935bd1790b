"""Every suite of real benchmarks on made-up data: models that are right, wrong or mad, and lmms-eval beside.

One file, as the import of lmms-eval costs many seconds.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_models
from benchmark_mirror import gold, write_mirror, wrong
from chat_server import serve
from processes import environment
from safetensors.torch import load_file, save_file
from suite_models import GARBAGE, MODELS, Scripted, in_words, judged, mixed

pytest.importorskip("lmms_eval", reason="evaluation needs the [eval] extra")

from evaluation_data import collected, compared

from curation import killpoints
from evaluation.answering import Settings
from evaluation.harness import NOT_JUDGED, evaluate
from evaluation.journal import Answer
from evaluation.judge import JudgeServer
from evaluation.lenient import options_of, read
from evaluation.mirror import Mirror, MirrorError
from evaluation.model import Answerer, CheckpointError
from evaluation.opened import open_suite
from evaluation.questions import EvaluationError, Questions, _held
from evaluation.report.conditions import warnings
from evaluation.results import ResultsError, Run, read_summary
from evaluation.score import Answered, score_benchmark
from evaluation.suite import Extractor, Suite, Unit, Weight, load_suite
from evaluation.units import UnitError

pytestmark = pytest.mark.slow

BY_NAME = {benchmark.name: benchmark for name in ("llava10", "rules") for benchmark in load_suite(name)}
SUITES = ("mm14", "mmssr10", "llava10", "rules")
LOWEST = {"llava_w": 10.0}
"""The lowest value of a benchmark, where it is not 0: grades of LLaVA-W are 1 to 10."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    return write_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def server():
    with serve(answer=judged) as server:
        yield server


@pytest.fixture(scope="module")
def judge(server) -> JudgeServer:
    return JudgeServer("judge", version="1", base_url=server.url)


# --- the ends of every scale ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("suite", SUITES)
def test_a_model_that_is_always_right_or_wrong_or_unreadable(suite, model, mirror, judge, tmp_path):
    whole = load_suite(suite)
    scripted = Scripted(model, MODELS[model])
    summary = evaluate(Path("none"), suite, data=mirror, out=tmp_path, model=scripted, judge=judge)
    assert list(summary["benchmarks"]) == [benchmark.name for benchmark in whole]
    assert scripted.asked == sum(entry["n"] for entry in summary["benchmarks"].values())
    for benchmark in whole:
        entry = summary["benchmarks"][benchmark.name]
        end = benchmark.scale if model == "oracle" else LOWEST.get(benchmark.name, 0.0)
        graded = benchmark.judge and benchmark.judge.kind == "score"  # whose grade no extractor reads
        assert (entry["value"], entry["lenient"]) == (end, None if graded else end), benchmark.name
        readable = model in ("oracle", "anti-oracle")
        assert entry["unparsed"] == (0 if readable else entry["n"]), benchmark.name
        assert entry["truncated"] == 0 and entry["shuffled"] is None


# --- lmms-eval itself on the same answers ---------------------------------------------------------------

THEIRS: dict[str, tuple[tuple[str, ...], float]] = {
    "mme": (("mme/mme_perception_score", "mme/mme_cognition_score"), 1),
    "mme_perception": (("mme/mme_perception_score",), 1),
    "mmstar": (("mmstar/average",), 1),
    "ai2d": (("ai2d/exact_match,flexible-extract",), 1),
    "scienceqa": (("scienceqa_img/exact_match",), 1),
    "blink": (("blink/blink_acc",), 1),
    "chartqa": (("chartqa/relaxed_overall",), 1),
    "docvqa": (("docvqa_val/anls",), 1),
    "infovqa": (("infovqa_val/anls",), 1),
    "textvqa": (("textvqa_val/exact_match",), 1),
    "vizwiz": (("vizwiz_vqa_val/exact_match",), 1),
    "vqav2": (("vqav2_val/exact_match",), 1),
    "pope": (("pope/pope_accuracy",), 1),
    "mmmu": (("mmmu_val/mmmu_acc",), 1),
    "mmt": (("mmt_val/accuracy",), 1),
    "mmbench_en": (("mmbench_en_dev_static/gpt_eval_score",), 1),
    "ocrbench": (("ocrbench/ocrbench_accuracy",), 1000),
}
"""Task/metric of lmms-eval's that a benchmark's value is the sum of; OCRBench's is divided by 1,000."""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """More rows, and categories of MME with one, two and three images."""
    folder = write_mirror(tmp_path_factory.mktemp("uneven"), rows=12)
    for file in sorted((folder / "lmms-lab-encoder/MME").rglob("*.parquet")):
        table = pq.read_table(file)
        names = [name.split("/") for name in table["question_id"].to_pylist()]
        kept = [int(image[:4]) <= len(category) % 3 for category, image in names]
        pq.write_table(table.filter(pa.array(kept)), file)
    return folder


def their_results(tasks: list[str], rule, folder: Path) -> dict[str, float]:
    """Task/metric -> value of lmms-eval's own evaluation, on data that it loads from here."""
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate

    class Model(lmms):
        is_simple = False
        loglikelihood = generate_until_multi_round = None

        def generate_until(self, requests):
            asked = [request.args[-3:] for request in requests]
            return [rule(task, self.task_dict[task][split][i]) for i, task, split in asked]

    found = simple_evaluate(
        model=type("Model", (Model,), {})(),  # lmms-eval asks for a class of its class
        tasks=tasks,
        bootstrap_iters=0,
        log_samples=False,
        datetime_str="now",
        cli_args=argparse.Namespace(output_path=str(folder), process_with_media=False),
    )
    return {
        f"{task}/{metric.removesuffix(',none')}": value
        for task, values in found["results"].items()
        for metric, value in values.items()
    }


def no_coin(options):
    raise LookupError("a random option")


def test_values_are_those_of_lmms_evals_own_evaluation(uneven, tmp_path, monkeypatch):
    """All of lmms-eval's counterparts in one run; where it draws a letter, the answers name one."""
    rule = mixed("seed", gold, in_words, wrong, gold)
    options = {"data": uneven, "model": Scripted("mixed", rule)}
    ours = evaluate(Path("none"), "rules", out=tmp_path / "out", **options)["benchmarks"]
    part = {"only": ["mme_perception"], "out": tmp_path / "part", **options}
    ours |= evaluate(Path("none"), "llava10", **part)["benchmarks"]
    monkeypatch.chdir(uneven)  # a repository's name is then that of a local folder
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("random.choice", no_coin)
    tasks = sorted({name.split("/")[0] for names, _ in THEIRS.values() for name in names})
    theirs = their_results(tasks, rule, tmp_path)
    for name, (metrics, factor) in THEIRS.items():
        entry = ours[name]
        expected = sum(float(theirs[metric]) for metric in metrics) * factor
        expected /= entry["n"] if factor > 1 else 1
        # MMMU and MMT-Bench are rounded to five digits there.
        assert entry["value"] == pytest.approx(expected, abs=2e-5 * BY_NAME[name].scale), name
        assert 0 < entry["value"] < BY_NAME[name].scale, name
    sizes = {name: Counter(strata(tmp_path / "out", name).values()) for name in ("mme", "mmstar")}
    assert all(len(set(size.values())) > 1 for size in sizes.values()), "categories of unequal size"


def strata(out: Path, name: str) -> dict[str, str]:
    """The category of each unit of a benchmark."""
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    return {row["unit"]: row["stratum"] for row in rows if row["benchmark"] == name}


def test_grades_are_averaged_as_lmms_eval_does(mirror, judge, tmp_path, monkeypatch):
    model = Scripted("half", mixed("half", gold, wrong))
    out, suite = tmp_path, load_suite("mm14").only(("mmvet",))
    summary = evaluate(Path("none"), suite, data=mirror, out=out, model=model, judge=judge)
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # without one, the module cannot be imported
    from lmms_eval.tasks.mmvet.utils import mmvet_aggregate_results

    grades = pq.read_table(out / "scores.parquet")["item_score"].to_pylist()
    docs = open_suite(suite, mirror).parts["mmvet"][0].docs
    items = [{"score": g, "capabilities": doc["capability"]} for g, doc in zip(grades, docs, strict=True)]
    assert set(grades) == {0.0, 1.0}
    assert summary["benchmarks"]["mmvet"]["value"] == pytest.approx(mmvet_aggregate_results(items))


# --- suites that do not describe their benchmark ----------------------------------------------------------

DOCTORED = {
    "MMStar by question": ("mmstar", {"weight": Weight()}),
    "MMStar by the wrong category": ("mmstar", {"weight": Weight(by=("category",))}),
    "MME without accuracy+": ("mme", {"unit": Unit(by=("category", "question_id"))}),
    "MME as a mean": ("mme", {"weight": Weight(by=("category",), points=100)}),
    "MME by question": ("mme", {"weight": Weight(points=1400)}),
    "MMBench by rotation": ("mmbench_v11", {"unit": Unit()}),
    "MMBench's mean of rotations": ("mmbench_v11", {"unit": Unit(by=("index",), modulo=1_000_000)}),
    "another scale": ("mmt", {"weight": Weight(points=1)}),
}


@pytest.mark.parametrize("case", DOCTORED)
def test_a_wrong_unit_or_weight_is_refused(case, uneven):
    name, change = DOCTORED[case]
    with pytest.raises(EvaluationError, match=rf"^{name}: the sum of weight x score is .* own aggregate .*"):
        _score(name, change, uneven)
    _score(name, {}, uneven)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mmvet", {"judge": None}, "mmvet: the metric grade is nan, which is not a finite number"),
        ("chartqa", {"metric": ("recall",)}, "chartqa: the scorer must return one of recall for a question"),
        ("mmstar", {"item": "grade"}, "the scorer's mapping has no key 'grade' .the suite's `item`., only"),
        ("mmstar", {"item": "l2_category"}, "the metric average is '.*', which is not a finite number"),
        ("ai2d", {"filter": "none"}, "ai2d: its task has no filter 'none', only flexible-extract"),
        ("mmt", {"unit": Unit(by=("l2-category",)), "weight": Weight(by=("category",))}, "two categories"),
    ],
)
def test_a_metric_that_is_no_number_is_refused(name, change, message, uneven):
    with pytest.raises((EvaluationError, UnitError), match=message):
        _score(name, change, uneven)


def _score(name: str, change: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The entry of one benchmark of a suite with this change, for answers of which two thirds are right."""
    suite = doctored(name, change)
    (benchmark,) = suite
    rule, answered = mixed("doctored", gold, wrong, gold), []
    for questions in open_suite(suite, folder).parts[name]:
        texts = [rule(questions.task.task, doc) for doc in questions.docs]
        answered.append(Answered(questions, {i: Answer(text, False, 1) for i, text in enumerate(texts)}))
    return score_benchmark(benchmark, answered)[1]


def doctored(name: str, change: dict[str, Any]) -> Suite:
    suite = load_suite("mm14").only((name,))
    return suite.model_copy(update={"benchmarks": (suite.benchmarks[0].model_copy(update=change),)})


# --- the clothes of a right answer ------------------------------------------------------------------------

STYLES = "A|A.|(A)|A. text|A) text|a|The answer is A.|Answer: A|**A**".split("|")
OFFICIAL = {
    "ai2d": "111101001",
    "scienceqa": "110101000",
    "mmstar": "111110111",
    "blink": "111111110",
    "mmt": "111100110",
    "mmmu": "111100110",
    "mmbench_v11": "111110111",
    "mmbench_en": "111110111",
    "mmbench_cn": "111110111",
}
"""Which of STYLES the official scorer of a benchmark takes for a right answer."""
YES = ("yes", " Yes", "Yes.", "Yes, there is a dog.", "The answer is yes", "Answer: yes", "**Yes**")
OFFICIAL_YES = {"mme": "1111000", "pope": "1100000"}


def dressed(style: str, letter: str, text: str) -> str:
    """A right answer in one of STYLES."""
    words = {"A": letter, "a": letter.lower(), "text": text}
    return re.sub(r"\bA\b|\ba\b|\btext\b", lambda word: words[word[0]], style)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_style_of_an_answer_moves_official_scores_and_no_lenient_one(name, mirror):
    benchmark, parts = BY_NAME[name], open_suite("rules", mirror, only=[name]).parts[name]
    for style, official in zip(STYLES, OFFICIAL[name], strict=True):
        for questions in parts:
            docs = [doc for doc in questions.docs if doc.get("question_type") != "open"]
            letters = [gold(questions.task.task, doc).strip("()") for doc in docs]
            options = [options_of(benchmark.extractor, doc) for doc in docs]
            texts = [
                dressed(style, letter, own["ABCDEFGHI".index(letter)] or "red")
                for letter, own in zip(letters, options, strict=True)
            ]
            _check_style(questions, docs, texts, float(official))


@pytest.mark.parametrize("name", OFFICIAL_YES)
def test_the_style_of_a_yes_moves_official_scores_and_no_lenient_one(name, mirror):
    (questions,) = open_suite("rules", mirror, only=[name]).parts[name]
    docs = [doc for doc in questions.docs if doc["answer"].lower() == "yes"]
    for style, official in zip(YES, OFFICIAL_YES[name], strict=True):
        _check_style(questions, docs, [style] * len(docs), float(official))


def _check_style(questions: Questions, docs, texts: list[str], official: float) -> None:
    plain = [read(questions.benchmark.extractor, doc, text) for doc, text in zip(docs, texts, strict=True)]
    assert set(questions.scores(questions.results(texts, docs))) == {official}, texts[0]
    assert None not in plain and set(questions.scores(questions.results(plain, docs))) == {1.0}, texts[0]


# --- judges -----------------------------------------------------------------------------------------------


def verbose(task: str, doc) -> str:
    """MathVista's right values where only a judge finds them."""
    if "mathvista" in task:
        return f"Let us see: 17, 18 or 19 are candidates here, and so on. VALUE {gold(task, doc)}"
    return gold(task, doc)


def test_a_judge_reads_what_no_rule_can(mirror, judge, server, tmp_path):
    before = len(server.requests)
    options = {"data": mirror, "only": ["mathvista"], "model": Scripted("verbose", verbose)}
    entry = evaluate(Path("none"), "mm14", out=tmp_path, judge=judge, **options)["benchmarks"]["mathvista"]
    assert entry["value"] == 100 == entry["official"] and len(server.requests) - before == entry["n"] == 7


@pytest.fixture
def broken():
    """A judge that fails at everything about MM-Vet."""
    grading = "The lowest grade is 0.0"
    fault = lambda number, body: 500 if grading in body["messages"][0]["content"] else None  # noqa: E731
    with serve(answer=judged, fault=fault) as server:
        yield JudgeServer("judge", version="1", base_url=server.url, retries=0)


def test_a_judge_that_fails_leaves_its_benchmark_missing_and_an_arm_that_cannot_be_compared(
    mirror, judge, broken, tmp_path
):
    model = Scripted("oracle", gold)
    whole, half = tmp_path / "whole", tmp_path / "half"
    evaluate(Path("none"), "mm14", data=mirror, out=whole, model=model, judge=judge)
    evaluate(Path("none"), "mm14", data=mirror, out=half, model=model, judge=broken)
    benchmarks = read_summary(half)["benchmarks"]
    assert benchmarks["mmvet"] == {
        "missing": "mmvet: 6 of 6 judgements are missing (server_error 6), so it has no value"
    }
    assert benchmarks["mathvista"] == read_summary(whole)["benchmarks"]["mathvista"]
    assert read_summary(half)["protocol"] == read_summary(whole)["protocol"]
    runs = [Run(arm, 0, 0, "10%", path) for arm, path in (("full", whole), ("random", half))]
    with pytest.raises(
        ResultsError, match=r"half: no result of benchmark 'mmvet' for arm 'random' .* 6 of 6"
    ):
        compared(runs, load_suite("mm14"))
    asked = model.asked
    evaluate(Path("none"), "mm14", data=mirror, out=half, model=model, judge=judge)
    assert compared(runs, load_suite("mm14")).arm("random").mean.mean == 100 and model.asked == asked


def test_what_is_not_judged_is_left_out_of_every_arm_alike(mirror, judge, tmp_path):
    suite, runs = load_suite("mm14"), []
    for arm, rule in (("full", gold), ("random", wrong)):
        options = {"data": mirror, "out": tmp_path / arm, "model": Scripted(arm, rule)}
        summary = evaluate(Path("none"), suite, judge="not judged", **options)
        assert summary["benchmarks"]["mmvet"] == summary["benchmarks"]["mathvista"] == {"missing": NOT_JUDGED}
        runs.append(Run(arm, 0, 0, "10%", tmp_path / arm))
    comparison = compared(runs, suite)
    assert [len(arm.benchmarks) for arm in comparison.arms] == [12, 12]
    assert [arm.mean.mean for arm in comparison.arms] == [100, 0]
    assert any("mmvet, mathvista; left out of every arm's mean" in str(said) for said in warnings(comparison))
    judged_too = tmp_path / "judged"
    evaluate(Path("none"), suite, data=mirror, out=judged_too, model=Scripted("full", gold), judge=judge)
    with pytest.raises(ResultsError, match=r"different protocols \(data, .*judges, not_judged"):
        compared([*runs, Run("other", 0, 0, "10%", judged_too)], suite)
    with pytest.raises(EvaluationError, match="mmvet, mathvista need a judge: name one, or declare"):
        evaluate(Path("none"), suite, data=mirror, out=tmp_path / "none", model=Scripted("full", gold))


def test_scoring_another_way_asks_no_model_again(mirror, judge, server, tmp_path):
    model = Scripted("verbose", verbose)
    only = ("mmvet", "mathvista", "ai2d")
    suite = load_suite("mm14").only(only)
    options = {"data": mirror, "out": tmp_path, "model": model}
    first = evaluate(Path("none"), suite, judge=judge, **options)
    asked, sent = model.asked, len(server.requests)
    again = evaluate(Path("none"), suite, judge=judge, **options)
    assert again == first and (model.asked, len(server.requests)) == (asked, sent)
    other = evaluate(Path("none"), suite, judge=replace(judge, version="2"), **options)
    assert (model.asked, len(server.requests) - sent) == (asked, 6 + 7)
    assert other["benchmarks"] == first["benchmarks"] and other["protocol"] != first["protocol"]
    ai2d = suite.benchmarks[2].model_copy(update={"extractor": Extractor(kind="number")})
    changed = suite.model_copy(update={"benchmarks": (*suite.benchmarks[:2], ai2d)})
    entry = evaluate(Path("none"), changed, judge=judge, **options)["benchmarks"]["ai2d"]
    assert model.asked == asked and len(server.requests) - sent == 6 + 7
    assert (entry["value"], entry["lenient"], entry["unparsed"]) == (1, 0, entry["n"])


# --- data, limits and checkpoints that cannot give a value ------------------------------------------------


def _without_column(folder: Path) -> None:
    for file in (folder / "lmms-lab-encoder/ai2d").rglob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("options"), file)


def _without_a_shard(folder: Path) -> None:
    sorted((folder / "lmms-lab-encoder/MME").rglob("*.parquet"))[1].unlink()


def _without_split(folder: Path) -> None:
    for file in (folder / "BLINK-Benchmark/BLINK/Jigsaw").glob("val-*"):
        file.unlink()


def _without_repository(folder: Path) -> None:
    shutil.rmtree(folder / "echo840")


def _cut(folder: Path) -> None:
    (file,) = (folder / "Lin-Chen/MMStar").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-200])


def _without_file(folder: Path) -> None:
    (folder / "MMBench_DEV_EN_V11.parquet").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_column, "lacks column options; it has question, answer, image"),
        (_without_a_shard, r"MME.*(missing|incomplete|of 4)"),
        (_without_split, r"Jigsaw.*val"),
        (_without_repository, "lacks repository echo840/OCRBench; it has .*: fetch it with"),
        (_cut, r"mmstar\.parquet"),
        (_without_file, r"lacks the data file MMBench_DEV_EN_V11\.parquet"),
    ],
)
def test_data_that_are_not_whole_are_refused_before_a_question_is_asked(damage, message, mirror, tmp_path):
    shutil.copytree(mirror, tmp_path / "mirror", ignore=shutil.ignore_patterns(".arrow"))
    damage(tmp_path / "mirror")
    model = Scripted("oracle", gold)
    with pytest.raises(MirrorError, match=message):
        evaluate(Path("none"), "rules", data=tmp_path / "mirror", out=tmp_path / "out", model=model)
    assert model.asked == 0 and not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("mme", 3, "limit 3 splits image pair .*; the nearest limits that split none: 2, 4"),
        ("mmbench_en", 4, "limit 4 splits rotation group '1' of mmbench_en, .* that split none: 6"),
    ],
)
def test_a_limit_never_splits_a_unit(name, limit, message, mirror, tmp_path):
    model = Scripted("oracle", gold)
    options = {"data": mirror, "out": tmp_path, "only": [name], "model": model}
    with pytest.raises(UnitError, match=message):
        evaluate(Path("none"), "rules", limit=limit, **options)
    whole = int(message.rsplit(" ", 1)[1])
    entry = evaluate(Path("none"), "rules", limit=whole, **options)["benchmarks"][name]
    assert (entry["n"], model.asked) == (whole, whole) and entry["value"] > 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("preprocessor*", "processor*"), "has no usable processor"),
        (("model.safetensors",), "has no safetensors weights"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused(missing, message, families, mirror, tmp_path):
    shutil.copytree(families["llava"], tmp_path / "model", ignore=shutil.ignore_patterns(*missing))
    with pytest.raises(CheckpointError, match=message):
        evaluate(tmp_path / "model", SHORT, data=mirror, out=tmp_path / "out", settings=CPU)


def test_a_checkpoint_with_missing_keys_is_refused(families, mirror, tmp_path):
    checkpoint = shutil.copytree(families["llava"], tmp_path / "model")
    weights = load_file(checkpoint / "model.safetensors")
    name = next(key for key in weights if "projector" in key)
    kept = {key: value for key, value in weights.items() if key != name}
    save_file(kept, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="projector"):
        evaluate(checkpoint, SHORT, data=mirror, out=tmp_path / "out", settings=CPU)


@pytest.mark.parametrize("suites", [("mm14", "mmssr10"), ("rules", "mm14")])
def test_results_of_two_suites_in_one_table_are_refused(suites, mirror, judge, tmp_path):
    runs = []
    for name in suites:
        model = Scripted("oracle", gold)
        evaluate(Path("none"), name, data=mirror, out=tmp_path / name, only=["mme"], model=model, judge=judge)
        runs.append(Run(name, 0, 0, "10%", tmp_path / name))
    with pytest.raises(ResultsError, match=r"different protocols \(suite differ\)"):
        compared(runs, load_suite(suites[0]).only(("mme",)))


# --- tiny checkpoints ---------------------------------------------------------------------------------------

FAMILIES = ("llava", "anyres", "qwen")
CPU = Settings(batch_size=4, device="cpu")


def shortened(name: str, *only: str) -> Suite:
    """A suite whose answers have at most six tokens: a random model never stops by itself."""
    suite = load_suite(name).only(only) if only else load_suite(name)
    short = [b.model_copy(update={"generation": {**b.generation, "max_new_tokens": 6}}) for b in suite]
    return suite.model_copy(update={"benchmarks": tuple(short)})


SHORT = shortened("mm14", "mmmu", "mme", "ai2d", "docvqa")


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {kind: tiny_models.build(kind, root / kind) for kind in FAMILIES}


@pytest.fixture
def no_network(monkeypatch, server):
    """Only the judge can be reached."""
    allowed = int(server.url.split(":")[2].split("/")[0])
    connect, tried = socket.socket.connect, []

    def refuse(self, address):
        if address[:1] != ("127.0.0.1",) or address[1] != allowed:
            tried.append(address)
            raise OSError(f"no network, but a call to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_tiny_model_of_each_family_answers_everything_and_no_call_leaves(
    kind, families, mirror, judge, no_network, tmp_path
):
    summary = evaluate(
        families[kind], shortened("mm14"), data=mirror, out=tmp_path, judge=judge, settings=CPU
    )
    entries = summary["benchmarks"]
    assert len(entries) == 14 and all("missing" not in entry for entry in entries.values())
    assert all(entry["n"] >= 6 and entry["truncated"] > 0 for entry in entries.values())
    predictions = pq.read_table(tmp_path / "scores.parquet")["prediction"].to_pylist()
    assert len(set(predictions)) > 10 and no_network == []


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_batch_size_changes_no_answer(kind, families, mirror, tmp_path):
    tables = []
    for size in (1, 4):
        out = tmp_path / str(size)
        evaluate(families[kind], SHORT, data=mirror, out=out, settings=replace(CPU, batch_size=size))
        tables.append(pq.read_table(out / "scores.parquet"))
    assert tables[0] == tables[1] and len(set(tables[0]["prediction"].to_pylist())) > 5


def test_a_killed_evaluation_continues_where_it_was(families, mirror, tmp_path, monkeypatch):
    options = {"data": mirror, "settings": CPU}
    whole = evaluate(families["llava"], SHORT, out=tmp_path / "whole", **options)
    generate, asked = Answerer.generate, []
    monkeypatch.setenv(killpoints.VARIABLE, "start/answers/9")
    context = multiprocessing.get_context("fork")  # a fresh process would spend many seconds on imports
    process = context.Process(
        target=evaluate, args=(families["llava"], SHORT), kwargs={"out": tmp_path / "out", **options}
    )
    process.start()
    process.join(timeout=300)
    monkeypatch.delenv(killpoints.VARIABLE)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out" / "summary.json").exists()
    kept = sum(max(len(f.read_bytes().splitlines()) - 1, 0) for f in (tmp_path / "out" / "answers").iterdir())

    def counted(self, prompts, *arguments, **more):
        asked.append(len(prompts))
        return generate(self, prompts, *arguments, **more)

    monkeypatch.setattr(Answerer, "generate", counted)
    assert evaluate(families["llava"], SHORT, out=tmp_path / "out", **options) == whole
    everything = sum(entry["n"] for entry in whole["benchmarks"].values())
    assert 0 < kept < everything and sum(asked) == everything - kept
    for file in ("scores.parquet", "summary.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_the_number_of_workers_changes_no_score(families, mirror, tmp_path):
    found = []
    for n in (1, 2):  # four: tests/evaluation/test_placement.py
        out = tmp_path / str(n)
        settings = replace(CPU, workers=n)
        evaluate(families["llava"], SHORT, data=mirror, out=out, settings=settings)
        found.append([(out / file).read_bytes() for file in ("scores.parquet", "summary.json")])
    assert found[0] == found[1]


# --- the same bytes -----------------------------------------------------------------------------------------

AGAIN = """
import json, sys
from pathlib import Path
from evaluation.answering import Settings
from evaluation.harness import score_suite
from evaluation.opened import open_suite
mirror, out, answers = map(Path, sys.argv[1:])
score_suite(open_suite("rules", mirror), [answers], {}, out, Settings())
"""


def test_another_process_scores_the_same_answers_to_the_same_bytes(mirror, tmp_path):
    rule = mixed("again", gold, wrong, in_words, lambda task, doc: "A or B", lambda task, doc: GARBAGE)
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    evaluate(Path("none"), "rules", data=mirror, out=here, model=Scripted("mixed", rule))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    arguments = [sys.executable, "-c", AGAIN, str(mirror), str(there), str(here / "answers")]
    subprocess.run(arguments, env=environment(PYTHONHASHSEED=seed), check=True, timeout=300)
    for file in ("scores.parquet", "summary.json"):
        assert (here / file).read_bytes() == (there / file).read_bytes()


# --- what a stranger found ------------------------------------------------------------------------------


def test_an_answer_of_several_paragraphs_is_whole(mirror):
    """lmms-eval stops every task at a blank line unless it says otherwise; its own models ignore that."""
    for suite in SUITES:
        opened = open_suite(suite, mirror)
        for name, parts in opened.parts.items():
            stops = [part.generation.get("until") for part in parts]
            assert stops == [None] * len(parts) or name in ("textvqa", "vizwiz"), name  # they name their own


def test_one_task_on_two_data_is_two_parts(mirror, tmp_path):
    both = load_suite("llava10").only(("mmbench_en", "mmbench_cn"))
    one = both.benchmarks[0]
    tasks = ({"task": one.tasks[0].task, "config": "en"}, {"task": one.tasks[0].task, "config": "cn"})
    twice = type(one)(**one.model_dump(exclude={"tasks"}), tasks=tasks)
    summary = evaluate(
        Path("none"),
        both.model_copy(update={"benchmarks": (twice,)}),
        data=mirror,
        out=tmp_path,
        model=Scripted("oracle", gold),
    )
    assert summary["benchmarks"][one.name]["value"] == 100
    assert len(list((tmp_path / "answers").iterdir())) == 2
    with pytest.raises(ValueError, match="on different data only"):
        type(one)(**one.model_dump(exclude={"tasks"}), tasks=(tasks[0], tasks[0]))


def test_a_suite_with_another_entry_is_another_protocol(mirror, tmp_path):
    suite = load_suite("rules").only(("ai2d",))
    (entry,) = suite
    changed = entry.model_copy(update={"generation": {"max_new_tokens": 1}})
    for name, benchmark in (("a", entry), ("b", changed), ("c", entry.model_copy(update={"label": "x"}))):
        own = suite.model_copy(update={"benchmarks": (benchmark,)})
        evaluate(Path("none"), own, data=mirror, out=tmp_path / name, model=Scripted("oracle", gold))
    runs = {name: Run(name, 0, 0, "1", tmp_path / name) for name in "abc"}
    assert compared([runs["a"], runs["c"]], suite, reference=None, baseline=None).arms
    with pytest.raises(ResultsError, match=r"different protocols .*entries"):
        compared([runs["a"], runs["b"]], suite, reference=None, baseline=None)


def test_long_form_results_leave_out_what_is_not_judged(mirror, tmp_path):
    suite = load_suite("mm14").only(("ai2d", "mmvet"))
    model = Scripted("oracle", gold)
    evaluate(Path("none"), suite, data=mirror, out=tmp_path, model=model, judge=NOT_JUDGED)
    rows = collected([Run("a", 0, 0, "1", tmp_path)], suite).to_pylist()
    assert {row["benchmark"] for row in rows} == {"ai2d"}


def test_another_place_of_the_images_is_other_content(mirror):
    (gqa,) = load_suite("llava10").only(("gqa",))
    data = gqa.data_of(gqa.tasks[0])
    other = data.model_copy(update={"images": data.images.model_copy(update={"column": "picture"})})
    opened = Mirror(mirror)
    assert opened.digest(data) != opened.digest(other)


def test_scoring_looks_at_no_image_unless_images_were_shuffled(mirror, tmp_path, monkeypatch):
    suite = load_suite("rules").only(("ai2d",))
    monkeypatch.setattr(Questions, "with_images", property(lambda self: pytest.fail("images were read")))
    evaluate(Path("none"), suite, data=mirror, out=tmp_path, model=Scripted("oracle", gold))


def test_which_questions_have_images(mirror):
    opened = open_suite(load_suite("mm14").only(("mmmu", "ai2d")), mirror)
    (mmmu,), (ai2d,) = opened.parts["mmmu"], opened.parts["ai2d"]
    assert all(mmmu.with_images) and len(mmmu.with_images) == len(mmmu)
    assert ai2d.with_images == [True] * len(ai2d)
    rows = [{"image": {"bytes": b"x", "path": None}}, {"image": None}]
    assert _held(pa.table({"image": [row["image"] for row in rows]})["image"]) == [True, False]
    assert _held(pa.table({"image": [[{"bytes": b"x"}], [], None]})["image"]) == [True, False, False]
