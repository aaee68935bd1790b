"""The judge stage of a suite: kept answers in, verdicts or the reason why there are none out."""

import pytest
from chat_server import serve
from evaluation_data import bench, toy_suite
from suite_models import judged

from evaluation.journal import Answer, Answers, AnswersError, path_of
from evaluation.judge import JudgeServer
from evaluation.judging import judge_suite, read_judgements, write_judgements
from evaluation.opened import Opened
from evaluation.questions import EvaluationError
from evaluation.suite import Judge

pytest.importorskip("httpx")

GRADED = Judge(kind="score", prompt="mmvet", fields={"question": "question", "reference": "answer"})
READ = Judge(
    kind="extract",
    prompt="mathvista",
    fields={"question": "question", "choices": "choices", "answer_type": "answer_type"},
)
SUITE = toy_suite(
    bench("plain", "Plain"), bench("graded", "Graded", judge=GRADED), bench("read", "Read", judge=READ)
)
ABOUT = {"checkpoint": "abc"}
PICTURE = {"question": "What is this?", "answer": "cat<OR>kitten"}
WHOLE = {"question": "How many?", "choices": None, "answer_type": "integer"}
TEXTS = {
    "plain": {0: "B", 1: "A"},
    "graded": {0: "a cat", 1: "a dog", 2: "a kitten"},
    "read": {0: "14", 1: "Let us see, 3 or 4. VALUE 4", 2: "", 3: "about 3 or 4"},
}
DOCS = {"plain": [{}] * 2, "graded": [PICTURE] * 3, "read": [WHOLE] * 4}


class Kept:
    """Questions of a benchmark whose answers are kept; what the judge stage reads of `Questions`."""

    generation = {"max_new_tokens": 8}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name, self.docs = name, DOCS[name]

    def __len__(self) -> int:
        return len(self.docs)


@pytest.fixture
def opened() -> Opened:
    parts = {name: [Kept(name)] for name in TEXTS}
    return Opened(SUITE, parts, {name: ("task", "data") for name in TEXTS}, limit=None)


@pytest.fixture
def answers(opened, tmp_path):
    """The folder of all answers; keep(name, texts) writes those to one benchmark."""
    for name, texts in TEXTS.items():
        keep(opened, tmp_path / "answers", name, texts)
    return tmp_path / "answers"


def keep(opened, folder, name, texts, about=ABOUT):
    part = opened.part(opened.parts[name][0])
    identity = part.identity(about)
    with Answers(path_of(folder, name, identity), identity) as file:
        for index, text in texts.items():
            file.add(index, Answer(text, False, 1), "hash")


def settings(server, **changes) -> JudgeServer:
    own = {"version": "1", "base_url": server.url, "retries": 0, "workers": 1}
    return JudgeServer("judge", **{**own, **changes})


def grading(body) -> bool:
    return "The lowest grade is 0.0" in body["messages"][0]["content"]


def test_every_judged_benchmark_has_verdicts_by_part_and_question(opened, answers, tmp_path):
    seen = []
    with serve(answer=judged) as server:
        found = judge_suite(
            opened, [answers], settings(server), tmp_path / "j", on_progress=lambda *done: seen.append(done)
        )
    assert list(found) == ["graded", "read"] and seen == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]
    assert found["graded"]["verdicts"] == {"graded": {0: 1.0, 1: 0.0, 2: 1.0}}
    # A bare value and an empty answer are read by the benchmark's own rules.
    assert found["read"]["verdicts"] == {"read": {1: "4", 3: ""}}
    assert found["graded"]["cost"]["requests"] == 3 and found["read"]["cost"]["requests"] == 2
    assert found["graded"]["protocol"]["judge_model"] == "judge" and found["read"]["models"] == ["judge"]
    assert found["graded"]["protocol"]["prompt"] == "mmvet"


def test_without_a_judge_or_a_judged_benchmark_nothing_is_done(opened, tmp_path):
    assert judge_suite(opened, [tmp_path], None, tmp_path / "j") == {}
    plain = Opened(SUITE.only(("plain",)), opened.parts, opened.content, None)
    assert judge_suite(plain, [tmp_path], JudgeServer("judge"), tmp_path / "j") == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(500, "server_error 3"), ("torn", "malformed 3"), (400, "bad_request 3")],
)
def test_a_benchmark_whose_judge_fails_has_a_reason_and_no_verdicts(fault, reason, opened, answers, tmp_path):
    with serve(answer=judged, fault=lambda n, body: fault if grading(body) else None) as server:
        found = judge_suite(opened, [answers], settings(server), tmp_path / "j")
        assert found["graded"]["missing"] == (
            f"graded: 3 of 3 judgements are missing ({reason}), so it has no value"
        )
        assert "verdicts" not in found["graded"] and "protocol" in found["graded"]
        assert str(tmp_path) in found["graded"]["advice"] and str(tmp_path) not in found["graded"]["missing"]
        assert found["read"]["verdicts"] == {"read": {1: "4", 3: ""}}, "the next one is judged all the same"


