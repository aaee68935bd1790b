"""The teacher behind a chat server: its requests, labels from answers, bad answers, cache, cost cap."""

import json
from itertools import islice

import pyarrow.parquet as pq
import pytest
from chat_server import serve

from curation.pool.sample import Sample, Turn
from curation.taxonomy import CAPABILITY_KEYS, STYLES
from curation.teacher.api import ApiTeacher
from curation.teacher.base import Teacher
from curation.teacher.chat import ChatClient, CostCapReached
from curation.teacher.labels import label_pool, read_labels
from curation.teacher.rubric import LEVELS

pytest.importorskip("httpx")


def text_of(body):
    return " ".join(part["text"] for part in body["messages"][1]["content"] if part["type"] == "text")


def truth(body):
    """A valid answer that depends on the sample's words alone."""
    words = len(text_of(body).split())
    return {**{key: (words + i) % 6 for i, key in enumerate(CAPABILITY_KEYS)}, "styles": ["word", "yes_no"]}


def teacher_of(server, cache=None, **options):
    own = {
        name: options.pop(name)
        for name in ("concurrency", "repeats", "detail", "json_schema")
        if name in options
    }
    return ApiTeacher(ChatClient(server.url, "m", retries=0, **options), cache=cache, **own)


def test_labels_of_a_pool(small_pool, tmp_path):
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        teacher = teacher_of(server, input_price=1.0, output_price=1.0)
        summary = label_pool(small_pool, teacher, tmp_path, share=0.25)
    labels = read_labels(tmp_path, small_pool.hash)
    assert (
        isinstance(teacher, Teacher)
        and len(labels) == 10 == len(server.requests)
        and summary["missing"] == {}
    )
    scores = {json.dumps([row[f"cap_{key}"] for key in CAPABILITY_KEYS]) for row in labels.to_pylist()}
    assert scores == {json.dumps([truth(body)[key] for key in CAPABILITY_KEYS]) for body in server.requests}
    assert labels["styles"].to_pylist() == [["yes_no", "word"]] * 10  # the taxonomy's order
    assert summary["cost"]["requests"] == 10 and summary["cost"]["usd"] > 0 and summary["model"] == "m"


