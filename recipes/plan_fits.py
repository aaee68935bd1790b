"""The token stores and fits of one pool: teacher labels, seed model, gradient warm-up, scorer and styler."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes import external, label_costs
from recipes.errors import RecipeError
from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, samples_seen, stage_name, store_path
from recipes.load import Loaded
from recipes.named_files import deepspeed_input, prompts_input
from recipes.schema import ApiTeacher, Rater
from training.spec import FitSpec

RENDERED = {"system", "image_first", "loss_tokens", "loss_turns", "image_aspect", "image_grids"}
"""Settings of a training that its tokens depend on."""


@dataclass
class PoolFits:
    """One pool and the models that are trained on it or given for it; a stage is added when first needed.

    `seed` is None for a pool that is not drawn; `tag` is the pool's part in the names of stages, empty for a
    single pool. `processor` is the base without its weights. `fits` are the stages by the name under which
    `compare` reads them.
    """

    plan: Plan
    loaded: Loaded
    prints: Fingerprints
    seed: int | None
    tag: tuple[str, ...]
    pool: Node
    source: Node | External
    base: External
    processor: External
    size: int
    fits: dict[str, Node] = field(default_factory=dict)

    def fit(self, name: str) -> Node:
        """The stage that produces labels, seed_model, warmup, scorer or styler."""
        if name not in self.fits:
            makers = {"labels": self._labels, "seed_model": self.seed_model, "warmup": self._warmup}
            self.fits[name] = makers[name]() if name in makers else self._rater(name)
        return self.fits[name]

    def add(
        self,
        kind: str,
        config: dict[str, Any],
        inputs: dict[str, Any],
        work: float,
        *parts: str | int,
        **options: Any,
    ) -> Node:
        """Add a stage of this pool; `parts` and the pool's tag distinguish its name."""
        name = stage_name(kind, *parts, *self.tag)
        return self.plan.add(kind, config, inputs, name=name, work=work, **options)

    @cached_property
    def own_tokens(self) -> Node:
        """The token store that the trainings of the arms read."""
        return self.tokens(self.section("train"))

    def tokens(self, train: FitSpec, *parts: str) -> Node:
        """The pool's samples as tokens, by the rules of a training of the base.

        `parts` are in the name of the stage unless the rules are those of the arms' training.
        """
        specs = train, self.section("train")
        rules, own = (spec.model_dump(mode="json", include=RENDERED) for spec in specs)
        config = {**rules, "workers": self.loaded.recipe.resources.token_workers}
        inputs = {"pool": self.pool, "processor": self.processor}
        return self.add("tokens", config, inputs, self.size, *(() if rules == own else parts))

    def section(self, name: str) -> Any:
        """A section of the recipe by its dotted name.

        If it is missing, raises RecipeError with the arms that need it.
        """
        value: Any = self.loaded.recipe
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part)
        if value is None:
            arms = self.loaded.recipe.arms.items()
            users = ", ".join(f"{a} ({arm.selector})" for a, arm in arms if arm.learned())
            where = self.loaded.locate(*name.split("."))
            raise RecipeError(f"{where}: {name}: missing; the signals of these arms need it: {users}")
        return value

    def model(
        self, path: str, revision: str | None, *where: str, files: tuple[str, ...] = external.MODEL_FILES
    ) -> External:
        """A checkpoint that the recipe names at the key `where`, identified by those `files`."""
        place, key = self.loaded.locate(*where), ".".join(where)
        return external.model(path, revision, place, self.prints, files, key, "a signal needs")

    def _labels(self) -> Node:
        teacher = self.section("teacher")
        work = self.size * teacher.share
        if isinstance(teacher, ApiTeacher):
            where = self.loaded.locate("teacher", "prompt")
            prompt = teacher.prompt and external.data_file(teacher.prompt, where, "labels_api", self.prints)
            config = without(dump(teacher), "kind", "prompt", "mode", "batch")
            # How the labels are asked for does not identify them.
            config["server"] |= {"mode": teacher.mode, "batch": dump(teacher.batch)}
            node = self.add("labels_api", config, {"pool": self.pool, "prompt": prompt}, work)
            self._say_what_labels_cost(teacher, node)
            return node
        truth = self.truth("teacher", "kind", "give `api`, or trained raters (scorer.path, styler.path)")
        return self.add("labels", dump(teacher), {"pool": self.pool, "source": truth}, work)

    def _say_what_labels_cost(self, teacher: ApiTeacher, node: Node) -> None:
        root = Path(self.loaded.recipe.root).expanduser().resolve()
        pool, labels = (store_path(root, n.kind, n.hash) for n in (self.pool, node))
        if (note := label_costs.note(teacher, pool, labels)) and note not in self.plan.notes:
            self.plan.notes.append(note)

    def truth(self, section: str, key: str, instead: str) -> Node:
        """The stage that holds the mini world's ground truth. Raises RecipeError for any other pool."""
        if isinstance(self.source, Node):
            return self.source
        where, name = self.loaded.locate(section, key), f"{section}.{key}"
        raise RecipeError(
            f"{where}: {name}: `metadata` reads the mini world's ground truth, which no other pool has; "
            f"{instead}"
        )

    def seed_model(self, subset: Node | None = None, *parts: str | int) -> Node:
        """The base, trained on a random share of the pool, or on a subset that an earlier round chose."""
        section = self.section("seed_model")
        config = dump(section) if subset is None else {"seed": section.seed, "train": dump(section)["train"]}
        inputs = {**self.trained(section.train, "seed_model"), "subset": subset}
        work = samples_seen(section.train, self.size * section.share)
        return self.add("fit_seed", config, inputs, work, *parts)

    def _warmup(self) -> Node:
        """The LoRA training whose adapters the gradients are computed at."""
        own = self.section("gradient").warmup
        where, section = ("gradient", "warmup") if own else ("seed_model",), own or self.section("seed_model")
        if section.train.lora is None:
            raise RecipeError(
                f"{self.loaded.locate(*where)}: {'.'.join(where)}.train: gradients are computed at the "
                "adapters of a LoRA training; give `lora`"
            )
        work = samples_seen(section.train, self.size * section.share)
        inputs = self.trained(section.train, "warmup")
        return self.add("fit_warmup", dump(section), inputs, work)

    def _rater(self, name: str) -> Node:
        """Scorer or styler; a model that is given by path is converted if necessary, not trained."""
        section: Rater = self.section(name)
        if section.path is not None:
            released = self.model(section.path, section.revision, name, "path")
            return self.add("fit_released", {}, {"model": released}, 1, name)
        if section.train is None:
            raise RecipeError(
                f"{self.loaded.locate(name)}: {name}.train: missing; a model that is only `served` needs "
                "`scoring.engine: server`"
            )
        start = self.fit("seed_model") if section.start == "seed_model" else self.base
        examples = self.size * self.section("teacher").share * (1 - section.holdout)
        config = without(dump(section), "path", "revision", "served", "mode", "threshold", "image")
        inputs = {
            "pool": self.pool,
            "labels": self.fit("labels"),
            "base": start,
            **self.deepspeed(section.train),
        }
        work = samples_seen(section.train, examples)
        return self.add("fit_rater", {"rater": name, **config}, inputs | self.prompts(name), work, name)

    def trained(self, train: FitSpec, *parts: str) -> dict[str, Any]:
        """What a training of the base on samples of the pool reads; `parts` as in `tokens`."""
        tokens = self.tokens(train, *parts)
        return {"pool": self.pool, "base": self.base, "tokens": tokens, **self.deepspeed(train)}

    def deepspeed(self, train: FitSpec) -> dict[str, External]:
        return deepspeed_input(train, self.loaded, self.prints)

    def prompts(self, rater: str) -> dict[str, External]:
        return prompts_input(rater, self.section(rater).prompts, self.loaded, self.prints)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The config without these keys."""
    return {key: value for key, value in config.items() if key not in keys}
