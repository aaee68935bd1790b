"""The chat client against servers that answer wrongly: one failed request each, no money, no key, no memory.

Each row of the table of faults that were found has its test here.
"""

import gzip
import json
import resource
import socket
import struct
import time
from email.utils import formatdate

import pytest
from chat_server import serve

from curation.teacher.address import checked, masked, origin
from curation.teacher.chat import (
    LOST_IN_A_ROW,
    ChatClient,
    ChatError,
    ChatFailure,
    ChatSetupError,
    CostCapReached,
)
from curation.teacher.parallel import in_order

pytest.importorskip("httpx")
ASK = [{"role": "user", "content": "hi"}]
PRICED = {"input_price": 1000.0, "output_price": 2000.0}
BOUND = (2 + 32) * 1e-3 + 8 * 2e-3
"""Dollars that a request ASK with 8 tokens may cost at those prices."""


def completion(content="{}", **changes):
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage, **changes}


def written(status, text, headers=(), announced=None):
    """A fault: this response, whatever was asked."""

    def respond(handler, body):
        data = text if isinstance(text, bytes) else text.encode()
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("content-length", str(announced or len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return respond


def reset(handler, body):
    """The connection is reset in the middle of the body."""
    written(200, '{"cho', announced=5000)(handler, body)
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def always(fault):
    return lambda number, body: fault


def ask(server, **options):
    client = ChatClient(server.url, "m", **{"timeout": 5.0, "retries": 0, **options})
    return client, client.complete(ASK, 8)


def failure(fault, **options):
    """(the error, the client, the number of requests) of a server that always has this fault."""
    with serve(fault=always(fault)) as server:
        client = ChatClient(server.url, "m", **{"timeout": 5.0, "retries": 0, **options})
        with pytest.raises(ChatError) as caught:
            client.complete(ASK, 8)
    return caught.value, client, len(server.requests)


# ------------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize("fault", [reset, "cut", "torn"])
def test_one_lost_or_torn_body_is_one_failed_request(fault):
    with serve(fault=lambda number, body: fault if number == 1 else None) as server:
        client = ChatClient(server.url, "m", retries=0)
        assert client.complete(ASK, 8).text
        with pytest.raises(ChatFailure) as caught:
            client.complete(ASK, 8)
        assert caught.value.reason == ("malformed" if fault == "torn" else "connection")
        assert client.complete(ASK, 8).text  # the next one is answered
        assert ChatClient(server.url, "m").complete(ASK, 8).text


def test_a_first_body_that_is_lost_is_no_wrong_address():
    error, _, _ = failure(reset)
    assert isinstance(error, ChatFailure) and error.reason == "connection"


def test_a_server_that_is_gone_stops_the_run_after_some_in_a_row():
    with serve() as server:
        client = ChatClient(server.url, "m", retries=0)
        client.complete(ASK, 8)
        server.fault = always(reset)
        for _ in range(LOST_IN_A_ROW - 1):
            with pytest.raises(ChatFailure):
                client.complete(ASK, 8)
        server.fault = always(None)
        client.complete(ASK, 8)  # one answer, and the count begins anew
        server.fault = always(reset)
        for _ in range(LOST_IN_A_ROW - 1):
            with pytest.raises(ChatFailure):
                client.complete(ASK, 8)
        with pytest.raises(ChatSetupError, match="is the server up") as caught:
            client.complete(ASK, 8)
    assert caught.value.about == "address"


# ------------------------------------------------------------------------------------------- money


def test_an_attempt_whose_answer_comes_too_late_is_counted_as_what_it_may_have_cost():
    with serve(fault=lambda number, body: "slow" if number == 0 else None) as server:
        client, reply = ask(server, timeout=1.5, retries=1, **PRICED)
    cost = client.cost()
    assert reply.text and (cost.requests, cost.unanswered, cost.retried) == (1, 1, 1)
    assert cost.unanswered_usd == pytest.approx(BOUND)
    answered = 1e-3 * cost.input_tokens + 2e-3 * cost.output_tokens
    assert cost.usd == pytest.approx(answered + BOUND) and answered > 0


@pytest.mark.parametrize(
    ("fault", "counted"),
    [(reset, True), ("cut", True), (504, True), (502, True), (429, False), (500, False), (400, False)],
)
def test_attempts_that_may_have_been_billed_are_counted(fault, counted):
    _, client, _ = failure(fault, **PRICED)
    assert client.cost().requests == 0
    assert (client.cost().usd, client.cost().unanswered) == (
        (pytest.approx(BOUND), 1) if counted else (0.0, 0)
    )


def test_a_request_that_never_left_costs_nothing():
    with serve() as server:
        pass
    client = ChatClient(server.url, "m", retries=1, **PRICED)
    with pytest.raises(ChatSetupError):
        client.complete(ASK, 8)
    assert (client.cost().usd, client.cost().unanswered, client.cost().retried) == (0.0, 0, 1)


def test_the_cap_holds_for_attempts_without_an_answer_and_says_so():
    with serve(fault=always(reset)) as server:
        client = ChatClient(server.url, "m", retries=50, max_cost_usd=3.5 * BOUND, **PRICED)
        with pytest.raises(CostCapReached, match=r"for 3 attempts without an answer"):
            client.complete(ASK, 8)
    assert len(server.requests) == 3 and client.cost().usd <= 3.5 * BOUND


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": -5},
        {"prompt_tokens": -1_000_000, "completion_tokens": 5},
        {"prompt_tokens": 0, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 0},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 10.0, "completion_tokens": 5},
        {"prompt_tokens": "10", "completion_tokens": 5},
        {"prompt_tokens": float("nan"), "completion_tokens": 5},
        {"prompt_tokens": float("inf"), "completion_tokens": 5},
        {"prompt_tokens": 10**9, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 10**9},
        {"prompt_tokens": 10},
        [10, 5],
        "10",
        None,
    ],
)
def test_usage_that_cannot_be_is_not_believed_and_counts_as_the_bound(usage):
    fault = written(200, json.dumps(completion(usage=usage)))
    with serve(fault=always(fault)) as server:
        client, reply = ask(server, **PRICED)
    assert reply.text == "{}" and client.cost().usd == pytest.approx(BOUND)
    assert (client.cost().input_tokens, client.cost().output_tokens) == (34, 8)


