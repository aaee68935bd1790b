"""A pack is a padded batch without its padding: the same loss and gradients, and no example sees another."""

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from curation.pool.sample import Sample, Turn
from training import attention, loss
from training.attention import choose
from training.collate import Collator
from training.models import image_mode, load
from training.render import IGNORE, Renderer

EQUAL = 1e-5
"""Largest relative difference of loss and gradients, fp32."""


def picture(seed, size):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mixed():
    """Single and several images, text only, two turns, a one-token answer, and one image after the
    question."""
    first, wide, tall = picture(0, (64, 64)), picture(1, (150, 60)), picture(2, (40, 90))
    return [
        Sample(0, "one", "t", (first,), (Turn("<image> what colour is it ?", "red"),)),
        Sample(
            1, "text", "t", (), (Turn("how many ?", "3"), Turn("and who sat at the table ?", "no one at all"))
        ),
        Sample(2, "pair", "t", (wide, tall), (Turn("<image> <image> which is wide ?", "the first one"),)),
        Sample(3, "last", "t", (wide,), (Turn("look here : <image>", "a wide picture of a thing"),)),
        Sample(4, "short", "t", (), (Turn("a ?", "b"),)),
    ]


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def setting(request, tmp_path_factory):
    """(model, renderer, examples) of one model family."""
    model, processor = load(tiny_models.build(request.param, tmp_path_factory.mktemp(request.param) / "m"))
    renderer = Renderer(processor, image_mode(model))
    examples = [renderer.encode(sample) for sample in mixed()]
    assert {len(e.images) for e in examples} == {0, 1, 2}
    return model, renderer, examples


def loss_and_gradients(model, batch):
    model.zero_grad()
    value = model(**batch).loss
    value.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return value.item(), grads


def difference(ours, theirs):
    """The larger of the relative differences of loss and of all gradients together."""
    assert ours[1].keys() == theirs[1].keys()
    both = [torch.cat([g.flatten() for g in grads.values()]) for grads in (ours[1], theirs[1])]
    return max(abs(ours[0] / theirs[0] - 1), float((both[0] - both[1]).norm() / both[1].norm()))


def batches(renderer, examples, **options):
    padded = Collator(renderer.pad_id, renderer.loader)(examples)
    return padded, Collator(renderer.pad_id, renderer.loader, packed=True, **options)(examples)


@pytest.mark.parametrize("choice", ["auto", "sdpa"])
def test_packed_equals_padded(setting, choice):
    model, renderer, examples = setting
    padded, packed = batches(renderer, examples)
    assert choose(model, choice) == {"auto": "segments", "sdpa": "sdpa"}[choice]
    assert packed["input_ids"].shape[1] == sum(map(len, examples)) < padded["input_ids"].numel()
    assert difference(loss_and_gradients(model, packed), loss_and_gradients(model, padded)) < EQUAL


def test_packed_equals_padded_with_checkpointing_and_padding_to_a_multiple(setting):
    model, renderer, examples = setting
    padded, packed = batches(renderer, examples, multiple=64)
    assert packed["input_ids"].shape[1] % 64 == 0
    choose(model)
    expected = loss_and_gradients(model, padded)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        assert difference(loss_and_gradients(model, packed), expected) < EQUAL
    finally:
        model.gradient_checkpointing_disable()
        model.eval()


def test_one_example_or_text_alone_can_be_packed(setting):
    model, renderer, examples = setting
    choose(model)
    for chosen in ([examples[0]], [examples[1], examples[4]]):
        padded, packed = batches(renderer, chosen)
        assert difference(loss_and_gradients(model, packed), loss_and_gradients(model, padded)) < EQUAL


