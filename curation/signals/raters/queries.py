"""The queries for scorer and styler, read from `prompts/<name>.yaml` and hashed into a signal's identity."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from curation.signals.raters.prompts import path_of
from curation.taxonomy import CAPABILITIES, MAX_SCORE, STYLES

OTHER = "other"
"""Stands for text that names none of the styles."""


class PromptError(ValueError):
    """A prompt set that cannot be used, in general or with the tokenizer of a checkpoint."""


@dataclass(frozen=True)
class Queries:
    """One prompt set.

    capability: the capability queries in the order of the taxonomy. style: the style query. styles: style key
    -> phrase.
    separator: between the phrases of an answer.
    flat: a query is the last line of one user turn that holds the whole conversation, instead of a turn after
    it.
    """

    name: str
    capability: tuple[str, ...]
    style: str
    styles: dict[str, str]
    separator: str
    flat: bool = False

    @property
    def hash(self) -> str:
        """Twelve hex digits of the sha256 of all text that a model reads or is expected to write."""
        # Only a set flag enters the hash, so that prompt sets without it keep theirs.
        content = [self.capability, self.style, self.styles, self.separator, *(["flat"] if self.flat else [])]
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
    required = {"capability", "style", "style_separator", "styles"}
    if not isinstance(content, dict) or set(content) - {"conversation"} != required:
        raise PromptError(
            f"{path} must have exactly the keys {', '.join(sorted(required))}, and optionally conversation"
        )
    return _build(path, content)


def _build(path: Path, content: dict) -> Queries:
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
    if content.get("conversation", "turns") not in ("turns", "flat"):
        raise PromptError(f"{path}: `conversation` must be turns or flat, got {content['conversation']!r}")
    styles = {key: content["styles"][key] for key in STYLES}
    distinct = {_plain(phrase) for phrase in styles.values()}
    if len(distinct) < len(styles) or any("," in phrase for phrase in styles.values()):
        raise PromptError(f"{path}: style phrases must differ and must not contain a comma")
    capability = tuple(content["capability"].replace("{phrase}", c.phrase) for c in CAPABILITIES)
    style = content["style"].replace("{styles}", content["style_separator"].join(styles.values()))
    flat = content.get("conversation") == "flat"
    return Queries(path.stem, capability, style, styles, content["style_separator"], flat)


def _plain(phrase: str) -> str:
    """Lower case, no spaces or outer dots: word-level tokenizers put spaces around hyphens and slashes."""
    return "".join(phrase.lower().split()).strip(".")
