"""The pool that arms choose from, and the benchmark items of the mini world."""

from typing import Literal

from pydantic import Field

from curation.mini.draft import Defects
from recipes.schema.base import MAX_ROWS, Fraction, PathText, Section, Seed


class MiniPool(Section):
    """A pool drawn by the built-in generator."""

    kind: Literal["mini"]
    size: int = Field(ge=1, le=MAX_ROWS, description="number of samples drawn")
    seed: Seed = Field(0, description="seed of the generator")
    defects: Defects = Field(Defects(), description="rates of the planted defects")
    max_bad_fraction: Fraction = Field(
        0.01, description="the run stops if a larger share of the pool is quarantined"
    )


class LlavaPool(Section):
    """A pool from a LLaVA JSON (or JSONL) file."""

    kind: Literal["llava"]
    source: PathText = Field(description="path of the JSON or JSONL file")
    images: PathText | None = Field(
        None, description="directory that image paths are relative to; default: that of `source`"
    )
    max_bad_fraction: Fraction = Field(
        0.01, description="the run stops if a larger share of the pool is quarantined"
    )


class Bench(Section):
    """The held-out items of the mini world, one benchmark for each capability."""

    kind: Literal["mini"] = "mini"
    items: int = Field(ge=1, le=1_000_000, description="items of each benchmark")
    seed: Seed = Field(1000, description="seed of the generator; must differ from the pool's")
