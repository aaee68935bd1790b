"""Items of benchmarks for a comparison of other data with them."""

import io

import pytest
from benchmark_mirror import gold, write_mirror
from PIL import Image

from evaluation.items import open_items
from evaluation.journal import Answer
from evaluation.opened import open_suite
from evaluation.questions import Questions
from evaluation.repository import MirrorError
from evaluation.score import Answered, score_benchmark

KINDS = ("mmbench_v11", "mme", "blink", "gqa", "mmstar")
"""Base64 images, image pairs, several tasks and images, images of another configuration, ids of its own."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return write_mirror(tmp_path_factory.mktemp("mirror"), rows=4)


@pytest.fixture(scope="module")
def opened(mirror):
    return open_items("rules", mirror, only=KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_keys_are_those_of_scores(mirror, opened, name):
    suite = open_suite("rules", mirror, only=[name])
    parts = suite.parts[name]
    answers = [
        Answered(part, {i: Answer(gold(part.task.task, doc), False, 1) for i, doc in enumerate(part.docs)})
        for part in parts
    ]
    table, _ = score_benchmark(suite.suite.benchmarks[0], answers)
    items = opened.benchmarks[name]
    assert items.ids == table["id"].to_pylist() and items.units == table["unit"].to_pylist()
    assert len(items) == len(items.questions) == len(table)


@pytest.mark.parametrize("name", KINDS)
def test_images_are_those_of_the_prompt(mirror, opened, name):
    [*parts] = open_suite("rules", mirror, only=[name]).parts[name]
    items = opened.benchmarks[name]
    shown = [
        [
            piece["url"]
            for message in part.messages(k)
            for piece in message["content"]
            if piece["type"] == "image"
        ]
        for part in parts
        for k in range(len(part))
    ]
    every = list(items.all_images())
    assert len(every) == len(items) and all(every)
    for k, (own, pictures) in enumerate(zip(every, shown, strict=True)):
        assert len(own) == len(items.images(k))
        held = [Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image for image in own]
        assert [p.convert("RGB").tobytes() for p in held] == [p.convert("RGB").tobytes() for p in pictures]


def test_files_stay_as_the_data_hold_them(mirror, opened):
    import pyarrow.parquet as pq

    table = pq.read_table(mirror / "Lin-Chen/MMStar/mmstar.parquet")
    assert opened.benchmarks["mmstar"].images(0) == (table["image"][0].as_py()["bytes"],)


def test_questions_are_the_items_own_words(opened):
    assert opened.benchmarks["mmbench_v11"].questions[0] == "Which colour has object 0?"
    assert opened.benchmarks["blink"].questions[0] == "Which one, in case 0?"


def test_missing_benchmarks(mirror, tmp_path):
    some = write_mirror(tmp_path / "some", rows=4, repositories=["Lin-Chen/MMStar"])
    with pytest.raises(MirrorError, match=r"4 of 5 benchmarks .*--allow-missing.*mme.*blink"):
        open_items("rules", some, only=KINDS)
    opened = open_items("rules", some, only=KINDS, allow_missing=True)
    assert list(opened.benchmarks) == ["mmstar"] and set(opened.missing) == set(KINDS) - {"mmstar"}
    (tmp_path / "none").mkdir()
    with pytest.raises(MirrorError, match="5 of 5 benchmarks"):
        open_items("rules", tmp_path / "none", only=KINDS, allow_missing=True)
    with pytest.raises(MirrorError, match="does not exist"):
        open_items("rules", tmp_path / "nowhere", allow_missing=True)


def test_damaged_data_are_a_reason(mirror, tmp_path):
    some = write_mirror(tmp_path / "some", rows=4, repositories=["Lin-Chen/MMStar"])
    (some / "Lin-Chen/MMStar/mmstar.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(MirrorError, match=r"1 of 1 benchmarks.*mmstar"):
        open_items("rules", some, only=["mmstar"])


def test_images_that_a_task_makes_itself_come_decoded(mirror, monkeypatch):
    """As where the data hold base64 text that no column's type tells from other text."""
    monkeypatch.setattr(Questions, "image_columns", [])
    items = open_items("rules", mirror, only=["mmstar"]).benchmarks["mmstar"]
    [image] = items.images(0)
    assert isinstance(image, Image.Image) and len(list(items.all_images())) == len(items)
