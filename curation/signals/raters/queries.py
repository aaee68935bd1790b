"""The queries for scorer and styler, read from `prompts/<name>.yaml` and hashed into a signal's identity."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from curation.signals.raters.prompts import path_of
from curation.taxonomy import CAPABILITIES, MAX_SCORE, STYLES
from training.aspects import VIEWS
from training.one_turn import LINES, OneTurn

OTHER = "other"
"""Stands for text that names none of the styles."""
_REQUIRED = {"capability", "style", "style_separator", "styles"}
_OPTIONAL = (
    "candidates_separator",
    "conversation",
    "labels",
    "joiner",
    "after_image",
    "system",
    "image",
    "max_new_tokens",
)
_LABELS = ("question", "answer", "between", "unless", "strip")


class PromptError(ValueError):
    """A prompt set that cannot be used, in general or with the tokenizer of a checkpoint."""


@dataclass(frozen=True)
class Queries:
    """One prompt set.

    capability: the capability queries in the order of the taxonomy. style: the style query. styles: style key
    -> phrase. separator: between the phrases of an answer.
    flat: how the conversation and a query are written as one user turn; False: a query is a turn after it.
    view: what a model gets of an image, "single" or "anyres"; None: as the checkpoint's config says.
    max_new_tokens: the most that a model may write; None: as the producer says.
    """

    name: str
    capability: tuple[str, ...]
    style: str
    styles: dict[str, str]
    separator: str
    flat: OneTurn | Literal[False] = False
    view: str | None = None
    max_new_tokens: int | None = None

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of all that a model reads or is expected to write."""
        # Only what is set enters the hash, so that prompt sets without it keep theirs.
        content: list[Any] = [self.capability, self.style, self.styles, self.separator]
        if self.flat:
            content.append("flat")
            if self.flat != LINES:
                content.append(asdict(self.flat))
        if self.view or self.max_new_tokens:
            content.append({"view": self.view, "max_new_tokens": self.max_new_tokens})
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def identity(self) -> dict[str, str]:
        """Name and hash of the prompt set, for a signal's identity."""
        return {"prompts": self.name, "prompt_hash": self.hash}

    def style_answer(self, styles: list[str]) -> str:
        """The phrases of these style keys in the order of the taxonomy, as the styler should write them."""
        return self.separator.join(phrase for key, phrase in self.styles.items() if key in styles)

    def parse_styles(self, text: str) -> list[str]:
        """The style keys named in a styler's text, without repeats; unknown phrases become one `other`."""
        keys = {_plain(phrase): key for key, phrase in self.styles.items()}
        parts = [part for part in map(_plain, text.split(",")) if part]
        return list(dict.fromkeys(keys.get(part, OTHER) for part in parts)) or [OTHER]

    def texts(self) -> list[str]:
        """All text that a tokenizer must represent: queries, style phrases with their separator, digits."""
        digits = " ".join(str(digit) for digit in range(MAX_SCORE + 1))
        return [*self.capability, self.style, self.style_answer(list(self.styles)), digits]


def load_queries(name: str | Path) -> Queries:
    """A shipped prompt set by name (compact, official_style, official_flat), or a YAML file by path.

    Raises PromptError.
    """
    try:
        path = path_of(name)
    except FileNotFoundError as error:
        raise PromptError(str(error)) from None
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PromptError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not _REQUIRED <= set(content) <= _REQUIRED | set(_OPTIONAL):
        raise PromptError(
            f"{path} must have exactly the keys {', '.join(sorted(_REQUIRED))}, and optionally "
            f"{', '.join(_OPTIONAL)}"
        )
    return _build(path, content)


def _build(path: Path, content: dict[str, Any]) -> Queries:
    _check_texts(path, content)
    if set(content["styles"]) != set(STYLES):
        raise PromptError(f"{path}: `styles` must give a phrase for each of {', '.join(STYLES)}")
    if "{phrase}" not in content["capability"]:
        raise PromptError(
            f"{path}: `capability` must contain {{phrase}}, or all capability queries are equal"
        )
    if "," not in content["style_separator"]:
        raise PromptError(
            f"{path}: `style_separator` must contain a comma, because answers are split at commas"
        )
    styles = {key: content["styles"][key] for key in STYLES}
    distinct = {_plain(phrase) for phrase in styles.values()}
    if len(distinct) < len(styles) or any("," in phrase for phrase in styles.values()):
        raise PromptError(f"{path}: style phrases must differ and must not contain a comma")
    capability = tuple(content["capability"].replace("{phrase}", c.phrase) for c in CAPABILITIES)
    separator = content["style_separator"]
    candidates = content.get("candidates_separator", separator).join(styles.values())
    style = content["style"].replace("{styles}", candidates)
    view, limit = content.get("image"), content.get("max_new_tokens")
    if view not in (None, *VIEWS):
        raise PromptError(f"{path}: `image` must be one of {', '.join(VIEWS)}, got {view!r}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise PromptError(f"{path}: `max_new_tokens` must be a whole number of at least 1, got {limit!r}")
    return Queries(path.stem, capability, style, styles, separator, _form(path, content), view, limit)


def _check_texts(path: Path, content: dict[str, Any]) -> None:
    texts = (
        "capability",
        "style",
        "style_separator",
        "candidates_separator",
        "joiner",
        "after_image",
        "system",
    )
    for key in texts:
        if key in content and not isinstance(content[key], str):
            raise PromptError(f"{path}: `{key}` must be text, got {content[key]!r}")
    if not isinstance(content["styles"], dict) or any(type(p) is not str for p in content["styles"].values()):
        raise PromptError(f"{path}: `styles` must give a phrase for each of {', '.join(STYLES)}, as text")


def _form(path: Path, content: dict[str, Any]) -> OneTurn | Literal[False]:
    """How conversation and query are written. Raises PromptError."""
    if content.get("conversation", "turns") not in ("turns", "flat"):
        raise PromptError(f"{path}: `conversation` must be turns or flat, got {content['conversation']!r}")
    given = [key for key in ("labels", "joiner", "after_image", "system") if key in content]
    if content.get("conversation") != "flat":
        if given:
            raise PromptError(f"{path}: `{given[0]}` is for one user turn; set `conversation: flat`")
        return False
    labels = content.get("labels", {})
    if not isinstance(labels, dict) or not set(labels) <= set(_LABELS):
        raise PromptError(f"{path}: `labels` may have the keys {', '.join(_LABELS)}, got {labels!r}")
    unlabelled = labels.get("unless", [])
    if not isinstance(unlabelled, list) or any(not isinstance(text, str) or not text for text in unlabelled):
        raise PromptError(f"{path}: `labels.unless` must be a list of beginnings of questions")
    texts = {key: text for key, text in labels.items() if key != "unless"}
    if wrong := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise PromptError(f"{path}: `labels.{wrong[0]}` must be text, got {texts[wrong[0]]!r}")
    turn = {key: content[key] for key in given if key != "labels"}
    return OneTurn(**texts, **turn, unlabelled=tuple(unlabelled))


def _plain(phrase: str) -> str:
    """Lower case, no spaces or outer dots: word-level tokenizers put spaces around hyphens and slashes."""
    return "".join(phrase.lower().split()).strip(".")
