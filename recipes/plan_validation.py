"""The stages that make validation items for targeted signals, and those that check that none is reported.

No item is checked by its name: `held_out` compares questions and images. It runs before all repetitions, and
a comparison reads it, so that no result is reported without it; nothing that is trained depends on it, so
that another reported benchmark trains nothing again.
"""

from dataclasses import dataclass, field
from typing import Any

from recipes import external
from recipes.errors import RecipeError
from recipes.external import Fingerprints
from recipes.graph import Node, Plan, dump, stage_name
from recipes.load import Loaded
from recipes.named_files import NamedSuite, mirror_input, suite_inputs, suite_of
from recipes.plan_evaluation import EvaluationPlan
from recipes.schema import DrawnSuiteItems, LlavaItems, SuiteItems

FIRST = -1
"""Before the first repetition."""


@dataclass
class ValidationPlan:
    """Plans validation items; `reported` is the evaluation that the arms are compared on.

    `checks` are the stages `held_out`.
    """

    plan: Plan
    loaded: Loaded
    prints: Fingerprints
    reported: EvaluationPlan
    checks: list[Node] = field(default_factory=list)

    def samples(self, section: LlavaItems | DrawnSuiteItems, *key: str) -> Node:
        """The stage that makes the items at `key` a pool of samples with reference answers."""
        if isinstance(section, LlavaItems):
            where = self.loaded.locate(*key, "source")
            source = external.data_file(section.source, where, "validation", self.prints)
            place = self.loaded.locate(*key, "images")
            images = external.images(section.images, [source.local], [source.local], None, place, self.prints)
            config, inputs = dump(section, "kind"), {"source": source, "images": images}
        else:
            config = dump(section, "kind", "suite", "items", "seed")
            inputs = self._of_suite(section, *key)
        name = stage_name("validation", key[0])
        node = self.plan.add("validation", config, inputs, name=name, work=100, repetition=FIRST)
        self._check({"items": node}, None, *key)
        return node

    def evaluation(self, section: SuiteItems, *key: str) -> EvaluationPlan:
        """The evaluation of checkpoints on the items at `key`."""
        inputs = self._of_suite(section, *key)
        own = {"item_suite": inputs["suite"], "item_tasks": inputs["tasks"], "mirror": inputs["mirror"]}
        self._check(own, {"suite": section.suite, "limit": section.items}, *key)
        named = NamedSuite.of_items(section, *key)
        return EvaluationPlan(self.plan, self.loaded, self.prints, None, None, named)

    def _of_suite(self, section: SuiteItems, *key: str) -> dict[str, Any]:
        """The suite, its tasks and its data. Raises RecipeError also for benchmarks that need a judge."""
        named = NamedSuite.of_items(section, *key)
        suite = suite_of(named, self.loaded)
        if judged := [benchmark.name for benchmark in suite if benchmark.judge]:
            raise RecipeError(
                f"{self.loaded.locate(*key, 'suite')}: {'.'.join(key)}.suite: {', '.join(judged)} need a "
                "judge; validation items are scored by rules alone: leave these out of the suite"
            )
        mirror = mirror_input(named, self.loaded, list(suite), self.prints)
        return {**suite_inputs(named, self.loaded, self.prints), "mirror": mirror}

    def _check(self, items: dict[str, Any], asked: dict[str, Any] | None, *key: str) -> None:
        """Add the stage that compares items with the reported questions, unless nothing can be reported."""
        if self.reported.problem:
            return
        named = self.reported.named
        config = {
            "suite": named.name,
            "not_judged": named.not_judged,
            "items_of": asked,
            "key": ".".join(key),
        }
        inputs = {**self.reported.shared, **items}
        name = stage_name("held_out", key[0])
        check = self.plan.add("held_out", config, inputs, name=name, work=100, repetition=FIRST)
        if check not in self.checks:
            self.checks.append(check)
