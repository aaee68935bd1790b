"""The stages that compute a signal on one pool, and the clusterings and probes that it needs.

The record of a signal (curation/catalogue.py) lists its inputs. This module plans each kind of input, and the
signals that a recipe can compute in another way: ratings by an inference engine, quality by models,
user-defined signals.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from curation import catalogue
from curation.catalogue import Signal
from curation.selectors.signal_columns import names_of
from curation.signals.vectors.presets import columns_of
from recipes.errors import RecipeError, nearest
from recipes.external import MODEL_FILES, SENTENCE_FILES
from recipes.graph import Node, dump, samples_seen
from recipes.named_files import NamedSuite, work_of_bench
from recipes.plan_evaluation import EvaluationPlan
from recipes.plan_fits import PoolFits, without
from recipes.plan_validation import ValidationPlan
from recipes.schema import (
    QUALITY_COLUMNS,
    QUALITY_MODELS,
    QUALITY_PARTS,
    Answered,
    Bench,
    Clustering,
    DrawnSuiteItems,
    Embedding,
    LlavaItems,
    ModelsQuality,
    Probe,
    SuiteItems,
    published_entries,
)

CUSTOM = "curation.signals.custom:produce_custom"
RATERS = ("scorer", "styler")
"""Sections of the models that rate samples; by an engine, they need the mode and the producer below."""
ENGINE_MODES = {"scorer": "trie", "styler": "greedy"}
ENGINE_PRODUCERS = {
    "scorer": "curation.signals.raters.by_engine:score_capabilities_by_engine",
    "styler": "curation.signals.raters.by_engine:score_styles_by_engine",
}


@dataclass
class PoolPlan(PoolFits):
    """One pool and all stages that are computed from it before an arm selects.

    `signals` are the stages by the name of the signal; `probes` are the trainings and evaluations that a
    subset-value regressor learns from. `decontaminate` is what the recipe says, `leaks` the stage that looks
    for samples which repeat questions.
    """

    validation: ValidationPlan = field(kw_only=True)
    decontaminate: str = field(kw_only=True, default="off")
    leaks: Node | None = field(kw_only=True, default=None)
    signals: dict[str, Node] = field(default_factory=dict)
    probes: list[Node] = field(default_factory=list)

    def inputs(self) -> dict[str, Node]:
        """The stages that the report on this pool reads, besides the runs."""
        truth = {"truth": self.source} if isinstance(self.source, Node) else {}
        signals = {f"signal_{name}": node for name, node in self.signals.items()}
        leaks = {"leaks": self.leaks} if self.leaks else {}
        return {"pool": self.pool, **leaks, **truth, **self.fits, **signals}

    def signal(self, name: str) -> Node:
        """The stage that computes a signal.

        Raises RecipeError for an unknown signal and for a missing section.
        """
        if name not in self.signals:
            self.signals[name] = self._plan_signal(name)
        return self.signals[name]

    def _plan_signal(self, name: str) -> Node:
        if name in self.loaded.recipe.signals:
            return self._custom(name)
        signal, star = self._record(name)
        if signal.section in RATERS and self.loaded.recipe.scoring.engine != "hf":
            return self._by_engine(signal)
        if signal.section == "quality" and isinstance(self.section("quality"), ModelsQuality):
            return self._quality_by_models(signal)
        if signal.section == "answered":
            return self._answered(signal, self.fit("seed_model"), name)
        return self._from_record(signal, name, star)

    def _record(self, name: str) -> tuple[Signal, str]:
        """(record of a signal, what its star stands for). Raises RecipeError for an unknown signal."""
        if (record := catalogue.find(name)) is not None:
            return record
        known = [signal.name for signal in catalogue.SIGNALS if "*" not in signal.name]
        known += [f"cluster_{c}" for c in self.loaded.recipe.clusters]
        known += [f"embedding_{e}" for e in self.loaded.recipe.embeddings] + list(self.loaded.recipe.signals)
        where = self.loaded.locate("signals")
        raise RecipeError(f"{where}: the signal `{name}` has no producer; {nearest(name, known)}")

    def _from_record(self, signal: Signal, name: str, star: str) -> Node:
        """A stage as the record describes it."""
        section, arguments = self._settings(signal, name, star)
        inputs = {key: self._input(need, section, signal, star) for key, need in signal.inputs.items()}
        prompts = self.prompts(signal.section) if signal.section in RATERS else {}
        work = self.size * signal.passes
        return self._call(signal.producer, arguments, inputs | prompts, work, name)

    def _call(
        self,
        producer: str,
        arguments: dict[str, Any],
        inputs: dict[str, Any],
        work: float,
        *parts: str | int,
        modules: tuple[str, ...] = (),
        **config: Any,
    ) -> Node:
        """The stage that calls `producer`, a `module:function`; the code of `modules` is hashed too."""
        return self.add(
            "signal",
            {"producer": producer, "arguments": arguments, **config},
            {"pool": self.pool, **inputs},
            work,
            *parts,
            modules=(producer.partition(":")[0], *modules),
        )

    def _settings(self, signal: Signal, name: str, star: str) -> tuple[Any, dict[str, Any]]:
        """(the signal's section of the recipe, the arguments of its producer)."""
        scoring = {key: getattr(self.loaded.recipe.scoring, key) for key in signal.scoring}
        if not signal.section:
            return None, {**scoring, **signal.arguments}
        section = self._named(signal, name, star) if star else self.section(signal.section)
        settings = dump(section, *signal.settings)
        if not signal.settings:  # then all but the model, which is an input
            settings = without(settings, "path", "revision", "model")
        named = {"name": star} if star else {}
        return section, {**named, **settings, **scoring, **signal.arguments}

    def _named(self, signal: Signal, name: str, star: str) -> Embedding | Clustering:
        """An entry of `embeddings` or `clusters`: the recipe's, else the published one of that name."""
        kind = signal.section.partition(".")[0]
        entries = getattr(self.loaded.recipe, kind) | {
            preset: entry
            for preset, entry in published_entries(kind).items()
            if preset not in getattr(self.loaded.recipe, kind)
        }
        if star not in entries:
            raise RecipeError(
                f"{self.loaded.locate(kind)}: {kind}.{star}: missing; a selector reads the "
                f"column {name}; {nearest(star, entries)}"
            )
        if kind == "embeddings":
            self._check_columns(star, entries[star])
        return entries[star]

    def _check_columns(self, name: str, embedding: Embedding) -> None:
        """Raises RecipeError if an arm, a clustering or a score net reads a column that it does not have."""
        columns = columns_of(name, dump(embedding))
        for where, column in self._vector_columns():
            if catalogue.signal_of(column) == f"embedding_{name}" and column not in columns:
                raise RecipeError(
                    f"{self.loaded.locate(*where)}: {'.'.join(where)}: `{column}` is not a column of "
                    f"embeddings.{name}, whose `tokens` or kind makes {', '.join(columns)}"
                )

    def _vector_columns(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(key, column) for each column that a selector, a clustering or a score net of the recipe reads."""
        from curation.selectors.registry import columns_of as columns_read

        recipe = self.loaded.recipe
        for name, arm in recipe.arms.items():
            yield from ((("arms", name), column) for column in columns_read(arm.selector, arm.params))
        for name, section in recipe.clusters.items():
            yield from ((("clusters", name, "column"), column) for column in names_of(section.column))
        for name in ("self_filter", "coido", "once_select"):
            columns = names_of(getattr(recipe, name).features)
            yield from (((name, "features"), column) for column in columns)

    def _input(self, need: str, section: Any, signal: Signal, star: str) -> Any:
        """The stage, stages or checkpoint on this pool for an input that a record names."""
        if need in (*RATERS, "seed_model", "warmup"):
            return self.fit(need)
        if need == "base":
            return self.base
        if need == "truth":
            return self.truth(signal.section, "kind", "give `models`")
        if need == "vectors":
            return self._vectors(section, star)
        if need == "features":
            return self._features(section, signal)
        if need == "clusters":
            return self.signal(f"cluster_{section.cluster}")
        if need == "validation":
            return self._validation(self.section("gradient").validation, "gradient", "validation")
        if need == "indicators":
            return [self.signal(name) for name in self._indicators(section)]
        if need == "subsets":
            return self._probe_subsets(section)
        if need == "probes":
            return self._probe_evaluations(section)
        name, _, of_it = need.partition(".")
        if catalogue.find(name) is not None:
            return self._model_of(name) if of_it == "model" else self.signal(name)
        if need != "model":
            raise ValueError(f"signal {signal.name}: the planner does not know the input `{need}`")
        path = getattr(section, "path", None)
        if path is None and getattr(section, "model", "base") == "seed_model":
            return self.fit("seed_model")
        where = (*signal.section.format(star).split("."), "path")
        files = SENTENCE_FILES if getattr(section, "kind", None) == "sentence" else MODEL_FILES
        return self.model(path, section.revision, *where, files=files) if path else self.base

    def _model_of(self, name: str) -> Any:
        """The model that makes the embedding signal `name`."""
        signal, star = self._record(name)
        return self._input("model", self._settings(signal, name, star)[0], signal, star)

    def _vectors(self, section: Clustering, star: str) -> list[Node]:
        """The signals that hold the columns of a clustering."""
        columns = names_of(section.column)
        where = self.loaded.locate("clusters", star, "column")
        for column in columns:
            if not catalogue.holds_vectors(column):
                raise RecipeError(
                    f"{where}: clusters.{star}.column: `{column}` is not a column of vectors; "
                    f"{nearest(column, self._known_vectors())}"
                )
        return [self.signal(name) for name in catalogue.signals_of(tuple(columns))]

    def _features(self, section: Any, signal: Signal) -> list[Node]:
        """The signals that hold the columns which a score net reads."""
        names = names_of(section.features)
        for name in names:
            if catalogue.signal_of(name) in (None, signal.name, *catalogue.MEMBERSHIPS.values()):
                raise RecipeError(
                    f"{self.loaded.locate(signal.section, 'features')}: {signal.section}.features: `{name}` "
                    f"is not a column of another signal; {nearest(name, self._known_vectors())}"
                )
        return [self.signal(name) for name in catalogue.signals_of(tuple(names))]

    def _known_vectors(self) -> list[str]:
        """Columns that can be clustered: of all embeddings, the recipe's and the published, and of others."""
        entries = {**published_entries("embeddings"), **self.loaded.recipe.embeddings}
        of_embeddings = [
            column for name, entry in entries.items() for column in columns_of(name, dump(entry))
        ]
        return [*of_embeddings, "clip_image", "clip_text", "grad", "adam_grad"]

    def losses(self, name: str, model: Node, *parts: str | int) -> Node:
        """The loss signal `name` of a further round's seed model, which belongs to one arm and seed."""
        signal, star = self._record(name)
        if signal.section == "answered":
            return self._answered(signal, model, name, *parts)
        _, arguments = self._settings(signal, name, star)
        work = self.size * signal.passes
        return self._call(signal.producer, arguments, {"model_dir": model}, work, name, *parts)

    def oracle(self, knows_wrong: bool) -> Node:
        """Capability scores and styles from the mini world's ground truth, in place of scorer and styler."""
        signal, _ = self._record("oracle")
        parts = ("oracle", "knows_wrong") if knows_wrong else ("oracle",)
        return self._call(signal.producer, {"knows_wrong": knows_wrong}, {"truth": self.source}, 1, *parts)

    def _custom(self, name: str) -> Node:
        """A signal by a user's function."""
        section = self.loaded.recipe.signals[name]
        model = self.model(section.path, section.revision, "signals", name, "path") if section.path else None
        arguments = {"target": section.producer, "params": section.params}
        modules = (section.producer.partition(":")[0],)
        return self._call(CUSTOM, arguments, {"model": model}, self.size, name, modules=modules)

    # ------------------------------------------------------------------- other ways to compute a signal

    def _by_engine(self, signal: Signal) -> Node:
        """A rater's answers from vLLM or a server.

        A model that is only `served` has no fit; where there is one, it is taken to be the served model.
        """
        rater, scoring = signal.section, self.loaded.recipe.scoring
        section, mode = self.section(rater), ENGINE_MODES[rater]
        if section.mode != mode:
            raise RecipeError(
                f"{self.loaded.locate(rater, 'mode')}: {rater}.mode: must be `{mode}` with `scoring.engine: "
                f"{scoring.engine}`, got `{section.mode}`"
            )
        if section.image and scoring.engine == "server":
            raise RecipeError(
                f"{self.loaded.locate(rater, 'image')}: {rater}.image: a server prepares images itself; "
                "leave it out with `scoring.engine: server`"
            )
        arguments: dict[str, Any] = {"engine": scoring.engine, "prompts": section.prompts}
        arguments["image"] = section.image
        inputs: dict[str, Any] = self.prompts(rater)
        extra: dict[str, Any] = {}
        if scoring.engine == "server":
            if section.served is None:
                raise RecipeError(
                    f"{self.loaded.locate(rater)}: {rater}.served: missing; `scoring.engine: server` "
                    "needs the model's name on the server"
                )
            arguments["model"] = section.served
            fitted = section.train is not None or section.path is not None
            inputs["served"] = self.fit(rater) if fitted else None
            extra = {**dump(scoring, "server"), "keys": ["scoring.server", f"{rater}.served"]}
        else:
            arguments["options"] = dump(scoring, "vllm")["vllm"]
            inputs["model"] = self.fit(rater)
        return self._call(ENGINE_PRODUCERS[rater], arguments, inputs, self.size, signal.name, **extra)

    def _quality_by_models(self, signal: Signal) -> Node:
        """Quality by models. Raises RecipeError if an arm reads a column whose model is not given."""
        section: ModelsQuality = self.section("quality")
        for user, column in self._quality_columns():
            if getattr(section, column) is None:
                raise RecipeError(
                    f"{self.loaded.locate('quality')}: quality.{column}: missing; {user} reads the "
                    f"column {column}, which needs a model"
                )
        models = {name: model for name in QUALITY_MODELS if (model := getattr(section, name))}
        inputs = {
            f"{name}_model": self.model(model.path, model.revision, "quality", name, "path")
            for name, model in models.items()
        }
        arguments = {"kind": "models", **dump(section, "max_tokens", "dtype")}
        extra: dict[str, Any] = {}
        if section.judge:
            arguments["judge_model"] = section.judge.model
            extra = {**dump(section.judge, "server"), "keys": ["quality.judge.server", "quality.judge.model"]}
        work = self.size * len(section.columns())
        return self._call(signal.producer, arguments, inputs, work, signal.name, **extra)

    def _answered(self, signal: Signal, model: Node, *parts: str | int) -> Node:
        """Answers of a seed model, scored by rule or by a judge."""
        section: Answered = self.loaded.recipe.answered
        _, arguments = self._settings(signal, signal.name, "")
        extra: dict[str, Any] = {}
        if section.judge:
            arguments["judge_model"] = section.judge.model
            keys = ["answered.judge.server", "answered.judge.model"]
            extra = {**dump(section.judge, "server"), "keys": keys}
        work = self.size * signal.passes
        return self._call(signal.producer, arguments, {"model_dir": model}, work, *parts, **extra)

    def _quality_columns(self) -> Iterator[tuple[str, str]]:
        """(reader, column) for each column of the quality signal that an arm or the probe declares."""
        from curation.selectors.registry import columns_of

        recipe = self.loaded.recipe
        for name, arm in recipe.arms.items():
            for column in columns_of(arm.selector, arm.params):
                for part in QUALITY_PARTS.get(column, (column,)):
                    if part in QUALITY_COLUMNS:
                        yield f"arm `{name}` ({arm.selector})", part
        if recipe.probe and any("value" in arm.learned() for arm in recipe.arms.values()):
            for column in recipe.probe.indicators:
                if column in QUALITY_COLUMNS:
                    yield "probe.indicators", column

    # --------------------------------------------------------------------------- the subset probe

    def _indicators(self, probe: Probe) -> list[str]:
        """The signals that a regressor of subset values reads: those of its vectors and indicators."""
        for column in probe.vectors:
            if not catalogue.holds_vectors(column):
                raise RecipeError(
                    f"{self.loaded.locate('probe', 'vectors')}: probe.vectors: `{column}` is not a column of "
                    f"vectors; {nearest(column, self._known_vectors())}"
                )
        columns = (*probe.vectors, *probe.indicators)
        return list(dict.fromkeys(("clip", *catalogue.signals_of(columns))))

    def _probe_subsets(self, probe: Probe) -> Node:
        inputs = {"pool": self.pool, "vectors": self.signal("clip")}
        return self.add("probe_subsets", dump(probe, "subsets", "size", "seed"), inputs, self.size / 10)

    def _probe_evaluations(self, probe: Probe) -> list[Node]:
        """InstructionGPT-4: train on subsets of known content and evaluate each on validation items."""
        evaluation, limit = self._probe_items(probe.bench)
        train = probe.train or self.section("train")
        subsets = self._probe_subsets(probe)
        evaluates = []
        for k in range(probe.subsets):
            inputs = {**self.trained(train, "probe"), "subset": subsets}
            config = {**dump(train), "seed": probe.seed, "subset": k}
            work = samples_seen(train, probe.size)
            fit = self.add("train", config, inputs, work, "probe", k)
            evaluates.append(evaluation.add(fit, "probe", k, *self.tag, shuffled=False, limit=limit))
            self.probes += [fit, evaluates[-1]]
        return evaluates

    def _probe_items(self, section: Bench | SuiteItems) -> tuple[EvaluationPlan, int | None]:
        """(the evaluation of a probe, the number of questions of each task that it asks; None: all)."""
        key = ("probe", "bench")
        if isinstance(section, SuiteItems):
            return self.validation.evaluation(section, *key), section.items
        drawn = self._validation(section, *key)
        named = NamedSuite.of_evaluation(self.loaded)
        return EvaluationPlan(self.plan, self.loaded, self.prints, drawn, section, named), None

    def _validation(self, section: Bench | LlavaItems | DrawnSuiteItems, *key: str) -> Node:
        """Validation items; the mini world's are drawn with another seed than those of the comparison."""
        if not isinstance(section, Bench):
            return self.validation.samples(section, *key)
        name, config = f"bench[{section.seed}]", dump(section)
        # Stages are found by name: the probe's items and the gradients' may differ in number alone.
        if any(node.name == name and node.config != config for node in self.plan.nodes):
            name = f"bench[{section.seed},{section.items}]"
        return self.plan.add("bench", config, {}, name=name, work=work_of_bench(section))
