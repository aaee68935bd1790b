"""A training in which a score net weights the losses of each batch, and learns from them.

    trained = cotrain(pool, vlm, net, objective, features, rows, spec, out, key)     # `net` is trained

In a step the net scores the samples of the batch, an objective makes weights of the scores, and the model and
the net both take a step down the same loss: sum of weight · loss + the objective's own terms. The model's
part is computed in micro-batches; since weights depend on all scores of the batch, its gradient and the
net's are taken one after the other, which gives the same as both at once. Everything runs in one process; a
state is saved every `save_steps` steps, and a killed run continues from it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from curation import atomic
from curation.signals.losses import answer_states, head_step
from curation.signals.scorers.features import Features
from curation.signals.scorers.spec import JointSpec
from training.images import ImageError
from training.render import IGNORE, Encoded, RenderError

if TYPE_CHECKING:
    from curation.pool.read import Pool
    from curation.signals.core.table import Progress
    from curation.signals.core.vlm import Vlm

STATE, NET, RECORD = "state.pt", "net.safetensors", "net.json"


class Objective(Protocol):
    """What is minimised besides, or with, the losses."""

    def __call__(
        self, scores: torch.Tensor, counts: torch.Tensor, rows: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(coefficients [B], other terms, a scalar) for scores [B] and numbers of answer tokens [B].

        The loss is sum of coefficient · summed token loss of a sample + the other terms. rows: of the batch.
        """

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What it learns itself."""


@dataclass
class Trained:
    """A finished training. missing: samples that could not be read, by reason."""

    steps: int
    losses: list[float] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """steps, first and last loss, missing."""
        ends = {"first_loss": self.losses[0], "last_loss": self.losses[-1]} if self.losses else {}
        return {"steps": self.steps, **ends, "missing": self.missing}


class Step:
    """One step down the joint loss."""

    def __init__(
        self, vlm: "Vlm", net: torch.nn.Module, objective: Objective, features: Features, spec: JointSpec
    ) -> None:
        self.vlm, self.net, self.objective, self.features, self.spec = vlm, net, objective, features, spec

    def backward(self, examples: Sequence[Encoded], rows: np.ndarray) -> float:
        """Add the gradients of the joint loss of a batch to the model, the net and the objective.

        Returns the loss. An image that cannot be decoded costs its sample its token losses.
        """
        device = self.vlm.device
        scores = self.net(self.features.of(rows, device))[:, 0]
        labelled = [int((example.labels[1:] != IGNORE).sum()) for example in examples]
        coefficients, others = self.objective(scores, torch.tensor(labelled, device=device), rows)
        sums = torch.zeros_like(scores)
        size = self.spec.micro_batch or len(examples)
        for start in range(0, len(examples), size):
            part = slice(start, start + size)
            own = self._summed_losses(examples[part])
            if own.requires_grad:  # not where every sample of the part lost its labels
                (coefficients[part].detach() * own).sum().backward()
            sums[part] = own.detach()
        total = (coefficients * sums).sum() + others
        total.backward()
        return float(total.detach())

    def _summed_losses(self, examples: Sequence[Encoded]) -> torch.Tensor:
        """float32 [b]: the cross-entropy of each example's answer tokens, summed."""
        from torch.utils.checkpoint import checkpoint

        vlm = self.vlm

        def losses(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(vlm.head(states).float(), targets, reduction="none")

        with torch.autocast(vlm.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            rows, hidden, targets = answer_states(vlm, vlm.batch(examples))
            step = head_step(vlm)
            # Logits are recomputed in the backward pass: stored, they would take the most memory by far.
            parts = [
                checkpoint(losses, states, tokens, use_reentrant=False)
                for states, tokens in zip(hidden.split(step), targets.split(step), strict=True)
            ]
        total = torch.zeros(len(examples), device=vlm.device)
        return total.index_add(0, rows, torch.cat(parts)) if parts else total


def trainable(vlm: "Vlm", spec: JointSpec) -> list[torch.nn.Parameter]:
    """Make the model ready to train as `spec` says, and return the weights that it trains."""
    from training.blocks import recompute
    from training.models import add_lora, freeze

    if spec.gradient_checkpointing:
        recompute(vlm.model)
    freeze(vlm.model, spec.freeze)
    if spec.lora:
        vlm.model.to("cpu")  # random numbers differ between devices: adapters are drawn on the CPU
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            add_lora(vlm.model, **spec.lora.model_dump())
        vlm.model.to(vlm.device)
    vlm.model.train()
    return [weight for weight in vlm.model.parameters() if weight.requires_grad]


def cotrain(
    pool: "Pool",
    vlm: "Vlm",
    net: torch.nn.Module,
    objective: Objective,
    features: Features,
    rows: np.ndarray,
    spec: JointSpec,
    out: Path,
    key: str,
    on_progress: "Progress | None" = None,
) -> Trained:
    """Train `net` (in place) with the model on the samples at `rows` int64[n]; resumes in `out`.

    key: identity of the training. Leaves net.safetensors and net.json, whose key says what they belong to; a
    net of the same key is loaded instead of trained. A batch leaves out samples that cannot be rendered
    (`missing`). Raises FloatingPointError where the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (done := _finished(out, key)) is not None:
        _load(net, out)
        return done
    weights = trainable(vlm, spec)
    own = [*net.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": spec.lr}, {"params": own, "lr": spec.net_lr, "weight_decay": 0.0}],
        weight_decay=spec.weight_decay,
    )
    steps = spec.steps(len(rows))
    run = _Run(weights, own, optimizer, Trained(steps), out, key)
    first, step = run.resume(), Step(vlm, net, objective, features, spec)
    batches = _batches(rows, spec)
    for number, batch in enumerate(batches):
        if on_progress:
            on_progress(min(number, steps) * spec.batch_size, steps * spec.batch_size)
        if number == steps:
            break
        if number < first:
            continue
        examples, kept = _encoded(pool, vlm, batch, run.trained)
        with _draws_of(spec.seed, number, vlm.device):
            loss = step.backward(examples, kept) if len(kept) else 0.0
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of step {number + 1} is {loss}: lower lr or net_lr")
        torch.nn.utils.clip_grad_norm_(weights, spec.max_grad_norm)
        _set_rates(optimizer, spec, number, steps)
        optimizer.step()
        optimizer.zero_grad()
        run.trained.losses.append(loss)
        if (number + 1) % spec.save_steps == 0:
            run.save(number + 1)
    _save(net, run.trained, out, key)
    (out / STATE).unlink(missing_ok=True)
    return run.trained


@contextmanager
def _draws_of(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Inside the block, what a step draws (dropout of adapters) depends on seed and step alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng([seed, number]).integers(1 << 62)))
        yield


def _batches(rows: np.ndarray, spec: JointSpec) -> Iterator[np.ndarray]:
    """Rows of each step, without end: every sample once in an epoch, in an order drawn by seed and epoch."""
    epoch = 0
    while True:
        order = np.random.default_rng([spec.seed, epoch]).permutation(len(rows))
        for start in range(0, len(rows), spec.batch_size):
            yield rows[order[start : start + spec.batch_size]]
        epoch += 1


def _encoded(
    pool: "Pool", vlm: "Vlm", batch: np.ndarray, trained: Trained
) -> tuple[list[Encoded], np.ndarray]:
    """(examples, their rows) of the samples of a batch that can be rendered; others are counted."""
    examples, rows, missing = [], [], Counter(trained.missing)
    for row in batch.tolist():
        try:
            example = vlm.renderer.encode(pool[row])
        except (RenderError, ImageError) as error:
            missing[error.reason] += 1
            continue
        examples.append(example)
        rows.append(row)
    trained.missing = dict(missing)
    return examples, np.array(rows, np.int64)


def _set_rates(optimizer: torch.optim.Optimizer, spec: JointSpec, number: int, steps: int) -> None:
    """Linear warm-up, then half a cosine to 0, of both learning rates."""
    warm = math.ceil(spec.warmup * steps)
    at = (number - warm) / max(1, steps - warm)
    share = (number + 1) / (warm + 1) if number < warm else 0.5 * (1 + math.cos(math.pi * at))
    for group, peak in zip(optimizer.param_groups, (spec.lr, spec.net_lr), strict=True):
        group["lr"] = peak * share


@dataclass
class _Run:
    """What a resumed run needs: trained weights, the net's, Adam's state, and the log so far."""

    weights: list[torch.nn.Parameter]
    own: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    trained: Trained
    out: Path
    key: str

    def save(self, step: int) -> None:
        state = {
            "key": self.key,
            "step": step,
            "weights": [weight.detach().cpu() for weight in (*self.weights, *self.own)],
            "optimizer": self.optimizer.state_dict(),
            "losses": self.trained.losses,
            "missing": self.trained.missing,
        }
        with atomic.replacing(self.out / STATE) as temporary:
            torch.save(state, temporary)

    def resume(self) -> int:
        """Steps that are done: those of a state of this training, else 0."""
        if not (self.out / STATE).exists():
            return 0
        state = torch.load(self.out / STATE, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            return 0
        with torch.no_grad():
            for weight, saved in zip((*self.weights, *self.own), state["weights"], strict=True):
                weight.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.trained.losses, self.trained.missing = state["losses"], state["missing"]
        return int(state["step"])


def _save(net: torch.nn.Module, trained: Trained, out: Path, key: str) -> None:
    """The net, then its record."""
    from safetensors.torch import save_file

    (out / RECORD).unlink(missing_ok=True)
    with atomic.replacing(out / NET) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in net.state_dict().items()}, temporary)
    record = {"steps": trained.steps, "losses": trained.losses, "missing": trained.missing}
    atomic.write_json(out / RECORD, {"key": key, **record})


def _finished(out: Path, key: str) -> Trained | None:
    """The record of a net that is trained already; None if there is none of this key."""
    if not (out / RECORD).exists():
        return None
    record = json.loads((out / RECORD).read_text())
    if record.pop("key") != key:
        return None
    return Trained(**record)


def _load(net: torch.nn.Module, out: Path) -> None:
    from safetensors.torch import load_file

    net.load_state_dict(load_file(out / NET))
