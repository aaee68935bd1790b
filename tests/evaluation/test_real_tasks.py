"""The suites of real benchmarks, and the prompts and scorers of our own tasks."""

import ast
import base64
import json
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from evaluation.judge_prompt import prompt_of
from evaluation.suite import Benchmark, load_suite
from evaluation.tasks import files_of, folder_of, task_file

pytest.importorskip("lmms_eval")
from lmms_eval.utils import load_yaml_config

pytestmark = pytest.mark.slow  # lmms-eval's functions take long to import

SUITES = ("mm14", "mmssr10", "llava10", "rules")
FOLDER = folder_of("real")
OWN = sorted(path.stem for path in FOLDER.glob("[!_]*.yaml"))
Doc = Mapping[str, Any]


def config(task: str) -> dict[str, Any]:
    return load_yaml_config(str(FOLDER / f"{task}.yaml"), mode="full")


def text_of(task: str, doc: Doc) -> str:
    """The prompt of a question, as lmms-eval calls for it."""
    own = config(task)
    return own["doc_to_text"](doc, own.get("lmms_eval_specific_kwargs", {}).get("default", {}))


def scorer(task: str, doc: Doc, metric: str, item: str | None = None) -> Callable[[str], float]:
    """The score of an answer to `doc`."""
    results = config(task)["process_results"]

    def score(answer: str) -> float:
        value = results(doc, [answer])[metric]
        return value[item] if item else value

    return score


# --- suites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_loads_and_every_task_has_a_file(name: str) -> None:
    suite = load_suite(name)
    tasks = [task.task for benchmark in suite for task in benchmark.tasks]
    assert all(file.is_file() for file in files_of(suite.folder, tasks))
    assert all(benchmark.expected for benchmark in suite)


def test_the_suites_hold_the_benchmarks_that_their_names_promise() -> None:
    sizes = {name: len(load_suite(name)) for name in SUITES}
    assert sizes == {"mm14": 14, "mmssr10": 10, "llava10": 10, "rules": 19}
    columns = {b.name: b.expected for b in load_suite("mmssr10")}
    # Sizes of the published columns; MMMU's 1,003 is of no split (deviation of the suite).
    assert columns == {
        "mmbench_v11": 1292,
        "mmstar": 1500,
        "mmmu": 900,
        "mmvet": 218,
        "blink": 793,
        "mmt": 3127,
        "mme": 2374,
        "ai2d": 3088,
        "scienceqa": 2017,
        "mathvista": 1000,
    }


def test_rules_has_all_that_needs_no_judge() -> None:
    entries = [b for name in ("mm14", "llava10") for b in load_suite(name)]
    by_rule = {b.name for b in entries if b.judge is None} - {"mme_perception"}  # which is a part of mme
    assert {b.name for b in load_suite("rules")} == by_rule


def test_a_judge_gets_the_fields_that_its_prompt_needs() -> None:
    judged = [b for name in SUITES for b in load_suite(name) if b.judge]
    assert {b.name for b in judged} == {"mmvet", "mathvista", "llava_w"}
    for benchmark in judged:
        assert benchmark.judge
        assert prompt_of(benchmark.judge).kind == benchmark.judge.kind
        assert set(benchmark.judge.fields.values()) <= set(benchmark.data.columns)


def test_a_benchmark_is_the_same_in_every_suite() -> None:
    """Except BLINK, whose sub-tasks differ, and what mmssr10 declares about the published table."""
    seen: dict[str, Benchmark] = {}
    for name in SUITES:
        for benchmark in load_suite(name):
            if benchmark.name != "blink":
                plain = benchmark.model_copy(update={"deviations": ()})
                assert seen.setdefault(benchmark.name, plain) == plain


@pytest.mark.parametrize("name", SUITES)
def test_an_entry_agrees_with_the_configuration_of_its_tasks(name: str) -> None:
    for benchmark in load_suite(name):
        for task in benchmark.tasks:
            own = load_yaml_config(str(task_file(FOLDER, task.task)), mode="simple")
            data = benchmark.data_of(task)
            assert own["test_split"] == data.split
            assert data.repo is None or own["dataset_path"] == data.repo
            assert own.get("dataset_name") == data.config
            metrics = {entry["metric"] for entry in own["metric_list"]}
            assert set(benchmark.metric) <= metrics
            limit = {**own.get("generation_kwargs", {}), **benchmark.generation}["max_new_tokens"]
            assert limit <= 1024


