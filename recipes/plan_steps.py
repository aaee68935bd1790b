"""Which stages of a plan a subset needs, and the planned stages as `Step`s whose cost can be counted."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from recipes.external import External
from recipes.graph import Node
from recipes.steps import Step

ACCOUNTS = {"costed", "spender"}
"""Inputs of stage `select` by which a budget in compute is counted."""


def step_of(node: Node) -> Step:
    """A planned stage."""
    return Step(node.kind, node.name, node.hash, node.config, node.input_hashes(), node.work)


def above(node: Node) -> Iterator[Node]:
    """A stage and all that its content is made from, each once.

    What only tells how many samples a budget in compute buys (ACCOUNTS) is not followed: samples that are
    drawn at random are not scored, even where they are as many as another arm's costs pay for.
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
