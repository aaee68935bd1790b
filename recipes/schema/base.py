"""The base class of all recipe sections, and the value types that they share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_ROWS = 2**31 - 1
"""Maximum number of samples in a pool: rows are 32-bit integers."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""The range that NumPy's and torch's generators accept."""
Seeds = Annotated[int, Field(ge=1, le=10_000)] | Annotated[list[Seed], Field(min_length=1)]

S = TypeVar("S")


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def required(value: S | None) -> S:
    """A value that is optional in the schema but present in every recipe that `recipes.load` returns.

    Raises ValueError where it is missing: the recipe did not come from `recipes.load`.
    """
    if value is None:
        raise ValueError("the recipe lacks a value that recipes.load requires")
    return value


def default_kind(kind: str) -> BeforeValidator:
    """Reads a section without `kind` as one of this kind."""
    return BeforeValidator(lambda value: {"kind": kind, **value} if isinstance(value, dict) else value)


def seed_list(seeds: int | list[int]) -> list[int]:
    """The seeds that a value of type `Seeds` stands for: n means 0..n-1."""
    return list(range(seeds)) if isinstance(seeds, int) else seeds


# ------------------------------------------------------------------------------------------ paths


def _possible_path(text: str) -> str:
    """Raises ValueError for text that cannot be a path."""
    if "\0" in text:
        raise ValueError("a path must not contain a NUL character")
    if any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("a part of the path is longer than 255 bytes")
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}; write the full path") from error
    return text


@dataclass(frozen=True)
class Anchored:
    """Marks a path: one that a recipe file gives is relative to that file, one of the command line to the
    working directory. `known_by`: the value may be a name instead; then it is a path only where there is a
    file, or a folder, at it.
    """

    known_by: Literal["any", "file", "folder"] = "any"


PathText = Annotated[str, AfterValidator(_possible_path), Anchored()]
NameOrFile = Annotated[str, AfterValidator(_possible_path), Anchored("file")]
"""A shipped name, or the path of a file."""
ModelPath = Annotated[str, AfterValidator(_possible_path), Anchored("folder")]
"""A shipped model, a directory, or an id on the Hub."""
WorkPath = Annotated[str, AfterValidator(_possible_path)]
"""Always relative to the working directory: where results are kept."""

# ------------------------------------------------------------------------------------------ budgets


_NUMBER = r"\d{1,30}(?:\.\d{1,30})?(?:e[+-]?\d{1,3})?"
MAX_COMPUTE = 1e24
"""FLOPs of a budget at most: beyond those of any model of today."""


def in_compute(budget: int | str) -> bool:
    """Whether a budget is in compute: it pays for the selection too."""
    return str(budget).startswith(("flops:", "gpuh:", "as:"))


def canonical_budget(value: int | str) -> int | str:
    """`30.0 %` -> `30%`, `500` -> 500, `tokens:2e9` -> `tokens:2000000000`, `flops:10e17` -> `flops:1e+18`.

    Equal budgets must have equal text, because the text is hashed. Raises ValueError for anything else.
    """
    allowed = (
        "a share above 0% and up to 100%, such as 30%, a number of samples from 1, tokens:N, flops:N, gpuh:N "
        "or as:ARM"
    )
    if isinstance(value, int):
        if not 1 <= value <= MAX_ROWS:
            raise ValueError(f"budget {value} is not allowed; give {allowed}")
        return value
    # The digits are bounded because int() and float() of a longer text fail with messages of their own.
    if tokens := re.fullmatch(r"tokens:(\d{1,30}(?:\.\d{1,30})?(?:e\d{1,3})?)", value.strip(), re.IGNORECASE):
        if not 1 <= float(tokens[1]) <= MAX_ROWS**2:
            raise ValueError(f"budget {value!r} is not allowed; give {allowed}")
        return f"tokens:{int(float(tokens[1]))}"
    if compute := re.fullmatch(rf"(flops|gpuh):({_NUMBER})", value.strip(), re.IGNORECASE):
        if not 0 < float(compute[2]) <= MAX_COMPUTE:
            raise ValueError(f"budget {value!r} is not allowed; give {allowed}")
        return f"{compute[1].lower()}:{float(compute[2]):.12g}"
    if re.fullmatch(r"as:[\w.-]{1,200}", value.strip()):
        return value.strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip())
    if not match or not 0 < float(match[1]) <= 100:
        raise ValueError(f"budget {value[:80]!r} is not allowed; give {allowed}")
    return f"{float(match[1]):g}%"


def _canonical_key(key: int | str) -> str:
    return str(canonical_budget(int(key) if str(key).isdigit() else str(key)))


Budget = Annotated[int | str, AfterValidator(canonical_budget)]
BudgetKey = Annotated[str, BeforeValidator(_canonical_key)]
"""A budget as the key of a mapping, where 500 and "500" are the same."""
