"""Answers kept in files: identity, torn lines, damage, several processes, a kill."""

import json
import multiprocessing
import signal
import time

import pytest

from curation import killpoints
from evaluation.journal import Answer, Answers, AnswersError, find, path_of, read

IDENTITY = {"checkpoint": "abc", "dtype": "float32", "generation": {"max_new_tokens": "16"}}
TEXTS = ["B", "", "zwei\nZeilen", "\u2028 § \ud83d", "\U0001f600", '"quoted" \\ {"index": 3}']


def fill(path, texts=TEXTS, start=0):
    with Answers(path, IDENTITY) as file:
        for index, text in enumerate(texts, start):
            file.add(index, Answer(text, index % 2 == 1, index + 1), f"hash {index}")
        file.flush()


def test_what_was_added_is_known_again(tmp_path):
    fill(tmp_path / "a" / "b.jsonl")
    expected = {i: Answer(text, i % 2 == 1, i + 1) for i, text in enumerate(TEXTS)}
    assert read(tmp_path / "a" / "b.jsonl") == (IDENTITY, expected)
    with Answers(tmp_path / "a" / "b.jsonl", IDENTITY) as file:
        assert file.known == expected and file.prompts[2] == "hash 2"


def test_answers_are_added_to_those_that_are_there(tmp_path):
    path = tmp_path / "b.jsonl"
    fill(path)
    fill(path, ["more"], start=len(TEXTS))
    assert list(read(path)[1]) == list(range(len(TEXTS) + 1))
    assert path.read_text(encoding="utf-8").count("identity") == 1


def test_answers_of_another_model_are_never_taken(tmp_path):
    fill(tmp_path / "b.jsonl")
    before = (tmp_path / "b.jsonl").read_bytes()
    with pytest.raises(AnswersError, match=r"b\.jsonl holds the answers of another model or prompt: move it"):
        Answers(tmp_path / "b.jsonl", {**IDENTITY, "checkpoint": "other"})
    assert (tmp_path / "b.jsonl").read_bytes() == before


def test_a_crash_at_any_byte_costs_only_the_line_that_it_tore(tmp_path):
    path = tmp_path / "b.jsonl"
    fill(path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        whole = max(content[:size].count(b"\n") - 1, 0)
        with Answers(path, IDENTITY) as file:
            assert [file.known[i].text for i in sorted(file.known)] == TEXTS[:whole], size
        fill(path, TEXTS[whole:], start=whole)
        assert path.read_bytes() == content, size


@pytest.mark.parametrize(
    "damaged",
    [
        b"not json\n",
        b'{"index": 1}\n',
        b'["index"]\n',
        b'{"index": 1, "answer": "B", "tokens": 1}\n',
        b"\xff\n",
    ],
)
def test_a_damaged_file_is_named(damaged, tmp_path):
    path = tmp_path / "b.jsonl"
    fill(path)
    path.write_bytes(path.read_bytes() + damaged)
    with pytest.raises(
        AnswersError, match=r"b\.jsonl is damaged .*: delete it, and its answers are made again"
    ):
        Answers(path, IDENTITY)


def test_a_file_without_an_identity_is_damaged(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"index": 0, "answer": "B", "tokens": 1, "prompt": "h"}\n')
    with pytest.raises(AnswersError, match="damaged"):
        read(tmp_path / "b.jsonl")


def test_names_of_files(tmp_path):
    paths = [path_of(tmp_path, part, IDENTITY) for part in ("mme", "mme.shuffled", "blink/blink_jigsaw")]
    assert [path.name[:-15] for path in paths] == ["mme", "mme.shuffled", "blink_blink_jigsaw"]
    assert path_of(tmp_path, "mme", {**IDENTITY, "dtype": "bfloat16"}) != paths[0]
    assert path_of(tmp_path, "mme", dict(reversed(IDENTITY.items()))) == paths[0]


def test_a_file_is_found_by_its_part(tmp_path):
    for part in ("mme", "mme.shuffled", "mme-2", "blink/a"):
        fill(path_of(tmp_path, part, IDENTITY))
    for part in ("mme", "mme.shuffled", "mme-2", "blink/a"):
        assert find(tmp_path, part) == path_of(tmp_path, part, IDENTITY)
    assert find(tmp_path, "pope") is None
    fill(path_of(tmp_path, "mme", {**IDENTITY, "dtype": "bfloat16"}))
    with pytest.raises(AnswersError, match="holds 2 files of answers to mme: which is meant"):
        find(tmp_path, "mme")


def _hold(path, started, seconds):
    with Answers(path, IDENTITY) as file:
        started.set()
        time.sleep(seconds)
        file.add(0, Answer("first", False, 1), "hash")


def test_a_second_process_waits_and_then_knows_all(tmp_path):
    context = multiprocessing.get_context("fork")
    started, path = context.Event(), tmp_path / "b.jsonl"
    process = context.Process(target=_hold, args=(path, started, 0.3))
    process.start()
    assert started.wait(30)
    with Answers(path, IDENTITY) as file:
        assert file.known == {0: Answer("first", False, 1)}
    process.join(30)


def _batches(path):
    with Answers(path, IDENTITY) as file:
        for index in range(10):
            file.add(index, Answer(f"answer {index}", False, 1), "hash")
            if index % 2:
                file.flush()


def test_a_kill_loses_nothing_that_was_flushed(tmp_path, monkeypatch):
    monkeypatch.setenv(killpoints.VARIABLE, "start/answers/3")
    process = multiprocessing.get_context("fork").Process(target=_batches, args=(tmp_path / "b.jsonl",))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert sorted(read(tmp_path / "b.jsonl")[1]) == list(range(6))
    first = json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])
    assert first == {"identity": IDENTITY}
