"""Answers of a Hugging Face checkpoint to chat messages with images: batched, left-padded, greedy by default.

    content = [{"type": "image", "url": picture}, {"type": "text", "text": "What is it?"}]
    Answerer.load("runs/base", batch_size=64).answer([[{"role": "user", "content": content}]])

No error becomes an answer: an image or a batch that fails stops the evaluation, since an empty answer would
be scored as wrong. `manifest` registers `evaluation.lmms_model.WinnowModel` with lmms-eval under the name
`winnow`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from evaluation.decode import Stops, greedy
from evaluation.journal import Answer
from evaluation.prompts import (
    FAMILIES,
    Messages,
    Prompt,
    open_encoder,
    resolved_template,
    template_of,
    trained_here,
)
from training.convert import is_llava_next_layout
from training.hub import local_copy
from training.models import dtype_of, image_mode, quiet

__all__ = ["Answer", "Answerer", "Answering", "CheckpointError", "Messages", "Prompt", "resolved_template"]

DEFAULT_NEW_TOKENS = 128
"""Limit of an answer whose generation settings name none."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class CheckpointError(ValueError):
    """A checkpoint that cannot be asked; the message says why and what to do."""


class Answering(Protocol):
    """What every engine of the evaluation does: render questions, form batches, answer a batch.

    `template`: what renders the prompts ("training" or "checkpoint"), named in the results.
    """

    template: str
    batch_size: int
    max_batch_tokens: int | None
    device: torch.device

    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message; may be called from several threads."""

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows in batches; a function of their lengths in tokens (prompt and new ones) only."""

    def generate(self, prompts: Sequence[Prompt], generation: Mapping[str, Any]) -> list[Answer]:
        """The answers to one batch. `generation`: lmms-eval's generation_kwargs."""


