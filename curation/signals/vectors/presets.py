"""The published methods' embeddings and clusterings by name (presets.yaml), and which settings there are.

settings = embedding_settings({"preset": "dino"})
columns_of("dino", settings)  # ("emb_dino",)
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from curation.nearest import did_you_mean

KINDS: dict[str, dict[str, Any]] = {
    "states": {
        "layers": [-1],
        "state": "hidden",
        "tokens": "all",
        "pooling": "mean",
        "squash": "none",
        "unit": False,
        "first_tokens": None,
    },
    "vision": {"pooling": "cls"},
    "sentence": {"text": "first_instruction"},
    "clip": {"part": "pair", "text": "both"},
}
"""Kinds of embeddings, each with its settings and their defaults."""
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("states", "state"): ("hidden", "attention"),
    ("states", "tokens"): ("all", "image", "text", "text_after_image", "halves", "halves_after_image"),
    ("states", "pooling"): ("mean", "last", "position_weighted", "attended", "attention_pair"),
    ("states", "squash"): ("none", "tanh"),
    ("vision", "pooling"): ("cls", "mean", "pooler"),
    ("sentence", "text"): ("first_instruction", "question", "answer", "both"),
    ("clip", "part"): ("image", "text", "pair", "turns"),
    ("clip", "text"): ("first_instruction", "question", "answer", "both"),
}
"""The values of a setting, by kind and setting."""
HALVES = ("image", "text")
ATTENTIVE = ("attended", "attention_pair")
"""Poolings by the model's attention, which choose the tokens themselves."""


@cache
def _published() -> dict[str, dict[str, dict[str, Any]]]:
    content = yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8"))
    return {
        section: {
            name: {key: value for key, value in settings.items() if key != "source"}
            for name, settings in content[section].items()
        }
        for section in ("embeddings", "clusters")
    }


def published(section: str) -> dict[str, dict[str, Any]]:
    """The presets of a section, "embeddings" or "clusters", by name: the keys that they give."""
    return {name: dict(settings) for name, settings in _published()[section].items()}


def with_published(section: str, own: Any) -> Any:
    """A recipe's section with the keys that its entries leave to the preset of their name.

    An entry of another kind or method than the preset's is left as it is, and so is what is no mapping.
    """
    if not isinstance(own, Mapping):
        return own
    presets = _published()[section]
    return {name: _over(presets.get(name), entry) for name, entry in own.items()}


def _over(preset: dict[str, Any] | None, entry: Any) -> Any:
    if preset is None or not isinstance(entry, Mapping):
        return entry
    differs = any(key in entry and entry[key] != preset.get(key, "kmeans") for key in ("kind", "method"))
    return dict(entry) if differs else {**preset, **entry}


def embedding_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """`kind` and all settings of it: `given` over the `preset` that it names, over the kind's defaults.

    None is a setting that is not given. Raises ValueError for an unknown preset, kind, setting or value.
    """
    own = {key: value for key, value in given.items() if value is not None and key != "preset"}
    if preset := given.get("preset"):
        if preset not in _published()["embeddings"]:
            known = _published()["embeddings"]
            raise ValueError(
                f"preset must be one of {', '.join(known)}, got {preset!r}{did_you_mean(preset, known)}"
            )
        own = {**_over(_published()["embeddings"][preset], own)}
        own = {key: value for key, value in own.items() if key not in ("path", "model")}
    kind = own.pop("kind", "states")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if foreign := sorted(own.keys() - KINDS[kind].keys()):
        raise ValueError(f"kind {kind!r} has no setting {foreign[0]!r}; it has {', '.join(KINDS[kind])}")
    settings = {**KINDS[kind], **own}
    for key, value in settings.items():
        known_values = CHOICES.get((kind, key))
        if known_values and value not in known_values:
            raise ValueError(f"{key} must be one of {', '.join(known_values)}, got {value!r}")
    if kind == "states" and settings["pooling"] in ATTENTIVE:
        for key in ("tokens", "squash", "unit"):
            if settings[key] != KINDS[kind][key]:
                raise ValueError(f"pooling {settings['pooling']!r} takes no {key}, got {settings[key]!r}")
    return {"kind": kind, **settings}


def columns_of(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of an embedding: one, or those of its halves."""
    if str(settings.get("tokens", "")).startswith("halves"):
        return tuple(f"emb_{name}_{half}" for half in HALVES)
    return (f"emb_{name}",)
