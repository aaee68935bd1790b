"""Settings of published trainings by name: one YAML file each, with its reference and what is uncertain.

    spec = fit_spec("onevision_si_7b", lr=2e-5)       # spec.from_preset.changed == ("lr",)

In a recipe, `train: {preset: onevision_si_7b, lr: 2e-5}` is the same. `base` says in words what the published
training started from.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from training.spec import FitSpec

FOLDER = Path(__file__).parent
LABEL = "from_preset"
"""The field of FitSpec that says which preset settings come from."""


class UnknownPreset(ValueError):
    """No preset has this name; the message lists those that exist."""


class Preset(BaseModel):
    """One file of this folder. `fit`: fields of FitSpec; `reference`: paper and script, with arXiv id."""

    model_config = ConfigDict(extra="forbid")
    reference: tuple[str, ...]
    base: str
    fit: dict[str, Any]
    notes: tuple[str, ...]

    @field_validator("fit")
    @classmethod
    def _is_a_spec(cls, value: dict[str, Any]) -> dict[str, Any]:
        FitSpec.model_validate(value)
        return value


def names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def load(name: str) -> Preset:
    """The preset of that name. Raises UnknownPreset."""
    if name not in names():
        near = get_close_matches(str(name), names(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnknownPreset(f"preset {name!r} does not exist; presets are {', '.join(names())}{hint}")
    return Preset.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def fit_spec(name: str, **settings: Any) -> FitSpec:
    """The FitSpec of a preset, with `settings` in place of its own. Raises UnknownPreset, ValidationError."""
    return FitSpec.model_validate(expanded({"preset": name, **settings}))


def expanded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training with those of the preset that they name under `preset`, and a label of both.

    A mapping, such as `lora`, is merged key by key; anything else replaces what the preset has. The label
    `from_preset` lists the keys whose value differs from the preset's. Settings that have the label already,
    as those of a resolved recipe, are compared with their preset again. Raises UnknownPreset.
    """
    own = dict(settings)
    label = own.pop(LABEL, None)
    name = own.pop("preset", label["name"] if isinstance(label, Mapping) and "name" in label else None)
    if name is None:
        return dict(settings)
    published = load(name).fit
    merged = _merged(published, own)
    changed = sorted(_differences(_complete(published), _complete(merged)))
    return {**merged, LABEL: {"name": name, "changed": changed}}


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    """All fields as JSON values; settings that are not valid stay as they are and are refused later."""
    try:
        return FitSpec.model_validate(settings).model_dump(mode="json", exclude={"seed", LABEL})
    except ValidationError:
        return settings


def _differences(a: Any, b: Any, path: tuple[str, ...] = ()) -> set[str]:
    """Dotted keys in which two mappings differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {key for k in a.keys() | b.keys() for key in _differences(a.get(k), b.get(k), (*path, k))}
    return set() if a == b else {".".join(path)}
