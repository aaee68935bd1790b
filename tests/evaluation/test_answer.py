"""Questions to answers: windows, batches, loader threads, errors that name their question."""

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image, ImageFile

from evaluation import answer
from evaluation.answer import AHEAD, AHEAD_BYTES, WINDOW, WINDOW_BYTES, AnswerError, answers
from evaluation.model import Answer, Answerer
from evaluation.prompts import Prompt


@dataclass(frozen=True)
class Question:
    task: str
    index: int
    messages: Callable[[], Any]
    generation: Mapping[str, Any] = field(default_factory=lambda: {"max_new_tokens": 4})


def ask(i: int, task: str = "colours", **generation: Any) -> Question:
    def messages():
        pixels = np.random.default_rng(i).integers(0, 256, (40 + i % 5, 64, 3), dtype=np.uint8)
        content = [{"type": "image", "url": Image.fromarray(pixels)}] * (i % 3)
        content = [*content, {"type": "text", "text": "what is it ?" + " dog" * (i % 11)}]
        return [{"role": "user", "content": content}]

    return Question(task, i, messages, generation or {"max_new_tokens": 4})


class Fake:
    """An engine whose prompts are texts: it records batches, and answers with the text's length."""

    template, batch_size, max_batch_tokens, device = "training", 4, None, torch.device("cpu")

    def __init__(self, wait: float = 0.0) -> None:
        self.wait, self.asked, self.rendered, self.threads = wait, [], [], set()

    def prompt(self, messages):
        time.sleep(self.wait)
        text = messages[0]["content"][-1]["text"]
        self.threads.add(threading.current_thread().name)
        self.rendered.append(text)
        return Prompt(text, len(text), f"hash of {text}")

    def batches(self, lengths):
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        yield from (order[at : at + 4] for at in range(0, len(order), 4))

    def generate(self, prompts, generation):
        self.asked.append(([p.content for p in prompts], dict(generation)))
        return [Answer(str(p.length), False, 1) for p in prompts]


@pytest.mark.parametrize("kind", ["base", "anyres", "qwen"])
def test_answers_do_not_depend_on_loaders(tmp_path, kind):
    answerer = Answerer.load(tiny_models.build(kind, tmp_path / kind), batch_size=3, max_batch_tokens=300)
    questions = [ask(i) for i in range(14)]
    runs = [list(answers(answerer, questions, loaders=n)) for n in (0, 1, 3)]
    shapes = [[[q.index for q, _, _ in batch] for batch in run] for run in runs]
    assert shapes[0] == shapes[1] == shapes[2] and len(shapes[0]) >= 5
    assert runs[0] == runs[1] == runs[2]
    found = {q.index: a.text for batch in runs[0] for q, _, a in batch}
    alone = [answerer.answer([q.messages()], max_new_tokens=4)[0] for q in questions]
    assert [found[i] for i in range(14)] == alone
    hashes = {q.index: prompt for batch in runs[0] for q, prompt, _ in batch}
    assert len(set(hashes.values())) == 14 and hashes[3] == answerer.prompt(questions[3].messages()).hash