def test_blinks_sub_tasks_and_chance_levels() -> None:
    """Of the 14 sub-tasks, those of the published table are the six whose questions have one image."""
    whole, six = (next(b for b in load_suite(name) if b.name == "blink") for name in ("mm14", "mmssr10"))
    assert (whole.expected, six.expected) == (1901, 793)
    assert {task.task for task in six.tasks} < {task.task for task in whole.tasks}
    by_options = {
        2: {"Object_Localization", "Relative_Depth", "Spatial_Relation"},
        3: {"Relative_Reflectance"},
    }
    options = {name: k for k, names in by_options.items() for name in names}
    expected = sum((task.n or 0) / options.get(task.config or "", 4) for task in six.tasks) / 793
    assert six.chance == pytest.approx(expected, abs=5e-4)


# --- nothing is drawn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_no_function_file_uses_random_numbers(path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        elif isinstance(node, ast.Attribute | ast.Name):
            names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    assert not {name for name in names if "random" in name or "secrets" in name or "shuffle" in name}


# --- docs -------------------------------------------------------------------------------------------------

MMBENCH = {
    "index": 1_000_007,
    "question": "Which animal is it?",
    "hint": "nan",
    **{"A": "cat", "B": "dog", "C": "horse", "D": "nan"},
    "answer": "B",
}
MMT = {
    "index": 3,
    "question": "Which animal is it?",
    **{letter: "" for letter in "ABCDEFGHI"},
    **{"A": "cat", "B": "dog", "C": "horse"},
    "answer": "B",
}
MMMU = {
    "id": "validation_Art_1",
    "question": "Which animal is it?",
    "options": "['cat', 'dog', 'horse']",
    "answer": "B",
    "question_type": "multiple-choice",
}
MMMU_OPEN = MMMU | {"question_type": "open", "options": "[]", "answer": "42"}
MATHVISTA = {
    "pid": "7",
    "question": "Which animal is it?",
    "unit": None,
    "choices": ["cat", "dog", "horse"],
    "precision": None,
    "answer": "dog",
    "question_type": "multi_choice",
    "answer_type": "text",
}
FREE = {"choices": None, "question_type": "free_form"}
FLOAT = MATHVISTA | FREE | {"precision": 1.0, "answer": "1.2", "answer_type": "float"}
INTEGER = MATHVISTA | FREE | {"answer": "14", "answer_type": "integer"}
LIST = MATHVISTA | FREE | {"answer": "[2007, 2008]", "answer_type": "list"}

CHOICE = {
    "mmbench_v11_dev_circular": (MMBENCH, "circular_accuracy", "score"),
    "mmbench_en_dev_circular": (MMBENCH, "circular_accuracy", "score"),
    "mmbench_cn_dev_circular": (MMBENCH, "circular_accuracy", "score"),
    "mmt_val_rules": (MMT, "accuracy", None),
    "mmmu_val_interleaved": (MMMU, "mmmu_acc", None),
    "mathvista_testmini_rules": (MATHVISTA, "accuracy", None),
}

# What each rule accepts of a right answer; the lenient score reads all of them.
STYLES = ("B", "B.", "(B)", "B. dog", "B) dog", "b", "The answer is B.", "Answer: B", "**B**", "dog")
ACCEPTED = {
    "mmbench": set(STYLES) - {"b"},
    "mmt": set(STYLES) - {"B) dog", "b", "**B**", "dog"},
    "mmmu": set(STYLES) - {"B) dog", "b", "**B**", "dog"},
    "mathvista": set(STYLES),
}


@pytest.mark.parametrize("task", CHOICE)
def test_which_styles_of_a_right_choice_count(task: str) -> None:
    score = scorer(task, *CHOICE[task])
    assert {style for style in STYLES if score(style) == 1} == ACCEPTED[task.split("_")[0]]


@pytest.mark.parametrize("task", CHOICE)
@pytest.mark.parametrize(
    "answer", ["A", "C.", "(A)", "The answer is C.", "cat", "", "qqqq", "12", "I cannot tell.", "\n"]
)
def test_a_wrong_choice_or_none_scores_nothing(task: str, answer: str) -> None:
    assert scorer(task, *CHOICE[task])(answer) == 0


