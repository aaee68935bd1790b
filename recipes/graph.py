"""The graph of stages: nodes with hashes, and their JSON form.

A node's hash covers its kind, config, inputs and code, so equal stages of two recipes are the same node.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipes.code import Stages
from recipes.errors import RecipeError, nearest
from recipes.external import External
from training.spec import FitSpec

SETTINGS = {"save_steps", "cache_mb", "loaders", "workers", "suite", "prompts", "model_paths"}
"""Config keys that are not hashed because they cannot change a result; keys in `params` always are.

The content of what `suite`, `prompts` and `model_paths` name is an input; where it lies changes nothing. Of a
training's settings, `FitSpec.deciding` says which decide its outcome.
"""
TRAINING = set(FitSpec.model_fields) - {"seed"}
"""The keys by which a training's settings are recognised; its seed is given apart."""
COUNTED_OF_SERVER = {"max_failed"}
"""Keys of a `server` section that decide the result (how many samples may fail) and are hashed."""


FAMILIES = {"signal", "fit_rater"}
"""Kinds with several sorts of stage, which the first part of the name distinguishes."""


@dataclass(frozen=True, eq=False)
class Node:
    """One stage to run.

    `work` is its expected work in samples and `repetition` the first repetition of the arms that needs it.
    Both serve scheduling and estimates only and are not hashed.
    """

    kind: str
    name: str
    config: dict[str, Any]
    inputs: dict[str, "Node | External | list[Node] | list[External]"]
    hash: str
    work: float = 1.0
    repetition: int = 0

    @property
    def family(self) -> str:
        """Kind of the stage; for signals and raters with their name, as in `signal[capability]`."""
        return f"{self.name.rstrip(']').partition(',')[0]}]" if self.kind in FAMILIES else self.kind

    @property
    def rate_key(self) -> str:
        """Key of stages with similar seconds per unit of work: the kind, for a signal with its producer."""
        return rate_key(self.kind, self.config)

    def parents(self) -> Iterator["Node"]:
        """The stages that must be finished before this one, each once."""
        inputs = [
            n for value in self.inputs.values() for n in (value if isinstance(value, list) else [value])
        ]
        yield from dict.fromkeys(n for n in inputs if isinstance(n, Node))

    def input_hashes(self) -> dict[str, Any]:
        """Hash, or list of hashes, of every input."""
        return {k: [n.hash for n in v] if isinstance(v, list) else v.hash for k, v in self.inputs.items()}


def rate_key(kind: str, config: dict[str, Any]) -> str:
    """See `Node.rate_key`."""
    return f"{kind} {config['producer']}" if "producer" in config else kind


@dataclass
class Plan:
    """Nodes in an order in which they can run; each name and each hash occurs once.

    `refusals`: why stages of a kind cannot run as planned, which matters only if one of them is needed.
    `notes`: what a dry run says besides the stages. `settled`: which controls their selections have shown to
    be needed (recipes/controls.py). While those selections are missing, they are `deciding`, and `again`
    makes the plan that follows from them.
    """

    stages: Stages
    nodes: list[Node] = field(default_factory=list)
    by_hash: dict[str, Node] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)
    deciding: list[Node] = field(default_factory=list)
    again: "Callable[[], Plan] | None" = None

    def settle(self) -> None:
        """Become the plan that follows from the selections `deciding`, which are finished now."""
        if self.again is not None:
            self.__dict__.update(self.again().__dict__)

    def add(
        self,
        kind: str,
        config: dict[str, Any],
        inputs: dict[str, Any],
        *,
        name: str = "",
        work: float = 1.0,
        modules: Sequence[str] = (),
        repetition: int = 0,
    ) -> Node:
        """A new node, or the existing one if kind, config, inputs and code are equal.

        `modules` names further modules whose code decides the result, such as that of a selector.
        """
        inputs = {k: v for k, v in inputs.items() if v is not None}
        node = Node(kind, name or kind, config, inputs, "", work, repetition)
        identity = {
            "kind": kind,
            "config": _without_settings(config),
            "inputs": node.input_hashes(),
            "code": self.stages.code_hash(kind, *modules),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        if digest not in self.by_hash:
            self.by_hash[digest] = replace(node, hash=digest)
            self.nodes.append(self.by_hash[digest])
        return self.by_hash[digest]

    def matching(self, stage: str) -> list[Node]:
        """Nodes of that kind or name; `signal[style]` stands for those of all pools.

        Raises RecipeError with the nearest name if there are none.
        """
        prefix = f"{stage.rstrip(']')},"
        matches = [n for n in self.nodes if stage in (n.kind, n.name) or n.name.startswith(prefix)]
        if not matches:
            known = {n.kind for n in self.nodes} | {n.name for n in self.nodes}
            raise RecipeError(f"there is no stage `{stage}` in this plan; {nearest(stage, known)}")
        return matches


def stage_name(kind: str, *parts: str | int) -> str:
    """`kind` or `kind[part,part]`."""
    return f"{kind}[{','.join(map(str, parts))}]" if parts else kind


def dump(section: BaseModel, *keys: str) -> dict[str, Any]:
    """A section, or only the given keys of it, as a stage's config; a training's own seed is left out."""
    config = section.model_dump(mode="json", include=set(keys) or None)
    if isinstance(section, FitSpec):
        del config["seed"]
    elif config.get("train"):
        del config["train"]["seed"]
    return config


def samples_seen(train: FitSpec, rows: float) -> float:
    """Number of samples that a training on `rows` samples sees, counting every epoch."""
    return train.max_steps * train.batch_size if train.max_steps else rows * train.epochs


def _without_settings(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    if "loss_norm" in config and config.keys() >= TRAINING:
        deciding = FitSpec.deciding(config["loss_norm"], limits=True)
        config = {key: value for key, value in config.items() if key not in TRAINING or key in deciding}
    counted = {key: value for key, value in config.items() if key not in SETTINGS}
    if isinstance(server := counted.get("server"), dict):
        counted["server"] = {key: value for key, value in server.items() if key in COUNTED_OF_SERVER}
    return {key: value if key == "params" else _without_settings(value) for key, value in counted.items()}


def as_json(plan: Plan) -> list[dict[str, Any]]:
    """The content of plan.json."""
    return [
        {"name": n.name, "kind": n.kind, "hash": n.hash, "config": n.config, "inputs": _input_names(n)}
        for n in plan.nodes
    ]


def _input_names(node: Node) -> dict[str, Any]:
    def name(value: Node | External) -> str:
        return value.name if isinstance(value, Node) else str(value.path)

    return {k: [name(n) for n in v] if isinstance(v, list) else name(v) for k, v in node.inputs.items()}


def store_path(root: Path, kind: str, digest: str) -> Path:
    """The directory of an artefact: store/<kind>/<first 12 digits of the hash>."""
    return root / "store" / kind / digest[:12]
