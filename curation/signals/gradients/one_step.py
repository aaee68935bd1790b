"""What one training step on a sample does to the loss of anchors (OST, arXiv 2605.07488).

    score_step_gain(pool, base, out, warmup="warm", validation="val.json")

Column step_gain float32: the mean answer loss of the anchors, in nats, before minus after one update of the
adapter by that sample alone; above 0 the sample helps. Each sample starts from the same weights.

The anchors are target items, so the signal is `targeted`. The paper's method is known from a note of it: a
small proxy model after a warm-up on 5 % of the data, about 100 anchors, one simulated step. The optimizer of
that step is a reading of ours: Adam with the moments and the learning rate that the warm-up ended with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.pool.sample import Sample
from curation.signals.core.batches import batches_by_tokens
from curation.signals.core.table import Advance, Progress, read_signal, write_signal
from curation.signals.gradients.validation import Items, ValidationError

if TYPE_CHECKING:
    import torch

    from curation.pool.read import Pool
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.gradients.per_sample import Adapter
    from training.render import Encoded

OPTIMIZERS = ("adam", "sgd")


def score_step_gain(
    pool: "Pool",
    model_dir: Path,
    out: Path,
    *,
    warmup: Path,
    validation: Path | Sequence[Sample],
    validation_images: Path | None = None,
    anchors: int = 100,
    optimizer: str = "adam",
    lr: float | None = None,
    seed: int = 0,
    max_tokens: int = 2048,
    shard_rows: int = 1024,
    dtype: str = "float32",
    device: str | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the signal of a pool to `out`; parts that are complete are kept.

    warmup: a training with keep_adapters, whose last adapter is stepped. validation: items as for
    `score_gradients`, of which `anchors` are drawn with `seed` (all, if there are no more). optimizer: "adam"
    (with the moments of the warm-up's end) or "sgd"; lr: of the step, default the mean of the warm-up's last
    epoch. max_tokens: padded tokens in a batch of anchors.

    Cost: for each sample a forward and a backward pass, and forward passes of all anchors. Null are samples
    that cannot be rendered or whose image cannot be decoded, and gains that are not finite; `missing` counts
    them. Returns also the anchors' loss before.
    Raises AdapterError, ValidationError where no anchor can be used, ValueError for a setting.
    """
    from curation.signals.core.vlm import PassStats, Vlm
    from curation.signals.gradients.per_sample import adapter_hash, trained_adapters
    from training.adapters import kept_adapters

    if optimizer not in OPTIMIZERS or anchors < 1:
        raise ValueError(
            f"optimizer must be one of {', '.join(OPTIMIZERS)} and anchors at least 1, "
            f"got {optimizer!r} and {anchors}"
        )
    last, items = kept_adapters(warmup)[-1], Items(validation, out / "validation", validation_images)
    rate = last.lr if lr is None else lr
    vlm, stats = Vlm(model_dir, dtype=dtype, device=device), PassStats()
    states = [last.adam] if optimizer == "adam" else []
    identity = vlm.identity("step_gain", pool.hash)
    _, (adapter,) = trained_adapters(vlm, [last.folder], [], states)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(items))[:anchors])
    loss, used = anchor_loss(vlm, list(items.samples(drawn.tolist())), max_tokens)
    step = Step(vlm, adapter, rate)
    before = loss()

    def score(examples: Sequence["Encoded"]) -> list[float | None]:
        after = step.losses_after(examples, loss)
        return [None if value is None else _finite(before - value, stats) for value in after]

    def compute(rows: range, advance: Advance) -> pa.Table:
        values = vlm.run(
            pool.samples(rows),
            encode=vlm.renderer.encode,
            make_batches=lambda lengths: [np.array([place]) for place in range(len(lengths))],
            score=score,
            stats=stats,
            advance=advance,
        )
        return pa.table({"row": pa.array(rows, pa.int32()), "step_gain": pa.array(values, pa.float32())})

    identity |= {
        "adapters": [adapter_hash(last.folder)],
        "optimizer": optimizer,
        "lr": rate,
        "seed": seed,
        "anchors": len(drawn),
        "targeted": True,
        "validation_hash": items.hash,
        "tasks": list(items.tasks),
    }
    counts = write_signal(out, identity, len(pool), compute, shard_rows=shard_rows, on_progress=on_progress)
    table = read_signal(out, pool.hash)
    return {
        **stats.summary(),
        **counts,
        "rows": len(table),
        "rows_missing": table["step_gain"].null_count,
        "anchors": used,
        "anchor_loss": before,
        "say": [f"{used} anchors of loss {before:.4f}, steps of {optimizer} with learning rate {rate:.3g}"],
    }