def test_negative_usage_does_not_lift_the_cap():
    fault = written(200, json.dumps(completion(usage={"prompt_tokens": -(10**6), "completion_tokens": 0})))
    with serve(fault=always(fault)) as server:
        client = ChatClient(server.url, "m", max_cost_usd=2.5 * BOUND, **PRICED)
        with pytest.raises(CostCapReached):
            for _ in range(9):
                client.complete(ASK, 8)
    assert len(server.requests) == 2


def test_usage_above_the_bound_is_what_the_server_bills():
    usage = {"prompt_tokens": 300, "completion_tokens": 20}  # pictures may cost more than image_tokens
    with serve(fault=always(written(200, json.dumps(completion(usage=usage))))) as server:
        client, _ = ask(server, **PRICED)
    assert client.cost().usd == pytest.approx(0.3 + 0.04)


# ------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"choices": ' + "[" * 50_000,
        "9" * 10_000,
        "<html>login</html>",
        "",
        "null",
        "[]",
        '{"choices": []}',
        json.dumps(completion(content={"a": 1})),
        json.dumps(completion(content=5)),
        json.dumps(completion(content=[{"type": "text"}])),
        b"\xff\xfe\x00",
    ],
)
def test_an_answer_that_is_no_completion_is_a_failed_request_and_paid_for(body):
    error, client, requests = failure(written(200, body), **PRICED)
    assert isinstance(error, ChatFailure) and error.reason == "malformed" and requests == 1
    assert client.cost().usd == pytest.approx(BOUND)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"), ("\ud800", "?")],
)
def test_other_forms_of_an_answers_text(content, text):
    with serve(fault=always(written(200, json.dumps(completion(content))))) as server:
        assert ask(server)[1].text == text


