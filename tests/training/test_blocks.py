import pytest
import torch

from training import attention, loss
from training.blocks import compile_blocks, decoder_blocks, recompute
from training.collate import Collator
from training.models import add_lora, load


def packed(renderer, samples):
    return Collator(renderer.pad_id, renderer.loader, packed=True)([renderer.encode(s) for s in samples])


def step(model, batch):
    model.zero_grad()
    value = model(**batch).loss
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5) and ours[1].keys() == theirs[1].keys()
    for name, grad in ours[1].items():
        torch.testing.assert_close(grad, theirs[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("every", "expected"), [(1, [True, True]), (2, [True, False])])
def test_recomputing_some_blocks_changes_nothing(base, renderer, samples, every, expected):
    model, _ = load(base)
    attention.choose(model)
    batch = packed(renderer, samples[:5])
    before = step(model.train(), batch)
    assert recompute(model, every) == sum(expected)
    assert [block.gradient_checkpointing for block in decoder_blocks(model)] == expected
    calls = []
    for block in decoder_blocks(model):
        block.input_layernorm.register_forward_hook(lambda *a, block=block: calls.append(id(block)))
    assert_same(step(model, batch), before)
    repeats = [calls.count(id(block)) for block in decoder_blocks(model)]
    assert repeats == [2 if again else 1 for again in expected]


def test_blocks_are_found_under_lora(base):
    model, _ = load(base)
    assert len(decoder_blocks(add_lora(model, r=2, alpha=2))) == 2
    with pytest.raises(ValueError, match="has no decoder"):
        decoder_blocks(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="at least 1"):
        recompute(model, 0)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_for_packs_of_any_length(base, renderer, samples):
    model, _ = load(base)
    attention.choose(model)
    loss.install(model, 16)
    packs = [packed(renderer, samples[:n]) for n in (3, 5, 6)]
    before = [step(model.train(), batch) for batch in packs]
    names = set(model.state_dict())
    recompute(model, 2)
    assert compile_blocks(model) == 2
    for batch, expected in zip(packs, before, strict=True):
        assert_same(step(model, batch), expected)
    assert set(model.state_dict()) == names
