"""Cross-entropy at the labelled tokens, a chunk of them at a time: the logits of all tokens never exist.

    install(model, chunk=2048)
    loss = model(**batch).loss      # the same loss and gradients as before

8,192 tokens of logits over Qwen2's vocabulary of 152k are 5 GB in fp32, and their gradient as much again.
Here the forward pass keeps one number for each labelled token, and the backward pass computes each chunk
again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

IGNORE = -100


def install(model: PreTrainedModel, chunk: int = 2048) -> None:
    """Make `model`, when called with labels, return the loss of its labelled tokens alone, and no logits.

    The loss is the sum over the labels divided by `num_items_in_batch`, or else their mean; 0 without labels.
    `chunk`: labelled tokens whose logits exist at one time. It replaces `forward` on the instance and on the
    head, so that it also runs under LoRA and inside a DeepSpeed engine: ZeRO-3 collects the head's weight in
    hooks around the head's call, within which all chunks are computed.
    """
    if chunk < 1:
        raise ValueError(f"loss_chunk must be positive, got {chunk}")
    plain, head = model.forward, model.get_output_embeddings()
    head.forward = _head_forward(head, chunk)

    def forward(labels: torch.Tensor | None = None, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if labels is None:
            return plain(**kwargs)
        # The hidden state at position t predicts the token at t + 1.
        hidden = model.model(**kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        keep = targets != IGNORE
        total = head(hidden[keep], targets=targets[keep])
        count = keep.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(loss=total / count)

    model.forward = forward  # type: ignore[method-assign]


def _head_forward(head: Any, chunk: int) -> Callable[..., torch.Tensor]:
    """The head's forward, which with `targets` returns the summed loss instead of logits."""
    plain = head.forward

    def forward(hidden: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        if targets is None:
            return plain(hidden)
        return summed_loss(hidden, head.weight, targets, chunk, getattr(head, "bias", None))

    return forward


def summed_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    chunk: int,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of the cross-entropy of `hidden` [N, H] @ `weight` [V, H].T (+ `bias` [V]) against `targets` [N].

    A float32 scalar; 0, with gradients of 0, for no token. Under autocast the products are computed in its
    type, as by a linear layer; softmax and loss are float32. On a GPU with liger-kernel installed, its fused
    kernel computes it.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if hidden.is_cuda and bias is None and len(targets) and (fused := _liger()) is not None:
        return fused(hidden.to(dtype), weight.to(dtype), targets, reduction="sum").float()
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(hidden, weight, bias, targets, chunk, dtype)


def _liger() -> Callable[..., Any] | None:
    """liger-kernel's fused linear layer and cross-entropy; None when it is not installed."""
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError:
        return None
    return liger_fused_linear_cross_entropy


class _ChunkedLoss(torch.autograd.Function):
    """Keeps `hidden` and the log of the softmax's denominator of each token, float32 [N]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        matrix = weight.to(dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        denominators = hidden.new_empty(len(targets), dtype=torch.float32)
        for part in _parts(len(targets), chunk):
            logits = _logits(hidden[part].to(dtype), matrix, bias)
            denominators[part] = logits.logsumexp(dim=1)
            total += (denominators[part] - logits.gather(1, targets[part, None])[:, 0]).sum()
        ctx.save_for_backward(hidden, weight, bias, targets, denominators)
        ctx.chunk, ctx.dtype = chunk, dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, denominators = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        matrix = weight.to(ctx.dtype)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Chunks are added up in float32: their sum in bfloat16 would lose what a small chunk adds.
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias else None
        for part in _parts(len(targets), ctx.chunk):
            inputs = hidden[part].to(ctx.dtype)
            slope = _logits(inputs, matrix, bias).sub_(denominators[part, None]).exp_()
            slope[torch.arange(len(slope), device=slope.device), targets[part]] -= 1
            slope *= grad
            if to_bias is not None:
                to_bias += slope.sum(0)
            slope = slope.to(ctx.dtype)
            if to_hidden is not None:
                to_hidden[part] = (slope @ matrix).to(hidden.dtype)
            if to_weight is not None:
                to_weight += slope.T @ inputs
        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight.dtype),
            None if to_bias is None else to_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _logits(inputs: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """float32 [n, V], safe to change in place."""
    logits = torch.nn.functional.linear(inputs, matrix, None if bias is None else bias.to(matrix.dtype))
    return logits.float()


def filler_factor(labels: Sequence[torch.Tensor], total: Callable[[int], int], world: int) -> float:
    """What the mean of each micro-batch must be multiplied by so that those without a label weigh nothing.

    For `loss_norm: microbatch`, where Trainer divides the sum of these means by micro-batches x ranks.
    `labels`: those of this rank's micro-batches of the step; `total` adds an int up over the ranks (all must
    call it).
    """
    trained = total(sum(bool((own[:, 1:] != IGNORE).any()) for own in labels))
    return len(labels) * world / max(trained, 1)
