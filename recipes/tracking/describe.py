"""The tracked runs of a recipe: one for the experiment, one for each stage that trains.

A run that is stopped and started again keeps its ids. That of a training follows from its stage's hash: it is
the same in another recipe that shares the stage, and another one for changed data, settings or code. That of
an experiment follows from its recipe and what comes from outside: a report that changed code makes anew goes
on in its run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from recipes.external import External
from recipes.graph import TRAINING, Node, Plan, store_path
from recipes.load import Loaded
from recipes.schema import Protocol
from recipes.tracking.contract import RunInfo

LONGEST_TAG, LONGEST_NAME = 64, 100
"""Characters of a tag, and of a recipe's name in a group, that wandb accepts."""


@dataclass(frozen=True)
class Described:
    """The experiment's run, and the run and the folder of each stage that trains."""

    experiment: RunInfo
    trainings: list[tuple[RunInfo, Path]]


def describe(loaded: Loaded, plan: Plan, root: Path, commit: str | None) -> Described:
    """The runs of a recipe. `commit`: of the code that runs it."""
    settings, recipe = loaded.recipe.track, loaded.recipe
    shared: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "group": settings.group or f"{recipe.name[:LONGEST_NAME]}-{protocol_hash(loaded)}",
        "commit": commit,
    }
    everywhere = [f"scale:{recipe.scale}", f"protocol:{loaded.protocol}", *settings.tags]
    about = _arms_of(plan)
    trainings = [
        RunInfo(
            id=run_id(node),
            name=node.name,
            job_type="train",
            tags=_tags([*_arm_tags(about.get(node.hash, [])), f"kind:{node.kind}", *everywhere]),
            config={"recipe": recipe.name, "stage": node.name, "stage_hash": node.hash, **node.config},
            **shared,
        )
        for node in plan.nodes
        if trains(node)
    ]
    nodes = [node for node in plan.nodes if trains(node)]
    experiment = RunInfo(
        id=f"experiment-{experiment_hash(loaded, plan)}",
        name=recipe.name,
        job_type="experiment",
        tags=_tags([*everywhere, *(f"arm:{name}" for name in recipe.arms)]),
        config={
            "recipe": recipe.model_dump(mode="json", exclude={"track"}),
            "protocol": loaded.protocol,
            "modified": list(loaded.modified),
            "trainings": {info.name: info.id for info in trainings},
        },
        **shared,
    )
    places = [store_path(root, node.kind, node.hash) for node in nodes]
    return Described(experiment, list(zip(trainings, places, strict=True)))


def run_id(node: Node) -> str:
    """The id of a training's run."""
    return f"{node.kind}-{node.hash[:16]}".replace("_", "-")


def trains(node: Node) -> bool:
    """Whether a stage trains a model: its config is, or has in `train`, the settings of a training."""
    own = node.config.get("train")
    return node.kind == "pretrain" or any(
        isinstance(section, dict) and section.keys() >= TRAINING for section in (node.config, own)
    )


def experiment_hash(loaded: Loaded, plan: Plan) -> str:
    """Digits that are equal for equal recipes on equal inputs, whatever the code."""
    content = loaded.recipe.model_dump(mode="json", exclude={"track", "resources", "root"})
    given = [value for node in plan.nodes for value in node.inputs.values()]
    flat = [one for value in given for one in (value if isinstance(value, list) else [value])]
    outside = sorted({one.hash for one in flat if isinstance(one, External)})
    text = json.dumps([content, outside], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def protocol_hash(loaded: Loaded) -> str:
    """Eight digits that are equal for recipes with the same protocol."""
    content = loaded.recipe.model_dump(mode="json", include=set(Protocol.model_fields))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _arms_of(plan: Plan) -> dict[str, list[Mapping[str, Any]]]:
    """The repetitions of arms that use the checkpoint of a stage, by its hash."""
    last = plan.nodes[-1]
    if last.kind != "compare":
        return {}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for about, evaluate in zip(
        last.config["runs"], cast("list[Node]", last.inputs["evaluates"]), strict=True
    ):
        model = cast(Node, evaluate.inputs["answers"]).inputs["model"]
        if isinstance(model, Node):  # not a base that is evaluated as it is
            found.setdefault(model.hash, []).append(about)
    return found


def _arm_tags(runs: list[Mapping[str, Any]]) -> Iterator[str]:
    for key in ("arm", "selector", "budget"):
        yield from dict.fromkeys(f"{key}:{about[key]}" for about in runs)


def _tags(tags: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags))
