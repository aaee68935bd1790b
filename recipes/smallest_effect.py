"""The smallest difference that a recipe can find, said before it is run (`recipes.run --dry-run`)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.finished import RESULTS
from recipes.graph import Node, Plan

if TYPE_CHECKING:
    from evaluation.comparison import Components

ASSUMED = {"pools": 0.8, "seeds": 0.75, "base_seeds": 0.75, "questions": None, "answers": None}
"""Standard deviations in points where no earlier result of the base and the suite is there: about those of
14 benchmarks of 300 questions in the mini world. What the choice of questions leaves is not in them."""


@dataclass(frozen=True)
class Repeated:
    """How often a recipe repeats its arms: on `pools`, with at least `seeds` of an arm under test and of its
    baseline on each. `family`: how many differences are tested at once."""

    pools: int
    seeds: int
    base_seeds: int
    family: int


def effect_lines(plan: Plan, root: Path) -> Iterator[str]:
    """What a dry run says; nothing for a recipe that compares nothing with a baseline."""
    from evaluation.comparison import Components
    from evaluation.statistics.power import smallest_effect

    compare = plan.nodes[-1]
    if compare.kind != "compare" or (design := repeated(compare.config)) is None:
        return
    seen, of = components_seen(compare, root)
    components = seen or Components(**ASSUMED)
    size = (design.pools, design.seeds, design.base_seeds, design.family)
    effect = smallest_effect(components, *size)
    if effect is None:
        yield (
            "smallest difference that can be found: none; one repetition of an arm on fewer than three "
            "pools allows no verdict: give `seeds: 3` or more, or three pools"
        )
        return
    where = f"{design.pools} pools" if design.pools > 1 else "one pool"
    how = f"{where}, {design.seeds} seeds of an arm and {design.base_seeds} of its baseline on each"
    differences = f"{design.family} difference{'s' if design.family > 1 else ''}"
    for_all = f"with 80 % power, at once for {differences} ({how})"
    if seen is not None:
        yield f"smallest difference that can be found: {effect:.2f} points {for_all}; variances seen in {of}"
        return
    yield (
        "smallest difference that can be found: not known before a first result of this base and suite; "
        f"{effect:.2f} points {for_all}, if seeds have a standard deviation of {ASSUMED['seeds']} points, "
        f"pools one of {ASSUMED['pools']}, and questions none"
    )


def repeated(config: Mapping[str, Any]) -> Repeated | None:
    """The design in the config of stage `compare`; None if no arm is compared with a baseline."""
    runs = config["runs"]
    pairs = {run["arm"]: base for run in runs if (base := baseline_of(run, config)) not in (None, run["arm"])}
    levels = {run["arm"] for run in runs if run["control"] in ("zero", "full")} | {config["reference"]}
    tested = [arm for arm in pairs if arm not in levels]
    if not tested:
        return None
    repetitions = _repetitions(runs)
    return Repeated(
        len(config["pool_seeds"]),
        min(repetitions[arm] for arm in tested),
        min(repetitions[pairs[arm]] for arm in tested),
        len(tested),
    )


def baseline_of(run: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The arm that a run's arm is compared with; what costs as much as another arm has that one's."""
    baseline = config["baseline"]
    if not isinstance(baseline, dict):
        return baseline
    budgets = {one["arm"]: str(one["budget"]) for one in config["runs"]}
    own = str(run["budget"])
    return baseline.get(budgets[run["control_of"]] if own.startswith("as:") and run["control_of"] else own)


def _repetitions(runs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By arm: its selection seeds on a pool if there are several, else its training seeds."""
    seeds: dict[str, tuple[set[int], set[int]]] = {}
    for run in runs:
        selection, training = seeds.setdefault(run["arm"], (set(), set()))
        selection.add(run["selection_seed"])
        training.add(run["train_seed"])
    return {
        arm: len(selection) if len(selection) > 1 else len(training)
        for arm, (selection, training) in seeds.items()
    }


def components_seen(compare: Node, root: Path) -> tuple["Components | None", str]:
    """(variances of earlier results with the same base and suite, where), of this root else of those shipped.

    The mean over all arms whose variances are known.
    """
    from evaluation.suite import load_suite
    from recipes.power import mean_components

    suite, base = load_suite(compare.config["suite"]).name, _base_of(compare)
    for folder in (root / "runs", RESULTS):
        known = {
            place.name: own
            for place in sorted(folder.glob("*"))
            if base is not None and (own := _components(place, suite, base))
        }
        if known:
            return mean_components([one for own in known.values() for one in own]), ", ".join(known)
    return None, ""


def _base_of(compare: Node) -> str | None:
    trains = compare.inputs.get("trains", [])
    node = trains[0] if isinstance(trains, list) and trains else None
    base = node.inputs.get("base") if isinstance(node, Node) else None
    return None if base is None or isinstance(base, list) else base.hash


def _components(place: Path, suite: str, base: str) -> list[Mapping[str, float | None]]:
    """Those of each arm with a claim in a folder of results; none if its suite or its base is another."""
    files = [place / name for name in ("comparison.json", "lineage.json")]
    if not all(file.is_file() for file in files):
        return []
    comparison, lineage = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    stages = lineage["stages"].values()
    made_with = {stage["inputs"]["base"]["hash"] for stage in stages if stage["kind"] == "train"}
    if comparison["suite"]["name"] != suite or made_with != {base}:
        return []
    claims = [arm.get("claim") for arm in comparison["arms"]]
    return [claim["components"] for claim in claims if claim and claim["components"] and claim["family"]]