def test_each_question_is_answered_once_across_windows(monkeypatch):
    monkeypatch.setattr(answer, "WINDOW", 10)
    engine, questions = Fake(), [ask(i, f"task{i % 2}") for i in range(27)]
    batches = list(answers(engine, questions))
    windows = [range(0, 10), range(10, 20), range(20, 27)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4, 3]
    for window, own in zip(windows, (batches[:3], batches[3:6], batches[6:]), strict=True):
        assert sorted(q.index for batch in own for q, _, _ in batch) == list(window)
        lengths = [int(a.text) for batch in own for _, _, a in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_a_batch_has_one_kind_of_generation_settings():
    engine = Fake()
    questions = [ask(i, max_new_tokens=4 + i % 2, until=["\n"]) for i in range(8)]
    for batch in answers(engine, questions):
        assert len({q.generation["max_new_tokens"] for q, _, _ in batch}) == 1
    assert [settings["max_new_tokens"] for _, settings in engine.asked] == [4, 5]
    engine = Fake()  # equal settings in another order are the same settings
    same = [ask(0, max_new_tokens=4, until="a"), ask(1, until="a", max_new_tokens=4)]
    assert len(list(answers(engine, same))) == 1


def test_new_tokens_count_in_the_length_of_a_row(monkeypatch):
    engine, seen = Fake(), []
    real = engine.batches
    monkeypatch.setattr(engine, "batches", lambda lengths: seen.append(list(lengths)) or real(lengths))
    list(answers(engine, [ask(0, max_new_tokens=100), ask(1)]))
    assert seen == [[len("what is it ?") + 100], [len("what is it ? dog") + 4]]


def test_loaders_render_ahead_but_not_without_bound(monkeypatch):
    monkeypatch.setattr(answer, "WINDOW", 8)
    monkeypatch.setattr(answer, "AHEAD", 6)
    engine = Fake()
    stream = answers(engine, [ask(i) for i in range(40)], loaders=2)
    next(stream)
    deadline = time.monotonic() + 10
    while len(engine.rendered) < 14 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(engine.rendered) == 14, "the window of 8 and 6 more"
    assert all(name.startswith("loader") for name in engine.threads)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def page(i: int, width: int, height: int, mode: str = "RGB", path: Any = None) -> Question:
    """A question whose image, decoded to RGB, takes width x height x 4 bytes; given by its path if any."""
    picture: Any = Image.new(mode, (width, height))
    if path is not None:
        picture.save(path)
        picture = path
    content = [{"type": "image", "url": picture}, {"type": "text", "text": "what is it ?" + " dog" * (i % 7)}]
    return Question("pages", i, lambda: [{"role": "user", "content": content}])


@pytest.mark.parametrize("loaders", [0, 1, 4])
def test_a_window_ends_at_the_bound_of_decoded_bytes(tmp_path, monkeypatch, loaders):
    """The question that reaches the bound is the last; a path counts as the image in it, grey as RGB."""
    monkeypatch.setattr(answer, "WINDOW", 5)
    monkeypatch.setattr(answer, "WINDOW_BYTES", 4 * 10_000)
    questions = [
        *(page(i, 50, 100) for i in range(4)),  # 5,000 pixels each: two reach 10,000
        page(4, 49, 100, path=tmp_path / "4.png"),  # 4,900 and 5,000 do not, with 101 more they do
        page(5, 50, 100, "L"),
        page(6, 1, 101),
        page(7, 400, 100),  # one alone is beyond
        *(page(i, 10, 10) for i in range(8, 14)),  # small ones: five, and the one left
    ]
    engine, windows = Fake(), []
    real = engine.batches
    monkeypatch.setattr(engine, "batches", lambda lengths: windows.append(len(lengths)) or real(lengths))
    found = [q.index for batch in answers(engine, questions, loaders=loaders) for q, _, _ in batch]
    assert windows == [2, 2, 3, 1, 5, 1]
    begins = np.cumsum([0, *windows])
    assert [i for a, b in pairwise(begins) for i in sorted(found[a:b])] == [*range(14)]


def test_answers_to_big_images_do_not_depend_on_loaders_or_the_bound(tmp_path, monkeypatch):
    answerer = Answerer.load(tiny_models.build("anyres", tmp_path / "m"), batch_size=3)
    questions = [page(i, 200 + 40 * (i % 3), 300) for i in range(11)]
    free = list(answers(answerer, questions))
    monkeypatch.setattr(answer, "WINDOW_BYTES", 4 * 4 * 200 * 300)
    monkeypatch.setattr(answer, "AHEAD_BYTES", 1)
    runs = [list(answers(answerer, questions, loaders=n)) for n in (0, 1, 4)]
    assert runs[0] == runs[1] == runs[2] and (len(runs[0]), len(free)) == (5, 4)  # windows of 4, 4, 3
    one, other = ({q.index: (p, a) for b in run for q, p, a in b} for run in (free, runs[0]))
    assert one == other and len(one) == 11


def test_loaders_hold_few_big_images_beyond_the_window(monkeypatch):
    monkeypatch.setattr(answer, "WINDOW", 4)
    monkeypatch.setattr(answer, "AHEAD_BYTES", 4 * 5_000 * 6)
    engine = Fake(wait=0.002)
    stream = answers(engine, [page(i, 50, 100) for i in range(40)], loaders=3)
    next(stream)
    deadline = time.monotonic() + 10
    while len(engine.rendered) < 4 + 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 4 + 6 <= len(engine.rendered) <= 4 + 6 + 2, "six reach the bound; two loaders may be at one more"
    assert len([*stream]) == 9 and len(engine.rendered) == 40
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_window_is_let_go_before_the_next_is_read(monkeypatch, loaders):
    """While a question is rendered, at most those of its window and of what is ahead are in memory."""
    monkeypatch.setattr(answer, "WINDOW", 8)
    monkeypatch.setattr(answer, "AHEAD", 3)

    class Content(str):
        """Text that can be referred to weakly."""

    alive: weakref.WeakSet[Content] = weakref.WeakSet()
    engine, most = Fake(), []
    real = engine.prompt

    def prompt(messages):
        rendered = real(messages)
        content = Content(f"{rendered.content} {len(most)}")
        alive.add(content)
        most.append(len(alive))
        return rendered._replace(content=content)

    monkeypatch.setattr(engine, "prompt", prompt)
    monkeypatch.setattr(engine, "generate", lambda prompts, _: [Answer("", False, 1) for _ in prompts])
    assert sum(len(batch) for batch in answers(engine, [ask(i) for i in range(40)], loaders=loaders)) == 40
    assert 8 <= max(most) <= 8 + (3 + loaders if loaders else 0) + 1


def test_batches_are_collated_in_a_loader_while_the_model_answers(tmp_path, monkeypatch):
    answerer = Answerer.load(tiny_models.build("base", tmp_path / "base"), batch_size=2)
    where = []
    real = answerer.collate
    monkeypatch.setattr(
        answerer, "collate", lambda prompts: where.append(threading.current_thread().name) or real(prompts)
    )
    list(answers(answerer, [ask(i) for i in range(6)], loaders=2))
    assert len(where) == 3 and all(name.startswith("loader") for name in where)
    where.clear()
    list(answers(answerer, [ask(i) for i in range(6)]))
    assert where == ["MainThread"] * 3


@pytest.mark.parametrize("loaders", [0, 2])
def test_an_error_of_decoding_names_the_question(loaders):
    def broken():
        raise OSError("image file is truncated")

    questions = [*(ask(i) for i in range(5)), Question("docvqa_val", 17, broken)]
    with pytest.raises(AnswerError, match="task docvqa_val, question 17: image file is truncated") as caught:
        list(answers(Fake(), questions, loaders=loaders))
    assert isinstance(caught.value.__cause__, OSError)
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_truncated_image_is_refused_although_lmms_eval_lets_pil_fill_it(tmp_path, monkeypatch, loaders):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    content = [{"type": "image", "url": path}, {"type": "text", "text": "?"}]
    cut = Question("t", 3, lambda: [{"role": "user", "content": content}])
    answerer = Answerer.load(tiny_models.build("base", tmp_path / "base"))
    with pytest.raises(AnswerError, match="task t, question 3: broken_image"):
        list(answers(answerer, [*(ask(i) for i in range(4)), cut], loaders=loaders))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_errors_of_the_model_are_raised_as_they_are(monkeypatch):
    engine = Fake()
    monkeypatch.setattr(engine, "generate", lambda prompts, generation: {}["no such key"])
    with pytest.raises(KeyError, match="no such key"):
        list(answers(engine, [ask(0)], loaders=1))


def test_no_questions_are_no_batches():
    assert list(answers(Fake(), [], loaders=1)) == []
    assert WINDOW > AHEAD > 0 and WINDOW_BYTES > AHEAD_BYTES > 0