@pytest.mark.parametrize("task", CHOICE)
def test_garbage_is_unparsed_and_scored_alike_every_time(task: str) -> None:
    doc = CHOICE[task][0]
    results = config(task)["process_results"]
    answers = ["qqqq", "", "B", "A or B", "(A) (B)", "**B**"]
    runs = {json.dumps([results(doc, [answer]) for answer in answers], sort_keys=True) for _ in range(5)}
    assert len(runs) == 1
    assert results(doc, ["qqqq"])["unparsed"] == 1
    assert results(doc, ["B"])["unparsed"] == 0


# --- MMBench ------------------------------------------------------------------------------------------


def test_mmbench_counts_a_question_only_if_all_rotations_are_right() -> None:
    own = config("mmbench_v11_dev_circular")
    rotation = MMBENCH | {"index": 7, "answer": "A"}
    other = MMBENCH | {"index": 8}
    results = own["process_results"]

    def value(*answers: str) -> float:
        docs = (rotation, MMBENCH, other)
        items = [
            results(doc, [answer])["circular_accuracy"] for doc, answer in zip(docs, answers, strict=True)
        ]
        return own["metric_list"][0]["aggregation"](items)

    assert value("A", "B", "B") == 100
    assert value("A", "A", "B") == 50  # one rotation of question 7 is wrong
    assert value("A", "B", "C") == 50
    assert value("B", "B", "C") == 0


def test_mmbenchs_article_is_no_option() -> None:
    doc = MMBENCH | {"answer": "A", "A": "kitten"}
    score = scorer("mmbench_en_dev_circular", doc, "circular_accuracy", "score")
    assert score("A small animal on grass") == 0
    assert score("A. kitten on some grass") == 1
    assert score("It is a kitten on the grass") == 1


@pytest.mark.parametrize("language", ["en", "cn"])
def test_mmbenchs_prompt_is_lmms_evals(language: str) -> None:
    """That of both languages with a hint; without one, lmms-eval prints "nan" in Chinese."""
    from lmms_eval.tasks.mmbench import cn_utils, en_utils

    theirs = {"en": en_utils, "cn": cn_utils}[language].mmbench_doc_to_text
    doc = MMBENCH | {"category": "c", "L2-category": "c", "source": "s", "split": "dev"}
    kwargs = config(f"mmbench_{language}_dev_circular")["lmms_eval_specific_kwargs"]["default"]
    for hint in ("Look at the ears.", "nan")[: 2 if language == "en" else 1]:
        doc |= {"hint": hint}
        assert text_of(f"mmbench_{language}_dev_circular", doc) == theirs(dict(doc), kwargs)


def test_an_option_of_a_converted_table_may_be_null() -> None:
    prompt = text_of("mmbench_v11_dev_circular", MMBENCH | {"C": None, "D": math.nan, "hint": None})
    assert prompt.startswith("Which animal is it? There are several options:\nA. cat\nB. dog\n\nAnswer")


def png(colour: str) -> bytes:
    buffer = BytesIO()
    Pictures.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_mmbenchs_table_may_hold_images_as_text_or_as_the_index_of_another_row() -> None:
    texts = [base64.b64encode(png("red")).decode(), base64.b64encode(png("blue")).decode(), "0"]
    rows = Dataset.from_dict({"index": [0, 1, 1_000_000], "image": texts})
    pictures = config("mmbench_v11_dev_circular")["process_docs"](rows)
    assert isinstance(pictures.features["image"], Image)
    assert [p.getpixel((0, 0)) for p in pictures["image"]] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


def test_mmbenchs_images_stay_as_they_are() -> None:
    columns = {"index": [5], "image": [{"bytes": png("green"), "path": None}]}
    struct = Dataset.from_dict(columns)
    images = Dataset.from_dict(columns, features=Features({"index": Value("int64"), "image": Image()}))
    process = config("mmbench_v11_dev_circular")["process_docs"]
    for rows in (struct, images):
        assert process(rows)[0]["image"].getpixel((0, 0)) == (0, 128, 0)


@pytest.mark.parametrize("reference", ["7", "", "none"])
def test_an_mmbench_row_that_refers_to_no_image_is_named(reference: str) -> None:
    rows = Dataset.from_dict({"index": [4], "image": [reference]})
    with pytest.raises(ValueError, match="row 4: its image refers to row"):
        config("mmbench_v11_dev_circular")["process_docs"](rows)


# --- MMT-Bench and MMMU -----------------------------------------------------------------------------------


def no_coin(options: list[str]) -> str:
    raise LookupError("a random option")


