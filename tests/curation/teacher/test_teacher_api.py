"""The teacher behind a chat server: its requests, labels from answers, bad answers, cache, cost cap."""

import json
from itertools import islice

import pytest
from chat_server import serve

from curation.pool.sample import Sample, Turn
from curation.taxonomy import CAPABILITY_KEYS, STYLES
from curation.teacher.api import ApiTeacher
from curation.teacher.base import Teacher
from curation.teacher.chat import ChatClient, CostCapReached
from curation.teacher.labels import label_pool, read_labels
from curation.teacher.rubric import LEVELS

pytest.importorskip("openai")


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