def manifest() -> Any:
    """The registration for lmms-eval's entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="winnow", chat_class_path="evaluation.lmms_model.WinnowModel")


class Answerer:
    """Generates answers with one checkpoint. `model` and `processor` as from `training.models.load`.

    batch_size, max_batch_tokens: most rows of a batch, and most tokens with padding (rows x longest row, with
        image tokens and new tokens); a longer question is asked alone.
    template: "training", "checkpoint" or "auto" (`evaluation.prompts.template_of`). Raises TemplateError.
    say: is told once when a batch did not fit into memory and was halved; default: a warning.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        batch_size: int = 64,
        max_batch_tokens: int | None = None,
        device: str | torch.device = "cpu",
        template: str = "auto",
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("max_batch_tokens", max_batch_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model = model.to(device).eval()
        self.tokenizer = processor.tokenizer
        self.batch_size, self.max_batch_tokens = batch_size, max_batch_tokens
        self.device, self.say = torch.device(device), say
        model_type = model.config.model_type
        self.own_decoding = model_type in FAMILIES
        self.template = template_of(model_type, processor, template)
        self.encoder = open_encoder(model_type, processor, image_mode(model), self.template)
        ends = model.generation_config.eos_token_id
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        self.ends = torch.tensor(ends, device=self.device).reshape(-1)
        self._too_large: int | None = None

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        batch_size: int = 64,
        max_batch_tokens: int | None = None,
        device: str | torch.device | None = None,
        dtype: str = "auto",
        template: str = "auto",
        say: Callable[[str], None] = warnings.warn,
    ) -> "Answerer":
        """An Answerer for a checkpoint directory or Hub name.

        `device`: default_device() if None. `dtype`: "auto" (`resolved_dtype`) or one of
        training.models.DTYPES. Raises CheckpointError, TemplateError, HubError.
        """
        device = default_device() if device is None else device
        path = local_copy(checkpoint)
        model, processor = open_checkpoint(path, dtype_of(resolved_dtype(dtype, device)))
        trained = trained_here(path)
        return cls(
            model,
            processor,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            device=device,
            template=template_of(model.config.model_type, processor, template, trained=trained),
            say=say,
        )

    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message."""
        return self.encoder.prompt(messages)

    def answer(self, conversations: Sequence[Messages], **generation: Any) -> list[str]:
        """The texts of the answers, in the order of `conversations`."""
        prompts = [self.prompt(messages) for messages in conversations]
        new = new_tokens(generation)
        answers = [""] * len(prompts)
        for indices in self.batches([prompt.length + new for prompt in prompts]):
            batch = self.generate([prompts[i] for i in indices], generation)
            for i, answer in zip(indices, batch, strict=True):
                answers[i] = answer.text
        return answers

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of similar length, longest first: too large a batch then fails at once."""
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        start = 0
        while start < len(order):
            rows = self.batch_size
            if self.max_batch_tokens is not None:  # the first row of a batch is its longest
                rows = min(rows, max(self.max_batch_tokens // max(lengths[order[start]], 1), 1))
            yield order[start : start + rows]
            start += rows

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """The inputs of one batch, on the CPU: `generate` uses them if they were made ahead of it."""
        return self.encoder.collate(prompts)

    def generate(
        self,
        prompts: Sequence[Prompt],
        generation: Mapping[str, Any],
        inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> list[Answer]:
        """The answers to one batch, cut before the first `until` string. Settings: lmms-eval's
        generation_kwargs.

        A batch that does not fit into memory is answered in halves. Raises the memory error of a single
        question.
        """
        rows, limit = len(prompts), new_tokens(generation)
        size = rows * (max(prompt.length for prompt in prompts) + limit)
        if rows == 1 or self._too_large is None or size < self._too_large:
            try:
                return self._generate(self.collate(prompts) if inputs is None else inputs, generation)
            except (RuntimeError, MemoryError) as error:  # torch's memory errors are RuntimeErrors
                if not is_out_of_memory(error):
                    raise
                if rows == 1:
                    error.add_note(f"one question of {size} tokens (prompt and {limit} new) does not fit")
                    raise
            self._halved(rows, size)
        half = (rows + 1) // 2
        return self.generate(prompts[:half], generation) + self.generate(prompts[half:], generation)

    def _halved(self, rows: int, size: int) -> None:
        if self._too_large is None:
            self.say(
                f"out of memory with {rows} questions ({size} tokens with padding): such batches are now "
                "answered in halves; set batch_size or max_batch_tokens lower to form smaller ones"
            )
        self._too_large = size
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate(self, inputs: Mapping[str, torch.Tensor], generation: Mapping[str, Any]) -> list[Answer]:
        batch = {key: value.to(self.device) for key, value in inputs.items()}
        batch = {
            key: value.to(self.model.dtype) if value.is_floating_point() else value
            for key, value in batch.items()
        }
        until = stop_strings(generation)
        tokens, lengths = self._new_tokens(batch, generation, until)
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        limit = new_tokens(generation)
        return [
            self._answer(text, row[:n], until, limit)
            for text, row, n in zip(texts, tokens.cpu(), lengths.tolist(), strict=True)
        ]

    def _answer(self, text: str, row: torch.Tensor, until: Sequence[str], limit: int) -> Answer:
        stopped = any(stop in text for stop in until) or bool(torch.isin(row[-1:], self.ends.cpu()).any())
        return Answer(cut(text, until), len(row) == limit and not stopped, len(row))

    def _new_tokens(
        self, batch: dict[str, torch.Tensor], generation: Mapping[str, Any], until: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New tokens int64 [rows, k], padded, and the number of each row's, its end token included."""
        sample = bool(generation.get("do_sample")) and float(generation.get("temperature") or 0) > 0
        limit, beams = new_tokens(generation), int(generation.get("num_beams") or 1)
        pad = self.tokenizer.pad_token_id
        if self.own_decoding and not sample and beams == 1:
            stops = self._stops(until) if until else None
            return greedy(self.model, batch, max_new_tokens=limit, ends=self.ends, pad=pad, stops=stops)
        batch.pop("position_ids", None)  # `generate` makes its own
        settings: dict[str, Any] = {
            "max_new_tokens": limit,
            "do_sample": sample,
            "num_beams": beams,
            "pad_token_id": pad,
        }
        if sample:
            settings |= {
                "temperature": float(generation["temperature"]),
                "top_p": float(generation.get("top_p") or 1.0),
            }
        tokens = self.model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
        is_end = torch.isin(tokens, self.ends)
        first = torch.where(is_end.any(1), is_end.int().argmax(1) + 1, tokens.shape[1])
        return tokens, first

    def _stops(self, until: Sequence[str]) -> Stops:
        def stops(tokens: torch.Tensor) -> torch.Tensor:
            texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            return torch.tensor([any(stop in text for stop in until) for text in texts], device=tokens.device)

        return stops


def open_checkpoint(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor of a checkpoint directory, with every weight in it. Raises CheckpointError."""
    from transformers import AutoModelForImageTextToText

    processor = check_checkpoint(path)
    with quiet():
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            str(path), dtype=dtype, output_loading_info=True
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"{path} lacks {len(missing)} weights, which would be random numbers: {first}; "
            "save the checkpoint again, or merge its adapters first"
        )
    return model.eval(), processor


def check_checkpoint(path: Path) -> Any:
    """The processor of a directory that holds an image-text-to-text checkpoint, whose weights are not read.

    Raises CheckpointError.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: it is not a checkpoint directory")
    if is_llava_next_layout(path):
        raise CheckpointError(
            f"{path} has LLaVA-NeXT's layout: convert it first (python -m training.convert {path} --out DIR)"
        )
    if not [*path.glob("*.safetensors")]:
        raise CheckpointError(f"{path} has no safetensors weights")
    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(path))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path}/config.json cannot be read ({error})") from error
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise CheckpointError(
                f"{path} is a {config.model_type} model, which does not turn images and text into text"
            )
        return _open_processor(path)


def _open_processor(path: Path) -> Any:
    from transformers import AutoProcessor

    advice = "copy the processor's and tokenizer's files of the checkpoint that it was trained from"
    try:
        processor = AutoProcessor.from_pretrained(str(path))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} has no usable processor ({error}): {advice}") from error
    # Without a processor's own files, the library gives the tokenizer or the image processor instead.
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise CheckpointError(f"{path} has no processor, only a {type(processor).__name__}: {advice}")
    return processor


def default_device() -> str:
    """The first GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolved_dtype(dtype: str, device: str | torch.device | None = None) -> str:
    """The name of the weights' type: "auto" is bfloat16 on a GPU that computes in it, else float32."""
    if dtype != "auto":
        dtype_of(dtype)
        return dtype
    on_gpu = torch.device(default_device() if device is None else device).type == "cuda"
    return "bfloat16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated, on a GPU or on the CPU."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in _NO_MEMORY)


def new_tokens(generation: Mapping[str, Any]) -> int:
    """The most tokens of an answer."""
    return int(generation.get("max_new_tokens", DEFAULT_NEW_TOKENS))


def stop_strings(generation: Mapping[str, Any]) -> list[str]:
    """The strings before which an answer is cut (`until`), none of them empty."""
    until = generation.get("until")
    return [stop for stop in ([until] if isinstance(until, str) else until or ()) if stop]


def cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of the stop strings, stripped."""
    for stop in until:
        text = text.partition(stop)[0]
    return text.strip()