@pytest.mark.parametrize("answer", [*STYLES, "A or B", "B or A", "I see a dog, so B it is", "qqqq", ""])
def test_the_letter_rule_is_lmms_evals_up_to_its_coin(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.tasks.mmmu import utils as mmmu
    from lmms_eval.tasks.mmt import utils as mmt

    monkeypatch.setattr("random.choice", no_coin)
    for task, theirs in (
        ("mmt_val_rules", lambda: mmt.mmt_process_results(MMT, [answer])["accuracy"]["overall"]),
        (
            "mmmu_val_interleaved",
            lambda: mmmu.mmmu_aggregate_results([mmmu.mmmu_process_results(MMMU, [answer])["mmmu_acc"]]),
        ),
    ):
        doc, metric, _ = CHOICE[task]
        ours = config(task)["process_results"](doc, [answer])
        try:
            assert ours[metric] == theirs()
        except LookupError:
            assert ours == {metric: 0, "unparsed": 1}


def test_mmts_prompt_lists_the_options_and_names_no_image() -> None:
    assert text_of("mmt_val_rules", MMT) == (
        "Question: Which animal is it?\nA: cat\nB: dog\nC: horse"
        "\nAnswer the question using a single character from the given options."
    )


def test_mmmus_images_stand_where_the_text_names_them_and_no_text_is_lost() -> None:
    images = {f"image_{k}": Pictures.new("RGB", (k, 1)) for k in (1, 2)} | {"image_3": None}
    question = "See <image 2> before <image 1>, then <image 2> again. Which?"
    doc = MMMU | images | {"question": question, "options": "['<image 1>', 'none']"}
    own = config("mmmu_val_interleaved")
    kwargs = own["lmms_eval_specific_kwargs"]["default"]
    (message,) = own["doc_to_messages"](doc, kwargs)
    shown = [c["text"] if c["type"] == "text" else c["url"].width for c in message["content"]]
    assert shown == [
        "See",
        2,
        "before",
        1,
        ", then",
        2,
        "again. Which?\nA.",
        1,
        "B. none\n\nAnswer with the option's letter from the given choices directly.",
    ]
    with pytest.raises(ValueError, match=r"validation_Art_1 names <image 3> but has no image_3"):
        own["doc_to_messages"](doc | {"question": "<image 3>?"}, kwargs)


def test_mmmus_prompt_is_lmms_evals() -> None:
    from lmms_eval.tasks.mmmu.utils import construct_prompt

    kwargs = config("mmmu_val_interleaved")["lmms_eval_specific_kwargs"]["default"]
    for doc in (MMMU, MMMU_OPEN):
        theirs = construct_prompt(doc, kwargs["multiple_choice_prompt"], kwargs["open_ended_prompt"])
        assert text_of("mmmu_val_interleaved", doc) == theirs


@pytest.mark.parametrize(
    ("answer", "right"),
    [("42", 1), ("42.", 1), ("The answer is 42", 1), ("x = 42", 1), ("43", 0), ("", 0), ("qqqq", 0)],
)
def test_an_open_answer_of_mmmu(answer: str, right: float) -> None:
    assert scorer("mmmu_val_interleaved", MMMU_OPEN, "mmmu_acc")(answer) == right


@pytest.mark.parametrize("answer", ["24/7", "3.43", "The ratio is 3.429"])
def test_any_of_several_references_of_mmmu_counts(answer: str) -> None:
    score = scorer("mmmu_val_interleaved", MMMU_OPEN | {"answer": "['24/7', '3.429']"}, "mmmu_acc")
    assert score(answer) == 1
    assert score("2.9") == 0


def test_mmmus_long_answer_may_name_the_option_by_its_text() -> None:
    score = scorer("mmmu_val_interleaved", MMMU, "mmmu_acc")
    assert score("It must be a small dog or something like it") == 1
    assert score("It may be a dog but looks like a cat") == 0  # the last one counts


# --- MathVista ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "answer", "right"),
    [
        (FLOAT, "1.2", 1),
        (FLOAT, "1.23", 1),  # rounded to one decimal place
        (FLOAT, "The height is 1.2 cm.", 1),
        (FLOAT, "**1.2**", 1),
        (FLOAT, "1.3", 0),
        (FLOAT | {"precision": 2.0, "answer": "0.50"}, "0.5", 1),
        (INTEGER, "14", 1),
        (INTEGER, "14.0", 1),
        (INTEGER, "The answer is 14.", 1),
        (INTEGER, "15", 0),
        (INTEGER, "14 or 15", 0),
        (INTEGER | {"answer": "-3"}, "-3", 1),
        (INTEGER | {"answer": "-3"}, "3", 0),
        (LIST, "[2007, 2008]", 1),
        (LIST, "Between the years [2007,2008].", 1),
        (LIST, "[2007, 2009]", 0),
        (LIST, "2007", 0),
        (LIST, "[]", 0),
        (MATHVISTA, "qqqq", 0),
    ],
)
def test_mathvistas_values(doc: Doc, answer: str, right: float) -> None:
    assert scorer("mathvista_testmini_rules", doc, "accuracy")(answer) == right