class Step:
    """One step of the optimizer on an adapter's weights, from the same weights every time."""

    def __init__(self, vlm: "Vlm", adapter: "Adapter", lr: float) -> None:
        from training.adapters import plain_name

        self.vlm, self.adapter, self.lr = vlm, adapter, lr
        by_name = {
            plain_name(name.removesuffix(".weight"), adapter.name): weight
            for name, weight in vlm.model.named_parameters()
            if name.endswith(f".{adapter.name}.weight")
        }
        self.weights = [by_name[name] for name in adapter.hooks.names]
        self.start = [weight.detach().clone() for weight in self.weights]

    def losses_after(self, examples: Sequence["Encoded"], loss: Callable[[], float]) -> list[float | None]:
        """`loss()` after a step on each example; None for one without answer tokens (a broken image)."""
        import torch

        from curation.signals.gradients.per_sample import sample_gradients

        found: list[float | None] = []
        # `Vlm.run` is in inference mode, whose tensors cannot enter a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            gradients: dict[int, torch.Tensor] = {}
            tokens = sample_gradients(self.vlm, self.adapter.hooks, examples, gradients.__setitem__)
            for place, count in enumerate(tokens):
                self._move({index: gradient[place] for index, gradient in gradients.items()})
                found.append(loss() if count else None)
            for weight, start in zip(self.weights, self.start, strict=True):
                weight.copy_(start)
        return found

    def _move(self, gradients: dict[int, "torch.Tensor"]) -> None:
        for index, (weight, start) in enumerate(zip(self.weights, self.start, strict=True)):
            gradient = gradients[index] if index in gradients else start.new_zeros(start.numel()).float()
            update = gradient if self.adapter.adam is None else self._adam(index, gradient)
            weight.copy_(start - self.lr * update.view_as(start))

    def _adam(self, index: int, gradient: "torch.Tensor") -> "torch.Tensor":
        """The update of PyTorch's Adam, without learning rate and weight decay (equal for all samples)."""
        from curation.signals.gradients.per_sample import BETAS, EPSILON

        state = self.adapter.adam
        assert state is not None
        (b1, b2), step = BETAS, state.step + 1
        first = (b1 * state.first[index] + (1 - b1) * gradient) / (1 - b1**step)
        second = (b2 * state.second[index] + (1 - b2) * gradient.square()) / (1 - b2**step)
        return first / (second.sqrt() + EPSILON)


def anchor_loss(vlm: "Vlm", samples: Sequence[Sample], max_tokens: int) -> tuple[Callable[[], float], int]:
    """(function that computes the mean over anchors of their mean answer loss, the number of anchors used).

    Anchors that cannot be rendered or decoded are left out. Raises ValidationError if none is left.
    """
    import torch

    from curation.signals.losses import answer_states, head_step
    from training.images import ImageError
    from training.render import IGNORE, RenderError

    examples = []
    for sample in samples:
        try:
            examples.append(vlm.renderer.encode(sample))
        except (RenderError, ImageError):
            continue  # the number of anchors used says how many were
    lengths = np.array([len(example) for example in examples], dtype=np.int64)
    batches = [
        vlm.batch([examples[place] for place in chunk]) for chunk in batches_by_tokens(lengths, max_tokens)
    ]
    used = sum(int((batch["labels"] != IGNORE).any(dim=1).sum()) for batch in batches)
    if not used:
        raise ValidationError(f"none of {len(samples)} anchors can be rendered")

    @torch.no_grad()
    def loss() -> float:
        total = 0.0
        for batch in batches:
            rows, hidden, targets = answer_states(vlm, batch)
            counts = torch.bincount(rows, minlength=len(batch["input_ids"]))
            step = head_step(vlm)
            parts = zip(hidden.split(step), targets.split(step), strict=True)
            own = torch.cat(
                [-vlm.log_probs(states).gather(1, tokens[:, None])[:, 0].double() for states, tokens in parts]
            )
            total += float((own / counts[rows]).sum())
        return total / used

    return loss, used


def _finite(gain: float, stats: "PassStats") -> float | None:
    if np.isfinite(gain):
        return gain
    stats.missing["not_finite"] += 1
    return None
