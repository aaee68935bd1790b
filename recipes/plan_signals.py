"""Which stages make a signal on one pool: fits, clusterings and subset probes, each planned when it is first asked for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recipes import external
from recipes.errors import RecipeError, nearest
from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, samples_seen, stage_name
from recipes.load import Loaded
from recipes.schema import QUALITY_MODELS

GRADIENTS = {
    "gradient": {"checkpoints": "last", "adam": False, "prefix": ""},
    "gradient_adam": {"checkpoints": "all", "adam": True, "prefix": "adam_"},
}
"""Signals of the gradient producer: ICONS' (plain gradients after a warm-up) and LESS' (Adam's steps at every epoch of it, summed)."""
LOSSES = {
    "necessity": ("seed", ["full"]),
    "necessity_ablated": ("seed", ["noimg", "noq", "a"]),
    "base_losses": ("base", ["full"]),
    "base_losses_ablated": ("base", ["noimg", "noq", "a"]),
}
"""Signals of the loss producer: whose losses, and what is left out of the prompt."""
DEITA = {"deita": ("complexity", "quality")}
"""Columns of the quality signal that a selector reads whatever its parameters are."""
VECTORS_OF = {
    "emb_image": "embedding",
    "emb_text": "embedding",
    "clip_image": "clip",
    "clip_text": "clip",
    "grad": "gradient",
    "adam_grad": "gradient_adam",
}
"""The signal that each vector column belongs to."""


@dataclass
class World:
    """One pool and what is made from it: stages by the name under which `compare` reads them.

    `seed` is None for a pool that is not drawn; `tag` is its part of a stage's name, where there are several pools.
    `probes` are the trainings and evaluations that a subset-value regressor learns from.
    """

    plan: Plan
    loaded: Loaded
    prints: Fingerprints
    seed: int | None
    tag: tuple[str, ...]
    pool: Node
    source: Node | External
    base: External
    size: int
    fits: dict[str, Node] = field(default_factory=dict)
    signals: dict[str, Node] = field(default_factory=dict)
    probes: list[Node] = field(default_factory=list)

    def inputs(self) -> dict[str, Node]:
        """What the report of this pool rests on, beside the runs."""
        truth = {"truth": self.source} if self.seed is not None else {}
        return {
            "pool": self.pool,
            **truth,
            **self.fits,
            **{f"signal_{name}": node for name, node in self.signals.items()},
        }

    def signal(self, name: str) -> Node:
        """The stage that makes a signal. Raises RecipeError for one that nothing makes, and for a section that is missing."""
        if name not in self.signals:
            self.signals[name] = self._make(name)
        return self.signals[name]

    def fit(self, name: str) -> Node:
        """The stage that leaves labels, seed_model, warmup, scorer or styler; a rater that is given by path is converted, not trained."""
        if name not in self.fits:
            self.fits[name] = {
                "labels": self._labels,
                "seed_model": self._seed_model,
                "warmup": self._warmup,
            }.get(name, lambda: self._rater(name))()
        return self.fits[name]

    def add(
        self,
        kind: str,
        config: dict[str, Any],
        inputs: dict[str, Any],
        work: float,
        *parts: Any,
        **options: Any,
    ) -> Node:
        """A stage of this pool."""
        return self.plan.add(
            kind, config, inputs, name=stage_name(kind, *parts, *self.tag), work=work, **options
        )

    def section(self, name: str) -> Any:
        """A section of the recipe. Raises RecipeError with the arms that want it."""
        if (found := getattr(self.loaded.recipe, name)) is None:
            users = ", ".join(
                f"{a} ({arm.selector})" for a, arm in self.loaded.recipe.arms.items() if arm.learned()
            )
            raise RecipeError(
                f"{self.loaded.locate(name)}: {name}: missing; the signals of these arms want it: {users}"
            )
        return found

    def model(self, path: str, revision: str | None, *where: str) -> External:
        """A checkpoint that the recipe names."""
        return external.model(
            path,
            revision,
            self.loaded.locate(*where),
            self.prints,
            external.MODEL_FILES,
            ".".join(where),
            "a signal wants",
        )

    # ------------------------------------------------------------------------------------------ fits

    def _labels(self) -> Node:
        teacher = self.section("teacher")
        if teacher.kind == "api":
            prompt = teacher.prompt and external.data_file(
                teacher.prompt, self.loaded.locate("teacher", "prompt"), "labels_api", self.prints
            )
            return self.add(
                "labels_api",
                _without(dump(teacher), "kind", "prompt"),
                {"pool": self.pool, "prompt": prompt},
                self.size * teacher.share,
            )
        if self.seed is None:
            raise RecipeError(
                f"{self.loaded.locate('teacher', 'kind')}: teacher.kind: `metadata` reads the mini world's own record, which no "
                "other pool has; give `api`, or finished raters (scorer.path, styler.path)"
            )
        return self.add(
            "labels", dump(teacher), {"pool": self.pool, "source": self.source}, self.size * teacher.share
        )

    def _seed_model(self) -> Node:
        return self.seed_model_on(None)

    def seed_model_on(self, subset: Node | None, *parts: Any) -> Node:
        """The base, tuned on a random share of the pool, or on a subset that an earlier round chose."""
        section = self.section("seed_model")
        config = dump(section) if subset is None else {"seed": section.seed, "train": dump(section)["train"]}
        return self.add(
            "fit_seed",
            config,
            {"pool": self.pool, "base": self.base, "subset": subset},
            samples_seen(section.train, self.size * section.share),
            *parts,
        )

    def _warmup(self) -> Node:
        """The LoRA training whose adapters gradients are taken of."""
        own = self.section("gradient").warmup
        where, section = ("gradient", "warmup") if own else ("seed_model",), own or self.section("seed_model")
        if section.train.lora is None or section.train.deepspeed:
            raise RecipeError(
                f"{self.loaded.locate(*where)}: {'.'.join(where)}.train: gradients are taken of the adapters of a LoRA training in "
                "one process; give `lora`, and no `deepspeed`"
            )
        return self.add(
            "fit_warmup",
            dump(section),
            {"pool": self.pool, "base": self.base},
            samples_seen(section.train, self.size * section.share),
        )

    def _rater(self, name: str) -> Node:
        section = self.section(name)
        if section.path is not None:
            given = self.model(section.path, section.revision, name, "path")
            return self.add("fit_released", {}, {"model": given}, 1, name)
        if section.train is None:
            raise RecipeError(
                f"{self.loaded.locate(name)}: {name}.train: missing; a model that is only `served` is asked by scoring.engine: server"
            )
        start = self.fit("seed_model") if section.start == "seed_model" else self.base
        shown = self.size * self.section("teacher").share * (1 - section.holdout)
        config = _without(dump(section), "path", "revision", "served", "mode", "threshold")
        return self.add(
            f"fit_{name}",
            config,
            {"pool": self.pool, "labels": self.fit("labels"), "base": start},
            samples_seen(section.train, shown),
        )

    # --------------------------------------------------------------------------------------- signals

    def _make(self, name: str) -> Node:
        if name in LOSSES:
            whose, terms = LOSSES[name]
            return self.losses(
                self.fit("seed_model") if whose == "seed" else self.base,
                terms,
                "base_" if whose == "base" else "",
                name,
            )
        if name in GRADIENTS:
            return self._gradients(name)
        if name.startswith("cluster_"):
            return self._clusters(name.removeprefix("cluster_"))
        makers = {
            "capability": self._capability,
            "style": self._style,
            "embedding": self._embedding,
            "clip": self._clip,
            "quality": self._quality,
            "value": self._value,
        }
        if name in makers:
            return makers[name]()
        if name in self.loaded.recipe.signals:
            return self._custom(name)
        known = [
            *LOSSES,
            *GRADIENTS,
            *makers,
            *(f"cluster_{c}" for c in self.loaded.recipe.clusters),
            *self.loaded.recipe.signals,
        ]
        raise RecipeError(
            f"{self.loaded.locate('signals')}: no producer makes the signal `{name}`; {nearest(name, known)}"
        )

    def losses(self, model: Node | External, terms: list[str], prefix: str, *parts: Any) -> Node:
        """Answer losses of the pool under a model."""
        config = {"terms": terms, "prefix": prefix, "max_tokens": self.loaded.recipe.scoring.max_tokens}
        return self.add(
            "signal_losses", config, {"pool": self.pool, "model": model}, self.size * len(terms), *parts
        )

    def _capability(self) -> Node:
        if self.loaded.recipe.scoring.engine != "hf":
            return self._by_engine("scorer", "trie", "capability")
        config = {
            "batch_size": self.loaded.recipe.scoring.batch_size,
            **dump(self.section("scorer"), "prompts", "mode"),
        }
        return self.add(
            "signal_capability", config, {"pool": self.pool, "model": self.fit("scorer")}, self.size
        )

    def _style(self) -> Node:
        if self.loaded.recipe.scoring.engine != "hf":
            return self._by_engine("styler", "greedy", "style")
        config = {
            "batch_size": self.loaded.recipe.scoring.batch_size,
            **dump(self.section("styler"), "prompts", "mode", "threshold"),
        }
        return self.add("signal_style", config, {"pool": self.pool, "model": self.fit("styler")}, self.size)

    def _by_engine(self, rater: str, mode: str, signal: str) -> Node:
        """A rater's answers by vLLM or a server. One that is only served has no fit; else what is served is taken to be the fit."""
        section, scoring = self.section(rater), self.loaded.recipe.scoring
        if section.mode != mode:
            raise RecipeError(
                f"{self.loaded.locate(rater, 'mode')}: {rater}.mode: `{section.mode}` is not what scoring.engine: {scoring.engine} can "
                f"do; it does `{mode}`"
            )
        if scoring.engine == "server" and section.served is None:
            raise RecipeError(
                f"{self.loaded.locate(rater)}: {rater}.served: missing; scoring.engine: server asks a model by the name that it is "
                "served under"
            )
        own = (
            {"model": section.served, **dump(scoring, "server")}
            if scoring.engine == "server"
            else dump(scoring, "vllm")
        )
        fitted = scoring.engine == "vllm" or section.train is not None or section.path is not None
        inputs = {"pool": self.pool, "model": self.fit(rater) if fitted else None}
        config = {"rater": rater, "engine": scoring.engine, **dump(section, "prompts"), **own}
        return self.add("signal_by_engine", config, inputs, self.size, signal)

    def _embedding(self) -> Node:
        section = self.section("embedding")
        model = self.model(section.path, section.revision, "embedding", "path") if section.path else self.base
        return self.add(
            "signal_embedding",
            _without(dump(section), "path", "revision"),
            {"pool": self.pool, "model": model},
            self.size,
        )

    def _clip(self) -> Node:
        section = self.section("clip")
        model = self.model(section.path, section.revision, "clip", "path")
        return self.add(
            "signal_clip",
            _without(dump(section), "path", "revision"),
            {"pool": self.pool, "model": model},
            self.size,
        )

    def _clusters(self, name: str) -> Node:
        clusterings = self.loaded.recipe.clusters
        if name not in clusterings:
            raise RecipeError(
                f"{self.loaded.locate('clusters')}: clusters.{name}: missing; a selector reads the column cluster_{name}; "
                f"{nearest(name, clusterings)}"
            )
        section = clusterings[name]
        columns = [section.column] if isinstance(section.column, str) else section.column
        for column in columns:
            if column not in VECTORS_OF:
                raise RecipeError(
                    f"{self.loaded.locate('clusters', name, 'column')}: clusters.{name}.column: `{column}` holds no vectors; "
                    f"{nearest(column, VECTORS_OF)}"
                )
        vectors = [self.signal(signal) for signal in dict.fromkeys(VECTORS_OF[column] for column in columns)]
        inputs = {"pool": self.pool, "vectors": vectors}
        return self.add("signal_cluster", {"name": name, **dump(section)}, inputs, self.size / 10, name)

    def _quality(self) -> Node:
        section = self.section("quality")
        if section.kind == "models":
            return self._graded(section)
        if self.seed is None:
            raise RecipeError(
                f"{self.loaded.locate('quality', 'kind')}: quality.kind: `metadata` reads the mini world's own record, which no "
                "other pool has; give `models`"
            )
        return self.add(
            "signal_quality", dump(section), {"pool": self.pool, "source": self.source}, self.size / 10
        )

    def _graded(self, section: Any) -> Node:
        """Quality by models; refused where an arm reads a column whose model is not given."""
        for user, column in self._quality_columns():
            if getattr(section, column) is None:
                raise RecipeError(
                    f"{self.loaded.locate('quality')}: quality.{column}: missing; {user} reads the column {column}, so a model has to be "
                    "given for it"
                )
        given = {name: found for name in QUALITY_MODELS if (found := getattr(section, name))}
        models = {
            f"{name}_model": self.model(found.path, found.revision, "quality", name, "path")
            for name, found in given.items()
        }
        config = dump(section, "judge", "max_tokens", "dtype")
        return self.add(
            "signal_quality_models", config, {"pool": self.pool, **models}, self.size * len(section.columns())
        )

    def _quality_columns(self) -> Iterator[tuple[str, str]]:
        """(who reads it, column of the quality signal), as far as names tell before anything is run."""
        recipe = self.loaded.recipe
        for name, arm in recipe.arms.items():
            named = (
                value
                for param in arm.params.values()
                for value in (param if isinstance(param, list) else [param])
            )
            for column in [*DEITA.get(arm.selector, ()), *named]:
                if column in (*QUALITY_MODELS, "judge"):
                    yield f"arm `{name}` ({arm.selector})", column
        if recipe.probe and any("value" in arm.learned() for arm in recipe.arms.values()):
            yield from (
                ("probe.indicators", column)
                for column in recipe.probe.indicators
                if column in (*QUALITY_MODELS, "judge")
            )

    def _gradients(self, name: str) -> Node:
        section, warmup, way = self.section("gradient"), self.fit("warmup"), GRADIENTS[name]
        inputs = {
            "pool": self.pool,
            "model": self.base,
            "warmup": warmup,
            "validation": self._bench(section.validation),
        }
        adapters = warmup.config["train"]["epochs"] if way["checkpoints"] == "all" else 1
        return self.add(
            "signal_gradient", {**dump(section, "dim", "seed"), **way}, inputs, self.size * 3 * adapters, name
        )

    def _custom(self, name: str) -> Node:
        section = self.loaded.recipe.signals[name]
        model = self.model(section.path, section.revision, "signals", name, "path") if section.path else None
        return self.add(
            "signal_custom",
            {"producer": section.producer, "params": section.params},
            {"pool": self.pool, "model": model},
            self.size,
            name,
            modules=[section.producer.partition(":")[0]],
        )

    def _bench(self, section: Any) -> Node:
        """Items to learn from: drawn with another seed than those that the arms are compared on."""
        return self.plan.add(
            "bench", dump(section), {}, name=f"bench[{section.seed}]", work=section.items * 14
        )

    def _value(self) -> Node:
        """InstructionGPT-4: train on subsets of known content, evaluate each, regress the score on what the subset is like."""
        from curation.selectors import needs

        probe, recipe = self.section("probe"), self.loaded.recipe
        clip, bench = self.signal("clip"), self._bench(probe.bench)
        features = dict.fromkeys(
            name for indicator in probe.indicators for name in needs("top_k", {"column": indicator})
        )
        train = dump(probe.train or self.section("train"))
        subsets = self.add(
            "probe_subsets",
            dump(probe, "subsets", "size", "seed"),
            {"pool": self.pool, "vectors": clip},
            self.size / 10,
        )
        evaluates = []
        for k in range(probe.subsets):
            fit = self.add(
                "probe_train",
                {**train, "seed": probe.seed, "subset": k},
                {"pool": self.pool, "subsets": subsets, "base": self.base},
                samples_seen(probe.train or recipe.train, probe.size),
                k,
            )
            asked = {**dump(recipe.evaluation), "shuffled": False, "limit": None}
            evaluates.append(
                self.add(
                    "evaluate", asked, {"model": fit, "bench": bench}, probe.bench.items * 14, "probe", k
                )
            )
            self.probes += [fit, evaluates[-1]]
        config = dump(probe, "regressor", "indicators", "components", "seed")
        signals = {f"signal_{name}": self.signal(name) for name in {"clip": None, **features}}
        inputs = {"pool": self.pool, **signals, "subsets": subsets, "evaluates": evaluates}
        return self.add("signal_value", config, inputs, self.size / 10)


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}
