"""The stages of an evaluation: `answer`, `judge` where a benchmark needs one, `evaluate` (the scores).

Another extractor, weight or judge changes no stage `answer`. Where one does change, such as by a benchmark
that is added to the suite, only answers that do not exist yet are asked for (recipes/stages/answer.py).
"""

from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from recipes.external import External, Fingerprints
from recipes.graph import Node, Plan, dump, stage_name
from recipes.load import Loaded
from recipes.named_files import (
    NamedSuite,
    check_limit,
    mirror_input,
    mirror_questions,
    suite_inputs,
    suite_of,
)
from recipes.schema import Bench, EvaluationJudge

if TYPE_CHECKING:
    from evaluation.suite import Benchmark

ASKED = ("batch_size", "max_batch_tokens", "dtype", "template", "loaders")
"""Keys of the section `evaluation` that `answer` reads."""


@dataclass
class EvaluationPlan:
    """Plans the evaluation of checkpoints on one set of benchmark items.

    `named`: the suite. `items`: the stage that draws the mini world's items, or None for a mirror. `problem`
    says why no checkpoint can be evaluated; the plan is then made without the evaluation's inputs, and
    refused when an evaluation is needed (`recipes.engine.refuse_unrunnable`).
    """

    plan: Plan
    loaded: Loaded
    prints: Fingerprints
    items: Node | None
    section: Bench | None
    named: NamedSuite
    problem: str | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.suite = suite_of(self.named, self.loaded)
        self.shared = dict(suite_inputs(self.named, self.loaded, self.prints))
        self.problem = self._problem()
        if self.problem is None:
            in_mirror = self.named.mirror is not None or self.items is None
            if in_mirror:
                self.held = mirror_questions(self.named, self.loaded, self.suite)
                self.shared["bench"] = mirror_input(self.named, self.loaded, list(self.suite), self.prints)
                if self.named.mirror_key[0] == "evaluation" and self.loaded.recipe.limit is not None:
                    check_limit(self.named, self.loaded, self.suite, self.loaded.recipe.limit)
            else:
                self.shared["bench"] = self.items
        elif self.items:
            self.shared["bench"] = self.items
        if self.problem:
            self.plan.refusals["answer"] = self.plan.refusals["evaluate"] = self.problem

    def _problem(self) -> str | None:
        """Why the suite cannot be evaluated here, in words that say what to do; None if it can."""
        evaluation, name = self.loaded.recipe.evaluation, self.suite.name
        if find_spec("lmms_eval") is None:
            return "evaluation needs lmms-eval, which is not installed: pip install 'winnow[eval]'"
        if judged := [b.name for b in self.suite if b.judge]:
            if evaluation.judge is None:
                return (
                    f"evaluation.judge: missing; {', '.join(judged)} of suite {name!r} need a judge: name a "
                    "model and its server, or write `judge: not judged` to leave them out of every arm's mean"
                )
        if self.named.mirror is None and self.items is None:
            remote = sorted({b.data.repo for b in self.suite if b.data.repo})
            if not remote:
                return (
                    f"bench: missing; suite {name!r} has no items to evaluate on: give a section `bench` "
                    "(the mini world's items) or `evaluation.data.mirror`, or stop before with --until"
                )
            return (
                f"evaluation.data.mirror: missing; suite {name!r} reads {len(remote)} repositories: fetch "
                f"them with `python -m evaluation.data fetch {name} --mirror DIR` and name DIR, or stop "
                "before the evaluation with --until"
            )
        if self.named.mirror is None and any(b.data.repo for b in self.suite):
            return f"evaluation.data.mirror: missing; suite {name!r} reads data that `bench` does not draw"
        return None

    def cost(self, checkpoints: int) -> str:
        """In words: how much these checkpoints are asked, how long that takes and what else it needs."""
        minutes = sum(benchmark.gpu_minutes for benchmark in self.suite)
        asked = sum(self.questions(benchmark) for benchmark in self.suite)
        time = (
            f"about {minutes * checkpoints:,.0f} GPU-minutes for a 7B model on one H100"
            if minutes
            else "GPU-minutes unknown"
        )
        judged = [benchmark.name for benchmark in self.suite if benchmark.judge]
        section = self.loaded.recipe.evaluation.judge
        if isinstance(section, EvaluationJudge) and judged:
            judge = f"judged by {section.model}: {', '.join(judged)}"
        elif self.named.not_judged:
            judge = "benchmarks that need a judge are left out"
        else:
            judge = f"a judge is needed: {', '.join(judged)}" if judged else "no judge needed"
        return (
            f"evaluation: suite {self.suite.name}, {len(self.suite)} benchmarks, {checkpoints} checkpoints x "
            f"{asked:,.0f} questions; on the whole data {time}; {judge}"
        )

    def add(
        self,
        model: Node | External,
        *names: str | int,
        shuffled: bool,
        limit: int | None,
        repetition: int = 0,
    ) -> Node:
        """The stages for one checkpoint, trained here or given; returns `evaluate`, which scores."""
        answers = self._answer(model, names, shuffled, limit, repetition)
        judge = self._judge(answers, names, limit, repetition)
        config = {
            "suite": self.named.name,
            "limit": limit,
            **self._scored,
            "not_judged": self.named.not_judged,
        }
        inputs = {**self.shared, "answers": answers, **({"judgements": judge} if judge else {})}
        return self.plan.add(
            "evaluate",
            config,
            inputs,
            name=stage_name("evaluate", *names),
            work=answers.work / 10,
            repetition=repetition,
        )

    def _answer(
        self,
        model: Node | External,
        names: tuple[str | int, ...],
        shuffled: bool,
        limit: int | None,
        repetition: int,
    ) -> Node:
        config = {**self._asked, "limit": limit, "shuffled": shuffled}
        shared = {name: value for name, value in self.shared.items() if name != "suite"}
        return self.plan.add(
            "answer",
            config,
            {"model": model, **shared},
            name=stage_name("answer", *names),
            work=sum(min(self.questions(b), limit or 2**31) for b in self.suite) * (1 + shuffled),
            repetition=repetition,
        )

    @cached_property
    def _asked(self) -> dict[str, Any]:
        """The config that all stages `answer` share."""
        from evaluation.opened import asked

        return {
            **dump(self.loaded.recipe.evaluation, *ASKED),
            "workers": self.loaded.recipe.resources.answer_workers,
            "tasks": self.suite.tasks,
            "benchmarks": [asked(benchmark) for benchmark in self.suite],
        }

    @cached_property
    def _scored(self) -> dict[str, Any]:
        """The keys of the section `evaluation` that all stages `evaluate` share."""
        return dump(self.loaded.recipe.evaluation, "batch_size", "max_batch_tokens")

    def questions(self, benchmark: "Benchmark") -> float:
        """Number of questions of a benchmark, for estimates: those in the mirror, or those that are drawn."""
        if self.section and self.items:
            return self.section.items
        return self.held.get(benchmark.name) or benchmark.expected or 1000

    def _judge(
        self, answers: Node, names: tuple[str | int, ...], limit: int | None, repetition: int
    ) -> Node | None:
        """The stage that has judged benchmarks judged; None if no benchmark needs it."""
        section = self.loaded.recipe.evaluation.judge
        judged = [benchmark for benchmark in self.suite if benchmark.judge]
        if not judged or not isinstance(section, EvaluationJudge):
            return None
        config = {"suite": self.named.name, "limit": limit, **dump(section)}
        return self.plan.add(
            "judge",
            config,
            {**self.shared, "answers": answers},
            name=stage_name("judge", *names),
            work=sum(self.questions(benchmark) for benchmark in judged),
            repetition=repetition,
        )
