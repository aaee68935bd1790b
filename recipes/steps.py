"""A stage as its cost needs it: planned, or as the record of one that ran."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes.external import External
from recipes.graph import Node
from training.spec import FitSpec

NOT_SETTINGS = {"seed", "subset"}
"""Keys of stage `train` beside the settings of the training."""
ACCOUNTS = {"costed", "spender"}
"""Inputs of stage `select` by which a budget in compute is counted."""
Hashes = str | list[str]


@dataclass(frozen=True)
class Step:
    """One stage. `inputs`: the hash (or hashes) of each input; `work`: expected samples, each epoch counted.

    Of a stage that ran also: `folder`, its artefact; `seconds`; `summary`; `device` ("cpu", or the GPUs that
    it could use).
    """

    kind: str
    name: str
    hash: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Hashes]
    work: float = 1.0
    folder: Path | None = None
    seconds: float | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @classmethod
    def of_node(cls, node: Node) -> "Step":
        """A planned stage."""
        return cls(node.kind, node.name, node.hash, node.config, node.input_hashes(), node.work)

    @classmethod
    def of_record(cls, folder: Path) -> "Step":
        """A stage that ran, from its artefact."""
        record = json.loads((folder / "stage.json").read_text())
        return cls(
            record["kind"],
            record["name"],
            record["hash"],
            record["config"],
            record["parents"],
            record["work"],
            folder,
            record["seconds"],
            record["summary"] or {},
            record.get("device", "cpu"),
        )

    @property
    def producer(self) -> str:
        """What computes a signal; empty for other stages."""
        return self.config.get("producer", "")

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the producer."""
        return self.config.get("arguments", {})

    @property
    def spec(self) -> FitSpec | None:
        """The settings of a training stage; None for other stages."""
        return spec_of(self.kind, self.config)

    @property
    def seen(self) -> float:
        """Samples that a training stage saw, or is expected to see, each epoch counted."""
        return self.summary.get("samples_seen", self.work)


def spec_of(kind: str, config: Mapping[str, Any]) -> FitSpec | None:
    """The settings of a training stage; None for other stages."""
    if kind == "train":
        return FitSpec(**{key: value for key, value in config.items() if key not in NOT_SETTINGS})
    train = config.get("train") if kind.startswith("fit_") else None
    return FitSpec(**train) if train else None


def above(node: Node) -> Iterator[Node]:
    """A stage and all that its content is made from, each once.

    What only tells how many samples a budget in compute buys (ACCOUNTS) is not followed: samples that are drawn
    at random are not scored, even where they are as many as another arm's costs pay for.
    """
    seen, stack = {node}, [node]
    while stack:
        yield (own := stack.pop())
        made_from = replace(own, inputs={k: v for k, v in own.inputs.items() if k not in ACCOUNTS})
        stack += (new := [parent for parent in made_from.parents() if parent not in seen])
        seen.update(new)


def beyond_pool(select: Node, shared: Iterable[Node] = ()) -> list[Node]:
    """What a subset needs besides its pool: the stages above `select` and itself, in the order of their
    names.

    Left out is what a subset drawn at random needs too: the pool, what it is made from, and `shared` (the
    tokens that the arms' training reads).
    """
    pool = select.inputs["pool"]
    common = {*shared, *(above(pool) if isinstance(pool, Node) else ())}
    return sorted((node for node in above(select) if node not in common), key=lambda node: node.name)


def places(nodes: Iterable[Node]) -> dict[str, str]:
    """The path, or name on the Hub, of each model and file from outside that the stages read, by its hash."""
    found: dict[str, str] = {}
    for node in nodes:
        for value in node.inputs.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, External):
                    found[one.hash] = str(one.path)
    return found
