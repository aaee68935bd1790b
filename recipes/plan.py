"""From a recipe to its graph of stages: which config section and which inputs go into which stage.

`compare_chain` reads top to bottom in the order of the data. A node's hash covers its kind, config, inputs and code,
so nodes of two recipes that say the same are the same node. Nothing that cannot change a result (name of the arm,
resources, tracking, root) is in a config, except in the last stage, which reports names.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipes import external
from recipes.code import Stages
from recipes.errors import RecipeError, nearest
from recipes.external import External, Fingerprints
from recipes.load import Loaded
from recipes.schema import Arm, Recipe
from training.spec import FitSpec

UNHASHED = {"save_steps", "cache_mb"}
"""Config keys that a stage obeys but that cannot change its result."""
ORACLE = {"capability", "style"}
"""Signals that the mini world's generator knows itself."""


@dataclass(frozen=True, eq=False)
class Node:
    """One stage to run. `work` is its expected work in samples, `repetition` the number of the arms' runs that first
    needs it (earlier ones start first): only for schedules and estimates, not hashed."""

    kind: str
    name: str
    config: dict[str, Any]
    inputs: dict[str, "Node | External | list[Node]"]
    hash: str
    work: float = 1.0
    repetition: int = 0

    def parents(self) -> Iterator["Node"]:
        """The stages that must be finished before this one, without repetition."""
        found = [n for value in self.inputs.values() for n in (value if isinstance(value, list) else [value])]
        yield from dict.fromkeys(n for n in found if isinstance(n, Node))

    def input_hashes(self) -> dict[str, Any]:
        """Hash, or list of hashes, of every input."""
        return {k: [n.hash for n in v] if isinstance(v, list) else v.hash for k, v in self.inputs.items()}


@dataclass
class Plan:
    """Nodes in an order in which they can run; each name and each hash occurs once."""

    stages: Stages
    nodes: list[Node] = field(default_factory=list)

    def add(self, kind: str, config: dict[str, Any], inputs: dict[str, Any], *,
            name: str = "", work: float = 1.0, module: str | None = None, repetition: int = 0) -> Node:
        """A new node, or the one that is there already if kind, config, inputs and code are equal.

        `module` names one more module whose source decides the result.
        """
        inputs = {k: v for k, v in inputs.items() if v is not None}
        node = Node(kind, name or kind, config, inputs, "", work, repetition)
        identity = {"kind": kind, "config": _without_settings(config), "inputs": node.input_hashes(),
                    "code": self.stages.code_hash(kind, module)}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        if same := next((n for n in self.nodes if n.hash == digest), None):
            return same
        node = replace(node, hash=digest)
        self.nodes.append(node)
        return node

    def matching(self, stage: str) -> list[Node]:
        """Nodes of that kind or name. Raises RecipeError with the nearest one."""
        found = [n for n in self.nodes if stage in (n.kind, n.name)]
        if not found:
            known = {n.kind for n in self.nodes} | {n.name for n in self.nodes}
            raise RecipeError(f"there is no stage `{stage}` in this plan; {nearest(stage, known)}")
        return found


def make_plan(loaded: Loaded, stages: Stages | None = None, prints: Fingerprints | None = None,
              repetitions: int | None = None) -> Plan:
    """The stages of a recipe, or of its first so many repetitions (see `compare_chain`).

    Pure but for reading the stages' source and the external inputs' content.
    """
    plan, prints = Plan(stages or Stages()), prints or Fingerprints()
    if loaded.recipe.goal == "base":
        plan.add("pretrain", loaded.recipe.pretrain, {})
    else:
        compare_chain(plan, loaded, prints, repetitions)
    return plan


@dataclass
class World:
    """One pool and what is made from it: stages by the name under which `compare` reads them.

    `seed` is None for a pool that is not drawn; `tag` is its part of a stage's name, where there are several pools.
    """

    seed: int | None
    tag: tuple[str, ...]
    pool: Node
    source: Node | External
    fits: dict[str, Node]
    signals: dict[str, Node]

    def inputs(self) -> dict[str, Node]:
        """What the report of this pool rests on, beside the runs."""
        truth = {"truth": self.source} if self.seed is not None else {}
        return {"pool": self.pool, **truth, **self.fits, **{f"signal_{name}": node for name, node in self.signals.items()}}


