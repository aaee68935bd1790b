"""Plans of demo.yaml (see tests/recipes/conftest.py) with the dummy stages, and how two plans differ."""

from collections.abc import Mapping

from recipes.code import Stages
from recipes.graph import Node, Plan
from recipes.load import load
from recipes.plan import make_plan

STAGES = Stages("dummy_stages")
AFTER_SELECT = {"train", "answer", "evaluate", "compare"}
"""Families of the stages that depend on a subset."""
AFTER_RATERS = {"signal[capability]", "signal[style]", "select", *AFTER_SELECT}
"""Families of the stages of demo.yaml that depend on scorer and styler."""
AFTER_LABELS = {"fit_rater[scorer]", "fit_rater[styler]", *AFTER_RATERS}
"""Families of the stages of demo.yaml that depend on the teacher's labels."""


def plan(*overrides: str, file: str = "demo.yaml", repetitions: int | None = None) -> Plan:
    return make_plan(load(file, overrides), STAGES, repetitions=repetitions)


def by_name(*overrides: str, file: str = "demo.yaml") -> dict[str, Node]:
    """The nodes of a plan by name."""
    return {node.name: node for node in plan(*overrides, file=file).nodes}


def changed(before: Mapping[str, Node], after: Mapping[str, Node]) -> set[str]:
    """Families of the stages in `after` that are new or have another hash than in `before`."""
    return {
        node.family for name, node in after.items() if name not in before or before[name].hash != node.hash
    }
