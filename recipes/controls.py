"""The controls of a comparison: arms that every method has to beat before its gain is its own.

`with_controls` adds them to a recipe as arms; `decided` says, once their selections are there, which of them
would repeat another arm and are not trained.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from recipes import store
from recipes.graph import Node, store_path
from recipes.schema import Arm, Controls, Recipe
from recipes.stages.control_notes import LENGTHS_DIFFER

KINDS = {
    "all": "full",
    "random": "random",
    "random_balanced": "balanced",
    "matched_random": "matched",
    "token_matched": "tokens",
}
"""Selector -> the kind of control that an arm of it is."""
ZERO, NO_SELECTOR = "zero", "none"
"""Name and kind of the arm that is the base model itself, and what stands for its selector."""
Settled = dict[str, dict[str, Any]]
"""By control that depends on selections: what was decided about it (see `decided`)."""


@dataclass(frozen=True)
class Control:
    """What an arm is beside the arms under test. `of`: the arm that it is the control of, if of one only."""

    kind: str
    of: str | None = None


@dataclass(frozen=True)
class Controlled:
    """A recipe with its controls as arms. `roles`: what each arm is a control of; arms under test have none.

    `zero`: whether the base model is evaluated as it is.
    """

    recipe: Recipe
    roles: Mapping[str, Control]
    zero: bool

    def open(self) -> dict[str, Control]:
        """The controls of which only their selections tell whether they are needed."""
        return {
            name: role for name, role in self.roles.items() if role.of and role.kind in ("tokens", "compute")
        }

    def without(self, names: Sequence[str]) -> "Controlled":
        """The same without these arms."""
        arms = {name: arm for name, arm in self.recipe.arms.items() if name not in names}
        roles = {name: role for name, role in self.roles.items() if name not in names}
        return Controlled(self.recipe.model_copy(update={"arms": arms}), roles, self.zero)


def with_controls(recipe: Recipe) -> Controlled:
    """The recipe with the controls that its section `controls` asks for, after its own arms.

    What the recipe has already is not doubled, whatever its seeds or parameters: an arm of the same selector,
    budget and reference. Raises RecipeError if another arm has a control's name.
    """
    from recipes.errors import RecipeError

    arms, roles, taken = dict(recipe.arms), {}, set()
    for name, arm in recipe.arms.items():
        taken.add(_what(arm))
        if kind := KINDS.get(arm.selector):
            roles[name] = Control(kind, arm.reference)
    for name, role, arm in _wanted(recipe, under_test(recipe)):
        if _what(arm) in taken:
            continue
        if name in arms:
            raise RecipeError(
                f"arms.{name}: a control has this name; name the arm otherwise, or switch the control off "
                f"with `controls: {{{role.kind}: false}}`"
            )
        arms[name], roles[name] = arm, role
        taken.add(_what(arm))
    if recipe.controls.zero and ZERO in arms:
        raise RecipeError(
            f"arms.{ZERO}: the base model without SFT has this name; name the arm otherwise, or write "
            "`controls: {zero: false}`"
        )
    return Controlled(recipe.model_copy(update={"arms": arms}), roles, recipe.controls.zero)


def under_test(recipe: Recipe) -> list[str]:
    """The arms that are compared with controls of their own: those named, else all that are no control."""
    if recipe.controls.arms is not None:
        return list(recipe.controls.arms)
    return [name for name, arm in recipe.arms.items() if arm.selector not in KINDS]


def _wanted(recipe: Recipe, tested: Sequence[str]) -> Iterator[tuple[str, Control, Arm]]:
    """(name, role, arm) of every control that is switched on."""
    controls = recipe.controls
    for name in tested:
        for kind, arm in _own(controls, recipe, name):
            yield f"{name}.{kind}", Control(kind, name), arm
    if controls.balanced:
        for name in tested:
            arm = recipe.arms[name]
            balanced = Arm(selector="random_balanced", budget=arm.budget, **_seeds(arm))
            yield f"balanced_{_label(arm.budget)}", Control("balanced"), balanced
    if controls.full and recipe.arms:
        first = recipe.arms[tested[0]] if tested else next(iter(recipe.arms.values()))
        yield "full", Control("full"), Arm(selector="all", **_seeds(first))


def _own(controls: Controls, recipe: Recipe, name: str) -> Iterator[tuple[str, Arm]]:
    """The controls of one arm. A budget in tokens or in compute is matched in them already.

    Only a selection that computes signals costs enough to be paid for in samples, and not where `max_steps`
    decides what a training costs.
    """
    arm = recipe.arms[name]
    in_samples = isinstance(arm.budget, int) or arm.budget.endswith("%")
    shared: dict[str, Any] = {"reference": name, **_seeds(arm)}
    if controls.matched:
        matched = {"match": ["source", "length"]}
        yield "matched", Arm(selector="matched_random", budget=arm.budget, params=matched, **shared)
    if controls.tokens and in_samples:
        yield "tokens", Arm(selector="token_matched", budget=arm.budget, **shared)
    bought = in_samples and not (recipe.train and recipe.train.max_steps)
    if controls.compute and bought and arm.signals == "learned" and arm.needs():
        yield "compute", Arm(selector="random", budget=f"as:{name}", **_seeds(arm))


def _seeds(arm: Arm) -> dict[str, Any]:
    return {"seeds": arm.seeds, "train_seeds": arm.train_seeds}


def _label(budget: int | str) -> str:
    """A budget as a part of a name: 30% -> 30, tokens:2000 -> tokens_2000."""
    return re.sub(r"[^\w.-]", "_", str(budget).removesuffix("%"))


def _what(arm: Arm) -> tuple[Any, ...]:
    """What makes a control the same as another arm, which may have seeds and parameters of its own."""
    return arm.selector, arm.budget, arm.reference


# ------------------------------------------------------------------------------------- after the selections


def decided(controlled: Controlled, selects: Mapping[str, Sequence[Node]], root: Path) -> Settled | None:
    """By control that is open: what its finished selections say about it; None while one is not finished.

    `selects`: the selections of each open control that are to be asked, those of the first repetition. A
    decision has `needed`, `reason` (in words) and, for token-matched controls, `ratio`: mean tokens of a
    sample of the arm over those of a sample of the pool, which are what random sampling has on average.
    """
    found = {}
    for name, role in controlled.open().items():
        notes = [_notes(node, root) for node in selects[name]]
        if any(one is None for one in notes):
            return None
        known = [one for one in notes if one is not None]
        found[name] = {"kind": role.kind, "of": role.of, **DECISIONS[role.kind](controlled.recipe, known)}
    return found


def _notes(node: Node, root: Path) -> dict[str, int] | None:
    """The notes of a finished selection, else None."""
    path = store_path(root, node.kind, node.hash)
    if store.check(path, node.hash) != "done":
        return None
    return store.read_record(path)["summary"].get("notes", {})


def _tokens(recipe: Recipe, notes: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Whether the arm's samples are longer or shorter than random ones, mean over pools."""
    ratio = fmean(
        one["reference_tokens"] / one["reference_rows"] / (one["pool_tokens"] / one["pool_rows"])
        for one in notes
    )
    needed = abs(ratio - 1) > LENGTHS_DIFFER
    lengths = f"the arm's samples have {ratio:.2f} times the tokens of random ones"
    return {"needed": needed, "ratio": round(ratio, 4), "reason": lengths}


def _compute(recipe: Recipe, notes: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Whether the cost of the selection is known, and buys less than the pool, which another arm has."""
    if any(one.get("cost_unknown") for one in notes):
        return {"needed": False, "reason": "what the selection costs cannot be counted"}
    above = all(one.get("budget_above_pool") for one in notes)
    full = [name for name, arm in recipe.arms.items() if arm.selector == "all"]
    if above and full:
        return {"needed": False, "reason": f"selection and training cost more than `{full[0]}`"}
    capped = "the whole pool costs less" if above else "as many random samples as cost the same"
    return {"needed": True, "reason": capped}


DECISIONS = {"tokens": _tokens, "compute": _compute}


def switch(stage: str) -> str | None:
    """What leaves out the control that a stage is part of, for a message; None for an arm under test."""
    arm = stage.partition("[")[2].rstrip("]").partition(",")[0]
    of, _, kind = arm.rpartition(".")
    if arm == ZERO or (of and kind in ("matched", "tokens", "compute")):
        return f"`controls: {{{kind}: off}}` leaves this control out"
    return None
