"""Prompts of an evaluation: chat messages with images as the tokens and pixels of one checkpoint.

    encoder = open_encoder("llava_onevision", processor, "anyres", template="training")
    prompt = encoder.prompt([{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}])

Template "training" renders exactly what a training renders (`training.render`), "checkpoint" what the
checkpoint's own chat template says. In both, an image keeps its place among the texts of its message.
"""

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from PIL import Image

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn
from training import families
from training.collate import Collator
from training.hub import local_copy
from training.images import PixelLoader, decode
from training.render import IGNORE, Encoded, Renderer, RenderError

Messages = Sequence[Mapping[str, Any]]
"""Chat messages in lmms-eval's form: {"role", "content": [{"type": "text", "text"} or {"type": "image",
"url"}]}.

`url` is a PIL image or a path."""

FAMILIES = tuple(model_type for family in families.FAMILIES for model_type in family.model_types)
"""Model types that training renders; any other is asked through its own processor and `generate`."""
TEMPLATES = ("training", "checkpoint")
_PARTS = [
    {"type": "text", "text": "before"},
    {"type": "image"},
    {"type": "text", "text": "after"},
]


class Prompt(NamedTuple):
    """One rendered question: what `collate` takes, length in tokens (images included), hash of text and
    pixels."""

    content: Any
    length: int
    hash: str


class TemplateError(ValueError):
    """A template that does not exist, or that the checkpoint cannot be asked with."""


def template_of(model_type: str, processor: Any, template: str = "auto", *, trained: bool = False) -> str:
    """The one of TEMPLATES that `template` ("auto" or one of them) stands for; TemplateError.

    "auto" is "training" for a checkpoint that this project trained (`trained`), whose chat template is one
    that a training uses (plain texts, answers marked), or that has none; "checkpoint" for all others.
    """
    if template in TEMPLATES:
        if template == "training" and model_type not in FAMILIES:
            raise TemplateError(
                f"template 'training' exists for {', '.join(FAMILIES)}, not for {model_type}: "
                "use 'checkpoint'"
            )
        return template
    if template != "auto":
        raise TemplateError(f"template must be one of auto, {', '.join(TEMPLATES)}, got {template!r}")
    own = [text for text in (processor.chat_template, processor.tokenizer.chat_template) if text]
    if model_type not in FAMILIES:
        return "checkpoint"
    if trained or not own:
        return "training"
    try:
        return "training" if Renderer(processor).template in own else "checkpoint"
    except ValueError:  # no template of training fits this tokenizer
        return "checkpoint"


def resolved_template(checkpoint: str | Path, template: str = "auto") -> str:
    """`template_of` for a checkpoint directory or Hub name, without loading weights."""
    from transformers import AutoConfig, AutoProcessor

    from training.models import quiet

    path = local_copy(checkpoint)
    with quiet():
        model_type = AutoConfig.from_pretrained(str(path)).model_type
        processor = AutoProcessor.from_pretrained(str(path))
    return template_of(model_type, processor, template, trained=trained_here(path))


def trained_here(folder: Path) -> bool:
    """Whether this project's training wrote the checkpoint: its record `fit.json` lies beside the weights."""
    record = folder / "fit.json"
    return record.is_file() and {"identity", "spec", "result"} <= json.loads(record.read_text()).keys()


def open_encoder(model_type: str, processor: Any, image_mode: str, template: str) -> "Encoder":
    """The encoder for a checkpoint and one of TEMPLATES. Raises TemplateError."""
    if model_type not in FAMILIES:
        return ProcessorEncoder(processor)
    if template == "training":
        return RendererEncoder(processor, image_mode)
    return OwnTemplateEncoder(processor, image_mode)


class Encoder(ABC):
    """Renders questions, one at a time, and joins rendered ones to a left-padded batch.

    Both may be called from several threads.
    """

    @abstractmethod
    def prompt(self, messages: Messages) -> Prompt:
        """Render one conversation that ends with a user message.

        Raises ImageError, RenderError, ValueError.
        """

    @abstractmethod
    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """The model's inputs for these prompts."""