@pytest.mark.parametrize("doc", [FLOAT, INTEGER, LIST, MATHVISTA])
def test_every_gold_answer_of_mathvista_scores_one_and_garbage_is_unparsed(doc: Doc) -> None:
    results = config("mathvista_testmini_rules")["process_results"]
    assert results(doc, [doc["answer"]]) == {"accuracy": 1, "unparsed": 0}
    for garbage in ("", "qqqq", "I do not know."):
        assert results(doc, [garbage]) == {"accuracy": 0, "unparsed": 1}


def test_mathvistas_prompt_asks_for_the_bare_answer() -> None:
    directly = "Answer with the option's letter from the given choices directly."
    task = "mathvista_testmini_rules"
    assert text_of(task, MATHVISTA) == f"Which animal is it?\nA. cat\nB. dog\nC. horse\n{directly}"
    assert text_of(task, FLOAT | {"unit": "cm"}) == (
        "Which animal is it? (Unit: cm)"
        "\nAnswer the question using a single floating-point number with one decimal place."
    )
    assert text_of(task, INTEGER).endswith("using a single integer number.")
    assert text_of(task, LIST).endswith("using a Python list.")
    with pytest.raises(ValueError, match="question 7: its precision 3"):
        text_of(task, FLOAT | {"precision": 3.0})


# --- free answers ---------------------------------------------------------------------------------------

OCR = {"dataset": "svt", "question": " what is it? ", "question_type": "VQA", "answer": ["Coca Cola", "coke"]}
FORMULA = OCR | {"dataset": "HME100k", "answer": ["x ^ { 2 } + 1"]}


@pytest.mark.parametrize(
    ("doc", "answer"),
    [
        (OCR, "It says COCA COLA."),
        (OCR, "\uff23oke"),
        (OCR, "coca"),
        (OCR, ""),
        (OCR | {"answer": "Coke"}, "coke"),
        (FORMULA, "$x^{2}+1$"),
        (FORMULA, "X^{2}+1"),
        (FORMULA, "x^{2}"),
    ],
)
def test_ocrbench_scores_as_lmms_eval_does(doc: Doc, answer: str) -> None:
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results

    theirs = ocrbench_process_results(doc, [answer])["ocrbench_accuracy"]["score"]
    assert scorer("ocrbench_mean", doc, "ocrbench_accuracy")(answer) == theirs


def test_ocrbench_reads_right_and_wrong() -> None:
    score = scorer("ocrbench_mean", OCR, "ocrbench_accuracy")
    assert (score("a can of coke"), score("pepsi")) == (1, 0)
    assert text_of("ocrbench_mean", OCR) == "what is it?"


@pytest.mark.parametrize("task", ["mmvet_direct", "llava_w"])
def test_a_judged_question_has_no_score_without_its_judge(task: str) -> None:
    results = config(task)["process_results"]({"question": "What?"}, ["some answer"])
    assert math.isnan(results["grade"])
    assert text_of(task, {"question": "What?"}) == "What?"
    assert config(task)["metric_list"][0]["aggregation"]([0.5, 1.0]) == 75


def test_gqa_asks_for_a_word_and_loads_nothing_itself() -> None:
    own = config("gqa_testdev")
    assert "process_docs" not in own
    assert text_of("gqa_testdev", {"question": "What colour?"}) == (
        "What colour?\nAnswer the question using a single word or phrase."
    )


@pytest.mark.parametrize("task", [task for task in OWN if task != "mmmu_val_interleaved"])
def test_the_image_of_a_question_comes_as_rgb(task: str) -> None:
    picture = Pictures.new("RGBA", (5, 4))
    (shown,) = config(task)["doc_to_visual"]({"image": picture, "decoded_image": picture})
    assert (shown.mode, shown.size) == ("RGB", (5, 4))
