"""From conversations to token ids: chat template, labels, image tokens, branches.

    renderer = Renderer(processor, image_mode="base", rules=RenderRules(image_first=True))
    encoded = renderer.encode(sample)

Which chat template writes the text, `training.chat_template` decides. Rules about the text (`system`,
`image_first`) become part of it, so that a checkpoint saved with it is asked as it was trained. Control
tokens in a sample's own texts are plain text (`training.plain_text`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from curation.pool.sample import IMAGE_PLACEHOLDER, Sample
from training.chat_template import PROBE, find_template, messages_of, render, with_rules
from training.images import ImageError, Picture, PixelLoader
from training.one_turn import OneTurn, with_query
from training.plain_text import PlainText

IGNORE = -100
"""Label of a token without loss."""

_MARK = "\x00"
"""Placeholder for a query that is inserted later; occurs in no text."""
_CHATML = ("<|im_start|>", "<|im_end|>")
_COUNTING = (
    "num_image_tokens",
    "num_additional_image_tokens",
    "patch_size",
    "vision_feature_select_strategy",
)
"""What a processor, beside its image processor, counts image tokens with."""


class RenderError(ValueError):
    """A sample that cannot be rendered; `reason` is its quarantine code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class RenderRules:
    """What a training decides about its texts and labels.

    `system`: the system prompt of conversations that bring none of their own; None: the template's default.
    `image_first`: the image of a turn with exactly one goes before its text, on a line of its own, as LLaVA
    and LLaVA-NeXT place it. `loss_tokens`: "answer" (answers with their end marker) or "llava_next" (the
    whole assistant turn, header and newline included, and every turn marker and newline of the other roles;
    ChatML only). `loss_turns`: "all" answers or the "last" one.
    """

    system: str | None = None
    image_first: bool = False
    loss_tokens: Literal["answer", "llava_next"] = "answer"
    loss_turns: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        if self.system is not None and not self.system.strip():
            raise ValueError("system: give a text, or None for the template's own")
        if self.loss_tokens not in ("answer", "llava_next"):
            raise ValueError(f"loss_tokens must be one of answer, llava_next, got {self.loss_tokens!r}")
        if self.loss_turns not in ("all", "last"):
            raise ValueError(f"loss_turns must be one of all, last, got {self.loss_turns!r}")
        if self.loss_tokens == "llava_next" and self.loss_turns == "last":
            raise ValueError("loss_tokens: llava_next labels all turns; leave loss_turns at all")


class Branch(NamedTuple):
    """Lengths of one branch in tokens: query with generation prompt, and the whole branch with the answer."""

    prompt: int
    total: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example, image placeholders expanded.

    `input_ids`, `labels`: int32 [T]; a token without loss has the label IGNORE. `image_spans`: (start, stop)
    of the tokens of each image. With `branches`, the first `prefix` tokens are shared, and the branches
    follow one after the other.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    images: tuple[Picture, ...] = ()
    branches: tuple[Branch, ...] = ()
    prefix: int = 0
    name: str = ""
    image_spans: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def muted(self) -> "Encoded":
        """The same example without loss: it fills its place in a batch and contributes no gradient."""
        return replace(self, labels=np.full_like(self.labels, IGNORE))