def test_the_request_to_the_teacher(small_pool):
    sample = next(sample for sample in small_pool.samples() if len(sample.images) == 2)
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        list(teacher_of(server, detail="low").label([sample]))
        list(teacher_of(server, json_schema=False).label([sample]))
    system, user = server.requests[0]["messages"]
    assert all(level in system["content"] for level in LEVELS) and all(
        f"{key}:" in system["content"] for key in [*CAPABILITY_KEYS, *STYLES]
    )
    assert [p["image_url"]["detail"] for p in user["content"] if p["type"] == "image_url"] == ["low", "low"]
    assert all(turn.answer in text_of(server.requests[0]) for turn in sample.turns)
    schema = server.requests[0]["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["required"] == [*CAPABILITY_KEYS, "styles"]
    assert "response_format" not in server.requests[1] and server.requests[0]["temperature"] == 0.0


def test_a_samples_system_prompt_is_shown_as_such():
    sample = Sample(5, "s5", "t", (), (Turn("one two", "three"),), system="be kind")
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        next(teacher_of(server).label([sample]))
    texts = [part["text"] for part in server.requests[0]["messages"][1]["content"]]
    assert texts == ["System prompt:", "be kind", "Question:", "one two", "Answer:", "three"]


def bad_answers():
    good = dict.fromkeys(CAPABILITY_KEYS, 3) | {"styles": []}
    return [
        "no JSON",
        "[]",
        *(
            json.dumps(good | change)
            for change in ({"stem": 6}, {"stem": True}, {"stem": "4"}, {"styles": ["poem"]}, {"more": 1})
        ),
        json.dumps({key: value for key, value in good.items() if key != "ocr"}),
    ]


@pytest.mark.parametrize("bad", bad_answers())
def test_bad_answers_are_sent_back_and_at_last_missing(bad):
    sample = Sample(5, "s5", "t", (), (Turn("one two", "three"),))
    with serve(answer=lambda body: json.dumps(truth(body)) if len(body["messages"]) > 2 else bad) as server:
        (label,) = teacher_of(server).label([sample])
    assert label.missing is None and label.scores == {
        k: v for k, v in truth(server.requests[0]).items() if k != "styles"
    }
    assert len(server.requests) == 2
    assert server.requests[1]["messages"][2] == {
        "role": "assistant",
        "content": bad,
    } and "not a valid answer" in str(server.requests[1]["messages"][3])
    with serve(answer=lambda body: bad) as server:
        (label,) = teacher_of(server, repeats=2).label([sample])
    assert (label.missing, set(label.scores.values()), label.styles) == (
        "invalid_answer",
        {None},
        (),
    ) and len(server.requests) == 3


def test_failures_have_their_reason(tmp_path):
    samples = [Sample(i, f"s{i}", "t", (), (Turn(f"q{i}", "a"),)) for i in range(4)]
    samples.append(Sample(4, "s4", "t", (tmp_path / "none.png",), (Turn("<image> q4", "a"),)))
    faults = {"q1": 500, "q2": 400, "q3": "torn"}

    def fault(number, body):
        return next((fault for word, fault in faults.items() if word in text_of(body)), None)

    with serve(fault=fault, answer=lambda body: f"```json\n{json.dumps(truth(body))}\n```") as server:
        labels = list(teacher_of(server, concurrency=2).label(samples))
    assert [label.missing for label in labels] == [
        None,
        "server_error",
        "bad_request",
        "malformed",
        "missing_image",
    ]
    assert [label.id for label in labels] == [sample.id for sample in samples]


def test_answers_are_cached_and_paid_once(small_pool, tmp_path):
    prices = {"input_price": 10.0, "output_price": 10.0}
    samples = list(islice(small_pool.samples(), 12))
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        capped = teacher_of(server, tmp_path, concurrency=2, max_cost_usd=0.07, **prices)
        with pytest.raises(CostCapReached):
            list(capped.label(samples))
        paid = len(server.requests)
        assert 0 < paid < 12 and capped.cost().usd <= 0.07 and len(list(tmp_path.rglob("*.json"))) == paid
        second = teacher_of(server, tmp_path, **prices)
        labels = list(second.label(samples))
        assert len(server.requests) == 12 and (second.cost().kept, second.cost().requests) == (
            paid,
            12 - paid,
        )
        assert list(teacher_of(server, tmp_path).label(samples)) == labels and len(server.requests) == 12
        other = ApiTeacher(ChatClient(server.url, "another"), cache=tmp_path)
        list(other.label(samples[:1]))
        assert len(server.requests) == 13
    assert not list(tmp_path.rglob("*.tmp"))


# ------------------------------------------------------------------------------- kept answers, second run


def sample_about(word, row=0):
    return Sample(row, f"s{row}", "t", (), (Turn(word, "three"),))


def kept_files(folder):
    return sorted(path for path in folder.rglob("*.json") if path.parent != folder)


def test_an_answer_out_of_range_is_asked_for_again_in_the_next_run(tmp_path):
    bad = json.dumps(dict.fromkeys(CAPABILITY_KEYS, 7) | {"styles": []})
    samples = [sample_about("one two"), sample_about("one two three", 1)]
    with serve(
        answer=lambda body: bad if text_of(body).endswith("two Answer: three") else json.dumps(truth(body))
    ) as server:
        first = teacher_of(server, tmp_path, repeats=1)
        assert [label.missing for label in first.label(samples)] == ["invalid_answer", None]
        assert len(server.requests) == 3
        server.answer = lambda body: json.dumps(truth(body))
        again = teacher_of(server, tmp_path, repeats=1)
        assert [label.missing for label in again.label(samples)] == [None, None]
        assert len(server.requests) == 4, "only what was rejected, and it is not complained about"
        cost = again.cost()
        assert (cost.requests, cost.kept) == (1, 1)
        third = teacher_of(server, tmp_path, repeats=1)
        list(third.label(samples))
        assert len(server.requests) == 4 and third.cost().requests == 0
    # The rejected answer whose request was sent again keeps its price in its file: one of three tokens.
    assert third.cost().kept_output_tokens == 3


def test_an_answer_that_was_mended_when_sent_back_is_kept(tmp_path):
    with serve(answer=lambda body: json.dumps(truth(body)) if len(body["messages"]) > 2 else "no") as server:
        labels = list(teacher_of(server, tmp_path).label([sample_about("one")]))
        assert list(teacher_of(server, tmp_path).label([sample_about("one")])) == labels
        assert labels[0].missing is None and len(server.requests) == 2
    problems = [json.loads(path.read_text()).get("problem", "") for path in kept_files(tmp_path)]
    assert sorted("JSON" in problem for problem in problems) == [False, True]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"text": "x"}',
        b"[" * 50_000,
        b"\xff\xfe",
        b'{"text": "{}", "finish_reason": "stop", "input_tokens": -5, "output_tokens": 1, "model": "m"}',
        b'{"text": "{}", "finish_reason": "stop", "input_tokens": true, "output_tokens": 1, "model": "m"}',
        b'{"text": 5, "finish_reason": "stop", "input_tokens": 5, "output_tokens": 1, "model": "m"}',
        b'{"text": "{}", "finish_reason": "stop", "input_tokens": 5, "output_tokens": 1, "model": "m", '
        b'"earlier": [1]}',
    ],
)
def test_a_kept_answer_that_is_emptied_or_damaged_is_asked_for_again(content, tmp_path):
    samples = [sample_about(f"word {i}", i) for i in range(3)]
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        labels = list(teacher_of(server, tmp_path).label(samples))
        kept_files(tmp_path)[1].write_bytes(content)
        assert list(teacher_of(server, tmp_path).label(samples)) == labels and len(server.requests) == 4
        list(teacher_of(server, tmp_path).label(samples))
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "bad", ["[" * 50_000, '{"a":' * 50_000, "9" * 10_000, "", "\x00", "NaN", "-Infinity"]
)
def test_a_hostile_answer_is_an_invalid_one(bad, tmp_path):
    with serve(answer=lambda body: bad if "word 1" in text_of(body) else json.dumps(truth(body))) as server:
        teacher = teacher_of(server, tmp_path, repeats=1)
        labels = list(teacher.label([sample_about(f"word {i}", i) for i in range(3)]))
    assert [label.missing for label in labels] == [None, "invalid_answer", None]


