"""Table, long-form rows and picture of a sweep, from the comparisons of its cells."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import atomic
from recipes import store

if TYPE_CHECKING:
    import pyarrow as pa

    from recipes.sweep_file import Cell, Sweep

MEAN = "mean"
"""Stands for the mean of all benchmarks in the column `benchmark`."""
Outcomes = Mapping[str, tuple[str, Any]]
"""By cell: (`done`, comparison), (`failed`, error) or (`not run`, None)."""


def write_results(sweep: "Sweep", outcomes: Outcomes, place: Path) -> Path:
    """Write sweep.parquet, sweep.png (if a cell is done) and, last, sweep.md into `place`; returns the path of sweep.md."""
    import pyarrow.parquet as pq

    from evaluation.sweep_plots import draw_sweep

    with store.explained(place):
        place.mkdir(parents=True, exist_ok=True)
        table = rows(sweep, outcomes)
        with atomic.replacing(place / "sweep.parquet") as temporary:
            pq.write_table(table, temporary)
        panels = picture_panels(sweep, table.to_pylist())
        if any(panels.values()):
            draw_sweep(panels, place / "sweep.png")
    store.write_text(place / "sweep.md", markdown(sweep, outcomes, any(panels.values())))
    return place / "sweep.md"


def rows(sweep: "Sweep", outcomes: Outcomes) -> "pa.Table":
    """Long form: one row for each cell, arm and benchmark (and the mean of all); one row for a cell that is not done.

    `settings` is JSON of the keys that differ from the recipe; scores and differences to `baseline` are in % and
    points, `low` and `high` the ends of the difference's 95 % interval.
    """
    import pyarrow as pa

    text = ("cell", "state", "error", "settings", "arm", "budget", "baseline", "benchmark")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in text),
            *((name, pa.float64()) for name in ("score", "std", "difference", "low", "high")),
        ]
    )
    return pa.Table.from_pylist(
        [row for cell in sweep.cells for row in _cell_rows(cell, *outcomes[cell.name])], schema
    )


def _cell_rows(cell: "Cell", state: str, found: Any) -> Iterator[dict[str, Any]]:
    about = {"cell": cell.name, "state": state, "settings": json.dumps(dict(cell.settings))}
    if state != "done":
        yield {**about, "error": found}
        return
    scales = {b["task"]: b["scale"] for b in found["suite"]["benchmarks"]}
    for arm in found["arms"]:
        own = {**about, "arm": arm["arm"], "budget": arm["budget"], "baseline": arm["baseline"]}
        yield {
            **own,
            "benchmark": MEAN,
            "score": arm["mean"]["mean"],
            "std": arm["mean"]["std"],
            **_difference(arm["difference"]),
        }
        for task, spread in arm["benchmarks"].items():
            factor = 100 / scales[task]
            yield {
                **own,
                "benchmark": task,
                "score": factor * spread["mean"],
                "std": None if spread["std"] is None else factor * spread["std"],
                **_difference(arm["benchmark_differences"].get(task)),
            }


def _difference(interval: Mapping[str, float] | None) -> dict[str, float]:
    return (
        {"difference": interval["value"], "low": interval["low"], "high": interval["high"]}
        if interval
        else {}
    )


def markdown(sweep: "Sweep", outcomes: Outcomes, picture: bool) -> str:
    """sweep.md: what was varied, a row for each cell and arm, the cells that failed or did not run."""
    done = [found for state, found in outcomes.values() if state == "done"]
    head = [
        f"# {sweep.name}",
        "",
        sweep.description,
        "",
        f"Recipe: {sweep.recipe}. Cell `default` is the recipe as it stands:",
        "",
    ]
    head += [
        f"- `{key}`: {', '.join(json.dumps(value) for value, _ in values)}"
        for key, values in sweep.axes.items()
    ]
    body = ["", *_picture(picture), *_table(sweep, outcomes, done[0]["suite"]["benchmarks"] if done else [])]
    open_cells = [(c.name, *outcomes[c.name]) for c in sweep.cells if outcomes[c.name][0] != "done"]
    if open_cells:
        body += [
            "",
            "## Not done",
            "",
            *(f"- `{name}`: {state}{f': {error}' if error else ''}" for name, state, error in open_cells),
        ]
    return "\n".join([*head, *body]) + "\n"


def _picture(drawn: bool) -> list[str]:
    return ["![difference to the baseline against each key](sweep.png)", ""] if drawn else []


def _table(sweep: "Sweep", outcomes: Outcomes, benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [b["task"] for b in benchmarks]
    header = [
        "cell",
        "arm",
        "budget",
        "mean %",
        "shuffled",
        "grounded gain",
        "chance",
        "blind",
        "difference [95 %]",
        *(b["label"] for b in benchmarks),
    ]
    lines = [
        "Mean over benchmarks ± standard deviation over seeds; the same with the images of other questions (shuffled), and what the "
        "arm loses by them; levels of chance and of the best blind guess; differences to the baseline in points, by benchmark on "
        "the right. A dash: not measured for all benchmarks.",
        "",
        _line(header),
        _line(["---"] * len(header)),
    ]
    for cell in sweep.cells:
        state, found = outcomes[cell.name]
        if state != "done":
            lines.append(_line([cell.name, state, *[""] * (len(header) - 2)]))
            continue
        for arm in found["arms"]:
            spread = arm["mean"]["std"]
            by_benchmark = [arm["benchmark_differences"].get(name) for name in names]
            lines.append(
                _line(
                    [
                        cell.name,
                        arm["arm"],
                        arm["budget"],
                        f"{arm['mean']['mean']:.1f}" + (f" ± {spread:.1f}" if spread is not None else ""),
                        *_beside(arm, found),
                        "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**arm["difference"])
                        if arm["difference"]
                        else "",
                        *(f"{d['value']:+.1f}" if d else "" for d in by_benchmark),
                    ]
                )
            )
    return lines


def _beside(arm: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Cells that say what of an arm's mean is there without the right image: shuffled, grounded gain, chance, blind."""
    scales = {b["task"]: b["scale"] for b in found["suite"]["benchmarks"]}
    known = [(arm["shuffled_mean"], ".1f"), (arm["grounded_mean"], "+.1f")]
    cells = ["–" if spread is None else f"{spread['mean']:{form}}" for spread, form in known]
    for levels in (found["chance"], found["blind"]):
        percents = [100 * levels[task] / scale for task, scale in scales.items() if levels[task] is not None]
        cells.append(f"{sum(percents) / len(scales):.1f}" if len(percents) == len(scales) else "–")
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def picture_panels(
    sweep: "Sweep", table: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[tuple[Any, float, float, float]]]]:
    """Key -> arm -> (value, difference of the mean, low, high) of the cells that are done; arms without a difference left out."""
    means = [row for row in table if row["benchmark"] == MEAN and row["difference"] is not None]
    panels: dict[str, dict[str, list[tuple[Any, float, float, float]]]] = {}
    for key, values in sweep.axes.items():
        arms = panels[key] = {}
        for value, name in values:
            for row in means:
                if row["cell"] == name:
                    arms.setdefault(row["arm"], []).append(
                        (value, row["difference"], row["low"], row["high"])
                    )
    return panels