def test_leaks_are_seen(setting):
    """Each way in which examples can see each other changes loss or gradients a hundred times more."""
    model, renderer, examples = setting
    padded, packed = batches(renderer, examples)
    expected = loss_and_gradients(model, padded)
    choose(model)
    merged = packed["cu_seq_lens_q"][[0, *range(2, len(examples) + 1)]]  # the first border is forgotten
    longest = int(merged.diff().max())
    leak = packed | {"cu_seq_lens_q": merged, "max_length_q": longest}
    assert difference(loss_and_gradients(model, leak), expected) > 100 * EQUAL
    unmarked = {k: v for k, v in packed.items() if not k.startswith(("cu_seq", "max_length", "position_ids"))}
    assert difference(loss_and_gradients(model, unmarked), expected) > 100 * EQUAL
    choose(model, "sdpa")
    ones = packed | {"attention_mask": torch.ones_like(packed["input_ids"])}
    assert difference(loss_and_gradients(model, ones), expected) > 100 * EQUAL
    crossing = packed["labels"].clone()
    border = int(packed["cu_seq_lens_q"][1])
    crossing[0, border] = packed["input_ids"][0, border]  # predicted by the last token of the example before
    assert difference(loss_and_gradients(model, packed | {"labels": crossing}), expected) > 100 * EQUAL


def test_packs_without_borders_or_with_a_mask_are_refused(setting):
    model, renderer, examples = setting
    _, packed = batches(renderer, examples)
    choose(model)
    bare = {k: v for k, v in packed.items() if not k.startswith(("cu_seq", "max_length"))}
    with pytest.raises(ValueError, match="cu_seq_lens_q is missing"):
        model(**bare)
    with pytest.raises(ValueError, match="a pack has no attention_mask"):
        mask = torch.ones_like(packed["input_ids"])
        mask[0, 0] = 0
        model(**packed | {"attention_mask": mask})


def test_padded_batches_and_generation_go_on_as_before(setting):
    model, renderer, examples = setting
    left = Collator(renderer.pad_id, renderer.loader, side="left")([renderer.prompt(s) for s in mixed()[:3]])
    left.pop("labels")

    def both():
        with torch.no_grad():
            logits = model(**Collator(renderer.pad_id, renderer.loader)(examples)).logits
        return logits, model.generate(**left, max_new_tokens=4, do_sample=False, eos_token_id=None)

    choose(model, "sdpa")
    logits, answers = both()
    choose(model)
    ours, same = both()
    assert torch.equal(answers, same)
    torch.testing.assert_close(ours, logits)


def test_only_the_language_model_gets_packed_attention(setting):
    model, _, _ = setting
    choose(model)
    assert model.config.get_text_config()._attn_implementation == attention.PACKED
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_what_is_not_there_is_refused(setting):
    model, _, _ = setting
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for choice in ("varlen", "flash"):
        with pytest.raises(ValueError, match=f"attention: {choice} needs a GPU"):
            choose(model, choice)


@pytest.mark.parametrize("name", ["dropout", "sliding_window", "softcap"])
def test_what_packs_do_not_support_is_refused(name):
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="packs support neither"):
        attention.packed_attention(
            None, states, states, states, None, cu_seq_lens_q=torch.tensor([0, 3]), **{name: 0.5}
        )


def test_varlen_gets_the_layout_that_pytorch_documents(monkeypatch):
    """On a CPU, a stand-in for the kernel of torch.nn.attention.varlen that computes what that one
    documents."""

    def kernel(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
        assert window_size == (-1, 0) and max_q == max_k == 4 and torch.equal(cu_q, cu_k)
        assert q.shape == (9, 4, 8) and k.shape == v.shape == (9, 2, 8) and enable_gqa
        k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
        out = torch.empty_like(q)
        for a, b in zip(cu_q.tolist(), cu_q.tolist()[1:], strict=False):
            scores = torch.einsum("qhd,khd->hqk", q[a:b], k[a:b]) * scale
            scores += torch.full_like(scores, -torch.inf).triu(1)
            out[a:b] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[a:b])
        return out

    monkeypatch.setattr(attention, "varlen_kernel", lambda: kernel)
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    borders = torch.tensor([0, 2, 6, 9], dtype=torch.int32)
    ours = attention._varlen(query, key, value, borders, None, 0.3)
    torch.testing.assert_close(ours, attention._segments(query, key, value, borders, 0.3))


def test_a_pack_without_labels_has_a_loss_and_gradients_of_zero(setting):
    model, renderer, examples = setting
    choose(model)
    _, packed = batches(renderer, [examples[4].muted()])
    assert (packed["labels"] == IGNORE).all()
    plain = model.forward
    loss.install(model, 8)
    try:
        value, grads = loss_and_gradients(model, packed | {"num_items_in_batch": 7})
    finally:
        model.forward = plain
        del model.get_output_embeddings().forward
    assert value == 0 and grads and all((g == 0).all() for g in grads.values())
