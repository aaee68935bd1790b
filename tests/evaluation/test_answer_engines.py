"""Answers by vLLM and by a server, both stubs: the same questions, the same answers, no failure as one."""

import base64
import io
import json
import sys
import threading
import types
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny_families
import tiny_models
from chat_server import serve
from PIL import Image

from curation.teacher.chat import ChatClient, ChatFailure, ChatSetupError, Reply
from curation.teacher.messages import Unsendable
from evaluation import engines
from evaluation.answering import Settings
from evaluation.engines import EngineError, ServedAnswerer, VllmAnswerer
from evaluation.model import Answer, Answerer, CheckpointError
from evaluation.prompts import ProcessorEncoder
from training.models import load_processor
from training.render import Encoded

OTHERS = ("qwen3_vl", "internvl", "smolvlm")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    folders = {kind: tiny_models.build(kind, root / kind) for kind in tiny_models.KINDS}
    return folders | {kind: tiny_families.build(kind, root / kind) for kind in OTHERS}


def picture(seed, size=(64, 64)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def ask(*images, text="what is at b 3 ?"):
    content = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


SINGLE = [ask(picture(0)), ask(text="what is this ?"), ask(picture(1, (150, 60)), text="is it a dog ?")]
TWO = ask(picture(2, (40, 90)), picture(3), text="which ?")


class Engine:
    """`vllm.LLM` whose answers are those of the Hugging Face model: it expands the placeholders itself."""

    def __init__(self, answerer):
        self.answerer, self.params = answerer, []

    def generate(self, requests, params, use_tqdm=True):
        self.params.append(params)
        given = {"max_new_tokens": params.max_tokens, "until": params.stop}
        prompts = [self._prompt(request) for request in requests]
        return [
            types.SimpleNamespace(
                outputs=[
                    types.SimpleNamespace(
                        text=f" {answer.text}",
                        finish_reason="length" if answer.truncated else "stop",
                        token_ids=[0] * answer.tokens,
                    )
                ],
                prompt_token_ids=[0] * prompt.length,
                num_cached_tokens=None,
            )
            for prompt, answer in zip(prompts, self.answerer.generate(prompts, given), strict=True)
        ]

    def _prompt(self, request):
        encoder, images = self.answerer.encoder, request.get("multi_modal_data", {}).get("image", [])
        ids = np.array(request["prompt_token_ids"], np.int32)
        assert (ids == encoder.image_id).sum() == len(images)
        at = np.flatnonzero(ids == encoder.image_id)
        parts = np.split(ids, np.sort([*at, *at + 1]))
        parts[1::2] = encoder.loader.image_ids(images)
        ids = np.concatenate(parts)
        encoded = Encoded(ids, np.full_like(ids, -100), tuple(images))
        return types.SimpleNamespace(content=encoded, length=len(ids))


@pytest.fixture
def vllm(monkeypatch):
    """The module, with SamplingParams that keep what they are given."""
    stub = types.ModuleType("vllm")
    stub.SamplingParams = lambda **given: types.SimpleNamespace(**given)
    monkeypatch.setitem(sys.modules, "vllm", stub)
    return stub


def opened(answerer, tiles=False):
    return VllmAnswerer(
        Engine(answerer), answerer.encoder, template=answerer.template, batch_size=4, tiles=tiles
    )


@pytest.mark.parametrize("kind", ["base", "llava", "qwen", *OTHERS])
def test_vllm_is_asked_what_the_model_is_asked(vllm, tiny, kind):
    answerer = Answerer.load(tiny[kind], dtype="float32")
    engine, conversations = opened(answerer), [*SINGLE, TWO]
    prompts = [engine.prompt(messages) for messages in conversations]
    assert [p.hash for p in prompts] == [answerer.prompt(messages).hash for messages in conversations]
    generation = {"max_new_tokens": 6, "temperature": 0, "do_sample": False}
    expected = answerer.generate(prompts, generation)
    assert engine.generate(prompts, generation) == expected
    assert engine.input_tokens == sum(prompt.length for prompt in prompts) and engine.cached_tokens == 0
    (params,) = engine.llm.params
    assert (params.max_tokens, params.temperature, params.stop) == (6, 0.0, None)


def test_vllm_does_not_read_several_images_as_an_anyres_model_was_trained(vllm, tiny):
    engine = opened(Answerer.load(tiny["anyres"], dtype="float32"), tiles=True)
    assert engine.generate([engine.prompt(SINGLE[2])], {"max_new_tokens": 3})[0].tokens >= 1
    with pytest.raises(ValueError, match="use engine hf for benchmarks of several images"):
        engine.prompt(TWO)


def test_a_prompt_of_the_processor_goes_out_with_one_placeholder_for_each_image(tiny):
    processor = load_processor(tiny["llava"])[0]
    engine = VllmAnswerer(None, ProcessorEncoder(processor), template="checkpoint", batch_size=4)
    request = engine._request(engine.prompt(SINGLE[0]))
    ids = request["prompt_token_ids"]
    assert ids.count(processor.image_token_id) == 1 and len(request["multi_modal_data"]["image"]) == 1
    whole = engine.encoder.collate([engine.prompt(SINGLE[0])])["input_ids"][0].tolist()
    image = processor.image_token_id
    assert [i for i in whole if i != image] == [i for i in ids if i != image]
    assert "multi_modal_data" not in engine._request(engine.prompt(SINGLE[1]))


def test_how_an_answer_ended():
    assert engines.answer_of(" a dog ", "stop", 3, []) == Answer("a dog", False, 3)
    assert engines.answer_of("a dog", "length", 3, []) == Answer("a dog", True, 3)
    assert engines.answer_of("a dog\n\nQuestion", "length", 9, ["\n\n"]) == Answer("a dog", False, 9)
    for reason in ("abort", "content_filter", None):
        with pytest.raises(EngineError, match="ended an answer with"):
            engines.answer_of("a", reason, 1, [])


def test_only_greedy_decoding(vllm, tiny):
    for settings in (
        {},
        {"temperature": 0, "do_sample": True},
        {"temperature": 1.0, "do_sample": False},
        {"num_beams": None},
    ):
        engines.check_greedy(settings)
    served = ServedAnswerer(Client())
    for settings in ({"temperature": 0.7, "do_sample": True}, {"num_beams": 3}):
        with pytest.raises(EngineError, match="greedily only"):
            served.generate([served.prompt(SINGLE[0])], settings)
    assert not served.client.asked


def test_batches_keep_the_order_of_the_questions(monkeypatch):
    monkeypatch.setattr(engines, "TOGETHER", 3)
    served = ServedAnswerer(Client())
    assert list(served.batches([5, 1, 9, 2])) == [[0, 1, 2], [3]] and list(served.batches([])) == []


def test_loading_into_vllm(vllm, tiny, monkeypatch):
    started = []
    monkeypatch.setattr("training.in_vllm.start", lambda path, **given: started.append((path, given)))
    engine = engines.open_vllm(tiny["base"], Settings(batch_size=7, dtype="float32", engine="vllm"))
    given = {"dtype": "float32", "max_images": engines.MAX_IMAGES, "max_num_seqs": 7}
    assert started == [(tiny["base"], given)]
    assert (engine.template, engine.batch_size, engine.tiles) == ("training", 7, False)
    assert VllmAnswerer.load(tiny["anyres"], max_model_len=9).tiles and started[1][1]["max_model_len"] == 9
    assert engine.template == Answerer.load(tiny["base"], dtype="float32").template
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"winnow\[vllm\]"):
        VllmAnswerer.load(tiny["base"])


