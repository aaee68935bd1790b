"""The judge stage against a loopback server: every verdict or no value, kept replies, costs, kills."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import serve

from curation.teacher.chat import ChatClient
from evaluation.judge import (
    ENOUGH,
    PRESETS,
    JudgeFailed,
    JudgeServer,
    Request,
    judge,
    protocol,
    requests_of,
)
from evaluation.judge_prompt import PromptError, load_prompt
from evaluation.suite import Judge

pytest.importorskip("httpx")
MMVET = load_prompt("mmvet")
ATTEMPTS = JudgeServer("judge").attempts
PRICED = {"input_price": 10.0, "output_price": 10.0}


def asked(n, start=0):
    return [
        Request(
            "mmvet",
            "mmvet_direct",
            i,
            {"question": f"question {i}?", "reference": "x", "prediction": f"answer {i}"},
        )
        for i in range(start, start + n)
    ]


def number_in(body):
    """The number of the question that a request is about."""
    return int(re.search(r"question (\d+)\?", body["messages"][0]["content"])[1])


def grade(body):
    return f"0.{number_in(body) % 10}"


def settings(server, **changes):
    return JudgeServer(
        "judge", **{"version": "v1", "base_url": server.url, "retries": 1, "workers": 3} | changes
    )


def failure(server, out, n=3, **changes):
    with pytest.raises(JudgeFailed) as caught:
        judge(asked(n), MMVET, settings(server, **changes), out)
    return caught.value


def slowly(body):
    time.sleep(0.2)  # so that requests overlap on a busy machine too
    return grade(body)


def test_every_verdict_in_the_order_of_the_requests(tmp_path):
    steps = []
    with serve(answer=slowly) as server:
        result = judge(
            asked(12),
            MMVET,
            settings(server, **PRICED),
            tmp_path,
            on_progress=lambda *step: steps.append(step),
        )
    assert result.values == [pytest.approx(i % 10 / 10) for i in range(12)]
    assert steps == [(i, 12) for i in range(1, 13)] and result.models == ("judge",)
    assert {verdict.attempts for verdict in result.verdicts} == {1} and result.verdicts[7].reply == "0.7"
    cost = result.cost
    assert (cost["requests"], cost["retried"], cost["kept"], cost["invalid_replies"]) == (12, 0, 0, 0)
    assert cost["usd"] == pytest.approx((cost["input_tokens"] + cost["output_tokens"]) / 1e5) and cost["usd"]
    assert all(body["temperature"] == 0 and body["max_tokens"] == 16 for body in server.requests)
    assert 1 < server.most_open <= 3


def test_without_requests_no_server_is_needed(tmp_path, monkeypatch):
    monkeypatch.delenv("UNSET_KEY", raising=False)
    result = judge([], MMVET, JudgeServer.preset("openai", "m", api_key_env="UNSET_KEY"), tmp_path)
    assert result.values == [] and result.cost["requests"] == 0


def test_what_was_judged_is_not_paid_for_again_and_equal_requests_are_sent_once(tmp_path):
    with serve(answer=grade) as server:
        first = judge(asked(5), MMVET, settings(server), tmp_path)
        second = judge([*asked(8), *asked(8)], MMVET, settings(server), tmp_path)
        assert len(server.requests) == 8 and second.values == 2 * second.values[:8]
        assert second.values[:5] == first.values and second.cost["kept"] == 5
        assert second.cost["requests"] == 3 and second.cost["kept_input_tokens"] > 0
        for changes in ({"model": "other"}, {"version": "v2"}):
            server.requests.clear()
            changed = JudgeServer(**{"model": "judge", "version": "v1", "base_url": server.url, **changes})
            judge(asked(5), MMVET, changed, tmp_path)
            assert len(server.requests) == 5
        server.requests.clear()
        other = MMVET.model_copy(update={"sha256": "0" * 64})  # another file with the same words
        judge(asked(5), other, settings(server), tmp_path)
        assert len(server.requests) == 5
        server.requests.clear()
        judge(asked(5), MMVET, settings(server, timeout=7.0, workers=1), tmp_path)
        assert not server.requests  # the settings of the connection do not decide a verdict


@pytest.mark.parametrize("reply", ["7", "", "The grade is 0.7", "0.7 or 0.8", "\ud800"])
def test_a_reply_that_is_no_grade_is_never_a_value(reply, tmp_path):
    with serve(answer=lambda body: reply if number_in(body) == 1 else grade(body)) as server:
        error = failure(server, tmp_path)
        assert error.reasons == {"invalid_reply": 1} and error.cost["invalid_replies"] == ATTEMPTS
        assert error.why == ("mmvet: 1 of 3 judgements are missing (invalid_reply 1), so it has no value")
        said = f"'{reply.encode('utf-8', 'replace').decode()}'" if reply else "nothing"
        assert f"mmvet_direct, question 1: the judge replied {said}, not one number from 0.0" in str(error)
        assert len(server.requests) == 2 + ATTEMPTS  # a bounded number of replies, each paid for
        # What had no form is asked again, and that alone: a reply may come out otherwise.
        again = failure(server, tmp_path)
        assert again.cost["requests"] == ATTEMPTS and again.cost["kept"] == 2
        server.answer = grade
        assert judge(asked(3), MMVET, settings(server), tmp_path).values == [0.0, 0.1, 0.2]
        assert len(server.requests) == 2 + 2 * ATTEMPTS + 1


def test_a_reply_without_the_form_is_sent_back(tmp_path):
    with serve(answer=lambda body: "A solid 0.4!" if len(body["messages"]) == 1 else "0.4") as server:
        result = judge(asked(1), MMVET, settings(server), tmp_path)
    (verdict,) = result.verdicts
    assert verdict.value == 0.4 and verdict.attempts == 2 and result.cost["invalid_replies"] == 1
    assert result.cost["requests"] == 2 == len(server.requests)
    back, again = server.requests[1]["messages"][1:]
    assert back == {"role": "assistant", "content": "A solid 0.4!"}
    assert again["role"] == "user" and MMVET.repeat({}) == again["content"]


def test_control_characters_of_a_reply_do_not_reach_the_screen(tmp_path):
    with serve(answer=lambda body: "\x1b[2J\n" + "long " * 100) as server:
        error = failure(server, tmp_path, n=1)
    assert "\x1b" not in str(error) and "\n" not in str(error) and len(str(error)) < 800


@pytest.mark.parametrize(
    ("fault", "reason", "sent"),
    [
        (500, "server_error", 2),
        (429, "rate_limited", 2),
        (400, "bad_request", 1),
        ("torn", "malformed", 2),
        ("slow", "timeout", 2),
        ("slow body", "timeout", 2),
        ("slow head", "timeout", 2),
    ],
)
def test_a_failing_server_gives_no_value_and_the_rest_is_kept(fault, reason, sent, tmp_path):
    with serve(answer=grade, fault=lambda number, body: fault if number_in(body) == 1 else None) as server:
        error = failure(server, tmp_path, timeout=1.2)
        assert error.reasons == {reason: 1}
        assert f"1 of 3 judgements are missing ({reason} 1), so it has no value" in str(error)
        assert Counter(map(number_in, server.requests)) == {0: 1, 1: sent, 2: 1}
        server.requests.clear()
        server.fault = lambda number, body: None
        result = judge(asked(3), MMVET, settings(server), tmp_path)
        assert [number_in(body) for body in server.requests] == [1]
        assert result.values == [0.0, 0.1, 0.2] and result.cost["kept"] == 2


def test_a_fault_that_passes_is_retried_and_counted(tmp_path):
    with serve(answer=grade, fault=lambda number, body: 503 if number == 0 else None) as server:
        result = judge(asked(2), MMVET, settings(server), tmp_path)
    assert result.values == [0.0, 0.1] and result.cost["retried"] == 1 and result.cost["requests"] == 2


def test_the_deadline_bounds_a_judgement(tmp_path):
    begin = time.monotonic()
    with serve(fault=lambda number, body: "slow body") as server:
        error = failure(server, tmp_path, n=2, timeout=0.3, retries=50, deadline=1.0)
    assert error.reasons == {"timeout": 2} and time.monotonic() - begin < 15  # fifty attempts take 15


@pytest.mark.parametrize(
    ("status", "reason", "advice"),
    [(401, "key", "check address, key"), (404, "model", "model 'judge'"), (402429, "key", "quota")],
)
def test_a_lasting_problem_stops_at_once(status, reason, advice, tmp_path):
    with serve(fault=lambda number, body: status) as server:
        error = failure(server, tmp_path, n=50)
    assert sum(error.reasons.values()) == 50 and error.reasons[reason] <= 3 and advice in str(error)
    assert error.reasons["not_asked"] >= 47 and len(server.requests) <= 3


def test_an_unreachable_server(tmp_path):
    with serve() as server:
        pass
    error = failure(server, tmp_path, retries=0)
    assert error.reasons["address"] >= 1 and "is the server up?" in str(error)
    assert server.url not in error.why


def test_a_key_that_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serve() as server:
        error = failure(server, tmp_path, api_key_env="JUDGE_KEY")
        assert error.reasons == {"key": 3} and "JUDGE_KEY holds no key" in str(error)
        assert not server.requests and error.cost["requests"] == 0
        monkeypatch.setenv("JUDGE_KEY", "secret")
        server.answer = grade
        judge(asked(3), MMVET, settings(server, api_key_env="JUDGE_KEY"), tmp_path)
    assert set(server.keys) == {"Bearer secret"}


def test_a_judge_that_never_works_is_not_asked_everything(tmp_path):
    with serve(answer=lambda body: "7") as server:
        error = failure(server, tmp_path, n=100)
    assert sum(error.reasons.values()) == 100 and error.reasons["not_asked"] >= 100 - ENOUGH - 3
    assert len(server.requests) <= ATTEMPTS * (ENOUGH + 3)


def test_the_cost_cap_ends_in_no_value_and_a_higher_one_goes_on(tmp_path):
    with serve(answer=grade) as server:
        error = failure(server, tmp_path, n=40, max_cost_usd=0.05, workers=2, **PRICED)
        paid = len(server.requests)
        assert 0 < paid < 40 and error.cost["usd"] <= 0.05 and error.cost["requests"] == paid
        assert error.reasons["cost_cap"] >= 1 and sum(error.reasons.values()) == 40 - paid
        assert "raise max_cost_usd to go on" in str(error)
        result = judge(asked(40), MMVET, settings(server, max_cost_usd=1.0, **PRICED), tmp_path)
        assert len(server.requests) == 40 and result.cost["requests"] == 40 - paid


def test_benchmarks_may_share_a_cap_and_each_has_its_own_cost(tmp_path):
    with serve(answer=grade) as server:
        own = settings(server, max_cost_usd=0.05, **PRICED)
        client = own.client()
        first = judge(asked(2), MMVET, own, tmp_path, client=client)
        second = judge(asked(3, start=2), MMVET, own, tmp_path, client=client)
        assert (first.cost["requests"], second.cost["requests"]) == (2, 3)
        assert client.cost().usd == pytest.approx(first.cost["usd"] + second.cost["usd"])
        with pytest.raises(JudgeFailed, match=r"on \d+ requests to judge"):
            judge(asked(40, start=5), MMVET, own, tmp_path, client=client)
    assert client.cost().usd <= 0.05


@pytest.mark.parametrize(
    ("finish", "reason", "sent"), [("content_filter", "refused", 1), ("length", "invalid_reply", ATTEMPTS)]
)
def test_a_refused_or_cut_reply_is_no_grade(finish, reason, sent, tmp_path):
    with serve(answer=grade) as server:
        whole = server.reply

        def reply(body):
            content = whole(body)
            content["choices"][0]["finish_reason"] = finish
            return content

        server.reply = reply
        error = failure(server, tmp_path, n=1)
    assert error.reasons == {reason: 1} and len(server.requests) == sent


def test_a_client_of_another_model_is_refused(tmp_path):
    with serve(answer=grade) as server:
        other = ChatClient(server.url, "other")
        with pytest.raises(ValueError, match="'other' is not the judge 'judge'"):
            judge(asked(1), MMVET, settings(server), tmp_path, client=other)
    assert not server.requests


def test_a_request_without_its_fields_is_refused_before_anything_is_sent(tmp_path):
    with serve(answer=grade) as server:
        broken = Request("mmvet", "mmvet_direct", 9, {"question": "question 9?", "prediction": "p"})
        with pytest.raises(PromptError, match=r"question 9: judges/mmvet.yaml needs .* reference"):
            judge([*asked(2), broken], MMVET, settings(server), tmp_path)
    assert not server.requests


def test_a_damaged_file_of_a_reply_is_requested_again(tmp_path):
    with serve(answer=grade) as server:
        judge(asked(3), MMVET, settings(server), tmp_path)
        first, *_ = sorted(tmp_path.rglob("*.json"))
        first.write_text(first.read_text()[:20])
        result = judge(asked(3), MMVET, settings(server), tmp_path)
    assert len(server.requests) == 4 and result.values == [0.0, 0.1, 0.2] and result.cost["kept"] == 2


def test_only_answers_that_no_rule_reads_are_sent_and_their_text_is_returned(tmp_path):
    own = Judge(
        kind="extract",
        prompt="mathvista",
        fields={name: name for name in ("question", "choices", "answer_type")},
    )
    docs = {
        0: {"question": "a", "choices": None, "answer_type": "integer"},
        1: {"question": "b", "choices": None, "answer_type": "integer"},
        2: {"question": "c", "choices": ["cat", "dog"], "answer_type": "text"},
        3: {"question": "d", "choices": ["cat", "dog"], "answer_type": "text"},
    }
    answers = {0: "12", 1: "It is three plus one, that is four", 2: "dog", 3: "the one that barks"}
    requests = requests_of(own, "mathvista", "testmini", docs, answers)
    assert [request.index for request in requests] == [1, 3]
    replies = {"Question: b": "4", "Question: d": "B"}

    def answer(body):
        text = body["messages"][0]["content"]
        return next(reply for question, reply in replies.items() if question in text)

    with serve(answer=answer) as server:
        result = judge(requests, load_prompt("mathvista"), settings(server), tmp_path)
    assert result.values == ["4", "dog"]


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_judge import MMVET, asked
from evaluation.judge import JudgeServer, judge
judge(asked(12), MMVET, JudgeServer("judge", "v1", {url!r}, workers={workers}), Path({out!r}))
print("judged")
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_kill_in_the_middle_pays_for_no_answer_twice(workers, tmp_path):
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "tests/support"), str(root / "tests/evaluation")]
    process = None

    def kill_at_the_sixth(number, body):
        while process is None:
            time.sleep(0.01)
        if number == 5:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

    with serve(answer=grade, fault=kill_at_the_sixth) as server:
        script = KILLED.format(paths=paths, url=server.url, workers=workers, out=str(tmp_path))
        process = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE)
        assert process.wait(timeout=120) == -signal.SIGKILL and b"judged" not in process.stdout.read()
        process.stdout.close()
        kept = len(list(tmp_path.rglob("*.json")))
        before = [number_in(body) for body in server.requests]
        assert len(before) - workers <= kept < 6 <= len(before) + 1
        server.fault = lambda number, body: None
        result = judge(asked(12), MMVET, settings(server), tmp_path)
        after = [number_in(body) for body in server.requests][len(before) :]
    assert result.values == [pytest.approx(i % 10 / 10) for i in range(12)]
    # What was kept is not sent again; at most what was under way when the process died is sent twice.
    assert result.cost["kept"] == kept and len(after) == 12 - kept
    assert len(set(before) & set(after)) <= workers and set(before) | set(after) == set(range(12))


def test_presets_and_settings():
    assert JudgeServer.preset("vllm", "m").base_url == "http://localhost:8000/v1"
    assert JudgeServer.preset("sglang", "m").base_url == "http://localhost:30000/v1"
    assert JudgeServer.preset("openai", "m").base_url is None and set(PRESETS) == {"vllm", "sglang", "openai"}
    moved = JudgeServer.preset("vllm", "m", base_url="http://node7:8000/v1", timeout=5.0)
    assert (moved.base_url, moved.timeout) == ("http://node7:8000/v1", 5.0)
    with pytest.raises(ValueError, match="'tgi' does not exist: presets are vllm, sglang, openai"):
        JudgeServer.preset("tgi", "m")
    client = JudgeServer.preset("vllm", "m", deadline=9.0, token_field="max_completion_tokens").client()
    assert isinstance(client, ChatClient) and client.model == "m"
    assert client.deadline == 9.0 and client.token_field == "max_completion_tokens"


def test_the_protocol_says_who_judged_and_how():
    said = protocol(MMVET, JudgeServer.preset("vllm", "m", version="fp8"))
    assert said["judge_model"] == "m" and said["judge_version"] == "fp8" and said["prompt"] == "mmvet"
    assert said["prompt_sha256"] == MMVET.sha256 and said["deviations"] == list(MMVET.deviations)
    assert said["grammar"] == {"grade": MMVET.forms["grade"].grammar} and said["attempts"] == 3
    elsewhere = JudgeServer("m", "fp8", "http://elsewhere/v1", workers=1, timeout=1.0)
    assert protocol(MMVET, elsewhere) == said  # the address and the pace do not decide a verdict
    assert protocol(load_prompt("mathvista"), elsewhere) != said
