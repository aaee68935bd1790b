import sys
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from training import loss
from training.collate import Collator
from training.loss import IGNORE, filler_factor, install, summed_loss
from training.models import add_lora, load


def inputs(dtype=torch.float32, tokens=37, hidden=16, words=50, bias=False):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(words, hidden, generator=generator).to(dtype).requires_grad_()
    offset = torch.randn(words, generator=generator).to(dtype).requires_grad_() if bias else None
    return states, weight, torch.randint(0, words, (tokens,), generator=generator), offset


def gradients(total, *leaves):
    return torch.autograd.grad(total * 0.37, [leaf for leaf in leaves if leaf is not None])


@pytest.mark.parametrize("chunk", [1, 8, 37, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_chunks_give_the_plain_loss_and_gradients(chunk, bias):
    states, weight, targets, offset = inputs(bias=bias)
    plain = cross_entropy(linear(states, weight, offset), targets, reduction="sum")
    ours = summed_loss(states, weight, targets, chunk, offset)
    assert abs(ours / plain - 1) < 1e-6
    for mine, theirs in zip(
        gradients(ours, states, weight, offset), gradients(plain, states, weight, offset), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    states, weight, targets, _ = inputs(tokens=5, hidden=3, words=4)
    grad = gradients(summed_loss(states, weight, targets, 2), states)[0]
    step = torch.zeros_like(states)
    step[2, 1] = 1e-2
    with torch.no_grad():
        ends = [summed_loss(states + sign * step, weight, targets, 2) for sign in (1, -1)]
    assert grad[2, 1].item() == pytest.approx(0.37 * float(ends[0] - ends[1]) / 2e-2, rel=1e-2)


def test_bfloat16_sums_its_chunks_in_float32():
    states, weight, targets, _ = inputs(torch.bfloat16, tokens=4096)
    exact = gradients(
        cross_entropy(linear(states.float(), weight.float()), targets, reduction="sum"), states, weight
    )
    ours = gradients(summed_loss(states, weight, targets, 16), states, weight)
    assert [grad.dtype for grad in ours] == [torch.bfloat16] * 2
    for mine, theirs in zip(ours, exact, strict=True):
        assert (mine.float() - theirs.float()).norm() / theirs.float().norm() < 0.01


def test_autocast_decides_the_type_of_the_products_alone():
    states, weight, targets, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        plain = cross_entropy(linear(states, weight).float(), targets, reduction="sum")
        ours = summed_loss(states, weight, targets, 8)
    assert ours.dtype == torch.float32 and abs(ours / plain - 1) < 1e-5
    assert abs(ours - summed_loss(states, weight, targets, 8)) > 1e-4  # it was bfloat16 indeed
    mine, theirs = gradients(ours, states, weight), gradients(plain, states, weight)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() / b.norm() < 0.02


def test_no_token_has_loss_zero_and_gradients_of_zero():
    states, weight, targets, _ = inputs()
    total = summed_loss(states[:0], weight, targets[:0], 8)
    assert total == 0 and all((grad == 0).all() for grad in gradients(total, states, weight))


def test_a_frozen_head_gets_no_gradient():
    states, weight, targets, _ = inputs()
    weight.requires_grad_(False)
    summed_loss(states, weight, targets, 8).backward()
    assert weight.grad is None and states.grad is not None


def test_logits_of_all_tokens_never_exist():
    """What the pass keeps is far smaller than the logits, and no tensor of a chunk outlives it."""
    states, weight, targets, _ = inputs(tokens=512, words=4000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        total = summed_loss(states, weight, targets, 16)
    assert sum(kept) <= states.numel() + weight.numel() + 2 * len(targets)
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(t.numel() for t in (out if isinstance(out, tuple) else [out]) if torch.is_tensor(t))
            return out

    with Watch():
        total.backward()
    assert 0 < max(made) <= max(16 * 4000, weight.numel()) < 512 * 4000


def test_install_leaves_loss_and_gradients_as_they_were(base, renderer, samples):
    batch = Collator(renderer.pad_id, renderer.loader)([renderer.encode(s) for s in samples[:6]])
    results = []
    for chunk in (None, 3, 10_000):
        model, _ = load(base)
        if chunk:
            install(model, chunk)
        value = model(**batch).loss
        value.backward()
        results.append((value.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    for value, grads in results[1:]:
        assert value == pytest.approx(results[0][0], rel=1e-6)
        assert grads.keys() == results[0][1].keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, results[0][1][name], rtol=1e-4, atol=1e-7)
    count = int((batch["labels"] != IGNORE).sum())
    assert model(**batch, num_items_in_batch=2 * count).loss.item() == pytest.approx(
        results[0][0] / 2, rel=1e-5
    )
    assert (
        model(**{k: v for k, v in batch.items() if k != "labels"}).logits.dim() == 3
    )  # generation still works


def test_install_works_under_lora(base, renderer, samples):
    batch = Collator(renderer.pad_id, renderer.loader)([renderer.encode(s) for s in samples[:4]])
    model, _ = load(base)
    install(model, 4)
    adapted = add_lora(model, r=2, alpha=4)
    value = adapted(**batch).loss
    value.backward()
    assert value.item() == pytest.approx(load(base)[0](**batch).loss.item(), rel=1e-6)
    assert any(p.grad is not None for name, p in adapted.named_parameters() if "lora_B" in name)
    with pytest.raises(ValueError, match="loss_chunk must be positive"):
        install(model, 0)


def test_liger_is_found_when_installed(monkeypatch):
    assert loss._liger() is None or "liger_kernel" in sys.modules
    package = ModuleType("liger_kernel")
    transformers, functional = ModuleType("liger_kernel.transformers"), ModuleType("liger_kernel.functional")
    functional.liger_fused_linear_cross_entropy = lambda *a, **k: "fused"
    for name, module in (
        ("", package),
        (".transformers", transformers),
        (".transformers.functional", functional),
    ):
        monkeypatch.setitem(sys.modules, "liger_kernel" + name, module)
    assert loss._liger()() == "fused"


def test_micro_batches_without_labels_weigh_nothing():
    labels = [torch.tensor([[IGNORE, 5]]), torch.tensor([[IGNORE, IGNORE]]), torch.tensor([[3, IGNORE]])]
    # Of 3 x 4 micro-batches of 4 ranks, 5 have labels: Trainer divides by 12, the mean is over 5. A label on
    # the first token is never predicted.
    asked = []
    assert filler_factor(labels, lambda n: asked.append(n) or 5, world=4) == 12 / 5
    assert asked == [1]
    assert filler_factor(labels[:1], lambda n: n, world=1) == 1
    assert filler_factor(labels[1:], lambda n: 0, world=1) == 2