@pytest.mark.parametrize("reply", ["7", "", "about 0.5", "1.00", "NONE"])
def test_half_a_judgement_is_no_judgement(reply, opened, answers, tmp_path):
    def answer(body):
        return reply if "a dog" in body["messages"][0]["content"] else judged(body)

    with serve(answer=answer) as server:
        found = judge_suite(opened, [answers], settings(server), tmp_path / "j")
    assert "1 of 3 judgements are missing (invalid_reply 1)" in found["graded"]["missing"]
    assert "verdicts" not in found["graded"]


def test_what_was_paid_for_is_not_sent_again(opened, answers, tmp_path):
    broken = [True]
    fault = lambda n, body: 500 if broken[0] and "a dog" in body["messages"][0]["content"] else None  # noqa: E731
    with serve(answer=judged, fault=fault) as server:
        judge_suite(opened, [answers], settings(server), tmp_path / "j")
        sent, broken[0] = len(server.requests), False
        found = judge_suite(opened, [answers], settings(server), tmp_path / "j")
        assert len(server.requests) - sent == 1
        assert found["graded"]["verdicts"]["graded"] == {0: 1.0, 1: 0.0, 2: 1.0}
        judge_suite(opened, [answers], settings(server, version="2"), tmp_path / "j")
        assert len(server.requests) - sent == 1 + 5


def test_one_cap_holds_for_all_benchmarks(opened, tmp_path):
    long = "Let us see, " * 700 + "3 or 4. VALUE 4"
    for name, texts in {**TEXTS, "read": dict.fromkeys(range(4), long)}.items():
        keep(opened, tmp_path / "answers", name, texts)
    prices = {"input_price": 10.0, "output_price": 10.0}
    with serve(answer=judged) as server:
        free = judge_suite(opened, [tmp_path / "answers"], settings(server, **prices), tmp_path / "free")
        capped = settings(server, **prices, max_cost_usd=4 * free["graded"]["cost"]["usd"])
        found = judge_suite(opened, [tmp_path / "answers"], capped, tmp_path / "capped")
    assert found["graded"] == free["graded"] and "verdicts" in free["read"]
    assert "cost_cap" in found["read"]["missing"]


def test_a_judge_without_its_key_leaves_all_judged_benchmarks_missing(opened, answers, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    server = JudgeServer("judge", base_url="http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY")
    found = judge_suite(opened, [answers], server, tmp_path / "j")
    assert list(found) == ["graded", "read"]
    assert all("the judge cannot be asked: " in entry["missing"] for entry in found.values())
    assert all("NO_SUCH_KEY" in entry["missing"] for entry in found.values())


def test_answers_that_are_missing_are_an_error_and_no_failure_of_the_judge(opened, tmp_path):
    with serve(answer=judged) as server:
        with pytest.raises(EvaluationError, match="holds no answers to graded"):
            judge_suite(opened, [tmp_path / "answers"], settings(server), tmp_path / "j")
        keep(opened, tmp_path / "answers", "graded", {0: "a cat"})
        with pytest.raises(EvaluationError, match="2 of 3 answers to graded are missing"):
            judge_suite(opened, [tmp_path / "answers"], settings(server), tmp_path / "j")
        assert server.requests == []


def test_whose_answers_are_judged_must_be_said_where_there_are_several(opened, answers, tmp_path):
    other = {"checkpoint": "other"}
    keep(opened, answers, "graded", dict.fromkeys(range(3), "a dog"), other)
    with serve(answer=judged) as server:
        with pytest.raises(AnswersError, match="which is meant"):
            judge_suite(opened, [answers], settings(server), tmp_path / "j")
        first = judge_suite(
            Opened(SUITE.only(("graded",)), opened.parts, opened.content, None),
            [answers],
            settings(server),
            tmp_path / "j",
            about=other,
        )
    assert first["graded"]["verdicts"] == {"graded": dict.fromkeys(range(3), 0.0)}


def test_judgements_are_the_same_after_a_file(opened, answers, tmp_path):
    fault = lambda n, body: 500 if grading(body) else None  # noqa: E731
    with serve(answer=judged, fault=fault) as server:
        found = judge_suite(opened, [answers], settings(server), tmp_path / "j")
    write_judgements(found, tmp_path)
    back = read_judgements(tmp_path)
    assert back["read"] == found["read"]
    assert back["graded"] == {**found["graded"], "verdicts": {}}
