"""The pool that arms choose from, how it is cleaned, and the benchmark items of the mini world."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from curation.mini.draft import Defects
from recipes.schema.base import MAX_ROWS, Fraction, PathText, Section, Seed

OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""YAML 1.1 reads a bare `off` as false."""


class Dedup(Section):
    """Copies that are taken out of the pool: of each group of samples that repeat each other, one stays.

    Several questions about one image are no copies; `curation.dedup` says which one stays.
    """

    images: Literal["near", "exact"] = Field(
        "near", description="copies have images that look the same, or files of equal bytes"
    )
    text: Literal["near", "exact", "any"] = Field(
        "near",
        description="and nearly the same words, or equal ones; any: copies of the images alone are copies, "
        "so that one question about each image stays",
    )
    radius: int = Field(8, ge=0, le=16, description="bits of 64 in which perceptual hashes may differ")
    threshold: Fraction = Field(0.8, gt=0, description="least Jaccard index of the words' shingles")


class Cleaning(Section):
    """What is done to a pool between its audit and everything that reads it, so that all arms choose from the
    same clean samples.
    """

    audit: Literal["header", "full"] = Field(
        "full",
        description="check the images by their headers, or decode each of them strictly; what looks for "
        "images that are alike needs `full`",
    )
    max_bad_fraction: Fraction = Field(
        0.01, description="the run stops if a larger share of the pool is quarantined"
    )
    dedup: Annotated[Dedup | Literal["off"], OFF] = "off"
    decontaminate: Annotated[Literal["drop", "flag", "off"], OFF] = Field(
        "flag",
        description="samples that repeat images or questions of the evaluation's benchmarks: take them out "
        "of the pool; or leave them, and report scores with and without the items that they repeat; or do "
        "not look",
    )
    over_length: Annotated[Literal["drop", "truncate", "off"] | None, OFF] = Field(
        None,
        description="samples of more than `train.max_length` tokens, counted by the base's own tokenizer and "
        "processor: take them out of the pool, or cut them (those without an answer then are taken out); "
        "default: as `train.too_long` says; off: tokens are not counted by rendering",
    )


class MiniPool(Cleaning):
    """A pool drawn by the built-in generator."""

    kind: Literal["mini"]
    size: int = Field(ge=1, le=MAX_ROWS, description="number of samples drawn")
    seed: Seed = Field(0, description="seed of the generator")
    defects: Defects = Field(Defects(), description="rates of the planted defects")


class FilePool(Cleaning):
    """A pool of the user's own, from files in any format that is read."""

    kind: Literal["file"]
    source: PathText | Annotated[list[PathText], Field(min_length=1)] = Field(
        description="path of the data, or several: JSON, JSONL, a folder of these, a YAML mixture, Parquet, "
        "a saved `datasets` directory, WebDataset shards"
    )
    images: PathText | None = Field(
        None, description="directory that image paths are relative to; default: that of `source`"
    )
    format: (
        Literal["json", "jsonl", "dict", "mixture", "folder", "parquet", "datasets", "webdataset"] | None
    ) = Field(None, description="format of `source`; default: detected")
    image_key: str | None = Field(None, min_length=1, description="key of a record that names its images")
    source_key: str | None = Field(None, min_length=1, description="key of a record that names its source")
    source_depth: int = Field(
        1, ge=1, le=20, description="number of folders of the image path that name a record's source"
    )
    allow_outside: bool = Field(False, description="read images outside of `images` too")
    max_pixels: int | None = Field(None, ge=1, description="largest number of pixels of an image")


class Bench(Section):
    """The held-out items of the mini world, one benchmark for each capability."""

    kind: Literal["mini"] = "mini"
    items: int = Field(ge=1, le=1_000_000, description="items of each benchmark")
    seed: Seed = Field(1000, description="seed of the generator; must differ from the pool's")