@pytest.mark.parametrize(
    "change",
    [{"styles": [{"a": 1}]}, {"styles": "word"}, {"styles": [None]}, {"stem": float("nan")}, {"stem": 1e2}],
)
def test_values_of_other_types_are_no_label(change):
    answer = json.dumps(dict.fromkeys(CAPABILITY_KEYS, 3) | {"styles": []} | change)
    with serve(answer=lambda body: answer) as server:
        (label,) = teacher_of(server, repeats=0).label([sample_about("one")])
    assert label.missing == "invalid_answer"


def test_two_scores_for_a_capability_are_no_label():
    answer = '{"ocr": 5, ' + json.dumps(dict.fromkeys(CAPABILITY_KEYS, 3) | {"styles": []})[1:]
    with serve(answer=lambda body: answer) as server:
        (label,) = teacher_of(server, repeats=1).label([sample_about("one")])
    assert label.missing == "invalid_answer"
    assert "a key occurs twice" in server.requests[1]["messages"][3]["content"]


def test_a_lost_connection_is_one_missing_label_and_asked_for_again(tmp_path):
    samples = [sample_about(f"word {i}", i) for i in range(12)]
    with serve(
        fault=lambda number, body: "cut" if "word 5" in text_of(body) else None,
        answer=lambda body: json.dumps(truth(body)),
    ) as server:
        teacher = teacher_of(server, tmp_path, concurrency=4, input_price=1.0)
        assert [label.missing for label in teacher.label(samples)] == [None] * 5 + ["connection"] + [None] * 6
        assert teacher.cost().unanswered == 1 and teacher.cost().unanswered_usd > 0
        server.fault = lambda number, body: None
        assert {label.missing for label in teacher_of(server, tmp_path).label(samples)} == {None}
    assert len(server.requests) == 13


# ------------------------------------------------------------------------------------- two labels of one


def test_the_second_opinion_is_asked_in_reverse_order():
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        teacher = teacher_of(server)
        first, second = (
            list(teacher.label([sample_about("one")])),
            list(teacher.second().label([sample_about("one")])),
        )
    assert first[0].missing is second[0].missing is None
    one, two = (body["messages"][0]["content"] for body in server.requests)
    assert sorted(one.splitlines()) == sorted(two.splitlines()) and one != two
    assert one.index(f"\n{CAPABILITY_KEYS[0]}:") < one.index(f"\n{CAPABILITY_KEYS[-1]}:")
    assert two.index(f"\n{CAPABILITY_KEYS[0]}:") > two.index(f"\n{CAPABILITY_KEYS[-1]}:")
    schemas = [body["response_format"]["json_schema"]["schema"]["required"] for body in server.requests]
    assert sorted(schemas[0]) == sorted(schemas[1]) and schemas[0] != schemas[1]
    assert teacher.cost().requests == 2 and teacher.describe() != teacher.second().describe()


def test_a_share_of_the_samples_is_labelled_twice(small_pool, tmp_path):
    def answer(body):
        text = body["messages"][0]["content"]
        forwards = text.index(f"\n{CAPABILITY_KEYS[0]}:") < text.index(f"\n{CAPABILITY_KEYS[-1]}:")
        scores = truth(body)
        return json.dumps(
            scores if forwards else {**scores, "ocr": (scores["ocr"] + 1) % 6, "styles": ["word"]}
        )

    with serve(answer=answer) as server:
        summary = label_pool(small_pool, teacher_of(server), tmp_path, share=0.5, agreement=0.25)
    twice = summary["agreement"]
    assert len(server.requests) == 20 + 5 and summary["n"] == 20 and twice["n"] == 5
    assert twice["capabilities"]["stem"] == {"n": 5, "kappa": 1.0, "exact": 1.0, "within_1": 1.0}
    assert twice["capabilities"]["ocr"]["exact"] == 0 and twice["styles"] == 0.5
    assert summary["cost"]["requests"] == 25
    second = pq.read_table(tmp_path / "second.parquet")
    first = read_labels(tmp_path, small_pool.hash)
    assert len(second) == 5 and set(second["row"].to_pylist()) < set(first["row"].to_pylist())


def test_no_second_label_without_a_share(small_pool, tmp_path):
    with serve(answer=lambda body: json.dumps(truth(body))) as server:
        summary = label_pool(small_pool, teacher_of(server), tmp_path, share=0.25)
    assert "agreement" not in summary and not (tmp_path / "second.parquet").exists()
