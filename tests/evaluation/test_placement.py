"""Worker processes: the same answers from one, two and four of them; a worker that fails stops all."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from PIL import Image

from evaluation import answering
from evaluation.answering import Part, Settings, ask
from evaluation.journal import Answer
from evaluation.placement import on_workers, visible_devices
from evaluation.questions import EvaluationError, Question

pytestmark = pytest.mark.slow  # each test starts processes


class Asked:
    """Questions of a task about pictures, without lmms-eval."""

    generation = {"max_new_tokens": 5}  # noqa: RUF012

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n

    def __len__(self) -> int:
        return self.n

    def question(self, index: int) -> Question:
        return Question(self.name, self.name, index, {}, partial(self.messages, index), self.generation)

    def messages(self, index: int) -> list[dict[str, Any]]:
        pixels = np.random.default_rng(index).integers(0, 256, (30 + index % 7, 40, 3), dtype=np.uint8)
        text = {"type": "text", "text": "what is it ?" + " dog" * (index % 5)}
        return [{"role": "user", "content": [{"type": "image", "url": Image.fromarray(pixels)}, text]}]


class Worker:
    """Answers with its process and the GPUs that it sees; question `ends` ends it, `fails` is an error."""

    identity = {"checkpoint": "worker"}  # noqa: RUF012

    def __init__(self, ends: int | None = None, fails: int | None = None) -> None:
        self.ends, self.fails = ends, fails

    def answers(self, questions) -> Iterator[list[tuple[Question, str, Answer]]]:
        for question in questions:
            if question.index == self.ends:
                os.kill(os.getpid(), signal.SIGKILL)
            if question.index == self.fails:
                raise RuntimeError("the model is broken")
            time.sleep(0.02)
            seen = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
            yield [(question, f"hash {question.index}", Answer(seen, False, question.index))]


SIZES = {"one": 7, "two": 4, "three": 1}


def parts() -> list[Part]:
    return [Part(Asked(name, n), range(n), "content", {}) for name, n in SIZES.items()]


def opened(respondent: Any) -> tuple[list[Part], Any]:
    return parts(), respondent


def broken() -> tuple[list[Part], Any]:
    raise OSError("the mirror is gone")


def asked_by(n: int, respondent: Any, folder: Path, **options: Any):
    return ask(parts(), respondent, folder, workers=on_workers(partial(opened, respondent), n), **options)


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(answering, "CHUNK", 3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_models.build("llava", tmp_path_factory.mktemp("tiny") / "llava")


def test_a_checkpoint_answers_the_same_on_four_workers(tiny, tmp_path):
    """On two, with lmms-eval's tasks and scores: tests/evaluation/test_suites.py."""
    from evaluation.respondent import Checkpoint

    settings = Settings(batch_size=2, device="cpu")
    alone = ask(parts(), Checkpoint(tiny, settings), tmp_path / "alone")
    texts = [answer.text for part in alone for answer in part.answers.values()]
    assert len(texts) == 12 and len(set(texts)) > 3
    same_by_question(alone, asked_by(4, Checkpoint(tiny, settings), tmp_path / "four"))


def same_by_question(ours, theirs) -> None:
    """In a journal, and so here, answers stand in the order in which they were given."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one.answers, one.prompts, one.identity) == (other.answers, other.prompts, other.identity)


class Reader(Worker):
    """The same answer whoever gives it, and a little later for an even index."""

    def answers(self, questions):
        for question in questions:
            time.sleep(0.02 * (question.index % 2))
            text = f"{question.task} {question.index} {question.messages()[0]['content'][1]['text']}"
            yield [(question, f"hash {text}", Answer(text, False, question.index))]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_answers_are_merged_by_question_whatever_the_number_of_workers(n, tmp_path):
    same_by_question(ask(parts(), Reader(), tmp_path / "alone"), asked_by(n, Reader(), tmp_path / "workers"))


def test_every_worker_takes_units_and_every_question_is_answered_once(tmp_path):
    seen: list[tuple[int, int]] = []
    found = asked_by(2, Worker(), tmp_path, on_progress=lambda *done: seen.append(done))
    answers = [answer for part in found for answer in part.answers.values()]
    assert [sorted(part.answers) for part in found] == [list(range(n)) for n in SIZES.values()]
    assert all(part.answers[i].tokens == i for part in found for i in part.answers)
    assert len({answer.text for answer in answers}) == 2 and seen[-1] == (12, 12) and seen == sorted(seen)
    assert all(str(os.getpid()) not in answer.text for answer in answers)
    seen.clear()
    again = asked_by(2, Worker(), tmp_path, on_progress=lambda *done: seen.append(done))
    assert [part.answers for part in again] == [part.answers for part in found] and seen == [(12, 12)]


def test_no_more_workers_than_units(tmp_path):
    found = asked_by(9, Worker(), tmp_path)
    assert len({answer.text for part in found for answer in part.answers.values()}) <= 6


def test_each_worker_sees_one_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr("evaluation.placement.visible_devices", lambda n: ["3", "5"][:n])
    found = asked_by(2, Worker(), tmp_path)
    shown = {answer.text.split()[1] for part in found for answer in part.answers.values()}
    assert shown == {"3", "5"}


@pytest.mark.parametrize(
    ("given", "devices"), [(None, ["0", "1", "0"]), ("4,7", ["4", "7", "4"]), ("", ["0", "1", "0"])]
)
def test_the_gpus_of_this_process_are_taken_in_turn(given, devices, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices(3) == devices


def test_without_a_gpu_workers_use_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_devices(2) == [None, None]


@pytest.mark.parametrize(
    ("respondent", "message"),
    [
        (Worker(fails=4), r"a worker failed: RuntimeError: the model is broken\n(.|\n)*in answers"),
        (Worker(ends=4), "a worker failed: its process died without a message .killed, or out of memory."),
    ],
)
def test_a_worker_that_fails_stops_all_and_what_was_answered_is_kept(respondent, message, tmp_path):
    with pytest.raises(EvaluationError, match=message):
        asked_by(2, respondent, tmp_path)
    asked: list[int] = []
    found = asked_by(2, Worker(), tmp_path, on_progress=lambda done, total: asked.append(done))
    assert asked[0] > 0 and asked[-1] == 12
    assert [len(part.answers) for part in found] == list(SIZES.values())


def test_an_error_while_a_worker_opens_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="a worker failed: OSError: the mirror is gone"):
        ask(parts(), Worker(), tmp_path, workers=on_workers(broken, 2))


def test_no_worker_outlives_the_question(monkeypatch, tmp_path):
    from evaluation import placement

    started = []
    start = placement._start

    def watched(context, *arguments):
        before = set(children())
        end = start(context, *arguments)
        started.extend(set(children()) - before)
        return end

    monkeypatch.setattr(placement, "_start", watched)
    asked_by(2, Worker(), tmp_path)
    assert len(started) == 2 and not set(started) & set(children())


def children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid]
