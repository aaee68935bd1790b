"""A chat-completions server on the loopback: answers are a pure function of the request; faults on demand."""

import hashlib
import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def seen(body, blind=False):
    """(text, images) of a request: all words in order, and the data URLs."""
    text, images = [], []
    for message in body["messages"]:
        parts = (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
        text += [f"{message['role']}:{p['text']}" for p in parts if p["type"] == "text"]
        images += [p["image_url"]["url"] for p in parts if p["type"] != "text"]
    return "\n".join(text), [] if blind else images


def token_logprobs(body, blind=False, digits="012345"):
    """token -> log-probability of the digits and ten words, from a digest of what the model would see."""
    text, images = seen(body, blind)
    seed = int.from_bytes(
        hashlib.blake2b("\0".join([text, *images]).encode(), digest_size=8).digest(), "little"
    )
    logits = np.random.default_rng(seed).normal(0, 2, len(digits) + 10)
    logits -= math.log(np.exp(logits).sum())
    return dict(zip([*digits, *(f"word{i}" for i in range(10))], logits.tolist(), strict=True))


class ChatServer:
    """`requests`: bodies in order of arrival. `fault(number, body)`: the fault of a request, or None.

    A fault that is callable gets (handler, body) and writes the whole response.
    """

    def __init__(self, fault=None, blind=False, answer=None, digits="012345"):
        self.fault, self.blind, self.answer, self.digits = (
            fault or (lambda number, body: None),
            blind,
            answer,
            digits,
        )
        self.requests, self.keys, self.lock = [], [], threading.Lock()
        self.open, self.most_open = 0, 0
        self.closing = threading.Event()
        self.url = None

    def reply(self, body):
        top = sorted(token_logprobs(body, self.blind, self.digits).items(), key=lambda t: -t[1])[
            : body.get("top_logprobs", 0)
        ]
        content = self.answer(body) if self.answer else "yes/no, word/short-phrase"
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": content},
            "logprobs": None,
        }
        if body.get("logprobs"):
            listed = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
            choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
        usage = {"prompt_tokens": len(seen(body)[0].split()), "completion_tokens": 1, "total_tokens": 0}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(handler.headers["authorization"])
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            self.respond(handler, body, self.fault(number, body))
        finally:
            with self.lock:
                self.open -= 1

    def respond(self, handler, body, fault):
        if callable(fault):  # writes the whole response itself
            return fault(handler, body)
        if fault == "slow":  # longer than any test waits; the server's end releases it
            self.closing.wait(60)
        if fault == "pause":
            time.sleep(0.03)
        if isinstance(fault, int):
            error = {
                "error": {"message": "injected", "code": "insufficient_quota" if fault == 402429 else None}
            }
            return self.send(handler, 429 if fault == 402429 else fault, json.dumps(error))
        reply = self.reply(body)
        if fault == "no_logprobs":
            reply["choices"][0]["logprobs"] = None
        if fault == "no_usage":
            del reply["usage"]
        text = '{"choices": [{"mess' if fault == "torn" else json.dumps(reply)
        return self.send(handler, 200, text, fault)

    def send(self, handler, status, text, fault=None):
        data = text.encode()
        try:
            if fault == "slow head":
                self.trickle(handler, b"HTTP/1.1 200 OK\r\nx-padding: " + b"x" * 400)
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(data)))
            handler.send_header("retry-after-ms", "5")
            handler.end_headers()
            if fault == "slow body":
                self.trickle(handler, data)
            elif fault == "cut":  # the connection ends after half of the announced answer
                handler.wfile.write(data[: len(data) // 2])
                handler.close_connection = True
            else:
                handler.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # the client gave up waiting
            handler.close_connection = True

    def trickle(self, handler, data):
        """One byte at a time: a time limit for each read never ends this answer."""
        for k in range(len(data)):
            handler.wfile.write(data[k : k + 1])
            time.sleep(0.03)


@contextmanager
def serve(kind=ChatServer, **options):
    """A running server of this kind, at `server.url`."""
    server = kind(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.handle(self)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()
