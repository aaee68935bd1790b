"""Answers of a Hugging Face checkpoint to chat messages with images: batched, left-padded, greedy by default.

    content = [{"type": "image", "url": picture}, {"type": "text", "text": "What is it?"}]
    Answerer.load("runs/base", batch_size=64).answer([[{"role": "user", "content": content}]])

No error is caught: an image or a batch that fails stops the evaluation, since an empty answer would be scored
as wrong. `manifest` registers `evaluation.lmms_model.WinnowModel` with lmms-eval under the name `winnow`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn
from evaluation.decode import greedy
from training.collate import Collator
from training.models import dtype_of, image_mode, load
from training.render import Encoded, Renderer

Messages = Sequence[Mapping[str, Any]]
"""Chat messages in lmms-eval's form: {"role", "content": [{"type": "text", "text"} or {"type": "image",
"url"}]}.

`url` is a PIL image or a path."""

LLAVA = ("llava", "llava_onevision")
"""Model types rendered as in training and decoded here; others use their processor and `generate`."""


def manifest() -> Any:
    """The registration for lmms-eval's entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="winnow", chat_class_path="evaluation.lmms_model.WinnowModel")


class Prompt(NamedTuple):
    """One rendered request: the encoder's input for a batch, length in tokens, hash of text and pixels."""

    content: Any
    length: int
    hash: str


class Answerer:
    """Generates answers with one checkpoint. `model` and `processor` as from `training.models.load`."""

    def __init__(
        self, model: Any, processor: Any, *, batch_size: int = 64, device: str | torch.device = "cpu"
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model.to(device).eval()
        self.tokenizer = processor.tokenizer
        self.batch_size, self.device = batch_size, torch.device(device)
        self.own_decoding = model.config.model_type in LLAVA
        self.encoder: RendererEncoder | ProcessorEncoder = (
            RendererEncoder(processor, image_mode(model))
            if self.own_decoding
            else ProcessorEncoder(processor)
        )
        ends = model.generation_config.eos_token_id
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        self.ends = torch.tensor(ends, device=self.device).reshape(-1)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> "Answerer":
        """An Answerer for a checkpoint directory or Hub name; `dtype` is one of training.models.DTYPES."""
        model, processor = load(checkpoint, dtype=dtype_of(dtype))
        return cls(model, processor, batch_size=batch_size, device=device)

    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message."""
        return self.encoder.prompt(messages)

    def answer(self, conversations: Sequence[Messages], **generation: Any) -> list[str]:
        """Answers in the order of `conversations`."""
        prompts = [self.prompt(messages) for messages in conversations]
        answers = [""] * len(prompts)
        for indices in self.batches([prompt.length for prompt in prompts]):
            batch = self.generate([prompts[i] for i in indices], generation)
            for i, text in zip(indices, batch, strict=True):
                answers[i] = text
        return answers

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of similar length, longest first: too large a batch then fails at once."""
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[str]:
        """The answers to one batch, cut before the first `until` string. Settings: lmms-eval's
        generation_kwargs."""
        batch = {
            key: value.to(self.device)
            for key, value in self.encoder.batch([prompt.content for prompt in prompts]).items()
        }
        batch = {
            key: value.to(self.model.dtype) if value.is_floating_point() else value
            for key, value in batch.items()
        }
        ids = self._new_tokens(batch, generation)
        return [
            cut(text, generation.get("until"))
            for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        ]

    def _new_tokens(self, batch: dict[str, torch.Tensor], generation: Mapping[str, Any]) -> torch.Tensor:
        sample = bool(generation.get("do_sample")) and float(generation.get("temperature") or 0) > 0
        length, beams = int(generation.get("max_new_tokens", 128)), int(generation.get("num_beams") or 1)
        pad = self.tokenizer.pad_token_id
        if self.own_decoding and not sample and beams == 1:
            return greedy(self.model, batch, max_new_tokens=length, ends=self.ends, pad=pad)
        settings: dict[str, Any] = {
            "max_new_tokens": length,
            "do_sample": sample,
            "num_beams": beams,
            "pad_token_id": pad,
        }
        if sample:
            settings |= {
                "temperature": float(generation["temperature"]),
                "top_p": float(generation.get("top_p") or 1.0),
            }
        return self.model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """`text` up to the first of the stop strings, stripped."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.partition(stop)[0] if stop else text
    return text.strip()


class RendererEncoder:
    """Prompts exactly as in training: `<image>` lines before the question, training.render's template."""

    def __init__(self, processor: Any, mode: str) -> None:
        self.renderer = Renderer(processor, mode)
        self.collate = Collator(self.renderer.pad_id, self.renderer.loader, side="left")

    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message."""
        images: list[Any] = []
        texts: list[tuple[str, str]] = []
        for message in messages:
            text, pictures = flatten(message)
            texts.append((message["role"], text))
            images += pictures
        encoded = self.renderer.prompt(Sample(0, "question", "benchmark", tuple(images), _turns(texts)))
        return Prompt(encoded, len(encoded), prompt_hash(encoded.input_ids.tobytes(), images))

    def batch(self, contents: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        batch = self.collate(contents)
        del batch["labels"]
        return batch


class ProcessorEncoder:
    """Prompts by the checkpoint's processor and chat template, for models that training.render lacks."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        processor.tokenizer.padding_side = "left"

    def prompt(self, messages: Messages) -> Prompt:
        images = [
            part["url"] for message in messages for part in message["content"] if part["type"] == "image"
        ]
        text = self.processor.apply_chat_template(
            [_without_pixels(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        return Prompt((text, images), len(text), prompt_hash(text.encode(), images))

    def batch(self, contents: Sequence[tuple[str, list[Any]]]) -> dict[str, torch.Tensor]:
        images = [image for _, pictures in contents for image in pictures]
        return dict(
            self.processor(
                text=[text for text, _ in contents], images=images or None, padding=True, return_tensors="pt"
            )
        )


def flatten(message: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The text of a message with a placeholder line per image, and the images.

    Literal placeholders in the text are removed. ValueError for parts other than text and images.
    """
    lines: list[str] = []
    images: list[Any] = []
    for part in message["content"]:
        if part["type"] == "image":
            images.append(part["url"])
            lines.append(IMAGE_PLACEHOLDER)
        elif part["type"] == "text":
            lines.append(plain(part["text"]))
        else:
            raise ValueError(f"this model supports text and images, not {part['type']!r}")
    return "\n".join(lines), images


def plain(text: str) -> str:
    """`text` without literal media placeholders, which the prompts of some benchmarks contain."""
    return text.replace("<image>", "").replace("<video>", "")


def _without_pixels(message: Mapping[str, Any]) -> dict[str, Any]:
    content = [
        {"type": "text", "text": plain(part["text"])} if part["type"] == "text" else {"type": part["type"]}
        for part in message["content"]
    ]
    return {"role": message["role"], "content": content}


def _turns(texts: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """(role, text) pairs as turns; the last turn has an empty answer."""
    if [role for role, _ in texts] != ["user", "assistant"] * (len(texts) // 2) + ["user"]:
        raise ValueError(f"messages must alternate and end with the user, got {[role for role, _ in texts]}")
    answers = [*(text for _, text in texts[1::2]), ""]
    return tuple(Turn(question, answer) for (_, question), answer in zip(texts[::2], answers, strict=True))


def prompt_hash(text: bytes, images: Sequence[Any]) -> str:
    """Hex digest of a prompt and its pixels."""
    digest = hashlib.sha256(text)
    for image in images:
        digest.update(image.tobytes() if isinstance(image, Image.Image) else str(image).encode())
    return digest.hexdigest()[:32]