def compare_chain(plan: Plan, loaded: Loaded, prints: Fingerprints, repetitions: int | None = None) -> None:
    """bench; source, pool, labels, fits and signals of each pool; select, train, evaluate for each arm and seed; compare.

    Breadth first: the first run of every arm on every pool, then the second, and so on, so that a study that is cut
    short has whole repetitions to compare. `repetitions` leaves out what comes after so many of them.
    """
    recipe = loaded.recipe
    base_at = (recipe.base.path, recipe.base.revision, loaded.locate("base", "path"), prints)
    base = external.model(*base_at, external.MODEL_FILES)
    tokenizer = external.model(*base_at, external.PROCESSOR_FILES)
    bench = recipe.bench and plan.add("bench", _dump(recipe.bench), {}, work=recipe.bench.items * 14)
    seeds = recipe.drawn_pools()
    worlds = [_world(plan, loaded, prints, seed, (f"p{seed}",) if len(seeds) > 1 else (), bench, base, tokenizer)
              for seed in seeds]

    runs: list[tuple[dict[str, Any], Node, Node, Node]] = []
    planned = [(number, world, name, *run) for number in range(recipe.repetitions()) for world in worlds
               for name, arm in recipe.arms.items() for run in arm.runs()[number:number + 1]]
    for number, world, arm_name, seed, train_seed in planned:
        if repetitions is not None and number >= repetitions:
            break
        arm = recipe.arms[arm_name]
        config = {"selector": arm.selector, "budget": arm.budget, "seed": seed, "params": arm.params}
        select = plan.add("select", config, {"pool": world.pool, **_columns(plan, world, arm)},
                          name=_name("select", arm_name, *world.tag, seed), module=_selector_module(arm), repetition=number)
        names = (arm_name, *world.tag, *dict.fromkeys((seed, train_seed)))
        train = plan.add("train", {**_dump(recipe.train), "seed": train_seed},
                         {"pool": world.pool, "subset": select, "base": base}, name=_name("train", *names),
                         work=_samples(recipe.train, _expected_rows(arm, _pool_size(recipe))), repetition=number)
        items = min(recipe.bench.items, recipe.limit or recipe.bench.items) if recipe.bench else 1
        shuffled = recipe.evaluation.shuffled == "all" or recipe.evaluation.shuffled == "first" and number == 0
        evaluate = plan.add("evaluate", {**_dump(recipe.evaluation), "shuffled": shuffled, "limit": recipe.limit},
                            {"model": train, "bench": bench}, name=_name("evaluate", *names),
                            work=items * 14 * (1 + shuffled), repetition=number)
        about = {"arm": arm_name, "selector": arm.selector, "budget": arm.budget, "params": arm.params,
                 "signals": arm.signals, "pool_seed": world.seed, "selection_seed": seed, "train_seed": train_seed}
        runs.append((about, select, train, evaluate))

    order = list(recipe.arms)
    runs.sort(key=lambda run: (order.index(run[0]["arm"]), seeds.index(run[0]["pool_seed"])))  # stable: by seed inside
    layout, selects, trains, evaluates = (list(column) for column in zip(*runs, strict=True))
    by_pool = [world.inputs() for world in worlds]
    plan.add("compare",
             {"name": recipe.name, "description": recipe.description, "scale": recipe.scale,
              "protocol": loaded.protocol, "modified": list(loaded.modified),
              "baseline": recipe.baseline, "reference": recipe.reference, "suite": recipe.evaluation.suite,
              "planned_runs": len(planned), "pool_seeds": seeds, "runs": layout},
             {"bench": bench, **{key: [world[key] for world in by_pool] for key in by_pool[0]},
              "selects": selects, "trains": trains, "evaluates": evaluates})


def _world(plan: Plan, loaded: Loaded, prints: Fingerprints, seed: int | None, tag: tuple[str, ...], bench: Node | None,
           base: External, tokenizer: External) -> World:
    """source, pool, labels, fits and learned signals of one pool seed (None: the pool is given, not drawn)."""
    recipe, size = loaded.recipe, _pool_size(loaded.recipe)

    def add(kind: str, config: dict[str, Any], inputs: dict[str, Any], work: float) -> Node:
        return plan.add(kind, config, inputs, name=_name(kind, *tag), work=work)

    pool_config = {"kind": recipe.pool.kind, "max_bad_fraction": recipe.pool.max_bad_fraction, "limit": recipe.limit}
    if recipe.pool.kind == "mini":
        drawn = {**_dump(recipe.pool, "size", "defects"), "seed": seed}
        source = add("source", drawn, {"bench": bench}, recipe.pool.size)
        pool = add("pool", pool_config, {"source": source, "tokenizer": tokenizer}, size)
    else:
        source = external.data_file(recipe.pool.source, loaded.locate("pool", "source"), "pool", prints)
        images = recipe.pool.images and external.folder(recipe.pool.images, loaded.locate("pool", "images"), "pool")
        pool = add("pool", pool_config, {"source": source, "images": images, "tokenizer": tokenizer}, size)

    needs = {signal for arm in recipe.arms.values() for signal in _learned(arm)}
    signals, fits = {}, {}
    if needs & {"capability", "style"}:
        teacher = _section(recipe, "teacher", loaded)
        fits["labels"] = add("labels", _dump(teacher), {"pool": pool, "source": source}, size * teacher.share)
    sections = (("capability", "scorer"), ("style", "styler"))
    raters = [(signal, section, _section(recipe, section, loaded)) for signal, section in sections if signal in needs]
    if "necessity" in needs or any(fit.start == "seed_model" for *_, fit in raters):
        seed_model = _section(recipe, "seed_model", loaded)
        fits["seed_model"] = add("fit_seed", _dump(seed_model), {"pool": pool, "base": base},
                                 _samples(seed_model.train, size * seed_model.share))
    for signal, section, fit in raters:
        start = fits["seed_model"] if fit.start == "seed_model" else base
        fits[section] = add(f"fit_{section}", _dump(fit), {"pool": pool, "labels": fits["labels"], "base": start},
                            _samples(fit.train, size * teacher.share * (1 - fit.holdout)))
        config = {**_dump(recipe.scoring, "batch_size"), "prompts": fit.prompts}
        signals[signal] = add(f"signal_{signal}", config, {"pool": pool, "model": fits[section]}, size)
    if "necessity" in needs:
        signals["necessity"] = add("signal_necessity", _dump(recipe.scoring, "max_tokens"),
                                   {"pool": pool, "model": fits["seed_model"]}, size)
    return World(seed, tag, pool, source, fits, signals)


