"""The stages that make one clean pool: source or files, `pool`, `leaks`, `clean`. All others read the result.

`pool` indexes and audits; `leaks` compares with the benchmarks; `clean` takes out copies, leaks and what the
base cannot be trained on. Without anything to do there is no `clean`. Leaks that are only flagged are looked
for in the clean pool, and nothing but the comparison reads them: another benchmark trains nothing again.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from recipes import external
from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, stage_name
from recipes.load import Loaded
from recipes.plan_evaluation import EvaluationPlan
from recipes.plan_fits import RENDERED
from recipes.plan_signals import PoolPlan
from recipes.plan_validation import ValidationPlan
from recipes.schema import FilePool, MiniPool, required

UNKNOWN_SIZE = 1_000
"""Estimated samples of a pool whose files do not tell before they are read."""
READ = ("format", "image_key", "source_key", "source_depth", "allow_outside", "max_pixels")
"""Keys of a pool of the user's own that stage `pool` reads it by."""


@dataclass
class PoolChain:
    """Plans the pools of a recipe. `evaluation` is the one that the arms are compared on."""

    plan: Plan
    loaded: Loaded
    prints: Fingerprints
    bench: Node | None
    validation: ValidationPlan
    evaluation: EvaluationPlan

    @cached_property
    def section(self) -> MiniPool | FilePool:
        # mypy infers the common base class of a union that passes through a generic function.
        return cast(MiniPool | FilePool, required(self.loaded.recipe.pool))

    @cached_property
    def base(self) -> External:
        """The model that trainings start from."""
        return self._model(external.MODEL_FILES)

    @cached_property
    def processor(self) -> External:
        """The base without its weights."""
        return self._model(external.PROCESSOR_FILES)

    def add(self, seed: int | None, *, tagged: bool) -> PoolPlan:
        """The pool of one seed, which is None for a pool that is not drawn."""
        tag = (f"p{seed}",) if tagged else ()
        config = {
            **dump(self.section, "kind", "audit", "max_bad_fraction"),
            "limit": self.loaded.recipe.limit,
        }
        source: Node | External
        if isinstance(self.section, MiniPool):
            source, size = self._drawn(self.section, seed, tag), self.section.size
            inputs: dict[str, Any] = {"source": source}
        else:
            config |= dump(self.section, *READ)
            inputs, size, source = self._files(self.section)
        size = min(size, self.loaded.recipe.limit or size)
        inputs["tokenizer"] = None if self._measured else self.processor
        built = self.plan.add("pool", config, inputs, name=stage_name("pool", *tag), work=size)
        pool, leaks = self._clean(built, tag, size)
        given = (
            self.plan,
            self.loaded,
            self.prints,
            seed,
            tag,
            pool,
            source,
            self.base,
            self.processor,
            size,
        )
        return PoolPlan(
            *given, validation=self.validation, decontaminate=self.section.decontaminate, leaks=leaks
        )

    def _drawn(self, section: MiniPool, seed: int | None, tag: tuple[str, ...]) -> Node:
        drawn = {**dump(section, "size", "defects"), "seed": seed}
        name = stage_name("source", *tag)
        return self.plan.add("source", drawn, {"bench": self.bench}, name=name, work=section.size)

    def _files(self, section: FilePool) -> tuple[dict[str, Any], int, External]:
        """(inputs of stage `pool`, expected samples, first source) of a pool of the user's own."""
        given = section.source if isinstance(section.source, list) else [section.source]
        where = self.loaded.locate("pool", "source")
        files = external.pool_files(given, section.format, where, self.prints)
        at = self.loaded.locate("pool", "images")
        limit, key, first = self.loaded.recipe.limit, section.image_key, files.given[0]
        images = external.images(
            section.images, [one.local for one in files.given], files.text, limit, at, self.prints, key
        )
        size = sum(self.prints.records(file) for file in files.text) or UNKNOWN_SIZE
        return {"source": files.given if len(given) > 1 else first, "images": images}, size, first

    @property
    def _measured(self) -> dict[str, Any] | None:
        """How `clean` measures samples: the settings of the arms' training that decide their length."""
        train, policy = required(self.loaded.recipe.train), self.section.over_length
        if policy == "off":
            return None
        rules = train.model_dump(mode="json", include=RENDERED | {"max_length"})
        return {**rules, "policy": policy or train.too_long}

    def _clean(self, built: Node, tag: tuple[str, ...], size: int) -> tuple[Node, Node | None]:
        """(the pool that all else reads, the search for leaks)."""
        found = self._leaks(built, tag, size) if self.section.decontaminate == "drop" else None
        config: dict[str, Any] = {**dump(self.section, "dedup"), "measured": self._measured}
        pool = built
        if self.section.dedup != "off" or found or self._measured:
            config["workers"] = self.loaded.recipe.resources.token_workers
            inputs = {"pool": built, "leaks": found, "processor": self.processor if self._measured else None}
            pool = self.plan.add("clean", config, inputs, name=stage_name("clean", *tag), work=size)
        if self.section.decontaminate == "flag" and not self.evaluation.problem:
            found = self._leaks(pool, tag, size)
        return pool, found

    def _leaks(self, pool: Node, tag: tuple[str, ...], size: int) -> Node:
        named = self.evaluation.named
        if self.evaluation.problem:
            self.plan.refusals["leaks"] = self.evaluation.problem
        config = {"suite": named.name, "not_judged": named.not_judged}
        inputs = {"pool": pool, **self.evaluation.shared}
        name = stage_name("leaks", *tag)
        return self.plan.add("leaks", config, inputs, name=name, work=size)

    def _model(self, files: tuple[str, ...]) -> External:
        base = required(self.loaded.recipe.base)
        return external.model(
            base.path, base.revision, self.loaded.locate("base", "path"), self.prints, files
        )
