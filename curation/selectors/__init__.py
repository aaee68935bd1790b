"""The selectors by name, and selectors of the user's own as `my_module:my_function`."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from curation.selectors.contract import BudgetError, ColumnError, Selection, SelectorError, resolve_budget

__all__ = [
    "SELECTORS",
    "BudgetError",
    "ColumnError",
    "Selection",
    "SelectorError",
    "check_params",
    "get_selector",
    "needs",
    "resolve_budget",
]

SELECTORS: dict[str, str] = {
    "all": "curation.selectors.all:select",
    "random": "curation.selectors.random:select",
    "random_balanced": "curation.selectors.random_balanced:select",
    "top_k": "curation.selectors.top_k:select",
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
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise SelectorError(f"selector {name!r} cannot be imported: {error}") from error
    if not callable(function) or tuple(inspect.signature(function).parameters)[: len(_FIXED)] != _FIXED:
        raise SelectorError(f"selector {name!r} must be a function select(columns, budget, seed, **params)")
    return function


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises SelectorError for a parameter that `name` does not take (with the nearest), or one that it lacks."""
    taken = dict(list(inspect.signature(get_selector(name)).parameters.items())[len(_FIXED) :])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for key in params:
        if key not in taken:
            listed = f"; it takes {', '.join(taken)}" if taken else "; it takes none"
            raise SelectorError(f"selector {name!r} has no parameter {key!r}{_nearest(key, taken)}{listed}")
    lacking = [key for key, parameter in taken.items() if parameter.default is parameter.empty and key not in params]
    if lacking:
        raise SelectorError(f"selector {name!r} needs the parameter {lacking[0]!r}")


def needs(name: str, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The signals (`capability`, `style`, `necessity`) that the selector reads with these parameters.

    A selector module says so by `NEEDS`, or, where it depends on the parameters, by a function `needs(**params)`.
    """
    module = importlib.import_module(get_selector(name).__module__)
    if hasattr(module, "needs"):
        return module.needs(**(params or {}))
    return getattr(module, "NEEDS", ())


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
