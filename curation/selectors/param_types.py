"""Checks a parameter's value against its annotation in the signature: numbers, texts, lists, mappings."""

import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

_WORDS: dict[Any, tuple[str, str]] = {
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    type(None): ("null", "null"),
}
_UNIONS = (Union, types.UnionType)
_LISTS, _MAPPINGS = (list, tuple, Sequence), (dict, Mapping)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` has the type of the annotation `hint`. Other annotations (a class) fit any value."""
    kind = get_origin(hint) or hint
    if kind in _UNIONS:
        return any(fits(value, each) for each in get_args(hint))
    if kind in (float, int):
        return isinstance(value, Real if kind is float else Integral) and not isinstance(value, bool)
    if kind in (str, bool, type(None)):
        return isinstance(value, kind)
    if kind in _LISTS:
        return (
            isinstance(value, _LISTS)
            and not isinstance(value, str)
            and all(fits(each, *get_args(hint)[:1] or (Any,)) for each in value)
        )
    if kind in _MAPPINGS:
        names, values = get_args(hint) or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(key, names) and fits(each, values) for key, each in value.items()
        )
    return True


def in_words(hint: Any) -> str:
    """The type in words, for messages: `float | None` -> "a number or null"."""
    kind = get_origin(hint) or hint
    if kind in _UNIONS:
        return " or ".join(map(in_words, get_args(hint)))
    if kind in _LISTS:
        return f"a list{_of(get_args(hint)[:1])}"
    if kind in _MAPPINGS:
        return f"a mapping{_of(get_args(hint)[1:])}"
    return _WORDS[kind][0] if kind in _WORDS else str(hint)


def hint_for(value: Any, hint: Any) -> str:
    """A suggested value where one is obvious: a list of one, or a number that YAML reads as text (1e-3)."""
    if fits([value], hint):
        return f", such as [{value}]"
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        number = None
    return f", such as {number!r}" if number is not None and fits(number, hint) else ""


def _of(parts: tuple[Any, ...]) -> str:
    return f" of {_WORDS[parts[0]][1]}" if parts and parts[0] in _WORDS else ""
