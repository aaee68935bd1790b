"""What the trainings of a plan will cost: steps, tokens, FLOPs, GPU hours, memory and checkpoints.

costs = TrainingCosts(loaded, root)
costs.of(node)          # a training.estimate.cost.Cost, or None with a reason in `costs.notes`
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import steps
from recipes.graph import Node, store_path
from recipes.load import Loaded
from training.spec import FitSpec

if TYPE_CHECKING:
    from training.estimate.cost import Cost
    from training.estimate.lengths import Lengths
    from training.estimate.shapes import Shape

TEXT_TOKENS = 300
"""Assumed text tokens of a sample of a pool that is not built yet."""


class TrainingCosts:
    """Estimates for the training stages of one recipe; equal trainings are computed once.

    `notes`: what was assumed, and why a training has no estimate, each said once.
    """

    def __init__(self, loaded: Loaded, root: Path) -> None:
        self.resources, self.root = loaded.recipe.resources, root
        self.notes: list[str] = []
        self._costs: dict[Any, Cost | None] = {}
        self._shapes: dict[str, Shape | None] = {}
        self._lengths: dict[str, Lengths] = {}

    def of(self, node: Node) -> "Cost | None":
        """The cost of a stage; None for a stage that trains nothing, or whose model is unknown."""
        spec = spec_of(node)
        if spec is None or (shape := self._shape(node)) is None:
            return None
        rows = self._rows(node)
        count = round(self._expected(node, spec, shape)) if rows is None else len(rows)
        subset = "" if rows is None else _input(node, "subset").hash
        key = (shape.name, spec.model_dump_json(exclude={"seed"}), _input(node, "pool").hash, subset, count)
        if key not in self._costs:
            self._costs[key] = self._estimate(shape, spec, node, rows, max(1, count))
        return self._costs[key]

    def _expected(self, node: Node, spec: FitSpec, shape: "Shape") -> float:
        """Samples that a stage will train on, whose subset is not chosen yet."""
        subset = node.inputs.get("subset")
        if not isinstance(subset, Node) or "costs" not in subset.config:
            return samples_of(node, spec)
        from recipes.bought import bought
        from training.estimate.cost import flops

        samples = self._lengths_of(shape, _input(node, "pool"))
        return bought(subset, samples, lambda own: spec.epochs * flops(shape, spec, own) / len(own))

    def _estimate(self, shape: "Shape", spec: FitSpec, node: Node, rows: Any, count: int) -> "Cost | None":
        from training.estimate.cost import MFU, estimate

        chosen = self._tokenised(node, rows, count)
        if chosen is None:
            lengths = self._lengths_of(shape, _input(node, "pool"))
            chosen = lengths.take(rows) if rows is not None and lengths.counted else lengths.resized(count)
        mfu = self.resources.mfu or MFU
        try:
            return estimate(shape, spec, chosen, gpu=self.resources.gpu, mfu=mfu)
        except ValueError as error:
            self._note(f"no estimate for {node.name}: {error}")
            return None

    def _shape(self, node: Node) -> "Shape | None":
        """The shape of the model that a stage trains: that of the base at the beginning of the chain."""
        base = node.inputs.get("base")
        while isinstance(base, Node):
            base = base.inputs.get("base")
        if base is None or isinstance(base, list):
            return None
        name = str(base.path)
        if name not in self._shapes:
            self._shapes[name] = self._read_shape(base.path)
        return self._shapes[name]

    def _read_shape(self, path: Any) -> "Shape | None":
        from training.estimate.published import shape_of
        from training.estimate.shapes import Shape, ShapeError

        try:
            return Shape.of_checkpoint(path) if isinstance(path, Path) else shape_of(path.name)
        except ShapeError as error:
            self._note(f"no estimate of the trainings: {error}")
        except ValueError:
            self._note(
                f"no estimate of the trainings: {path} is not on this machine, and its shape is unknown"
            )
        return None

    def _tokenised(self, node: Node, rows: Any, count: int) -> "Lengths | None":
        """Lengths of the rows, or of `count` rows not chosen yet, if the store of its tokens is finished."""
        tokens = node.inputs.get("tokens")
        if not isinstance(tokens, Node) or not self.built(tokens):
            return None
        from training.estimate.lengths import of_store
        from training.token_store import StoreError
        from training.token_store.layout import read_info

        store = store_path(self.root, tokens.kind, tokens.hash) / "store"
        try:
            lengths, total = of_store(store, rows), read_info(store).rows
        except StoreError as error:
            self._note(f"{tokens.name} cannot be read: {error}")
            return None
        self._note(f"trainings are estimated from {total:,} samples of {tokens.name}, {lengths.source}")
        if rows is not None or not len(lengths):
            return lengths
        return lengths.resized(max(1, round(count * len(lengths) / total)))  # as many are rejected

    def built(self, node: Node) -> bool:
        """Whether a stage is finished."""
        return (store_path(self.root, node.kind, node.hash) / "done.json").is_file()

    def _lengths_of(self, shape: "Shape", pool: Any) -> "Lengths":
        """Lengths of the samples of a pool: counted if it is in the store, else assumed."""
        if pool.hash in self._lengths:
            return self._lengths[pool.hash]
        from training.estimate.lengths import Lengths, of_pool
        from training.estimate.published import image_tokens

        place, each = store_path(self.root, pool.kind, pool.hash), image_tokens(shape)
        lengths = (
            of_pool(place, each)
            if self.built(pool)
            else Lengths.assumed(round(pool.work), TEXT_TOKENS, 1, each)
        )
        self._note(f"trainings are estimated from {len(lengths):,} samples of {pool.name}, {lengths.source}")
        self._lengths[pool.hash] = lengths
        return lengths

    def samples(self, pool: Node, shape: "Shape | None") -> "Lengths":
        """Lengths of the samples of a pool; without a shape, those of their texts alone are meant."""
        if shape is not None:
            return self._lengths_of(shape, pool)
        from training.estimate.lengths import Lengths, of_pool

        if self.built(pool):
            return of_pool(store_path(self.root, pool.kind, pool.hash), 0)
        return Lengths.assumed(round(pool.work), TEXT_TOKENS, 1, 0)

    def usd(self, node: Node) -> float | None:
        """US dollars that a stage will charge.

        None for labels of a pool that is not built, and for signals of a judge that has prices.
        """
        if node.kind != "labels_api":
            judge = node.config.get("server", {})
            return None if judge.get("input_price") or judge.get("output_price") else 0.0
        from recipes.stages.label_estimate import estimate_of

        pool = _input(node, "pool")
        if not self.built(pool):
            return None
        server = dict(node.config["server"])
        mode, batch = server.pop("mode"), server.pop("batch")
        config = {**node.config, "server": server, "mode": mode, "batch": batch}
        return estimate_of(config, store_path(self.root, pool.kind, pool.hash)).usd

    def _rows(self, node: Node) -> Any:
        """Rows of the subset that a stage trains on, if it is chosen already."""
        subset = node.inputs.get("subset")
        if not isinstance(subset, Node) or subset.kind != "select" or not self.built(subset):
            return None
        from curation.subset import read_subset

        return read_subset(store_path(self.root, subset.kind, subset.hash))["row"].to_numpy()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Headings of `cells`."""
        hours = (f"{self.resources.gpu} hours",) if self.resources.gpu else ()
        return ("steps", "tokens", "FLOPs", *hours, "GB a process")

    def cells(self, cost: "Cost | None") -> tuple[str, ...]:
        """An estimate as cells of the table of stages; empty ones without an estimate."""
        from training.estimate.table import short

        if cost is None:
            return ("",) * len(self.columns)
        hours = () if cost.gpu_hours is None else (f"{cost.gpu_hours:,.2f}",)
        fits = "" if cost.fits is not False else " (too much)"
        memory = f"{cost.memory.gpu / 1e9:.1f}{fits}"
        return (f"{cost.steps:,}", short(cost.tokens), f"{cost.flops:.2g}", *hours, memory)

    def total(self, costs: Iterable["Cost"]) -> str:
        """All trainings together, in one line."""
        from training.estimate.table import short, size

        costs = list(costs)
        tokens, flops = sum(cost.tokens for cost in costs), sum(cost.flops for cost in costs)
        words = [f"{len(costs)} trainings: {short(tokens)} tokens", f"{flops:.2g} FLOPs"]
        if self.resources.gpu:
            hours, mfu = sum(cost.gpu_hours or 0 for cost in costs), costs[0].mfu
            words.append(f"{hours:,.1f} {self.resources.gpu} hours at {mfu:.0%} MFU")
        states = max(cost.disk.peak - cost.disk.final for cost in costs)
        words.append(f"{size(sum(cost.disk.final for cost in costs))} of checkpoints")
        words.append(f"and up to {size(states)} for states to resume from while one trains")
        return ", ".join(words)


def spec_of(node: Node) -> FitSpec | None:
    """The settings of a training stage; None for other stages."""
    return steps.spec_of(node.kind, node.config)


def samples_of(node: Node, spec: FitSpec) -> float:
    """Samples that a stage is expected to train on, from the samples that the plan expects it to see."""
    return spec.batch_size if spec.max_steps else node.work / spec.epochs


def _input(node: Node, name: str) -> Any:
    """The one stage or outside input of that name; mypy does not know which inputs are lists."""
    return node.inputs[name]