class FamilyEncoder(Encoder):
    """Tokens and pixels by `training.images` and `training.collate`; subclasses render the text."""

    def __init__(self, processor: Any, loader: PixelLoader) -> None:
        self.processor, self.loader = processor, loader
        self.image_id: int = processor.image_token_id
        self._collator = Collator(processor.tokenizer.pad_token_id, loader, side="left")
        # Rendering is short, but jinja's marks and the tokenizer keep state while they work.
        self._lock = threading.Lock()

    @abstractmethod
    def encode(self, messages: Messages, pictures: tuple[Image.Image, ...]) -> Encoded:
        """The tokens of one conversation whose images, in order, are these."""

    def prompt(self, messages: Messages) -> Prompt:
        given = images(messages)
        # Decoded here, in a loader thread; in "base" mode what stays in memory is the tile alone.
        pictures = tuple(_picture(self.loader.read(picture)) for picture in given)
        with self._lock:
            encoded = self.encode(messages, pictures)
        return Prompt(encoded, len(encoded), prompt_hash(encoded.input_ids.tobytes(), given))

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """As `training.collate.Collator`, without labels, and with position_ids: 0 for padding.

        They are int64 [B, T], or [3, B, T] for Qwen's models.
        """
        examples = [prompt.content for prompt in prompts]
        batch = self._collator(examples)
        del batch["labels"]
        batch["position_ids"] = self._positions(examples, batch)
        return batch

    def _positions(self, examples: Sequence[Encoded], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        family, (rows, width) = self.loader.family, batch["input_ids"].shape
        grids = iter(family.grids(batch))
        out = np.zeros((3 if family.three_rows else 1, rows, width), dtype=np.int64)
        for row, example in enumerate(examples):
            own = [next(grids) for _ in example.images] if family.three_rows else []
            out[:, row, width - len(example) :] = family.positions(self.processor, example.input_ids, own)
        return torch.from_numpy(out if family.three_rows else out[0])


class RendererEncoder(FamilyEncoder):
    """Prompts exactly as in training: `<image>` lines before the question, training.render's template."""

    def __init__(self, processor: Any, image_mode: str) -> None:
        self.renderer = Renderer(processor, image_mode)
        super().__init__(processor, self.renderer.loader)

    def encode(self, messages: Messages, pictures: tuple[Image.Image, ...]) -> Encoded:
        texts = [(message["role"], flatten(message)) for message in messages]
        return self.renderer.prompt(Sample(0, "question", "benchmark", pictures, _turns(texts)))


class OwnTemplateEncoder(FamilyEncoder):
    """Prompts by the checkpoint's own chat template, for model types that training knows."""

    def __init__(self, processor: Any, image_mode: str) -> None:
        super().__init__(processor, PixelLoader(processor, image_mode))
        self.template = OwnTemplate(processor)

    def encode(self, messages: Messages, pictures: tuple[Image.Image, ...]) -> Encoded:
        text = self.template.render(messages)
        special = self.template.needs_special(text)
        ids = np.array(self.processor.tokenizer(text, add_special_tokens=special)["input_ids"], np.int32)
        at = np.flatnonzero(ids == self.image_id)
        if len(at) != len(pictures):
            raise RenderError(
                "image_count", f"{len(at)} image tokens in the prompt, {len(pictures)} images in the messages"
            )
        parts = np.split(ids, np.sort([*at, *at + 1]))  # text, image, text, image, text
        parts[1::2] = self.loader.image_ids(pictures)
        ends = np.cumsum([len(part) for part in parts])
        spans = [(int(start), int(stop)) for start, stop in zip(ends[:-1:2], ends[1::2], strict=True)]
        ids = np.concatenate(parts)
        return Encoded(ids, np.full_like(ids, IGNORE), pictures, image_spans=tuple(spans))


class ProcessorEncoder(Encoder):
    """Prompts, tokens and pixels by the checkpoint's processor, for model types that training lacks."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.template = OwnTemplate(processor)
        self._lock = threading.Lock()
        processor.tokenizer.padding_side = "left"

    def prompt(self, messages: Messages) -> Prompt:
        given = images(messages)
        pictures = [_picture(decode(picture)) for picture in given]
        with self._lock:
            text = self.template.render(messages)
            length = self._inputs([text], [pictures])["input_ids"].shape[1]
        return Prompt((text, pictures), length, prompt_hash(text.encode(), given))

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        with self._lock:
            return self._inputs(
                [prompt.content[0] for prompt in prompts], [prompt.content[1] for prompt in prompts]
            )

    def _inputs(self, texts: list[str], pictures: list[list[Image.Image]]) -> dict[str, torch.Tensor]:
        given: Any = None
        if any(pictures):
            # One list for each text, as most processors want; some cannot read an empty list among them.
            given = pictures if all(pictures) else [picture for own in pictures for picture in own]
        special = {} if self.template.needs_special(texts[0]) else {"add_special_tokens": False}
        return dict(self.processor(text=texts, images=given, padding=True, return_tensors="pt", **special))


class OwnTemplate:
    """A checkpoint's chat template: what contents it takes, and whether it leaves images in their place.

    Raises TemplateError when there is none, or when it renders neither parts nor plain texts.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        if not (processor.chat_template or processor.tokenizer.chat_template):
            raise TemplateError("the checkpoint has no chat template: use template 'training' or add one")
        self.image = getattr(processor, "image_token", IMAGE_PLACEHOLDER)
        self.takes_parts, self.in_place = True, True
        probe = self._try(_PARTS)
        if probe is None or probe.count(self.image) != 1 or "'type'" in probe:
            self.takes_parts, self.image = False, self._placeholder()
        else:
            self.in_place = probe.index("before") < probe.index(self.image) < probe.index("after")

    def render(self, messages: Messages) -> str:
        """The text of a conversation up to the model's answer, one image token for each image."""
        return self._apply([{**message, "content": self._content(message)} for message in messages])

    def needs_special(self, text: str) -> bool:
        """Whether the tokenizer must add its special tokens: not if the template wrote the first of them."""
        bos = self.processor.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def _content(self, message: Mapping[str, Any]) -> Any:
        if not self.takes_parts:
            return flatten(message, self.image)
        kinds = [part["type"] for part in _checked(message)]
        if not self.in_place and kinds != sorted(kinds):  # "image" < "text": a text comes before an image
            return [{"type": "text", "text": flatten(message, self.image)}]
        return [
            {"type": "text", "text": plain(part["text"])} if part["type"] == "text" else {"type": "image"}
            for part in message["content"]
        ]

    def _placeholder(self) -> str:
        """What stands for an image in the plain texts that the template takes."""
        token = getattr(self.processor, "image_token", IMAGE_PLACEHOLDER)
        for mark in (IMAGE_PLACEHOLDER, token):
            text = self._try(f"before{mark}after")
            if text is not None and text.count(token) == 1 and "before" in text and "after" in text:
                return mark
        raise TemplateError(
            "the checkpoint's chat template renders neither parts (text, image) nor plain texts with "
            f"{IMAGE_PLACEHOLDER}: use template 'training', or another chat template"
        )

    def _try(self, content: Any) -> str | None:
        try:
            return self._apply([{"role": "user", "content": content}])
        except (jinja2.TemplateError, TypeError):
            return None

    def _apply(self, messages: Sequence[Mapping[str, Any]]) -> str:
        own = None if self.processor.chat_template else self.processor.tokenizer.chat_template
        return self.processor.apply_chat_template(
            list(messages), chat_template=own, tokenize=False, add_generation_prompt=True
        )


def images(messages: Messages) -> list[Any]:
    """The images of a conversation, in order. ValueError for parts other than text and images."""
    return [part["url"] for message in messages for part in _checked(message) if part["type"] == "image"]


def flatten(message: Mapping[str, Any], image: str = IMAGE_PLACEHOLDER) -> str:
    """The text of a message with a placeholder for each image, as training data write it.

    An image before all text has a line of its own; one in the middle stands where it stands. Literal
    placeholders in the text are removed.
    """
    text = ""
    for part in _checked(message):
        if part["type"] == "text":
            text += plain(part["text"])
        else:
            text += image if text.replace(f"{image}\n", "") else f"{image}\n"
    return text


def plain(text: str) -> str:
    """`text` without literal media placeholders, which the prompts of some benchmarks contain."""
    return text.replace("<image>", "").replace("<video>", "")


def _checked(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    for part in message["content"]:
        if part["type"] not in ("text", "image"):
            raise ValueError(f"this model supports text and images, not {part['type']!r}")
    return message["content"]


def _turns(texts: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """(role, text) pairs as turns; the last turn has an empty answer."""
    if [role for role, _ in texts] != ["user", "assistant"] * (len(texts) // 2) + ["user"]:
        raise ValueError(f"messages must alternate and end with the user, got {[role for role, _ in texts]}")
    answers = [*(text for _, text in texts[1::2]), ""]
    return tuple(Turn(question, answer) for (_, question), answer in zip(texts[::2], answers, strict=True))


def _picture(pixels: torch.Tensor) -> Image.Image:
    """uint8 RGB [3, H, W] as a PIL image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def prompt_hash(text: bytes, pictures: Sequence[Any]) -> str:
    """Hex digest of a prompt and the pixels (or, of a path, the bytes) of its images as they are given."""
    digest = hashlib.sha256(text)
    for picture in pictures:
        if isinstance(picture, Image.Image):
            digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
        else:
            digest.update(Path(picture).read_bytes())
    return digest.hexdigest()[:32]
