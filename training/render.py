"""From conversations to token ids: chat template, assistant-only labels, image tokens, branches.

    renderer = Renderer(processor, image_mode="base")
    encoded = renderer.encode(sample)

Templates receive plain string contents in which `<image>` marks the place of an image. A checkpoint's own
template is used if it accepts such contents and marks the assistant's answer, end-of-turn included, with {%
generation %}; otherwise one of `training/templates/` is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from training.images import Picture, PixelLoader

IGNORE = -100
"""Label of a token without loss."""

TEMPLATES = Path(__file__).parent / "templates"
_MARK = "\x00"
"""Placeholder for a query that is inserted later; occurs in no text."""
_PROBE = [{"role": "user", "content": "why <image> so"}, {"role": "assistant", "content": "because"}]


class RenderError(ValueError):
    """A sample that cannot be rendered; `reason` is its quarantine code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Branch(NamedTuple):
    """Lengths of one branch in tokens: query with generation prompt, and the whole branch with the answer."""

    prompt: int
    total: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example, image placeholders expanded.

    `input_ids`, `labels`: int32 [T]; the label of a token without loss is IGNORE. With `branches`, the first
    `prefix` tokens are shared, and the branches follow one after the other.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    images: tuple[Picture, ...] = ()
    branches: tuple[Branch, ...] = ()
    prefix: int = 0
    name: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)

    def muted(self) -> "Encoded":
        """The same example without loss: it fills its place in a batch and contributes no gradient."""
        return replace(self, labels=np.full_like(self.labels, IGNORE))


