"""The chat client against a loopback server: answers, retries, failures, keys, costs and the cap."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_server import serve, token_logprobs

from curation.teacher.chat import ChatClient, ChatFailure, ChatSetupError, CostCapReached
from curation.teacher.parallel import in_order

pytest.importorskip("httpx")
ASK = [{"role": "user", "content": "how many dogs"}]


def test_answer_with_log_probabilities_and_usage():
    with serve() as server:
        client = ChatClient(server.url, "m")
        reply = client.complete(ASK, 1, logprobs=True)
        plain = client.complete(ASK, 7)
    expected = token_logprobs(server.requests[0])
    assert dict(reply.logprobs[0]) == pytest.approx(expected) and len(reply.logprobs) == 1
    assert server.requests[0] == {
        "model": "m",
        "messages": ASK,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert (
        plain.logprobs is None and plain.text == "yes/no, word/short-phrase" and plain.finish_reason == "stop"
    )
    assert (client.cost().requests, client.cost().input_tokens, client.cost().output_tokens) == (2, 6, 2)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(429, "rate_limited"), (500, "server_error"), (503, "server_error"), ("torn", "malformed")],
)
def test_transient_faults_are_retried_and_lasting_ones_have_a_reason(fault, reason):
    with serve(fault=lambda number, body: fault if number < 2 else None) as server:
        client = ChatClient(server.url, "m", retries=2)
        assert client.complete(ASK, 4).text
        assert len(server.requests) == 3 and client.cost().retried == 2
    with serve(fault=lambda number, body: fault) as server:
        with pytest.raises(ChatFailure) as caught:
            ChatClient(server.url, "m", retries=2).complete(ASK, 4)
        assert caught.value.reason == reason and len(server.requests) == 3


def test_timeouts_and_bad_requests():
    with serve(fault=lambda number, body: "slow") as server:
        begin = time.monotonic()
        with pytest.raises(ChatFailure) as caught:
            ChatClient(server.url, "m", timeout=0.1, retries=0).complete(ASK, 4)
        assert caught.value.reason == "timeout" and time.monotonic() - begin < 20  # of 60
    with serve(fault=lambda number, body: 400) as server:
        with pytest.raises(ChatFailure) as caught:
            ChatClient(server.url, "m", retries=3).complete(ASK, 4)
        assert caught.value.reason == "bad_request" and len(server.requests) == 1


@pytest.mark.parametrize("fault", ["slow head", "slow body"])
def test_the_time_limit_is_that_of_the_whole_answer(fault):
    with serve(fault=lambda number, body: fault) as server:
        client = ChatClient(server.url, "m", timeout=0.3, retries=1)
        begin = time.monotonic()
        with pytest.raises(ChatFailure, match=r"no whole answer of m within 0.3 s") as caught:
            client.complete(ASK, 4)
        assert caught.value.reason == "timeout" and len(server.requests) == 2 and client.cost().requests == 0
        assert 0.6 < time.monotonic() - begin < 9.0  # a byte came every 0.03 s, for 9 s in each attempt
    with serve(fault=lambda number, body: fault if number == 0 else None) as server:
        client = ChatClient(server.url, "m", timeout=1.5, retries=1)
        assert client.complete(ASK, 4).text and client.cost().retried == 1


def test_a_deadline_ends_all_attempts_together():
    with serve(fault=lambda number, body: "slow") as server:
        begin = time.monotonic()
        with pytest.raises(ChatFailure) as caught:
            ChatClient(server.url, "m", timeout=0.2, retries=100, deadline=2.0).complete(ASK, 4)
    assert caught.value.reason == "timeout" and time.monotonic() - begin < 20  # a hundred attempts take 20
    assert 1 < len(server.requests) < 8  # the waits double


def test_an_answer_that_ends_half_way_is_requested_again():
    with serve(fault=lambda number, body: "cut" if number == 0 else None) as server:
        client = ChatClient(server.url, "m", retries=1)
        assert client.complete(ASK, 4).model == "m" and len(server.requests) == 2
    with serve(fault=lambda number, body: "cut") as server, pytest.raises(ChatFailure) as caught:
        ChatClient(server.url, "m", retries=1).complete(ASK, 4)
    assert caught.value.reason == "connection" and len(server.requests) == 2


def test_unreadable_answers_are_paid_for_and_the_cap_holds_between_attempts():
    with serve(fault=lambda number, body: "torn") as server:
        client = ChatClient(server.url, "m", retries=9, input_price=1e5, output_price=2e5, max_cost_usd=10.0)
        with pytest.raises(CostCapReached):
            client.complete(ASK, 1)
    # An unreadable answer counts as its upper bound, (13 bytes + 32) x 0.1 + 0.2 = 4.7: the third is not sent
    assert len(server.requests) == 2 and client.cost().usd == pytest.approx(9.4)


def test_a_client_that_is_let_go_ends_its_thread():
    others = set(threading.enumerate())

    def own():
        return [t for t in threading.enumerate() if t not in others and t.name == "requests"]

    with serve() as server:
        client = ChatClient(server.url, "m")
        assert not own()  # no thread without a request
        client.complete(ASK, 1)
        (thread,) = own()
        del client
        gc.collect()
        thread.join(timeout=5)
    assert not thread.is_alive()


@pytest.mark.parametrize("status", [401, 403, 404, 402429])
def test_permanent_errors_stop(status):
    with (
        serve(fault=lambda number, body: status) as server,
        pytest.raises(ChatSetupError, match="check address, key, model"),
    ):
        ChatClient(server.url, "no-such", retries=0).complete(ASK, 4)


def test_no_server_stops():
    with serve() as server:
        pass
    with pytest.raises(ChatSetupError, match="is the server up"):
        ChatClient(server.url, "m", retries=0).complete(ASK, 4)


def test_keys_come_from_the_named_variable_and_go_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OTHER_KEY", "known")
    with serve() as server:
        ChatClient(server.url, "m").complete(ASK, 1)
        ChatClient(server.url, "m", api_key_env="OTHER_KEY").complete(ASK, 1)
    assert server.keys == ["Bearer none", "Bearer known"]
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ChatSetupError, match="OPENAI_API_KEY"):
        ChatClient(None, "m")
    with pytest.raises(ChatSetupError, match="UNSET_KEY"):
        ChatClient(server.url, "m", api_key_env="UNSET_KEY")


def test_cost_is_counted_and_the_cap_is_never_exceeded():
    with serve() as server:
        client = ChatClient(server.url, "m", input_price=1e5, output_price=2e5, max_cost_usd=10.0)
        with (
            pytest.raises(CostCapReached, match=r"\$5.5000 of \$10.0 are spent on 11 requests"),
            ThreadPoolExecutor(6) as threads,
        ):
            list(threads.map(lambda _: client.complete(ASK, 1), range(60)))
    # A request costs 3 x 0.1 + 0.2 = 0.5 and may cost (13 bytes + 32) x 0.1 + 0.2 = 4.7: the last starts at
    # 5.0.
    assert len(server.requests) == client.cost().requests
    assert client.cost().usd == pytest.approx(0.5 * client.cost().requests) and client.cost().usd <= 10.0


def test_an_answer_without_usage_counts_as_its_upper_bound():
    with serve(fault=lambda number, body: "no_usage") as server:
        client = ChatClient(server.url, "m", input_price=1.0, output_price=1.0)
        client.complete(
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "é"},
                        {"type": "image_url", "image_url": {"url": "x"}},
                    ],
                }
            ],
            5,
        )
    assert client.cost().input_tokens == 2 + 2000 + 32 and client.cost().output_tokens == 5
    with pytest.raises(ValueError, match="needs input_price"):
        ChatClient(server.url, "m", max_cost_usd=1.0)


def test_in_order_bounds_the_open_requests_and_stops_at_an_error():
    with serve(fault=lambda number, body: "pause") as server:
        client = ChatClient(server.url, "m")
        texts = list(
            in_order(
                lambda i: client.complete([{"role": "user", "content": str(i)}], 1, logprobs=True),
                range(40),
                4,
            )
        )
    assert 1 < server.most_open <= 4
    expected = [token_logprobs({"messages": [{"role": "user", "content": str(i)}]}) for i in range(40)]
    assert [dict(reply.logprobs[0]) for reply in texts] == [pytest.approx(e) for e in expected]

    started = []

    def work(i):
        started.append(i)
        if i == 3:
            raise ChatSetupError("stop", "address")
        time.sleep(0.01)
        return i

    with pytest.raises(ChatSetupError):
        list(in_order(work, range(1000), 2))
    assert len(started) < 12
