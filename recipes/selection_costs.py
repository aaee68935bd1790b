"""What each arm cost: its selection beyond the pool, and one training, in seconds, FLOPs, hours and money.

costs = Costs(about, steps, lengths)      # about: `costs` in the config of stage `compare`
costs.by_arm()                            # {arm: evaluation.context.Cost}, means over the arm's runs

Selection is all that the subset needed and a random one does not: teacher, fits, signals, the selection. A
stage that several arms share counts in full for each. Seconds are those of the machine that ran a stage.
GPU-hours are measured where a stage ran on a GPU, else they follow from FLOPs by the GPU and MFU of
`resources`. Money is what a teacher or a judge charged, and GPU-hours at `usd_per_gpu_hour`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from recipes.stage_flops import StageFlops
from recipes.stage_models import Uncounted
from recipes.steps import Step

if TYPE_CHECKING:
    from evaluation.context import Cost
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape


class Costs:
    """The costs of the runs of one comparison.

    about: `runs` (arm and the places of its stages in `steps`), `gpu`, `mfu`, `usd_per_gpu_hour`,
    `model_paths`. lengths: of the samples of a pool by its hash, as for `StageFlops`. trained: FLOPs of the
    training of a run; default: by the rows of its subset. usd: what a stage charges; default: by its record.
    exact: as for `StageFlops`.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        steps: Sequence[Step],
        lengths: Callable[[str, "Shape | None"], "Lengths"],
        *,
        trained: Callable[[Mapping[str, Any]], float | None] | None = None,
        usd: Callable[[Step], float | None] | None = None,
        exact: bool = True,
    ) -> None:
        self.about, self.steps = about, steps
        by_hash = {step.hash: step for step in steps}
        self.rule = StageFlops(by_hash, about["model_paths"], lengths, exact=exact)
        self._trained, self._usd = trained or self._flops_of_rows, usd or charged

    def by_arm(self) -> dict[str, "Cost"]:
        """The mean cost of each arm over its runs, in the order of the runs."""
        runs: dict[str, list[Cost]] = {}
        for run in self.about["runs"]:
            runs.setdefault(run["arm"], []).append(self.of_run(run))
        return {arm: mean_of(costs) for arm, costs in runs.items()}

    def of_run(self, run: Mapping[str, Any]) -> "Cost":
        """The cost of one run."""
        from evaluation.context import Cost

        selection = [self.steps[place] for place in run["selection"]]
        flops = [self.rule.of(step) for step in selection]
        hours = [self.hours(step, own) for step, own in zip(selection, flops, strict=True)]
        train = None if run["train"] is None else self.steps[run["train"]]
        trained = self._trained(run) if train else 0.0
        return Cost(
            selection_seconds=total(step.seconds for step in selection),
            selection_flops=total(flops),
            selection_gpu_hours=total(hours),
            selection_money=self._money(selection, total(hours)),
            training_seconds=train.seconds if train else 0.0,
            training_flops=trained,
            training_gpu_hours=self.hours(train, trained) if train else 0.0,
        )

    def notes(self) -> list[str]:
        """What `by_arm` could not count, and where its GPU-hours are from."""
        measured = any(step.device != "cpu" for step in self.steps)
        by_rule = f"by FLOPs, of {self.about['gpu']} at {self.about['mfu'] or 'the assumed'} MFU"
        where = "measured" if measured else by_rule if self.about["gpu"] else "not known without a GPU"
        return [
            *self.rule.notes,
            f"Costs: FLOPs by rule; GPU-hours {where} (`resources.gpu`, `resources.mfu`).",
        ]

    def hours(self, step: Step, flops: float | None) -> float | None:
        """GPU-hours of a stage: measured on a GPU, else by its FLOPs; None where neither is known."""
        from training.estimate.cost import MFU
        from training.estimate.gpus import gpu_of

        if step.seconds is not None and step.device != "cpu":
            return step.seconds * used_gpus(step) / 3600
        if flops is None or (flops and self.about["gpu"] is None):
            return None
        rate = gpu_of(self.about["gpu"]).peak * (self.about["mfu"] or MFU) if flops else 1.0
        return flops / rate / 3600

    def _money(self, selection: Sequence[Step], hours: float | None) -> float | None:
        """US dollars: what others charged, and GPU-hours at their price, if one is given."""
        charges = total(self._usd(step) for step in selection)
        price = self.about["usd_per_gpu_hour"]
        if charges is None or price is None:
            return charges
        return None if hours is None else charges + price * hours

    def _flops_of_rows(self, run: Mapping[str, Any]) -> float | None:
        """FLOPs of a finished training, by the lengths of the rows that it read."""
        from curation.subset import read_subset
        from recipes.spending import of_tokens
        from training.estimate.cost import flops, volume

        step, (pool, tokens, subset) = self.steps[run["train"]], self._folders(run)
        spec = step.spec
        assert spec is not None
        try:
            shape = self.rule.shape(step)
        except Uncounted:
            return None
        rows = read_subset(subset)["row"].to_numpy()
        lengths = of_tokens(tokens, pool, rows).within(spec.max_length, spec.too_long)
        return volume(spec, len(lengths))[1] * flops(shape, spec, lengths)

    def _folders(self, run: Mapping[str, Any]) -> list[Path]:
        return [Path(self.steps[run[key]].folder or "") for key in ("pool", "tokens", "subset")]