class Renderer:
    """Renders samples for one checkpoint's processor. Only the tokens of branches are cached."""

    def __init__(self, processor: Any, image_mode: str = "anyres", cache_mb: int = 256) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.loader = PixelLoader(processor, image_mode, cache_mb)
        self.image_id: int = processor.image_token_id
        self.pad_id: int = self.tokenizer.pad_token_id
        self.end_id: int = self.tokenizer.eos_token_id
        self._special = {k: v for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self._special.setdefault("bos_token", "")
        self._backend = self.tokenizer.backend_tokenizer
        self.template = find_template(processor, self._special)
        self._suffixes: dict[tuple[str, str | None, bool], tuple[np.ndarray, np.ndarray, Branch]] = {}

    def encode(self, sample: Sample, loss_turns: str = "all") -> Encoded:
        """The conversation with loss on "all" answers or the "last" one. Raises RenderError, ImageError."""
        if not sample.turns:
            raise RenderError("no_assistant_turn", f"sample {sample.id} has no turn with an answer")
        first = 0 if loss_turns == "all" else len(sample.turns) - 1
        if any(not turn.answer.strip() for turn in sample.turns[first:]):
            raise RenderError("empty_answer", f"sample {sample.id}")
        text, spans = self._render(_messages(sample))
        ids, mask = self._tokenise(text, spans[first:])
        return self._finish(ids, np.where(mask, ids, IGNORE), sample)

    def prompt(self, sample: Sample) -> Encoded:
        """Everything before the answer of the last turn (that answer is not used); no labels."""
        text, _ = self._render(_messages(sample)[:-1], add_generation_prompt=True)
        ids, _ = self._tokenise(text, [])
        return self._finish(ids, np.full_like(ids, IGNORE), sample)

    def context(self, sample: Sample, flat: bool = False) -> Encoded:
        """The prefix that all queries about a sample share: the conversation before a query; no labels.

        `flat`: the conversation is written as alternating lines of one user turn whose last line is the
        query, instead of as turns before the query.
        """
        ids, _ = self._tokenise(self._before_query(_messages(sample), flat), [])
        return self._finish(ids, np.full_like(ids, IGNORE), sample)

    def branches(
        self, sample: Sample, queries: Sequence[tuple[str, str | None]], flat: bool = False
    ) -> Encoded:
        """The conversation as a prefix, then a branch for each (question, answer); answer None: to be scored.

        Only the answers of the branches have labels.
        """
        prefix = self.context(sample, flat)
        parts = [self._suffix(question, answer, flat) for question, answer in queries]
        return replace(
            prefix,
            input_ids=np.concatenate([prefix.input_ids, *(p[0] for p in parts)]),
            labels=np.concatenate([prefix.labels, *(p[1] for p in parts)]),
            branches=tuple(p[2] for p in parts),
            prefix=len(prefix),
        )

    def query_tokens(self, question: str, flat: bool = False) -> tuple[int, ...]:
        """The tokens of a query after `context`, up to the beginning of its answer."""
        return tuple(self._suffix(question, None, flat)[0].tolist())

    def answer_tokens(self, question: str, answer: str, flat: bool = False) -> tuple[int, ...]:
        """Tokens of an answer to a query as the model would generate them, without the end of the turn."""
        ids, _, branch = self._suffix(question, answer, flat)
        text, spans = self._render(
            [*_asked(_PROBE, question, flat), {"role": "assistant", "content": answer}]
        )
        start = text.index(answer, spans[-1][0])
        _, inside = self._tokenise(text, [(start, start + len(answer))])
        last = int(np.flatnonzero(inside[-len(ids) :])[-1])
        return tuple(ids[branch.prompt : last + 1].tolist())

    def _before_query(self, messages: list[dict[str, str]], flat: bool) -> str:
        if not flat:
            return self._render(messages)[0]
        text, _ = self._render(_asked(messages, _MARK, flat), add_generation_prompt=True)
        return text[: text.rindex(_MARK)]

    def _suffix(self, question: str, answer: str | None, flat: bool) -> tuple[np.ndarray, np.ndarray, Branch]:
        key = (question, answer, flat)
        if key not in self._suffixes:
            self._suffixes[key] = self._render_suffix(question, answer, flat)
        return self._suffixes[key]

    def _render_suffix(
        self, question: str, answer: str | None, flat: bool
    ) -> tuple[np.ndarray, np.ndarray, Branch]:
        head, _ = self._tokenise(self._before_query(_PROBE, flat), [])
        asked = _asked(_PROBE, question, flat)
        prompt, _ = self._tokenise(self._render(asked, add_generation_prompt=True)[0], [])
        ids, mask = prompt, np.zeros(len(prompt), bool)
        if answer is not None:
            text, spans = self._render([*asked, {"role": "assistant", "content": answer}])
            ids, mask = self._tokenise(text, spans[-1:])
        # With a tokenizer that merges across turns, a branch would differ from the turn in a conversation.
        if not np.array_equal(ids[: len(head)], head) or not np.array_equal(ids[: len(prompt)], prompt):
            raise ValueError(f"the turns of the chat template do not tokenise independently: {question!r}")
        labels = np.where(mask, ids, IGNORE).astype(np.int32)
        return ids[len(head) :], labels[len(head) :], Branch(len(prompt) - len(head), len(ids) - len(head))

    def _render(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        return _render(self.template, messages, self._special, add_generation_prompt)

    def _tokenise(self, text: str, spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [T], and a mask bool [T] of the tokens that overlap one of the character spans."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        mask = np.zeros(len(ids), dtype=bool)
        if spans:
            offsets = np.array(encoding.offsets)
            for start, end in spans:
                mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
        return ids, mask

    def _finish(self, ids: np.ndarray, labels: np.ndarray, sample: Sample) -> Encoded:
        """Repeat each image placeholder as often as its image has tokens."""
        at = np.flatnonzero(ids == self.image_id)
        if len(at) != len(sample.images):
            detail = (
                f"sample {sample.id}: {len(at)} {IMAGE_PLACEHOLDER} in the text, {len(sample.images)} images"
            )
            raise RenderError("image_count", detail)
        labels = labels.astype(np.int32)
        if len(at):
            repeats = np.ones(len(ids), dtype=np.int64)
            repeats[at] = self.loader.tokens(sample.images)
            labels[at] = IGNORE
            ids, labels = np.repeat(ids, repeats), np.repeat(labels, repeats)
        return Encoded(ids, labels, tuple(sample.images), name=sample.id)


def _messages(sample: Sample) -> list[dict[str, str]]:
    out = []
    for turn in sample.turns:
        out += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return out


def _asked(messages: list[dict[str, str]], query: str, flat: bool) -> list[dict[str, str]]:
    """The conversation with a query: as one more user turn, or (`flat`) as the last line of the only turn."""
    if not flat:
        return [*messages, {"role": "user", "content": query}]
    return [{"role": "user", "content": "\n".join([*(message["content"] for message in messages), query])}]


def _render(
    template: str,
    messages: list[dict[str, str]],
    special: dict[str, str],
    add_generation_prompt: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The text of one conversation, and the character span of each answer with its end-of-turn token."""
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **special}
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **options
    )
    texts, spans = rendered
    return texts[0], spans[0]


def find_template(processor: Any, special: dict[str, str]) -> str:
    """The chat template for a processor; ValueError when neither its own nor a shipped one fits."""
    own = [processor.chat_template, processor.tokenizer.chat_template]
    image_token = getattr(processor, "image_token", IMAGE_PLACEHOLDER)
    shipped = "llava_onevision" if "<|im_start|>" in processor.tokenizer.get_vocab() else None
    if hasattr(processor, "num_additional_image_tokens"):
        shipped = "llava_1_5"
    elif image_token == "<|image_pad|>":
        shipped = "qwen2_5_vl"
    candidates = [text for text in own if isinstance(text, str)]
    if shipped:
        candidates.append((TEMPLATES / f"{shipped}.jinja").read_text())
    for template in candidates:
        if _fits(template, special, image_token):
            return template
    raise ValueError(
        "no chat template accepts string contents and has {% generation %} marks: add one to the checkpoint"
    )


def _fits(template: str, special: dict[str, str], image_token: str = IMAGE_PLACEHOLDER) -> bool:
    """Whether the template renders string contents, replaces `<image>` by the image token, and marks each
    answer together with its end-of-turn token."""
    if "generation" not in template:
        return False
    try:
        text, spans = _render(template, _PROBE, special)
    except (jinja2.TemplateError, TypeError):  # a template for contents that are lists of parts
        return False
    before, after = _PROBE[0]["content"].split(IMAGE_PLACEHOLDER)
    if len(spans) != 1 or before not in text or after not in text or text.count(image_token) != 1:
        return False
    marked = text[slice(*spans[0])].strip()
    return marked.startswith(_PROBE[1]["content"]) and marked != _PROBE[1]["content"]
