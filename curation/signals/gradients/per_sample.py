"""Per-sample gradients of LoRA weights from one backward pass over a batch.

The gradient of a linear layer's weight for one sample is the sum over its tokens of (gradient at the output)
x (input). It is computed from the layer's inputs and output gradients, one layer after the other, so the
per-sample gradients of all layers never exist at once.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from curation.signals.losses import answer_states, head_step
from training.adapters import AdapterError, plain_name

if TYPE_CHECKING:
    from curation.signals.core.vlm import Vlm
    from training.render import Encoded

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as in LESS (arXiv 2402.04333, section 3.1)."""
DIRECTIONS = ("published", "clean")
"""Of a gradient as Adam's update: LESS's released code, or the update that Adam makes."""

Sink = Callable[[int, torch.Tensor], None]
"""Called with (index of a layer, its per-sample gradients float32 [samples, weights])."""


class GradientHooks:
    """Hooks on the layers of one adapter that compute the per-sample gradients of their weights.

    names: of the layers, sorted. offsets: where each layer's weights start in the concatenated gradient of
    length `size`.
    """

    def __init__(self, model: Any, adapter: str, kinds: Sequence[str] = ("lora_A", "lora_B")) -> None:
        # PEFT names the modules with an adapter's weights <layer>.lora_A.<adapter>, <layer>.lora_B.<adapter>.
        ends = tuple(f".{kind}.{adapter}" for kind in kinds)
        layers = sorted(
            (plain_name(name, adapter), layer) for name, layer in model.named_modules() if name.endswith(ends)
        )
        if not layers:
            raise AdapterError("the adapter has no weights in this model: check its targets")
        self.names = [name for name, _ in layers]
        sizes = [layer.weight.numel() for _, layer in layers]
        self.offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self.size = sum(sizes)
        self.sink: Sink | None = None
        self._seen: set[int] = set()
        for index, (_, layer) in enumerate(layers):
            layer.register_forward_hook(partial(self._forward, index))
            layer.weight.register_post_accumulate_grad_hook(_drop)  # the summed gradient is not needed

    @contextmanager
    def sending(self, sink: Sink) -> Iterator[None]:
        """Inside the block, send the gradients of one forward and backward pass to `sink`."""
        self.sink, self._seen = sink, set()
        try:
            yield
        finally:
            self.sink = None

    def _forward(
        self, index: int, layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> None:
        if self.sink is not None and output.requires_grad:
            output.register_hook(partial(self._backward, index, inputs[0].detach()))

    def _backward(self, index: int, states: torch.Tensor, gradient: torch.Tensor) -> None:
        if states.dim() != 3 or index in self._seen:
            raise AdapterError(
                f"{self.names[index]} does not process each token of a sample exactly once: "
                "adapt layers of the language model only"
            )
        self._seen.add(index)
        assert self.sink is not None  # hooks on outputs are registered inside `sending` only
        self.sink(index, torch.einsum("bto,bti->boi", gradient.float(), states.float()).flatten(1))


@dataclass
class Adapter:
    """LoRA weights of one checkpoint of a warm-up training.

    weight: share in sums over adapters. adam: Adam's state at the checkpoint, if given.
    """

    name: str
    weight: float
    hooks: GradientHooks
    adam: "AdamState | None" = None


class AdamState:
    """Adam's moments of an adapter's weights at a checkpoint, to convert a gradient into Adam's update.

    rule: "published", the direction of LESS's released code, m / sqrt(v + 1e-8), or "clean", the update that
    Adam makes, with m and v corrected for their bias and sqrt(v) + 1e-8. The 1e-8 under the root weighs as
    much as a gradient of 1e-4: weights whose gradients are smaller keep directions proportional to m.
    """

    def __init__(self, path: Path, hooks: GradientHooks, device: torch.device, rule: str = "clean") -> None:
        if rule not in DIRECTIONS:
            raise AdapterError(f"direction must be one of {', '.join(DIRECTIONS)}, got {rule!r}")
        saved = load_file(path)
        if missing := [
            name
            for name in hooks.names
            for kind in ("exp_avg", "exp_avg_sq")
            if f"{name}.{kind}" not in saved
        ]:
            raise AdapterError(f"{path} has no Adam state for {missing[0]}: it belongs to another adapter")
        self.step, self.rule = int(saved["step"]), rule
        self.first, self.second = (
            [saved[f"{name}.{kind}"].flatten().to(device, torch.float32) for name in hooks.names]
            for kind in ("exp_avg", "exp_avg_sq")
        )

    def direction(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        """Adam's update for a layer's `gradient` [B, n], without learning rate (LESS, section 3.1)."""
        first = BETAS[0] * self.first[index] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * self.second[index] + (1 - BETAS[1]) * gradient.square()
        if self.rule == "published":
            return first / (second + EPSILON).sqrt()
        first, second = (
            moment / (1 - beta ** (self.step + 1))
            for moment, beta in zip((first, second), BETAS, strict=True)
        )
        return first / (second.sqrt() + EPSILON)


def fresh_adapter(
    vlm: "Vlm", *, r: int, alpha: float, targets: Sequence[str], seed: int
) -> tuple[Any, list[Adapter]]:
    """New LoRA weights on the decoder's layers `targets`: A is drawn with `seed` on the CPU, B is zero.

    The gradient of A is 0 while B is 0, so only that of B is computed. Raises AdapterError where no layer
    matches.
    """
    from peft import LoraConfig, get_peft_model

    pattern = rf".*language_model.*\.({'|'.join(targets)})"
    vlm.model.to("cpu")  # random numbers differ between devices: draw them on the CPU
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # PEFT annotates lora_alpha as int; it divides by r, so a float is fine.
            config = LoraConfig(r=r, lora_alpha=alpha, target_modules=pattern)  # type: ignore[arg-type]
            model = get_peft_model(vlm.model, config)
        except ValueError as error:
            raise AdapterError(f"the decoder has no layer named {', '.join(targets)}: {error}") from error
    vlm.model.to(vlm.device).eval()
    for name, parameter in vlm.model.named_parameters():
        if name.endswith("lora_A.default.weight"):
            parameter.requires_grad_(False)
    return model, [Adapter("default", 1.0, GradientHooks(vlm.model, "default", ("lora_B",)))]


def trained_adapters(
    vlm: "Vlm",
    folders: Sequence[Path],
    weights: Sequence[float],
    adam: Sequence[Path],
    direction: str = "clean",
) -> tuple[Any, list[Adapter]]:
    """Load PEFT adapter directories into the model; `weights` (learning rates) are scaled to sum 1.

    weights and adam: one for each directory, or empty (equal weights, no Adam states). direction: the rule of
    AdamState. Raises AdapterError.
    """
    from peft import PeftModel

    weights = weights or [1.0] * len(folders)
    if len(weights) != len(folders) or len(adam) not in (0, len(folders)) or not all(w > 0 for w in weights):
        raise AdapterError(
            f"{len(folders)} adapters need {len(folders)} positive weights (or none) "
            f"and {len(folders)} Adam states (or none), got {len(weights)} and {len(adam)}"
        )
    for folder in folders:
        if not (Path(folder) / "adapter_config.json").is_file():
            raise AdapterError(f"{folder} is not a PEFT adapter: it has no adapter_config.json")
    model = PeftModel.from_pretrained(vlm.model, str(folders[0]), adapter_name="0", is_trainable=True)
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(str(folder), adapter_name=str(number), is_trainable=True)
    adapters = []
    vlm.model.eval()  # PEFT loads trainable adapters in training mode, with dropout
    for number, weight in enumerate(weights):
        model.set_adapter(str(number))
        hooks = GradientHooks(vlm.model, str(number))
        state = AdamState(Path(adam[number]), hooks, vlm.device, direction) if adam else None
        adapters.append(Adapter(str(number), weight / sum(weights), hooks, state))
    return model, adapters


def adapter_hash(folder: Path) -> str:
    """sha256 of an adapter's configuration and weights."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("adapter_*")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def sample_gradients(
    vlm: "Vlm", hooks: GradientHooks, examples: Sequence["Encoded"], sink: Sink
) -> list[int]:
    """Send the gradient of each example's mean answer loss to `sink`, layer by layer.

    The adapter of `hooks` must be active. Returns the number of answer tokens of each example; one without
    any has gradient 0.
    """
    from torch.utils.checkpoint import checkpoint

    def losses(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(vlm.head(states).float(), targets, reduction="none")

    with torch.enable_grad(), hooks.sending(sink):
        rows, hidden, targets = answer_states(vlm, vlm.batch(examples))
        counts = torch.bincount(rows, minlength=len(examples))
        step = head_step(vlm)
        # Logits are recomputed in the backward pass: stored, they would take the most memory by far.
        parts = zip(hidden.split(step), targets.split(step), strict=True)
        token_losses = torch.cat(
            [checkpoint(losses, states, tokens, use_reentrant=False) for states, tokens in parts]
        )
        # A sum over samples of mean losses: the samples' gradients do not mix, the hooks separate them again.
        (token_losses / counts[rows]).sum().backward()
    return counts.tolist()


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None
