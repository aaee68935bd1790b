"""What a sweep is shown from: sweep.json, and in a folder for each cell the three files of its experiment.

keep(sweep, outcomes, place)      # sweep.json and the files of the finished cells
read(place)                       # the cells with their comparisons, all differences one family
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import atomic
from recipes import store

if TYPE_CHECKING:
    from recipes.sweep_file import Sweep

FORMAT = 1
FILE = "sweep.json"
Outcomes = Mapping[str, tuple[str, Any]]
"""By cell: (`done`, folder of its comparison), (`failed`, error) or (`not run`, None)."""


@dataclass(frozen=True)
class CellResult:
    """One cell: the keys that differ from the recipe, and its comparison. `state`: done, failed, not run.

    `comparison`: the content of comparison.json; its corrected intervals hold for the whole sweep.
    """

    name: str
    settings: Mapping[str, Any]
    state: str
    error: str | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResults:
    """A sweep as it is shown; `axes`: each key's values, each with the name of the cell that has it."""

    name: str
    description: str
    recipe: str
    axes: Mapping[str, Sequence[tuple[Any, str]]]
    cells: tuple[CellResult, ...]


def keep(sweep: "Sweep", outcomes: Outcomes, place: Path) -> None:
    """Write sweep.json, and copy the files of finished cells into their folders."""
    from evaluation.experiment import FILES

    for cell in sweep.cells:
        state, folder = outcomes[cell.name]
        if state != "done":
            continue
        (place / cell.name).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with atomic.replacing(place / cell.name / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    cells = [
        {
            "name": cell.name,
            "settings": dict(cell.settings),
            "state": outcomes[cell.name][0],
            "error": outcomes[cell.name][1] if outcomes[cell.name][0] == "failed" else None,
        }
        for cell in sweep.cells
    ]
    about = {"name": sweep.name, "description": sweep.description, "recipe": sweep.recipe}
    axes = {key: [list(value) for value in values] for key, values in sweep.axes.items()}
    store.write_json(place / FILE, {"format": FORMAT, **about, "axes": axes, "cells": cells})


def read(place: Path) -> SweepResults:
    """The sweep that `keep` kept. Raises ResultsError for files that are missing, damaged or newer."""
    from evaluation.aggregate import compare, tests_of
    from evaluation.experiment import Experiment
    from evaluation.results import ResultsError

    path = place / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise ResultsError(
                f"{path} has format {content['format']}, this version reads {FORMAT}; update Winnow to "
                "read it"
            )
        cells = {cell["name"]: CellResult(**cell) for cell in content["cells"]}
        axes = {key: [(value, name) for value, name in values] for key, values in content["axes"].items()}
        about = {name: content[name] for name in ("name", "description", "recipe")}
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ResultsError(
            f"{path} is not the file of a sweep ({error!r}); copy the folder again, or merge the sweep again"
        ) from error
    done = {name: Experiment.read(place / name) for name, cell in cells.items() if cell.state == "done"}
    tests = {name: tests_of(experiment) for name, experiment in done.items()}
    compared = {
        name: compare(experiment, others=sum(tests.values()) - tests[name]).to_dict()
        for name, experiment in done.items()
    }
    found = (
        CellResult(cell.name, cell.settings, cell.state, cell.error, compared.get(name, {}))
        for name, cell in cells.items()
    )
    return SweepResults(**about, axes=axes, cells=tuple(found))
