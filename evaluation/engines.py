"""Engines that answer instead of the Hugging Face model: vLLM in this process, or a chat-completions server.

    VllmAnswerer.load("runs/sft", dtype="bfloat16")
    ServedAnswerer(ChatClient("http://127.0.0.1:8000/v1", "runs/sft"), concurrency=64)

Both decode greedily. In this process vLLM gets the token ids and images that the Hugging Face model would
get; a server renders the messages with the chat template it was started with. No error becomes an answer: a
request that fails, or that ends for another reason than an end token or the token limit, stops the
evaluation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from curation.teacher.chat import ChatClient, ChatError, ChatSetupError, Message, Reply
from curation.teacher.messages import image_part
from curation.teacher.parallel import in_order
from evaluation.model import Answer, CheckpointError, cut, new_tokens, resolved_dtype, stop_strings
from evaluation.prompts import (
    Encoder,
    FamilyEncoder,
    Messages,
    ProcessorEncoder,
    Prompt,
    images,
    open_encoder,
    plain,
    prompt_hash,
    template_of,
    trained_here,
)
from training.hub import local_copy

if TYPE_CHECKING:
    from evaluation.answering import Settings

TOGETHER = 512
"""Questions handed over at once: an engine forms its own batches, and must not wait for the next ones."""
MAX_IMAGES = 16
"""Most images of one question in vLLM."""
TIMEOUT = 600.0
"""Seconds for one answer of a server, which may wait for those before it."""


class EngineError(RuntimeError):
    """A question that an engine cannot answer as asked; the message says why and what to do."""


class VllmAnswerer:
    """A checkpoint in `vllm.LLM` (`training.in_vllm.start`).

    encoder: renders the prompts, as for the Hugging Face model, by `template`, which the results name.
    tiles: whether vLLM tiles every image, so that it cannot read a question with several as training does.
    """

    max_batch_tokens = None

    def __init__(
        self, llm: Any, encoder: Encoder, *, template: str, batch_size: int, tiles: bool = False
    ) -> None:
        self.llm, self.encoder, self.template = llm, encoder, template
        self.batch_size, self.tiles = batch_size, tiles
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.input_tokens, self.cached_tokens = 0, 0

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        batch_size: int = 256,
        dtype: str = "auto",
        template: str = "auto",
        **options: Any,
    ) -> "VllmAnswerer":
        """An engine for a checkpoint directory or Hub name.

        batch_size: most questions that vLLM computes at a time. dtype, template: as for
        `evaluation.model.Answerer`. options: further arguments of vllm.LLM. Raises ImportError with an
        install hint, HubError, TemplateError.
        """
        from transformers import AutoConfig

        from training.in_vllm import import_vllm, start
        from training.models import load_processor, quiet

        import_vllm()
        path = local_copy(checkpoint)
        processor, mode = load_processor(path)
        with quiet():
            model_type = AutoConfig.from_pretrained(str(path)).model_type
        template = template_of(model_type, processor, template, trained=trained_here(path))
        llm = start(
            path,
            dtype=resolved_dtype(dtype),
            max_images=MAX_IMAGES,
            **{"max_num_seqs": batch_size, **options},
        )
        return cls(
            llm,
            open_encoder(model_type, processor, mode, template),
            template=template,
            batch_size=batch_size,
            tiles=model_type == "llava_onevision" and mode == "anyres",
        )

    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message; may be called from several threads.

        Raises ValueError for one that vLLM would read in another way than the model was trained.
        """
        if self.tiles and len(images(messages)) > 1:
            raise ValueError(
                "vLLM tiles each of several images, while the model was trained with one tile of each: "
                "use engine hf for benchmarks of several images"
            )
        return self.encoder.prompt(messages)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in the given order, so that questions about one image find it in the cache."""
        return _together(len(lengths))

    def generate(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[Answer]:
        """The answers. `generation`: lmms-eval's generation_kwargs. Raises EngineError."""
        from training.in_vllm import import_vllm

        check_greedy(generation)
        until = stop_strings(generation)
        params = import_vllm().SamplingParams(
            max_tokens=new_tokens(generation), temperature=0.0, stop=until or None
        )
        results = self.llm.generate([self._request(prompt) for prompt in prompts], params, use_tqdm=False)
        self.input_tokens += sum(len(result.prompt_token_ids) for result in results)
        self.cached_tokens += sum(result.num_cached_tokens or 0 for result in results)
        outputs = [result.outputs[0] for result in results]
        return [
            answer_of(output.text, output.finish_reason, len(output.token_ids), until) for output in outputs
        ]

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        from training.in_vllm import request_of

        if isinstance(self.encoder, ProcessorEncoder):
            text, pictures = prompt.content
            special = self.encoder.template.needs_special(text)
            ids = self.encoder.processor.tokenizer(text, add_special_tokens=special)["input_ids"]
            data = {"multi_modal_data": {"image": list(pictures)}} if pictures else {}
            return {"prompt_token_ids": ids, **data}
        assert isinstance(self.encoder, FamilyEncoder)
        return request_of(prompt.content, self.encoder.image_id, prompt.content.images)


