"""The queries that a scorer and a styler answer: read from `prompts/<name>.yaml`, hashed into the signal."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from curation.taxonomy import CAPABILITIES, STYLES

PROMPT_DIR = Path(__file__).parent / "prompts"
OTHER = "other"
"""What a style phrase that is none of the nine is counted as."""


class PromptError(ValueError):
    """A prompt set that cannot be used, by itself or with a given tokenizer."""


@dataclass(frozen=True)
class Queries:
    """One prompt set: `capability` are the 14 questions in the taxonomy's order, `styles` maps style key -> phrase.

    flat: a query is the last line of one user turn that holds the whole conversation, instead of a turn after it.
    """

    name: str
    capability: tuple[str, ...]
    style: str
    styles: dict[str, str]
    separator: str
    flat: bool = False

    @property
    def hash(self) -> str:
        """Twelve hex digits of every word that a model reads or is expected to write."""
        content = [self.capability, self.style, self.styles, self.separator, *(["flat"] if self.flat else [])]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def style_answer(self, styles: list[str]) -> str:
        """The phrases of these style keys in the taxonomy's order, as the styler should write them."""
        return self.separator.join(phrase for key, phrase in self.styles.items() if key in styles)

    def parse_styles(self, text: str) -> list[str]:
        """Style keys named in a styler's text, without repeats; phrases that are no style become one `other`."""
        keys = {_plain(phrase): key for key, phrase in self.styles.items()}
        parts = [part for part in map(_plain, text.split(",")) if part]
        return list(dict.fromkeys(keys.get(part, OTHER) for part in parts)) or [OTHER]

    def texts(self) -> list[str]:
        """What a tokenizer must be able to write: the questions, the style phrases with their separator, the digits."""
        return [*self.capability, self.style, self.style_answer(list(self.styles)), "0 1 2 3 4 5"]


def load_queries(name: str | Path) -> Queries:
    """A shipped prompt set by name (compact, official_style, official_flat), or a YAML file of the same form by path."""
    path = PROMPT_DIR / f"{name}.yaml" if Path(name).suffix != ".yaml" else Path(name)
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        shipped = ", ".join(sorted(p.stem for p in PROMPT_DIR.glob("*.yaml")))
        raise PromptError(
            f"no prompt set {str(name)!r} ({path}): shipped are {shipped}, or give a .yaml file"
        ) from None
    except yaml.YAMLError as error:
        raise PromptError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    expected = {"capability", "style", "style_separator", "styles"}
    if not isinstance(content, dict) or set(content) - {"conversation"} != expected:
        raise PromptError(
            f"{path} must have exactly the keys {', '.join(sorted(expected))}, and may have conversation"
        )
    return _build(path, content)


def _build(path: Path, content: dict) -> Queries:
    if set(content["styles"]) != set(STYLES):
        raise PromptError(f"{path}: `styles` must give a phrase for each of {', '.join(STYLES)}")
    if "{phrase}" not in content["capability"]:
        raise PromptError(f"{path}: `capability` must contain {{phrase}}, or the 14 queries are the same")
    if "," not in content["style_separator"]:
        raise PromptError(f"{path}: `style_separator` must contain a comma, styles are parsed by it")
    if content.get("conversation", "turns") not in ("turns", "flat"):
        raise PromptError(f"{path}: `conversation` is turns or flat, not {content['conversation']!r}")
    styles = {key: content["styles"][key] for key in STYLES}
    if len({_plain(phrase) for phrase in styles.values()}) < len(styles) or any(
        "," in p for p in styles.values()
    ):
        raise PromptError(f"{path}: style phrases must differ and hold no comma")
    capability = tuple(content["capability"].replace("{phrase}", c.phrase) for c in CAPABILITIES)
    style = content["style"].replace("{styles}", content["style_separator"].join(styles.values()))
    flat = content.get("conversation") == "flat"
    return Queries(path.stem, capability, style, styles, content["style_separator"], flat)


def _plain(phrase: str) -> str:
    """Lower case without spaces and outer dots: a word-level tokenizer may set spaces around a hyphen or a slash."""
    return "".join(phrase.lower().split()).strip(".")
