"""Read a sweep file: one recipe, and the keys in which its cells differ."""

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
"""Name of the cell that is the recipe as it stands."""


@dataclass(frozen=True)
class Cell:
    """One recipe of a sweep; `settings` are the dotted keys that make it differ from the recipe as it stands."""

    name: str
    settings: Mapping[str, Any]
    loaded: Loaded


@dataclass(frozen=True)
class Sweep:
    """A sweep with its cells. `axes` gives each key's values in order, each with the cell that shows it: the one in
    which the other keys are at the recipe's own values, or at their first where the grid has no such cell."""

    name: str
    description: str
    recipe: str
    cells: tuple[Cell, ...]
    axes: Mapping[str, Sequence[tuple[Any, str]]]

    def cell(self, name: str) -> Cell:
        """Raises RecipeError with the nearest name."""
        found = next((cell for cell in self.cells if cell.name == name), None)
        if found is None:
            raise RecipeError(
                f"the sweep has no cell `{name}`; {nearest(name, [cell.name for cell in self.cells])}"
            )
        return found


def load_sweep(file: str, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and every cell's recipe; `overrides` change the recipe of all cells. RecipeError says what is wrong."""

    path = find_recipe(file)
    written = read_yaml(path)
    said = validate(SweepFile, written)
    base, beside, recipe = _base(said.recipe, written, path)
    command = parse_overrides(overrides)
    sweep_name = command.data.pop("name", said.name)
    base = merge(base, command)

    def cell(name: str, settings: Mapping[str, Any]) -> Cell:
        return Cell(name, settings, resolve(_named(base, f"{sweep_name}/{name}", settings, written), beside))

    default = cell(DEFAULT, {})
    own = {key: _value(default.loaded, key) for key in said.axes}
    combine = _one_at_a_time if said.mode == "one_at_a_time" else _grid
    cells = {DEFAULT: default}
    if said.mode == "grid" and not all(own[key] in values for key, values in said.axes.items()):
        del cells[DEFAULT]  # not one of the combinations
    varied = [cell(_cell_name(settings, said.axes), settings) for settings in combine(said.axes, own)]
    given = [cell(name, settings) for name, settings in said.cells.items()]
    for made in (*(c for c in varied if _content(c) != _content(default)), *given):
        if made.name in cells:
            raise RecipeError(f"{written.locate(('axes',))}: two cells would be called `{made.name}`")
        cells[made.name] = made
    return Sweep(
        sweep_name,
        said.description,
        recipe,
        tuple(cells.values()),
        _axes(said.axes, own, tuple(cells.values())),
    )


def _base(recipe: str | dict[str, Any], written: Document, path: Path) -> tuple[Document, Path, str]:
    """The recipe to vary, the folder that its scale is looked for in, and what to call it."""

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
    """What the recipe itself says at a dotted key; None where it says nothing."""
    value: Any = loaded.recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _one_at_a_time(axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({key: value} for key, values in axes.items() for value in values if value != own[key])


def _grid(axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*axes.values()):
        settings = {key: value for key, value in zip(axes, combination) if value != own[key]}
        if settings:
            yield settings


def _cell_name(settings: Mapping[str, Any], axes: Mapping[str, Any]) -> str:
    """`blind-0.2`, or `blind-0.2_zipf-0`; the last part of a key stands for it where that is enough to tell it."""
    last = [key.rpartition(".")[2] for key in axes]
    names = [key.rpartition(".")[2] if last.count(key.rpartition(".")[2]) == 1 else key for key in settings]
    texts = [re.sub(r"[^\w.]+", "-", json.dumps(value)).strip("-") for value in settings.values()]
    return "_".join(f"{name}-{text}" for name, text in zip(names, texts))


def _content(cell: Cell) -> Any:
    return cell.loaded.recipe.model_copy(update={"name": ""})


def _axes(
    axes: Mapping[str, Sequence[Any]], own: Mapping[str, Any], cells: Sequence[Cell]
) -> dict[str, list[tuple[Any, str]]]:
    """See `Sweep.axes`. The recipe's own value is shown where a cell has it, in its place by size if all are numbers."""

    def settings(key: str, value: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in {**others, key: value}.items() if v != own[k]}

    def find(key: str, value: Any) -> str | None:
        first = {k: own[k] if own[k] in values else values[0] for k, values in axes.items()}
        wanted = (settings(key, value, {}), settings(key, value, first))
        return next((c.name for want in wanted for c in cells if dict(c.settings) == want), None)

    found = {}
    for key, values in axes.items():
        every = [*values, *([own[key]] if own[key] not in values else [])]
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in every):
            every.sort()
        found[key] = [(value, name) for value in every if (name := find(key, value))]
    return found