def test_a_refusal_is_one_whatever_the_finish_reason():
    choice = {"finish_reason": "stop", "message": {"content": None, "refusal": "no"}}
    with serve(fault=always(written(200, json.dumps(completion(choices=[choice]))))) as server:
        assert ask(server)[1].finish_reason == "content_filter"


def test_an_answer_of_ten_megabytes_is_not_read():
    error, client, requests = failure(
        written(200, json.dumps(completion("x" * 10_000_000))), retries=3, **PRICED
    )
    assert isinstance(error, ChatFailure) and error.reason == "malformed" and requests == 1
    assert "the answer has more than 73,728 bytes" in str(error)
    assert client.cost().usd == pytest.approx(BOUND)


def test_an_answer_that_never_ends_is_not_read():
    def endless(handler, body):
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        except OSError:
            handler.close_connection = True

    begin = time.monotonic()
    assert failure(endless)[0].reason == "malformed" and time.monotonic() - begin < 30


@pytest.mark.parametrize("status", [200, 500])
def test_a_body_that_unpacks_to_a_hundred_megabytes_is_not_held(status):
    packed = gzip.compress(b"[" + b"0," * 50_000_000 + b"0]", 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error, _, _ = failure(written(status, packed, [("content-encoding", "gzip")]), timeout=30.0)
    assert error.reason == ("malformed" if status == 200 else "server_error")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kilobytes


def test_long_true_answers_are_read():
    """Reasoning and log-probabilities make answers long: the limit grows with what was asked."""
    text = "\\u4e2d" * 60_000
    fault = written(200, json.dumps(completion("?")).replace('"?"', f'"{text}"'))
    with serve(fault=always(fault)) as server:
        client = ChatClient(server.url, "m")
        assert len(client.complete(ASK, 512).text) == 60_000


# ------------------------------------------------------------------------------------------- waits


def test_a_wait_beyond_the_limit_fails_at_once_and_names_it():
    begin = time.monotonic()
    error, _, requests = failure(written(429, "{}", [("retry-after", "3600")]), retries=4)
    assert isinstance(error, ChatFailure) and error.reason == "rate_limited" and requests == 1
    assert "asks to wait 3,600 s, longer than longest_wait (60 s)" in str(error)
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_wait_within_the_limit_is_kept(form):
    begin = time.monotonic()
    named = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    fault = written(429, "{}", [("retry-after", named)])
    with serve(fault=lambda number, body: fault if number == 0 else None) as server:
        ask(server, retries=1)
    assert time.monotonic() - begin > 0.8 and len(server.requests) == 2


@pytest.mark.parametrize("named", ["-5", "nan", "inf", "soon", "", "1e999"])
def test_a_wait_that_is_none_is_not_kept(named):
    fault = written(429, "{}", [("retry-after", named)])
    with serve(fault=lambda number, body: fault if number == 0 else None) as server:
        ask(server, retries=1)
    assert len(server.requests) == 2


# ------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_request_is_never_sent_to_another_origin(status, monkeypatch):
    monkeypatch.setenv("OWN_KEY", "sk-secret")
    with serve() as other:
        port = other.url.split(":")[2].split("/")[0]
        for target in (
            f"http://localhost:{port}/v1/chat/completions?token=abc",
            f"http://bob:pw@127.0.0.1:{port}/",
        ):
            error, client, _ = failure(written(status, "", [("location", target)]), api_key_env="OWN_KEY")
            assert isinstance(error, ChatSetupError) and error.about == "address"
            assert origin(client.base_url) in str(error) and origin(target) in str(error)
            assert not any(secret in str(error) for secret in ("abc", "bob", "pw@", "sk-secret"))
    assert not other.requests


def test_a_redirection_within_the_origin_is_followed():
    with serve() as server:
        moved = written(307, "", [("location", server.url + "/chat/completions?again=1")])
        server.fault = lambda number, body: moved if number == 0 else None
        assert ask(server)[1].text and len(server.requests) == 2 and server.requests[0] == server.requests[1]
        server.fault = always(moved)
        with pytest.raises(ChatSetupError, match="redirects within itself"):
            ask(server)


@pytest.mark.parametrize(
    "url",
    [
        "http://bob:PASSW0RD@127.0.0.1:9/v1?api-key=QUERYKEY",
        "http://bob@127.0.0.1:9/v1",
        "http://127.0.0.1:9/v1?api-key=QUERYKEY",
        "http://127.0.0.1:9/v1#QUERYKEY",
        "http://127.0.0.1:PASSW0RD/v1",
        "http://bob:PASS/W0RD@127.0.0.1/v1",
        "file:///etc/passwd",
        "127.0.0.1:8000/v1",
        "",
        "http://",
    ],
)
def test_an_address_with_a_secret_or_of_another_kind_is_refused_without_it(url):
    with pytest.raises(ChatSetupError) as caught:
        ChatClient(url, "m")
    assert caught.value.about == "address"
    assert not any(secret in str(caught.value) for secret in ("PASS", "W0RD", "QUERYKEY", "bob"))


def test_urls_are_masked_in_any_text():
    text = "see 'http://bob:p@ss@h:1/v1?key=K&x=1', https://t@h/v1 and <http://h/v1?k=1>"
    assert masked(text) == "see 'http://***@h:1/v1?***', https://***@h/v1 and <http://h/v1?***>"
    assert masked("is http://h:1/v1/ up? http://h/?") == "is http://h:1/v1/ up? http://h/?"
    assert checked(" http://h:1/v1/ ") == "http://h:1/v1/" == checked("http://h:1/v1")


# ------------------------------------------------------------------------------------------- keys


def test_white_space_around_a_key_is_not_sent(monkeypatch):
    monkeypatch.setenv("OWN_KEY", " sk-secret\r\n")
    with serve() as server:
        ask(server, api_key_env="OWN_KEY")
    assert server.keys == ["Bearer sk-secret"]


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-se cret", "sk-ключ", "sk\x00x", "\n", ""])
def test_a_key_that_cannot_be_sent_is_refused_without_it(key, monkeypatch):
    if "\x00" in key:
        monkeypatch.setattr("os.environ", {"OWN_KEY": key})  # no shell can set it
    else:
        monkeypatch.setenv("OWN_KEY", key)
    with pytest.raises(ChatSetupError, match="OWN_KEY") as caught:
        ChatClient("http://127.0.0.1:9/v1", "m", api_key_env="OWN_KEY")
    assert caught.value.about == "key" and "sk" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 500, 400, 429])
def test_a_key_or_control_character_that_a_server_repeats_is_not_shown(status, monkeypatch):
    monkeypatch.setenv("OWN_KEY", "sk-TOPSECRET-123")
    said = {"error": {"message": "bad \x1b[2J key sk-TOPSECRET-123 http://u:pw@h/?q=1"}}
    error, _, _ = failure(written(status, json.dumps(said)), api_key_env="OWN_KEY")
    assert "TOPSECRET" not in str(error) and "\x1b" not in str(error) and "pw@" not in str(error)
    assert "bad" in str(error)


def test_nothing_of_a_client_shows_its_key(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "sk-TOPSECRET-123")
    client = ChatClient("http://127.0.0.1:9/v1", "m", api_key_env="OWN_KEY")
    assert "TOPSECRET" not in repr(vars(client))


def test_many_threads_share_one_client():
    with serve(fault=lambda number, body: reset if number % 7 == 3 else None) as server:
        client = ChatClient(server.url, "m", retries=3)
        texts = list(in_order(lambda _: client.complete(ASK, 8).text, range(24), 4))
    assert len(texts) == 24 and client.cost().requests == 24
    assert client.cost().unanswered == len(server.requests) - 24
