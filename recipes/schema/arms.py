"""The arms of an experiment: one selector at one budget each."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from curation import catalogue
from recipes.schema.base import Budget, Section, Seeds, seed_list

WHOLE_POOL = "all"
"""The selector that takes every sample; it ignores the selection seed."""
ORACLE = {"capability", "style"}
"""Signals that the mini world's generator can supply in place of a scorer and a styler."""
NO_SIGNALS = frozenset(catalogue.MEMBERSHIPS.values())
"""What selectors read besides signals: another arm's subset, the rows that the seed model was trained on."""


class Arm(Section):
    """One selector at one budget, with its seeds."""

    selector: str = Field(description="a name from curation/selectors, or my_module:my_function")
    budget: Budget = Field(
        "100%",
        description="share of the pool (30%), number of samples, text and image tokens (tokens:2e9), or what "
        "selection and training may cost together: flops:1e18, gpuh:10 (by `resources.gpu`), or as much as "
        "another arm (as:ARM)",
    )
    seeds: Seeds = Field(
        1, description="n means 0..n-1, or a list; seeds the selection and, by default, the training"
    )
    train_seeds: Seeds | None = Field(
        None, description="if given, every selection seed is trained with each of these"
    )
    params: dict[str, Any] = Field({}, description="keyword arguments of the selector")
    signals: Literal["learned", "oracle", "oracle_knows_wrong"] = Field(
        "learned",
        description="source of every sample's capability scores and styles: scorer and styler "
        "(learned), or the mini world's ground truth without noise, ignoring wrong answers (oracle) or "
        "with 3 points off for them (oracle_knows_wrong)",
    )

    reference: str | None = Field(
        None,
        description="arm whose subset the selector compares with, seed by seed; only for selectors "
        "that need one (matched_random)",
    )
    rounds: int = Field(
        1,
        ge=1,
        description="with more than 1, each further round trains the seed model on the subset chosen "
        "before and computes its signals again (MLLM-Selector)",
    )

    @field_validator("selector")
    @classmethod
    def _selector_exists(cls, name: str) -> str:
        from curation.selectors.registry import get_selector

        get_selector(name)
        return name

    @model_validator(mode="after")
    def _selector_takes_params(self) -> "Arm":
        from curation.selectors.registry import check_params

        check_params(self.selector, self.params)
        return self

    @model_validator(mode="after")
    def _whole_pool_has_no_budget(self) -> "Arm":
        if self.selector == WHOLE_POOL and self.budget != "100%":
            raise ValueError(f"selector `all` takes the whole pool; budget {self.budget} contradicts it")
        return self

    @model_validator(mode="after")
    def _oracle_is_used(self) -> "Arm":
        if self.signals != "learned" and not ORACLE & set(self.needs()):
            raise ValueError(
                f"selector `{self.selector}` reads neither capability nor style, so `signals: "
                f"{self.signals}` has no effect"
            )
        return self

    @model_validator(mode="after")
    def _reference_and_rounds_are_used(self) -> "Arm":
        if ("reference" in self.needs()) != (self.reference is not None):
            problem = (
                "needs `reference`, an arm to compare with"
                if self.reference is None
                else "reads no `reference`"
            )
            raise ValueError(f"selector `{self.selector}` {problem}")
        if self.rounds > 1 and not self.rescored():
            raise ValueError(
                f"selector `{self.selector}` reads no signal of the seed model, so `rounds: {self.rounds}` "
                "has no effect"
            )
        return self

    def needs(self) -> tuple[str, ...]:
        """What the selector reads with these parameters: signals, and `reference` or `seed_rows`."""
        from curation.selectors.registry import needs

        return tuple(needs(self.selector, self.params))

    def learned(self, needs: Sequence[str] | None = None) -> list[str]:
        """The signals that have to be computed for this arm; an oracle replaces capability and style.

        `needs`: what `needs()` returned, if it was asked before.
        """
        return [
            name
            for name in (self.needs() if needs is None else needs)
            if name not in NO_SIGNALS and (self.signals == "learned" or name not in ORACLE)
        ]

    def rescored(self) -> list[str]:
        """The signals that a further round computes again: those of the seed model."""
        records = {name: catalogue.find(name) for name in self.learned()}
        return [
            name for name, record in records.items() if record and "seed_model" in record[0].inputs.values()
        ]

    def runs(self) -> list[tuple[int, int]]:
        """(selection seed, training seed) of every repetition; the selection seed of `all` is always 0."""
        runs = [
            (selection, training)
            for selection in seed_list(self.seeds)
            for training in (seed_list(self.train_seeds) if self.train_seeds else [selection])
        ]
        if self.selector == WHOLE_POOL:
            runs = [(0, training) for _, training in runs]
        return list(dict.fromkeys(runs))


class Controls(Section):
    """Arms that are added to every comparison; `controls: off` adds none, and each can be switched off."""

    arms: list[str] | None = Field(
        None,
        description="the arms that get controls of their own (matched, tokens, compute) and whose budgets "
        "get a balanced one; default: every arm whose selector is no control itself",
    )
    matched: bool = Field(True, description="random samples of the arm's sources and lengths, `ARM.matched`")
    tokens: bool = Field(
        True,
        description="random samples with as many tokens as the arm's, `ARM.tokens`; trained only where mean "
        "lengths differ by more than 5 %",
    )
    compute: bool = Field(
        True,
        description="random samples that cost as much as the arm's selection and training, `ARM.compute`; "
        "not trained where that is the whole pool, which `full` is",
    )
    balanced: bool = Field(True, description="as many random samples of every source, `balanced_BUDGET`")
    zero: bool = Field(True, description="the base model as it is, without SFT, `zero`")
    full: bool = Field(True, description="the whole pool, `full`")

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """`off` stands for all of them off, `on` for the defaults."""
        if not isinstance(value, bool):
            return value
        return {} if value else {name: False for name in cls.model_fields if name != "arms"}