def _columns(plan: Plan, world: World, arm: Arm) -> dict[str, Node]:
    """The signals that an arm's selector reads on one pool; those of an oracle come from one stage."""
    columns = {f"signal_{signal}": world.signals[signal] for signal in _learned(arm)}
    if arm.signals == "learned":
        return columns
    knows_wrong = arm.signals == "oracle_knows_wrong"
    name = _name("signal_oracle", *(["knows_wrong"] if knows_wrong else []), *world.tag)
    oracle = plan.add("signal_oracle", {"knows_wrong": knows_wrong}, {"pool": world.pool, "source": world.source}, name=name)
    return {**columns, "signal_oracle": oracle}


def _name(kind: str, *parts: str | int) -> str:
    """`kind` or `kind[part,part]`."""
    return f"{kind}[{','.join(map(str, parts))}]" if parts else kind


def _without_settings(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _without_settings(v) for k, v in value.items() if k not in UNHASHED}


def _dump(section: BaseModel, *keys: str) -> dict[str, Any]:
    """A section, or these of its keys, as a stage's config. Training settings come without their seed."""
    config = section.model_dump(mode="json", include=set(keys) or None)
    if isinstance(section, FitSpec):
        del config["seed"]
    elif "train" in config:
        del config["train"]["seed"]
    return config


def _needs(arm: Arm) -> Sequence[str]:
    from curation.selectors import needs

    return needs(arm.selector, arm.params)


def _learned(arm: Arm) -> list[str]:
    """The signals that models have to be fitted for: an oracle stands in for capability and style."""
    return [signal for signal in _needs(arm) if arm.signals == "learned" or signal not in ORACLE]


def _selector_module(arm: Arm) -> str:
    from curation.selectors import SELECTORS

    return SELECTORS.get(arm.selector, arm.selector).partition(":")[0]


def _section(recipe: Recipe, name: str, loaded: Loaded) -> Any:
    if (section := getattr(recipe, name)) is None:
        users = ", ".join(f"{a} ({arm.selector})" for a, arm in recipe.arms.items() if _learned(arm))
        raise RecipeError(f"{loaded.locate(name)}: {name}: missing; the signals of these arms want it: {users}")
    return section


def _pool_size(recipe: Recipe) -> int:
    """Samples in the pool as far as they are known before it is read; a LLaVA file is taken for 1,000 or the limit."""
    size = recipe.pool.size if recipe.pool.kind == "mini" else 1_000
    return min(size, recipe.limit or size)


def _expected_rows(arm: Arm, size: int) -> float:
    return arm.budget if isinstance(arm.budget, int) else float(arm.budget[:-1]) / 100 * size


def _samples(train: Any, rows: float) -> float:
    return train.max_steps * train.batch_size if train.max_steps else rows * train.epochs


def as_json(plan: Plan) -> list[dict[str, Any]]:
    """The plan as it is written to plan.json."""
    return [{"name": n.name, "kind": n.kind, "hash": n.hash, "config": n.config, "inputs": _input_names(n)}
            for n in plan.nodes]


def _input_names(node: Node) -> dict[str, Any]:
    def name(value: Node | External) -> str:
        return value.name if isinstance(value, Node) else str(value.path)

    return {k: [name(n) for n in v] if isinstance(v, list) else name(v) for k, v in node.inputs.items()}


def store_path(root: Path, kind: str, digest: str) -> Path:
    """Where an artefact lives: store/<kind>/<first 12 digits of the hash>."""
    return root / "store" / kind / digest[:12]
