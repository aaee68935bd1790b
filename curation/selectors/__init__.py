"""The selectors by name, and selectors of the user's own as `my_module:my_function`."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.selectors.contract import (
    BudgetError,
    ColumnError,
    Selection,
    SelectorError,
    SizeError,
    resolve_budget,
)
from curation.selectors.param_types import fits, hint_for, in_words

__all__ = [
    "SELECTORS",
    "BudgetError",
    "ColumnError",
    "Description",
    "Selection",
    "SelectorError",
    "SizeError",
    "check_params",
    "describe",
    "get_selector",
    "needs",
    "resolve_budget",
]

SELECTORS: dict[str, str] = {
    "all": "curation.selectors.all:select",
    "random": "curation.selectors.random:select",
    "random_balanced": "curation.selectors.random_balanced:select",
    "matched_random": "curation.selectors.matched_random:select",
    "length": "curation.selectors.length:select",
    "top_k": "curation.selectors.top_k:select",
    "band": "curation.selectors.band:select",
    "quota_by_group": "curation.selectors.quota_by_group:select",
    "perplexity": "curation.selectors.perplexity:select",
    "el2n": "curation.selectors.el2n:select",
    "ifd": "curation.selectors.ifd:select",
    "visnec": "curation.selectors.visnec:select",
    "clip_score": "curation.selectors.clip_score:select",
    "deita": "curation.selectors.deita:select",
    "semdedup": "curation.selectors.semdedup:select",
    "d2": "curation.selectors.d2:select",
    "coincide": "curation.selectors.coincide:select",
    "presel": "curation.selectors.presel:select",
    "icons": "curation.selectors.icons:select",
    "less": "curation.selectors.less:select",
    "mmssr": "curation.selectors.mmssr:select",
    "mmssr_official": "curation.selectors.mmssr_official:select",
    "mllm_selector": "curation.selectors.mllm_selector:select",
    "instructiongpt4": "curation.selectors.instructiongpt4:select",
}

Selector = Callable[..., Selection]
_FIXED = ("columns", "budget", "seed")


def get_selector(name: str) -> Selector:
    """The function behind `name`. Raises SelectorError for an unknown name (with the nearest) or a wrong signature."""
    target = SELECTORS.get(name, name if ":" in name else None)
    if target is None:
        raise SelectorError(
            f"unknown selector {name!r}{_nearest(name, SELECTORS)}; there are {', '.join(SELECTORS)}, "
            "or my_module:my_function for one of your own"
        )
    module_name, _, attribute = target.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SelectorError(f"selector {name!r} cannot be imported: {error}") from error
    if not callable(function) or tuple(inspect.signature(function).parameters)[: len(_FIXED)] != _FIXED:
        raise SelectorError(f"selector {name!r} must be a function select(columns, budget, seed, **params)")
    return function


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises SelectorError for a parameter that `name` does not take (with the nearest), one of another type, or one that it lacks."""
    taken = dict(list(inspect.signature(get_selector(name)).parameters.items())[len(_FIXED) :])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for key in params:
        if key not in taken:
            listed = f"; it takes {', '.join(taken)}" if taken else "; it takes none"
            raise SelectorError(f"selector {name!r} has no parameter {key!r}{_nearest(key, taken)}{listed}")
        if not fits(params[key], wanted := taken[key].annotation):
            raise SelectorError(
                f"selector {name!r}: {key} is {params[key]!r}, and must be {in_words(wanted)}{hint_for(params[key], wanted)}"
            )
    lacking = [
        key for key, parameter in taken.items() if parameter.default is parameter.empty and key not in params
    ]
    if lacking:
        raise SelectorError(f"selector {name!r} needs the parameter {lacking[0]!r}")


def needs(name: str, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The signals (`capability`, `base_losses`, `cluster_text`, ...) that the selector reads with these parameters.

    A selector module says so by `NEEDS`, or, where it depends on the parameters, by a function `needs(**params)`.
    """
    module = importlib.import_module(get_selector(name).__module__)
    if hasattr(module, "needs"):
        return module.needs(**(params or {}))
    return getattr(module, "NEEDS", ())


@dataclass(frozen=True)
class Description:
    """What a table of selectors says of one: the first line of its documentation, the signals it reads, what it costs.

    `cost` is a class: C0 metadata only; C1 a forward pass of a small encoder for each sample; C2 of a VLM; C3 several
    passes or a generation; C4 a training run besides; C5 gradients of each sample; C6 a paid service. For a selector
    of the user's own that does not say it is "unknown". `targeted`: it sees validation data of what it is judged on.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    cost: str
    targeted: bool


def describe(name: str, params: Mapping[str, Any] | None = None) -> Description:
    """The selector `name`, with the signals that it reads with `params`. Raises SelectorError for an unknown one."""
    function = get_selector(name)
    module = importlib.import_module(function.__module__)
    text = module.__doc__ if name in SELECTORS else function.__doc__ or module.__doc__
    return Description(
        name=name,
        summary=(text or "").strip().partition("\n")[0],
        needs=needs(name, params),
        cost=getattr(module, "COST", "unknown"),
        targeted=getattr(module, "TARGETED", False),
    )


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