def costs_of_records(about: Mapping[str, Any], folders: Iterable[Path]) -> Costs:
    """The costs of runs that are finished. folders: the artefacts of their stages, as `about` counts them."""
    from recipes.spending import of_tokens
    from training.estimate.lengths import of_pool

    steps = [Step.of_record(Path(folder)) for folder in folders]
    by_hash = {step.hash: step for step in steps}
    tokens = {
        steps[run["pool"]].hash: steps[run["tokens"]].folder
        for run in about["runs"]
        if run["tokens"] is not None
    }
    known: dict[str, Lengths] = {}

    def lengths(pool: str, shape: "Shape | None") -> "Lengths":
        folder = by_hash[pool].folder
        if pool not in known and folder is not None:
            store = tokens.get(pool)
            known[pool] = of_tokens(store, folder) if store else of_pool(folder, 0)
        return known[pool]

    return Costs(about, steps, lengths)


def used_gpus(step: Step) -> int:
    """GPUs that a stage used, of those that its record names ("4 x NVIDIA ...")."""
    spec, visible = step.spec, int(step.device.split(" x ")[0])
    if spec is None or (spec.deepspeed is None and spec.nodes == 1 and spec.processes is None):
        return 1
    return spec.nodes * (spec.processes or visible)


def charged(step: Step) -> float:
    """US dollars that a stage was charged; answers that were kept from earlier runs count at their price."""
    cost = step.summary.get("cost", step.summary)
    if "usd" not in cost:
        return 0.0
    server = step.config.get("server", {})
    batch = server.get("batch", {}).get("price", 1.0) if server.get("mode") == "batch" else 1.0
    kept = cost.get("kept_input_tokens", 0) * server.get("input_price", 0.0)
    kept += cost.get("kept_output_tokens", 0) * server.get("output_price", 0.0)
    return float(cost["usd"]) + batch * kept / 1e6


def total(values: Iterable[float | None]) -> float | None:
    """The sum; None if any is not known."""
    known = list(values)
    return None if None in known else float(sum(value for value in known if value is not None))


def mean_of(costs: Sequence["Cost"]) -> "Cost":
    """The mean of each number; None where it is not known for one of them."""
    from evaluation.context import Cost

    def mean(name: str) -> float | None:
        known = [getattr(cost, name) for cost in costs]
        return None if None in known else fmean(known)

    return Cost(**{field.name: mean(field.name) for field in fields(Cost)})