class Renderer:
    """Renders samples for one checkpoint's processor. Only the tokens of branches are cached."""

    def __init__(
        self,
        processor: Any,
        image_mode: str = "anyres",
        cache_mb: int = 256,
        rules: RenderRules | None = None,
    ) -> None:
        self.rules, self.image_mode = rules or RenderRules(), image_mode
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.loader = PixelLoader(processor, image_mode, cache_mb)
        self.image_id: int = processor.image_token_id
        self.pad_id: int = self.tokenizer.pad_token_id
        self.end_id: int = self.tokenizer.eos_token_id
        self._special = {k: v for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self._special.setdefault("bos_token", "")
        self._plain = PlainText(self.tokenizer.backend_tokenizer)
        self.template = with_rules(
            find_template(processor, self._special), self.rules.system, self.rules.image_first
        )
        self._markers = self._marker_ids() if self.rules.loss_tokens == "llava_next" else ()
        self._suffixes: dict[
            tuple[str, str | None, OneTurn | bool], tuple[np.ndarray, np.ndarray, Branch]
        ] = {}

    def encode(self, sample: Sample, loss_turns: str | None = None) -> Encoded:
        """The conversation, labelled by the rules; `loss_turns` overrides theirs.

        Raises RenderError, ImageError.
        """
        text, spans = self._labelled_text(sample, loss_turns)
        return self._encoded(self._encodings([text])[0], spans, sample)

    def encode_many(self, samples: Sequence[Sample]) -> list[Encoded | RenderError | ImageError]:
        """As `encode` for each sample, in order, tokenised in one call of the tokenizer (in parallel).

        A sample that cannot be rendered gives its error in place of an example.
        """
        texts: list[str] = []
        spans: list[list[tuple[int, int]] | RenderError] = []
        for sample in samples:
            try:
                text, own = self._labelled_text(sample)
                texts.append(text)
                spans.append(own)
            except RenderError as error:
                spans.append(error)
        encodings = iter(self._encodings(texts))
        return [
            own if isinstance(own, RenderError) else self._encoded_or_error(next(encodings), own, sample)
            for sample, own in zip(samples, spans, strict=True)
        ]

    def fingerprint(self) -> str:
        """Hex sha256 of everything that decides what `encode` gives for a sample: tokenizer, template, rules
        and how an image is counted. Two renderers with the same fingerprint can share their examples.
        """
        images = self.processor.image_processor
        settings = {
            "template": self.template,
            "special": self._special,
            "rules": asdict(self.rules),
            "control_tokens_in_texts": "plain",
            "images": [type(images).__name__, images.to_dict()],
            "image_mode": self.image_mode,
            "processor": {name: getattr(self.processor, name, None) for name in _COUNTING},
        }
        digest = hashlib.sha256(self._plain.tokenizer().to_str().encode())
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def kept_template(self) -> str | None:
        """The chat template for the processor of a checkpoint that is trained here.

        Its own, unless rules changed the text: then theirs, so that it is asked as it was trained.
        """
        changed = self.rules.system is not None or self.rules.image_first
        return self.template if changed else self.processor.chat_template

    def prompt(self, sample: Sample) -> Encoded:
        """Everything before the answer of the last turn (that answer is not used); no labels."""
        text, _ = self._render(self._messages(sample)[:-1], add_generation_prompt=True)
        ids, _ = self._tokenise(text, [])
        return self._finish(ids, np.full_like(ids, IGNORE), sample)

    def context(self, sample: Sample, flat: OneTurn | bool = False) -> Encoded:
        """The prefix that all queries about a sample share: the conversation before a query; no labels.

        `flat`: the conversation is written as one user turn that ends with the query, in this form (True: as
        alternating lines), instead of as turns before the query.
        """
        ids, _ = self._tokenise(self._before_query(self._messages(sample), flat), [])
        return self._finish(ids, np.full_like(ids, IGNORE), sample)

    def branches(
        self, sample: Sample, queries: Sequence[tuple[str, str | None]], flat: OneTurn | bool = False
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

    def query_tokens(self, question: str, flat: OneTurn | bool = False) -> tuple[int, ...]:
        """The tokens of a query after `context`, up to the beginning of its answer."""
        return tuple(self._suffix(question, None, flat)[0].tolist())

    def answer_tokens(self, question: str, answer: str, flat: OneTurn | bool = False) -> tuple[int, ...]:
        """Tokens of an answer to a query as the model would generate them, without the end of the turn."""
        ids, _, branch = self._suffix(question, answer, flat)
        text, spans = self._render(
            [*with_query(PROBE, question, flat), {"role": "assistant", "content": answer}]
        )
        start = text.index(answer, spans[-1][0])
        _, inside = self._tokenise(text, [(start, start + len(answer))])
        last = int(np.flatnonzero(inside[-len(ids) :])[-1])
        return tuple(ids[branch.prompt : last + 1].tolist())

    def _before_query(self, messages: list[dict[str, str]], flat: OneTurn | bool) -> str:
        if not flat:
            return self._render(messages)[0]
        text, _ = self._render(with_query(messages, _MARK, flat), add_generation_prompt=True)
        return text[: text.rindex(_MARK)]

    def _suffix(
        self, question: str, answer: str | None, flat: OneTurn | bool
    ) -> tuple[np.ndarray, np.ndarray, Branch]:
        key = (question, answer, flat)
        if key not in self._suffixes:
            self._suffixes[key] = self._render_suffix(question, answer, flat)
        return self._suffixes[key]

    def _render_suffix(
        self, question: str, answer: str | None, flat: OneTurn | bool
    ) -> tuple[np.ndarray, np.ndarray, Branch]:
        head, _ = self._tokenise(self._before_query(PROBE, flat), [])
        asked = with_query(PROBE, question, flat)
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

    def _messages(self, sample: Sample) -> list[dict[str, str]]:
        return self._plain.marked(messages_of(sample))

    def _render(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        return render(self.template, messages, self._special, add_generation_prompt)

    def _labelled_text(
        self, sample: Sample, loss_turns: str | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation and the character spans that carry a loss. Raises RenderError."""
        if not sample.turns:
            raise RenderError("no_assistant_turn", f"sample {sample.id} has no turn with an answer")
        first = 0 if (loss_turns or self.rules.loss_turns) == "all" else len(sample.turns) - 1
        if any(not turn.answer.strip() for turn in sample.turns[first:]):
            raise RenderError("empty_answer", f"sample {sample.id}")
        text, spans = self._render(self._messages(sample))
        if self.rules.loss_tokens == "llava_next":
            return text, [_whole_turn(text, *span) for span in spans]
        return text, spans[first:]

    def _encoded(self, encoding: Any, spans: list[tuple[int, int]], sample: Sample) -> Encoded:
        ids, mask = _masked(encoding, spans)
        if self._markers:
            mask |= np.isin(ids, self._markers)
        return self._finish(ids, np.where(mask, ids, IGNORE), sample)

    def _encoded_or_error(
        self, encoding: Any, spans: list[tuple[int, int]], sample: Sample
    ) -> Encoded | RenderError | ImageError:
        try:
            return self._encoded(encoding, spans, sample)
        except (RenderError, ImageError) as error:
            return error

    def _marker_ids(self) -> tuple[int, ...]:
        """Ids of ChatML's turn markers and of a single newline."""
        ids = []
        for text in (*_CHATML, "\n"):
            own = self._encodings([text])[0].ids
            if len(own) != 1 or (text in _CHATML and text not in self.template):
                raise ValueError(
                    f"loss_tokens: llava_next needs a ChatML template and {text!r} as one token; "
                    "use loss_tokens: answer with this checkpoint"
                )
            ids += own
        return tuple(ids)

    def _tokenise(self, text: str, spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [T], and a mask bool [T] of the tokens that overlap one of the character spans."""
        return _masked(self._encodings([text])[0], spans)

    def _encodings(self, texts: list[str]) -> list[Any]:
        return self._plain.encodings(texts)

    def _finish(self, ids: np.ndarray, labels: np.ndarray, sample: Sample) -> Encoded:
        """Replace each image placeholder by the tokens of its image."""
        at = np.flatnonzero(ids == self.image_id)
        if len(at) != len(sample.images):
            detail = (
                f"sample {sample.id}: {len(at)} {IMAGE_PLACEHOLDER} in the text, {len(sample.images)} images"
            )
            raise RenderError("image_count", detail)
        labels = labels.astype(np.int32)
        if not len(at):
            return Encoded(ids, labels, name=sample.id)
        tokens = self.loader.image_ids(sample.images)
        counts = np.array([len(own) for own in tokens])
        repeats = np.ones(len(ids), dtype=np.int64)
        repeats[at] = counts
        starts = at + np.cumsum(counts) - counts - np.arange(len(at))
        labels[at] = IGNORE
        ids, labels = np.repeat(ids, repeats), np.repeat(labels, repeats)
        spans = [(int(start), int(start + count)) for start, count in zip(starts, counts, strict=True)]
        for (start, stop), own in zip(spans, tokens, strict=True):
            ids[start:stop] = own
        return Encoded(ids, labels, tuple(sample.images), name=sample.id, image_spans=tuple(spans))


def fitted(encoded: Encoded, max_length: int | None, too_long: str = "drop") -> Encoded:
    """The example, `truncated` if it is longer than `max_length` tokens and `too_long` is "truncate".

    Raises RenderError (too_long) for a longer one under "drop" or "error", and for one that has no token with
    a loss left.
    """
    if max_length is None or len(encoded) <= max_length:
        return encoded
    detail = f"{encoded.name}: {len(encoded)} tokens, at most {max_length} are allowed"
    if too_long != "truncate":
        raise RenderError("too_long", detail + "; too_long can drop or truncate it" * (too_long == "error"))
    short = truncated(encoded, max_length)
    if not (short.labels[1:] != IGNORE).any():
        raise RenderError("too_long", f"{detail}, and no token with a loss is among them")
    return short


def truncated(encoded: Encoded, max_length: int) -> Encoded:
    """The first `max_length` tokens of an example, as LLaVA truncates, but no part of an image.

    An image that does not fit goes with all that follows it. If one of several images is left, it goes too:
    LLaVA-OneVision would tile it as the only one of its sample, into other tokens than it has here.
    """
    if encoded.branches:
        raise ValueError(f"{encoded.name}: an example with branches cannot be truncated")
    if len(encoded.image_spans) != len(encoded.images):
        raise ValueError(f"{encoded.name}: the places of its images are not known")
    kept = [stop for _, stop in encoded.image_spans if stop <= max_length]
    left = 0 if len(kept) == 1 < len(encoded.images) else len(kept)
    starts = [start for start, _ in encoded.image_spans[left:]]
    end = min([max_length, len(encoded), *starts[:1]])
    return replace(
        encoded,
        input_ids=encoded.input_ids[:end],
        labels=encoded.labels[:end],
        images=encoded.images[:left],
        image_spans=encoded.image_spans[:left],
    )


def _masked(encoding: Any, spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [T], and a mask bool [T] of the tokens that overlap one of the character spans."""
    ids = np.array(encoding.ids, dtype=np.int32)
    mask = np.zeros(len(ids), dtype=bool)
    if spans and len(ids):
        offsets = np.array(encoding.offsets)
        for start, end in spans:
            mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return ids, mask


def _whole_turn(text: str, start: int, end: int) -> tuple[int, int]:
    """The span of a ChatML turn, from its start marker to the newline after its end marker."""
    return text.rindex(_CHATML[0], 0, start), end + (text[end : end + 1] == "\n")
