"""The selectors by name, and a user's own as `my_module:my_function`.

A selector is one file that defines `select(columns, budget, seed, **params)` and declares `SELECTOR`, the
record of what it needs and costs; adding one takes that file, its test and a name in `SELECTORS`. A user's
own function is imported by its address; its module declares `SELECTOR` too, or the constants NEEDS, COST,
TARGETED and NESTED (all optional), or the functions `needs(**params)`, `reads(**params)` and
`nested(**params)` where they depend on the parameters.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.catalogue import signals_of
from curation.nearest import did_you_mean
from curation.own_code import import_function
from curation.selectors.contract import Selection, Selector, SelectorError
from curation.selectors.param_types import fits, hint_for, in_words

_NAMES = (
    "all",
    "random",
    "random_balanced",
    "matched_random",
    "token_matched",
    "length",
    "top_k",
    "band",
    "quota_by_group",
    "perplexity",
    "el2n",
    "aum",
    "grand",
    "ifd",
    "visnec",
    "cvs",
    "clip_score",
    "deita",
    "semdedup",
    "self_sup",
    "typiclust",
    "d2",
    "coincide",
    "datatailor",
    "prism",
    "ards",
    "scalselect",
    "presel",
    "icons",
    "less",
    "tive",
    "rds",
    "seed",
    "ost",
    "mmssr",
    "mmssr_official",
    "mllm_selector",
    "instructiongpt4",
    "self_filter",
    "coido",
    "once_select",
)
SELECTORS: dict[str, str] = {name: f"curation.selectors.{name}:select" for name in _NAMES}
"""Name -> address of the function; its module is imported on first use."""

_FIXED = ("columns", "budget", "seed")


def get_selector(name: str) -> Callable[..., Selection]:
    """The function of the selector `name`, a key of SELECTORS or my_module:my_function.

    Raises SelectorError for an unknown name (with the nearest known one), a failing import or a wrong
    signature.
    """
    address = SELECTORS.get(name, name if ":" in name else None)
    if address is None:
        raise SelectorError(
            f"unknown selector {name!r}{did_you_mean(name, SELECTORS)}; must be one of "
            f"{', '.join(SELECTORS)}, or my_module:my_function for your own"
        )
    try:
        function = import_function(address)
    except ImportError as error:
        raise SelectorError(f"selector {name!r} cannot be imported: {error}") from error
    if not callable(function) or tuple(inspect.signature(function).parameters)[: len(_FIXED)] != _FIXED:
        raise SelectorError(f"selector {name!r} must be a function select(columns, budget, seed, **params)")
    return function


def check_params(name: str, params: Mapping[str, Any]) -> None:
    """Raises SelectorError for an unknown (with the nearest known one), mistyped or missing parameter."""
    known = dict(list(inspect.signature(get_selector(name)).parameters.items())[len(_FIXED) :])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for key, value in params.items():
        if key not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise SelectorError(
                f"selector {name!r} has no parameter {key!r}{did_you_mean(key, known)}; {listed}"
            )
        hint = known[key].annotation
        if not fits(value, hint):
            raise SelectorError(
                f"selector {name!r}: {key} must be {in_words(hint)}, got {value!r}{hint_for(value, hint)}"
            )
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in params:
            raise SelectorError(f"selector {name!r} needs the parameter {key!r}")


def needs(name: str, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The signals (`capability`, `base_losses`, ...) that the selector reads with these parameters."""
    return _signals(Selector.of(get_selector(name)), params or {})


def _signals(record: Selector, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The signals that a record names, and those that hold the columns it names, each once, in order."""
    return tuple(
        dict.fromkeys(
            (*record.with_params("needs", params), *signals_of(record.with_params("reads", params)))
        )
    )


def columns_of(name: str, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The columns, as far as the selector names them, that it reads with these parameters."""
    return Selector.of(get_selector(name)).with_params("reads", params or {})


@dataclass(frozen=True)
class Description:
    """A selector in a table of selectors: summary (first line of its documentation), signals, cost.

    `cost` is a class: C0 metadata only; C1 a forward pass of a small encoder per sample; C2 of a VLM; C3
    several passes or a generation; C4 a training run besides; C5 gradients of each sample; C6 a paid service;
    "unknown" for a user's own selector that does not declare it. `targeted`: it sees validation data of the
    benchmarks it is judged on.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    cost: str
    targeted: bool


def describe(name: str, params: Mapping[str, Any] | None = None) -> Description:
    """The selector `name`, with the signals that it reads with `params`. Raises SelectorError."""
    function = get_selector(name)
    record, module = Selector.of(function), sys.modules[function.__module__]
    # a user's module may hold several selectors, so the docstring of the function goes first there
    text = module.__doc__ if name in SELECTORS else function.__doc__ or module.__doc__
    summary = (text or "").strip().partition("\n")[0]
    return Description(name, summary, _signals(record, params or {}), record.cost, record.targeted)