class Client:
    """A chat client: what it was asked, and an answer that ends as told."""

    model = "m"

    def __init__(self, finish_reason="stop"):
        self.finish_reason, self.asked = finish_reason, []

    def complete(self, messages, max_tokens):
        self.asked.append((messages, max_tokens))
        return Reply("a dog", None, self.finish_reason, 5, 2)


def test_a_server_gets_texts_and_images_in_their_order():
    client = Client("length")
    served = ServedAnswerer(client)
    content = [
        {"type": "text", "text": "first <image>"},
        {"type": "image", "url": picture(0)},
        {"type": "text", "text": "then"},
    ]
    messages = [{"role": "system", "content": [{"type": "text", "text": "be brief"}]}]
    messages += [{"role": "user", "content": content}]
    assert served.generate([served.prompt(messages)], {"max_new_tokens": 2}) == [Answer("a dog", True, 2)]
    ((sent, limit),) = client.asked
    assert limit == 2 and [message["role"] for message in sent] == ["system", "user"]
    text, image, then = sent[1]["content"]
    assert (text, then) == ({"type": "text", "text": "first "}, {"type": "text", "text": "then"})
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture(0))


def test_the_hash_of_a_served_prompt_covers_text_and_pixels(tmp_path):
    served = ServedAnswerer(Client())
    hashes = [served.prompt(ask(picture(i), text=text)).hash for i in (0, 1) for text in ("a ?", "b ?")]
    assert len(set(hashes)) == 4
    assert served.prompt(ask(picture(0), text="a ?")).hash == hashes[0]
    with pytest.raises(Unsendable, match="missing_image"):
        served.prompt(ask(tmp_path / "none.png"))


