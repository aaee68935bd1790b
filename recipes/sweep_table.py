"""Table, long-form rows and plot of a sweep, from the comparisons of its cells."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import atomic
from recipes import store

if TYPE_CHECKING:
    import pyarrow as pa

    from recipes.sweep_file import Sweep
    from recipes.sweep_results import CellResult, Outcomes, SweepResults

MEAN = "mean"
"""Value of the column `benchmark` for the mean over all benchmarks."""


def write_results(sweep: "Sweep", outcomes: "Outcomes", place: Path) -> Path:
    """Keep what the sweep is shown from, and write all that is shown; returns the path of sweep.md."""
    from recipes.sweep_results import keep

    with store.explained(place):
        place.mkdir(parents=True, exist_ok=True)
        keep(sweep, outcomes, place)
    return rebuild(place, place)


def rebuild(folder: Path, out: Path) -> Path:
    """Write sweep.parquet, sweep.png (if a cell is done) and, last, sweep.md, whose path is returned.

    They are made from sweep.json and the cells' experiments in `folder` alone. Raises ResultsError.
    """
    import pyarrow.parquet as pq

    from evaluation.figures.sweep import draw_sweep
    from recipes.sweep_results import read

    sweep = read(folder)
    with store.explained(out):
        out.mkdir(parents=True, exist_ok=True)
        table = rows(sweep)
        with atomic.replacing(out / "sweep.parquet") as temporary:
            pq.write_table(table, temporary)
        panels = picture_panels(sweep, table.to_pylist())
        if panels:
            draw_sweep(panels, out / "sweep.png")
    store.write_text(out / "sweep.md", markdown(sweep, bool(panels)))
    return out / "sweep.md"


def rows(sweep: "SweepResults") -> "pa.Table":
    """Long form: one row for each cell, arm and benchmark (and their mean); one row for an unfinished cell.

    `settings` is JSON of the keys that differ from the recipe. Scores are in %, differences to `baseline` in
    points; `low` and `high` are the bounds of the difference's own 95 % interval, `corrected_low` and
    `corrected_high` those of the interval that holds for all differences of the sweep at once (of the mean;
    a benchmark's holds for all benchmarks and arms of its cell). `verdict` is what the latter allows.
    """
    import pyarrow as pa

    text = ("cell", "state", "error", "settings", "arm", "budget", "baseline", "benchmark", "verdict")
    numbers = ("score", "std", "difference", "low", "high", "corrected_low", "corrected_high")
    schema = pa.schema([(name, pa.string()) for name in text] + [(name, pa.float64()) for name in numbers])
    return pa.Table.from_pylist([row for cell in sweep.cells for row in _cell_rows(cell)], schema)


def _cell_rows(cell: "CellResult") -> Iterator[dict[str, Any]]:
    about = {"cell": cell.name, "state": cell.state, "settings": json.dumps(dict(cell.settings))}
    if cell.state != "done":
        yield {**about, "error": cell.error}
        return
    scales = {b["name"]: b["scale"] for b in cell.comparison["suite"]["benchmarks"]}
    for arm in cell.comparison["arms"]:
        own = {**about, "arm": arm["arm"], "budget": arm["budget"], "baseline": arm["baseline"]}
        yield {
            **own,
            "benchmark": MEAN,
            "score": arm["mean"]["mean"],
            "std": arm["mean"]["std"],
            "verdict": arm["claim"] and arm["claim"]["verdict"],
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
    bounds = {name: interval[name] for name in ("low", "high", "corrected_low", "corrected_high")}
    return {"difference": interval["value"], **bounds}


def markdown(sweep: "SweepResults", picture: bool) -> str:
    """The content of sweep.md: keys and values, a row for each cell and arm, the unfinished cells."""
    done = [cell.comparison for cell in sweep.cells if cell.state == "done"]
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
    body = ["", *plot, *_table(sweep, done[0]["suite"]["benchmarks"] if done else [])]
    open_cells = [(c.name, c.state, c.error) for c in sweep.cells if c.state != "done"]
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
    "differences to the baseline in points, for each benchmark on the right. Difference and claim: the "
    "interval holds at once for all {family} differences of this sweep, and the word follows from it alone. "
    "A dash: not measured for all benchmarks, or not known from one repetition."
)


def _table(sweep: "SweepResults", benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
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
        "claim",
        *(b["label"] for b in benchmarks),
    ]
    legend = LEGEND.format(family=_family(sweep))
    lines = [legend, "", _line(header), _line(["---"] * len(header))]
    for cell in sweep.cells:
        if cell.state != "done":
            lines.append(_line([cell.name, cell.state, *[""] * (len(header) - 2)]))
            continue
        arms = cell.comparison["arms"]
        lines += [_line([cell.name, *_arm_cells(arm, cell.comparison, benchmarks)]) for arm in arms]
    return lines


def _family(sweep: "SweepResults") -> int:
    """How many differences the corrected intervals hold for at once."""
    claims = [arm["claim"] for cell in sweep.cells for arm in cell.comparison.get("arms", ()) if arm["claim"]]
    return max((claim["family"] for claim in claims), default=0)


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
        *_claim_cells(difference, arm["claim"]),
        *(f"{interval['value']:+.1f}" if interval else "" for interval in by_benchmark),
    ]


def _claim_cells(difference: Mapping[str, Any] | None, claim: Mapping[str, Any] | None) -> list[str]:
    """The difference with the interval that the claim follows from, and the claim."""
    if not difference or not claim:
        return ["", ""]
    if claim["verdict"] is None:
        return [f"{difference['value']:+.1f}", "–"]
    text = "{value:+.1f} [{corrected_low:+.1f}, {corrected_high:+.1f}]".format(**difference)
    margin = f" within {claim['margin']:g}" if claim["verdict"] == "equivalent" else ""
    return [text, f"{claim['verdict']}{margin} {claim['scope']}"]


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
    sweep: "SweepResults", table: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[tuple[Any, float, float, float]]]]:
    """Key -> arm -> (value, difference of the mean, low, high) for the finished cells; keys that have any.

    The bounds are those of the corrected interval; an arm without one is in the table only.
    """
    means = [row for row in table if row["benchmark"] == MEAN and row["corrected_low"] is not None]
    panels: dict[str, dict[str, list[tuple[Any, float, float, float]]]] = {}
    for key, values in sweep.axes.items():
        arms: dict[str, list[tuple[Any, float, float, float]]] = {}
        for value, name in values:
            for row in means:
                if row["cell"] == name:
                    bounds = (row["corrected_low"], row["corrected_high"])
                    arms.setdefault(row["arm"], []).append((value, row["difference"], *bounds))
        if arms:
            panels[key] = arms
    return panels
