"""Table, long-form rows and plot of a sweep, from the comparisons of its cells."""

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
"""Value of the column `benchmark` for the mean over all benchmarks."""
Outcomes = Mapping[str, tuple[str, Any]]
"""By cell: (`done`, comparison), (`failed`, error) or (`not run`, None)."""


def write_results(sweep: "Sweep", outcomes: Outcomes, place: Path) -> Path:
    """Write sweep.parquet, sweep.png (if a cell is done) and, last, sweep.md, whose path is returned."""
    import pyarrow.parquet as pq

    from evaluation.figures.sweep import draw_sweep

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
    """Long form: one row for each cell, arm and benchmark (and their mean); one row for an unfinished cell.

    `settings` is JSON of the keys that differ from the recipe. Scores are in %, differences to `baseline` in
    points; `low` and `high` are the bounds of the difference's 95 % interval.
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


def _cell_rows(cell: "Cell", state: str, result: Any) -> Iterator[dict[str, Any]]:
    about = {"cell": cell.name, "state": state, "settings": json.dumps(dict(cell.settings))}
    if state != "done":
        yield {**about, "error": result}
        return
    scales = {b["name"]: b["scale"] for b in result["suite"]["benchmarks"]}
    for arm in result["arms"]:
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
    if not interval:
        return {}
    return {"difference": interval["value"], "low": interval["low"], "high": interval["high"]}


def markdown(sweep: "Sweep", outcomes: Outcomes, picture: bool) -> str:
    """The content of sweep.md: keys and values, a row for each cell and arm, the unfinished cells."""
    done = [comparison for state, comparison in outcomes.values() if state == "done"]
    head = [
        f"# {sweep.name}",
        "",
        sweep.description,
        "",
        f"Recipe: {sweep.recipe}. The cell `default` has the recipe's own values. Keys and values:",
        "",
    ]
    head += [
        f"- `{key}`: {', '.join(json.dumps(value) for value, _ in values)}"
        for key, values in sweep.axes.items()
    ]
    plot = ["![difference to the baseline against each key](sweep.png)", ""] if picture else []
    body = ["", *plot, *_table(sweep, outcomes, done[0]["suite"]["benchmarks"] if done else [])]
    open_cells = [(c.name, *outcomes[c.name]) for c in sweep.cells if outcomes[c.name][0] != "done"]
    if open_cells:
        body += [
            "",
            "## Not done",
            "",
            *(f"- `{name}`: {state}{f': {error}' if error else ''}" for name, state, error in open_cells),
        ]
    return "\n".join([*head, *body]) + "\n"


LEGEND = (
    "Mean over benchmarks ± standard deviation over seeds; the same with shuffled images, and the score "
    "that the arm loses by them (grounded gain); chance level and level of the best blind guess; "
    "differences to the baseline in points, for each benchmark on the right. A dash: not measured for "
    "all benchmarks."
)


def _table(sweep: "Sweep", outcomes: Outcomes, benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
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
    lines = [LEGEND, "", _line(header), _line(["---"] * len(header))]
    for cell in sweep.cells:
        state, comparison = outcomes[cell.name]
        if state != "done":
            lines.append(_line([cell.name, state, *[""] * (len(header) - 2)]))
            continue
        lines += [_line([cell.name, *_arm_cells(arm, comparison, benchmarks)]) for arm in comparison["arms"]]
    return lines


def _arm_cells(
    arm: Mapping[str, Any], comparison: Mapping[str, Any], benchmarks: Sequence[Mapping[str, Any]]
) -> list[str]:
    std, difference = arm["mean"]["std"], arm["difference"]
    by_benchmark = [arm["benchmark_differences"].get(benchmark["name"]) for benchmark in benchmarks]
    return [
        arm["arm"],
        arm["budget"],
        f"{arm['mean']['mean']:.1f}" + (f" ± {std:.1f}" if std is not None else ""),
        *_grounding_cells(arm, comparison),
        "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**difference) if difference else "",
        *(f"{interval['value']:+.1f}" if interval else "" for interval in by_benchmark),
    ]


def _grounding_cells(arm: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[str]:
    """Shuffled score, grounded gain, chance and blind level: how much of an arm's mean needs the image."""
    scales = {b["name"]: b["scale"] for b in comparison["suite"]["benchmarks"]}
    measured = [(arm["shuffled_mean"], ".1f"), (arm["grounded_mean"], "+.1f")]
    cells = ["–" if spread is None else f"{spread['mean']:{form}}" for spread, form in measured]
    for levels in (comparison["chance"], comparison["blind"]):
        percents = [100 * levels[task] / scale for task, scale in scales.items() if levels[task] is not None]
        cells.append(f"{sum(percents) / len(scales):.1f}" if len(percents) == len(scales) else "–")
    return cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def picture_panels(
    sweep: "Sweep", table: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[tuple[Any, float, float, float]]]]:
    """Key -> arm -> (value, difference of the mean, low, high) for the finished cells."""
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
