"""Batch endpoints: half the price, killed and resumed, partial failures, expired and lost jobs."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_server import BatchServer
from chat_server import serve
from processes import REPOSITORY, environment

from curation.pool.sample import Sample, Turn
from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.api import ApiTeacher
from curation.teacher.batch import BatchLate, BatchOptions
from curation.teacher.chat import ChatClient, ChatFailure, ChatSetupError, CostCapReached

pytest.importorskip("httpx")
PRICED = {"input_price": 1000.0, "output_price": 2000.0}
SAMPLES = [Sample(i, f"s{i}", "t", (), (Turn(f"question {i}?", f"answer {i}"),)) for i in range(6)]
FAST = {"poll": 0.02}


def valid(body):
    return json.dumps(dict.fromkeys(CAPABILITY_KEYS, 3) | {"styles": ["word"]})


def number_in(body):
    return next(i for i in range(len(SAMPLES)) if f"question {i}?" in json.dumps(body["messages"]))


def batched(server, cache, options=None, say=None, **client):
    chat = ChatClient(server.url, "m", **{"retries": 0, "timeout": 5.0, **client})
    return ApiTeacher(
        chat, cache=cache, batch=BatchOptions(**{**FAST, **(options or {})}), say=say or (lambda line: None)
    )


def labels_of(teacher, samples=SAMPLES):
    teacher.prepare(lambda: iter(samples))
    return list(teacher.label(iter(samples)))


def posts(server, path):
    return server.asked.count(("POST", path))


def test_labels_of_a_batch_are_those_of_requests_at_half_the_price(tmp_path):
    said = []
    with serve(BatchServer, answer=valid) as server:
        teacher = batched(server, tmp_path / "a", say=said.append, **PRICED)
        labels = labels_of(teacher)
        assert not server.requests and posts(server, "batches") == posts(server, "files") == 1
        plain = ApiTeacher(ChatClient(server.url, "m", **PRICED), cache=tmp_path / "b")
        assert list(plain.label(iter(SAMPLES))) == labels
    half, full = teacher.cost(), plain.cost()
    assert half.usd == pytest.approx(full.usd / 2) and half.usd > 0
    assert (half.requests, half.input_tokens, half.kept) == (6, full.input_tokens, 0)
    (uploaded,) = server.uploads.values()
    assert [line["body"] for line in uploaded] == sorted(server.requests, key=number_in)
    assert all(line["method"] == "POST" and line["url"] == "/v1/chat/completions" for line in uploaded)
    assert "m: batch batch_0 completed: 6 of 6 requests answered" in said
    assert not list(tmp_path.rglob("*.jsonl")), "the requests, images in them, are not kept"


def test_a_second_run_asks_for_nothing(tmp_path):
    with serve(BatchServer, answer=valid) as server:
        first = labels_of(batched(server, tmp_path))
        asked = len(server.asked)
        again = batched(server, tmp_path)
        assert labels_of(again) == first and len(server.asked) == asked and again.cost().kept == 6


def test_what_one_batch_leaves_is_in_the_next_and_then_in_requests(tmp_path):
    fates = {1: [500], 2: ["expired"], 3: [500, "expired"], 4: [400, 400]}
    seen = {}

    def fate(key, body):
        number = number_in(body)
        seen[number] = seen.get(number, -1) + 1
        own = fates.get(number, [])
        return own[seen[number]] if seen[number] < len(own) else None

    with serve(BatchServer, answer=valid, fate=fate) as server:
        teacher = batched(server, tmp_path, **PRICED)
        labels = labels_of(teacher)
    assert [label.missing for label in labels] == [None] * 6
    assert [len(lines) for lines in server.uploads.values()] == [6, 4]
    assert sorted(map(number_in, server.requests)) == [3, 4]
    cost = teacher.cost()
    in_full = cost.input_tokens * 1e-3 + cost.output_tokens * 2e-3
    # Four of six answers came by batches; the questions are of equal length.
    assert cost.requests == 6 and cost.usd == pytest.approx(in_full * (4 * 0.5 + 2) / 6)


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_the_answered_part_of_a_job_that_was_ended_is_kept(status, tmp_path):
    with serve(
        BatchServer,
        answer=valid,
        status=status,
        fate=lambda key, body: "expired" if number_in(body) > 2 else None,
    ) as server:
        labels = labels_of(batched(server, tmp_path, {"rounds": 1}))
    assert sorted(map(number_in, server.requests)) == [3, 4, 5]
    assert [label.missing for label in labels] == [None] * 6


def test_a_job_that_fails_stops_and_says_why(tmp_path):
    with serve(BatchServer, answer=valid, status="failed") as server:
        teacher = batched(server, tmp_path)
        with pytest.raises(ChatSetupError, match="batch_0 failed: line 1 is no request"):
            labels_of(teacher)
        server.status = None
        assert len(labels_of(batched(server, tmp_path))) == 6 and posts(server, "batches") == 2
    assert not server.requests


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_batch import batched, labels_of
class Server: url = {url!r}
print(len(labels_of(batched(Server, Path({cache!r})))))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "uploads"), [("batch uploaded/1", 1), ("batch created/1", 1), ("before rename/1", 1)]
)
def test_a_killed_run_goes_on_with_the_job_that_it_paid_for(point, uploads, tmp_path):
    paths = [str(Path(__file__).parent), str(REPOSITORY), str(REPOSITORY / "tests" / "support")]
    with serve(BatchServer, answer=valid) as server:
        code = KILLED.format(paths=paths, url=server.url, cache=str(tmp_path))
        killed = subprocess.run(
            [sys.executable, "-c", code], env={**environment(), "WINNOW_KILL": f"start/{point}"}
        )
        assert killed.returncode == -signal.SIGKILL
        teacher = batched(server, tmp_path, **PRICED)
        assert [label.missing for label in labels_of(teacher)] == [None] * 6
    assert posts(server, "batches") == 1 == len(server.jobs) and posts(server, "files") == uploads
    assert not server.requests and teacher.cost().requests == 6


def test_a_run_killed_while_it_waits_finds_its_job(tmp_path):
    with serve(BatchServer, answer=valid, polls=10**9) as server:
        with pytest.raises(BatchLate, match="the same command goes on waiting"):
            labels_of(batched(server, tmp_path, {"hours": 0.0}))
        server.polls = 0
        assert len(labels_of(batched(server, tmp_path))) == 6
    assert posts(server, "batches") == 1 and not server.requests


@pytest.mark.parametrize(("fault", "jobs"), [("lost", 1), ("refused", 1)])
def test_a_job_whose_answer_was_lost_is_not_asked_for_twice(fault, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("curation.teacher.chat.FIRST_WAIT", 0.01)
    with serve(BatchServer, answer=valid, job_fault=lambda number: fault if number == 0 else None) as server:
        assert len(labels_of(batched(server, tmp_path, retries=2))) == 6
    assert len(server.jobs) == jobs and not server.requests


def test_a_job_that_the_service_has_deleted_is_asked_again(tmp_path):
    with serve(BatchServer, answer=valid, polls=10**9) as server:
        with pytest.raises(BatchLate):
            labels_of(batched(server, tmp_path, {"hours": 0.0}))
        server.jobs.clear()
        server.polls = 0
        assert [label.missing for label in labels_of(batched(server, tmp_path))] == [None] * 6
    assert posts(server, "batches") == 2


def test_answers_in_a_batch_are_checked_like_others(tmp_path):
    def answer(body):
        if len(body["messages"]) > 2:
            return valid(body)
        return {0: "no label", 1: "[" * 50_000, 2: valid(body).replace("3", "7")}.get(
            number_in(body), valid(body)
        )

    with serve(BatchServer, answer=answer) as server:
        labels = labels_of(batched(server, tmp_path))
    assert [label.missing for label in labels] == [None] * 6
    assert sorted(map(number_in, server.requests)) == [0, 1, 2], "sent back, by requests"
    assert all(len(body["messages"]) == 4 for body in server.requests)


def test_hostile_lines_of_answers_are_nobodys(tmp_path):
    with serve(BatchServer, answer=valid) as server:
        whole = server.end

        def end(job):
            whole(job)
            good = server.files[job["output_file_id"]]
            line = good.splitlines()[0]
            bad = ["[" * 50_000, "null", "{}", '{"custom_id": "../../x", "response": {"status_code": 200}}']
            bad += [
                line,
                line.replace('"content": "', '"content": "' + "x" * 1_000_000),
            ]  # an answer again, and one that is too long
            server.files[job["output_file_id"]] = good + "\n".join(bad) + "\n"

        server.end = end
        teacher = batched(server, tmp_path)
        assert [label.missing for label in labels_of(teacher)] == [None] * 6
    assert teacher.cost().requests == 6 and not server.requests


def test_a_name_of_the_service_is_no_path(tmp_path):
    with serve(BatchServer, answer=valid) as server:
        server.upload = lambda *_: {"id": "../../admin?x=1"}
        with pytest.raises(ChatFailure, match="no valid id"):
            labels_of(batched(server, tmp_path))


def test_the_cap_holds_for_batches_and_splits_them(tmp_path):
    """Requests cost less than they might, so that after each batch there is room for another."""
    with serve(BatchServer, answer=valid) as server:
        free = batched(server, tmp_path / "free", **PRICED)
        labels_of(free)
        bound = free.client.bound(free._messages(SAMPLES[0]), 512)
        most, real = free.client.purse.usd(bound, 0.5), free.cost().usd
        capped = batched(server, tmp_path / "a", max_cost_usd=2.5 * most, **PRICED)
        assert labels_of(capped) == labels_of(free)
        assert capped.cost().usd == pytest.approx(real) and real <= 2.5 * most
        assert len(server.uploads) > 2
        before = len(server.uploads)
        with pytest.raises(CostCapReached, match="raise max_cost_usd"):
            labels_of(batched(server, tmp_path / "b", max_cost_usd=0.5 * most, **PRICED))
        assert len(server.uploads) == before and not list(tmp_path.rglob("*.tmp"))


def test_a_file_has_at_most_so_many_requests_and_bytes(tmp_path):
    with serve(BatchServer, answer=valid) as server:
        labels_of(batched(server, tmp_path / "a", {"max_requests": 4}))
        assert [len(lines) for lines in server.uploads.values()] == [4, 2]
        server.uploads.clear()
        labels_of(batched(server, tmp_path / "b", {"max_bytes": 1}))
        assert [len(lines) for lines in server.uploads.values()] == [1] * 6


def test_a_batch_needs_a_place_for_its_answers():
    with pytest.raises(ValueError, match="needs a cache"):
        ApiTeacher(ChatClient("http://127.0.0.1:9/v1", "m"), batch=BatchOptions())


def test_batches_of_other_models_and_damaged_states_are_left_alone(tmp_path):
    with serve(BatchServer, answer=valid, polls=10**9) as server:
        with pytest.raises(BatchLate):
            labels_of(batched(server, tmp_path, {"hours": 0.0}))
        server.polls = 0
        other = ApiTeacher(
            ChatClient(server.url, "other"), cache=tmp_path, batch=BatchOptions(**FAST), say=lambda line: None
        )
        assert len(labels_of(other)) == 6 and posts(server, "batches") == 2
        (tmp_path / "batches" / "0.json").write_text("[]")
        said = []
        assert len(labels_of(batched(server, tmp_path, say=said.append))) == 6
    assert posts(server, "batches") == 2 and any("is damaged and left aside" in line for line in said)
