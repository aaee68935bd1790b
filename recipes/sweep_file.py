"""Read a sweep file: one recipe, and its cells with the values of the keys that vary."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.document import Document, dotted, merge, parse_overrides, read_yaml
from recipes.errors import RecipeError, nearest
from recipes.load import Loaded, find_recipe, read_with_parents, resolve, validate
from recipes.schema import SweepFile

DEFAULT = "default"
"""Name of the cell with the recipe's own values."""


@dataclass(frozen=True)
class Cell:
    """One recipe of a sweep; `settings` are the dotted keys whose values differ from the recipe's own."""

    name: str
    settings: Mapping[str, Any]
    loaded: Loaded


@dataclass(frozen=True)
class Sweep:
    """A sweep with its cells.

    `axes` lists each key's values in order, each with the name of the cell that represents it: the cell in
    which the other keys have the recipe's own values or, if a grid has no such cell, their first values.
    """

    name: str
    description: str
    recipe: str
    cells: tuple[Cell, ...]
    axes: Mapping[str, Sequence[tuple[Any, str]]]

    def cell(self, name: str) -> Cell:
        """The cell of that name. Raises RecipeError with the nearest name."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        known = [cell.name for cell in self.cells]
        raise RecipeError(f"the sweep has no cell `{name}`; {nearest(name, known)}")


def load_sweep(file: str, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and every cell's recipe; `overrides` apply to all cells. Raises RecipeError."""
    path = find_recipe(file)
    written = read_yaml(path)
    content: SweepFile = validate(SweepFile, written)
    base, beside, recipe = _base(content.recipe, written, path)
    command = parse_overrides(overrides)
    sweep_name = command.data.pop("name", content.name)
    base = merge(base, command)

    def cell(name: str, settings: Mapping[str, Any]) -> Cell:
        return Cell(name, settings, resolve(_named(base, f"{sweep_name}/{name}", settings, written), beside))

    default = cell(DEFAULT, {})
    own = {key: _value(default.loaded, key) for key in content.axes}
    combine = _one_at_a_time if content.mode == "one_at_a_time" else _grid
    cells = {DEFAULT: default}
    if content.mode == "grid" and not all(own[key] in values for key, values in content.axes.items()):
        del cells[DEFAULT]  # the recipe's own values are not one of the combinations
    varied = [cell(_cell_name(settings, content.axes), settings) for settings in combine(content.axes, own)]
    named = [cell(name, settings) for name, settings in content.cells.items()]
    for other in (*(c for c in varied if _content(c) != _content(default)), *named):
        if other.name in cells:
            raise RecipeError(f"{written.locate(('axes',))}: two cells would have the name `{other.name}`")
        cells[other.name] = other
    axes = _axes(content.axes, own, tuple(cells.values()))
    return Sweep(sweep_name, content.description, recipe, tuple(cells.values()), axes)


def _base(recipe: str | dict[str, Any], written: Document, path: Path) -> tuple[Document, Path, str]:
    """(the recipe to vary, the folder in which its scale is looked up first, its name in the report)."""
    if isinstance(recipe, str):
        beside = path.parent / recipe
        file = beside.resolve() if beside.is_file() else find_recipe(recipe)
        return read_with_parents(file), file.parent, file.name
    data = dict(recipe)
    where = {key[1:]: place for key, place in written.where.items() if key[:1] in ((), ("recipe",))}
    parent = data.pop("extends", None)
    own = Document(data, where)
    if parent is None:
        return own, path.parent, "the one in the sweep file"
    file = find_recipe(parent)
    return merge(read_with_parents(file), own), file.parent, f"{file.name} with changes"


def _named(base: Document, name: str, settings: Mapping[str, Any], written: Document) -> Document:
    """The recipe of one cell."""
    own = dotted(("name",), name, written.locate(("name",)))
    for key, value in settings.items():
        own = merge(
            own, dotted(tuple(key.split(".")), value, f"{written.locate(('axes', key))}: cell {name}")
        )
    return merge(base, own)


def _value(loaded: Loaded, key: str) -> Any:
    """The recipe's own value of a dotted key; None if there is no such key."""
    value: Any = loaded.recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _one_at_a_time(axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({key: value} for key, values in axes.items() for value in values if value != own[key])


def _grid(axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*axes.values()):
        settings = {key: value for key, value in zip(axes, combination, strict=True) if value != own[key]}
        if settings:
            yield settings


def _cell_name(settings: Mapping[str, Any], axes: Mapping[str, Any]) -> str:
    """`blind-0.2` or `blind-0.2_zipf-0`: each key is shortened to its last part where that is unambiguous."""
    last = [key.rpartition(".")[2] for key in axes]
    names = [key.rpartition(".")[2] if last.count(key.rpartition(".")[2]) == 1 else key for key in settings]
    texts = [re.sub(r"[^\w.]+", "-", json.dumps(value)).strip("-") for value in settings.values()]
    return "_".join(f"{name}-{text}" for name, text in zip(names, texts, strict=True))


def _content(cell: Cell) -> Any:
    return cell.loaded.recipe.model_copy(update={"name": ""})


def _axes(
    axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any], cells: Sequence[Cell]
) -> dict[str, list[tuple[Any, str]]]:
    """See `Sweep.axes`. Includes the recipe's own value if a cell has it; numbers are sorted."""

    def settings(key: str, value: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in {**others, key: value}.items() if v != own[k]}

    def find(key: str, value: Any) -> str | None:
        first = {k: own[k] if own[k] in values else values[0] for k, values in axes.items()}
        for candidate in (settings(key, value, {}), settings(key, value, first)):
            for cell in cells:
                if dict(cell.settings) == candidate:
                    return cell.name
        return None

    shown = {}
    for key, values in axes.items():
        every = [*values, *([own[key]] if own[key] not in values else [])]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in every):
            every.sort()
        shown[key] = [(value, name) for value in every if (name := find(key, value))]
    return shown