class Client(Protocol):
    """What a served engine needs of `curation.teacher.chat.ChatClient`."""

    model: str

    def complete(self, messages: Sequence[Message], max_tokens: int) -> Reply: ...


class ServedAnswerer:
    """One model of a server of the OpenAI chat-completions protocol, `concurrency` questions at a time.

    Images travel as data URLs. Retries, waits and time limits are the client's.
    """

    template = "server"
    max_batch_tokens = None

    def __init__(self, client: Client, *, concurrency: int = 32) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.client, self.batch_size = client, concurrency
        self.device = torch.device("cpu")

    def prompt(self, messages: Messages) -> Prompt:
        """The conversation as a request; its length is a bound in bytes of text. Raises Unsendable."""
        content = [
            {"role": message["role"], "content": [_part(part) for part in message["content"]]}
            for message in messages
        ]
        texts = json.dumps([[part.get("text") for part in message["content"]] for message in content])
        roles = json.dumps([message["role"] for message in messages])
        return Prompt(content, len(texts), prompt_hash((roles + texts).encode(), images(messages)))

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in the given order, so that questions about one image find it in the server's cache."""
        return _together(len(lengths))

    def generate(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[Answer]:
        """The answers. Raises EngineError, and what the client raises (ChatFailure, ChatSetupError, ...)."""
        check_greedy(generation)
        limit, until = new_tokens(generation), stop_strings(generation)

        def ask(prompt: Prompt) -> Answer:
            reply = self.client.complete(prompt.content, limit)
            return answer_of(reply.text, reply.finish_reason, reply.output_tokens, until)

        return list(in_order(ask, prompts, self.batch_size))


def open_vllm(checkpoint: str | Path, settings: "Settings") -> VllmAnswerer:
    """The engine "vllm" of an evaluation."""
    return VllmAnswerer.load(
        checkpoint, batch_size=settings.batch_size, dtype=settings.dtype, template=settings.template
    )


def open_server(checkpoint: str | Path, settings: "Settings") -> ServedAnswerer:
    """The engine at a base URL; which checkpoint it serves is up to whoever started it.

    The URL may name the model after a `#`; without that it must be the only one of the server. Raises
    CheckpointError if it is not.
    """
    base_url, _, model = settings.engine.partition("#")
    client = ChatClient(base_url, model or only_model(base_url, checkpoint), timeout=TIMEOUT)
    return ServedAnswerer(client, concurrency=settings.batch_size)


def only_model(base_url: str, checkpoint: str | Path) -> str:
    """The name of the only model of a server. Raises CheckpointError where there are several or none."""
    client = ChatClient(base_url, "any", retries=1)  # it refuses an address that must not be shown
    try:
        names = [model["id"] for model in json.loads(client.call("GET", "models"))["data"]]
    except (ChatError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ChatSetupError(
            f"{base_url} does not list its models ({error}): is the server up?", "address"
        ) from error
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise CheckpointError(f"{base_url} serves {found}: name the model of {checkpoint} as {base_url}#NAME")
    return names[0]


def answer_of(text: str, finish_reason: str | None, tokens: int, until: Sequence[str]) -> Answer:
    """An engine's output as an answer, cut before the first stop string. Raises EngineError.

    The token limit did not cut an answer that it left with a stop string in it.
    """
    if finish_reason not in ("stop", "length"):
        raise EngineError(
            f"the engine ended an answer with {finish_reason!r} after {tokens} tokens: look at its log"
        )
    stopped = finish_reason == "stop" or any(stop in text for stop in until)
    return Answer(cut(text, until), not stopped, tokens)


def check_greedy(generation: Mapping[str, Any]) -> None:
    """Raises EngineError for generation settings other than greedy decoding."""
    temperature = float(generation.get("temperature") or 0)
    sampled = bool(generation.get("do_sample")) and temperature > 0
    beams = int(generation.get("num_beams") or 1)
    if sampled or beams > 1:
        raise EngineError(
            f"this engine decodes greedily only, the task asks for temperature {temperature:g} and {beams} "
            "beams: use engine hf, or change the task's generation_kwargs"
        )


def _together(count: int) -> Iterator[list[int]]:
    for begin in range(0, count, TOGETHER):
        yield list(range(begin, min(begin + TOGETHER, count)))


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "image":
        return image_part(part["url"])
    return {"type": "text", "text": plain(part["text"])}