def test_answers_of_a_server_come_in_order_and_together():
    with serve(
        fault=lambda n, body: "pause", answer=lambda body: body["messages"][0]["content"][-1]["text"]
    ) as s:
        engine = ServedAnswerer(ChatClient(s.url, "m", retries=0), concurrency=4)
        prompts = [engine.prompt(ask(picture(i), text=f"question {i}")) for i in range(12)]
        answers = engine.generate(prompts, {"max_new_tokens": 5})
    assert [answer.text for answer in answers] == [f"question {i}" for i in range(12)]
    assert not any(answer.truncated for answer in answers) and 1 < s.most_open <= 4
    assert all(body["max_tokens"] == 5 and body["temperature"] == 0 for body in s.requests)


@pytest.mark.parametrize(("fault", "error"), [(400, ChatFailure), (500, ChatFailure), (404, ChatSetupError)])
def test_a_failure_of_the_server_is_no_answer(fault, error):
    def failing(number, body):
        return fault if "question 2" in json.dumps(body) else None

    with serve(fault=failing) as server:
        engine = ServedAnswerer(ChatClient(server.url, "m", retries=1), concurrency=1)
        prompts = [engine.prompt(ask(text=f"question {i}")) for i in range(9)]
        with pytest.raises(error):
            engine.generate(prompts, {})
    assert len(server.requests) < 9


@contextmanager
def models(*names):
    """The address of a server that lists these models."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            entries = [{"id": name, "object": "model", "created": 0, "owned_by": ""} for name in names]
            body = json.dumps({"object": "list", "data": entries}).encode()
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def test_the_model_of_a_server():
    with models("runs/sft") as url:
        engine = engines.open_server(Path("runs/sft"), Settings(batch_size=5, engine=url))
        assert (engine.client.model, engine.batch_size, engine.template) == ("runs/sft", 5, "server")
    for names in ((), ("a", "b")):
        with models(*names) as url, pytest.raises(CheckpointError, match=f"{url}#NAME"):
            engines.open_server(Path("runs/sft"), Settings(engine=url))
    named = engines.open_server(Path("runs/sft"), Settings(engine=f"{url}#b"))  # nothing is asked: it is down
    assert named.client.model == "b"
    with pytest.raises(ChatSetupError, match=r"does not list its models .*: is the server up"):
        engines.open_server(Path("runs/sft"), Settings(engine=url))
