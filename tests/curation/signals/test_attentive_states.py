"""Poolings by attention against the model's own attention, one sample at a time, and closed forms."""

import numpy as np
import pytest

from curation.signals.core.table import read_signal
from curation.signals.core.vector_files import matrix
from curation.signals.core.vlm import Vlm
from curation.signals.vectors.attention import from_last, from_questions, most_attended
from curation.signals.vectors.embeddings import embed_pool
from training.render import IGNORE

torch = pytest.importorskip("torch")


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_most_attended_tokens_reach_nine_tenths_and_take_one_more():
    image = masks([0, 1, 1, 1, 1, 0])
    attention = torch.tensor([[9.0, 0.1, 0.5, 0.3, 0.1, 9.0]])
    assert most_attended(attention, image).tolist() == [
        [False, True, True, True, True, False]
    ]  # 0.5 + 0.3 + 0.1
    attention = torch.tensor([[9.0, 0.02, 0.95, 0.02, 0.01, 9.0]])
    assert most_attended(attention, image).tolist() == [[False, False, True, False, False, False]]
    attention = torch.tensor([[0.0, 0.2, 0.6, 0.15, 0.05, 0.0]])
    assert most_attended(attention, image).tolist() == [[False, True, True, True, False, False]]


def test_without_attention_all_image_tokens_count_alike():
    image = masks([1, 1, 1, 0], [0, 0, 0, 0])
    assert most_attended(torch.zeros(2, 4), image).tolist() == [[True, True, True, False], [False] * 4]


def test_attention_of_the_last_token_without_itself_adds_up_to_one():
    attention = torch.tensor([[[1.0, 0, 0, 0], [0.4, 0.6, 0, 0], [0.1, 0.3, 0.6, 0], [0.7, 0.1, 0.1, 0.1]]])
    assert from_last(masks([1, 1, 1, 0]))(attention)[0].tolist() == pytest.approx([0.25, 0.75, 0, 0])
    mean = from_questions(masks([1, 1, 0, 0]))(attention)[0]
    assert mean.tolist() == pytest.approx([0.7, 0.3, 0, 0])


@pytest.fixture(scope="module")
def eager(tiny_vlm_dir):
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    vlm.model.set_attn_implementation("eager")
    return vlm


@torch.inference_mode()
def forward(vlm, sample):
    """(hidden states of one sample by layer [T, H], attentions by layer [T, T], image mask, labels)."""
    batch = vlm.batch([vlm.renderer.encode(sample)])
    labels = batch.pop("labels")[0]
    out = vlm.model.model(**batch, output_hidden_states=True, output_attentions=True, use_cache=False)
    image = batch["input_ids"][0] == vlm.renderer.image_id
    return [h[0] for h in out.hidden_states], [a[0].mean(dim=0) for a in out.attentions], image, labels


@pytest.mark.parametrize("row", [0, 6, 11])
def test_the_attended_image_of_the_first_layer(eager, small_pool, tiny_vlm_dir, tmp_path, row):
    embed_pool(small_pool, tiny_vlm_dir, tmp_path, preset="attended_visual", max_tokens=300)
    vectors, known = matrix(read_signal(tmp_path, small_pool.hash), "emb_attended_visual")
    assert np.array_equal(known, small_pool.table["n_images"].to_numpy() > 0)
    hidden, attention, image, labels = forward(eager, small_pool[row])
    question = ~image & (labels == IGNORE)
    mean = attention[0][question][:, image].mean(dim=0)
    order = (mean / mean.sum()).sort(descending=True)
    count = min(int((order.values.cumsum(0) <= 0.9).sum()) + 1, int(image.sum()))
    expected = hidden[1][image][order.indices[:count]].mean(dim=0).numpy()
    np.testing.assert_allclose(vectors[row], expected, rtol=2e-3, atol=2e-3)
    assert 0 < count < int(image.sum()), "some tokens must be left out"


@pytest.mark.parametrize("row", [0, 4, 6])
def test_the_last_state_beside_those_it_attends_to(eager, small_pool, tiny_vlm_dir, tmp_path, row):
    summary = embed_pool(small_pool, tiny_vlm_dir, tmp_path, preset="ards", max_tokens=300)
    vectors, known = matrix(read_signal(tmp_path, small_pool.hash), "emb_ards")
    assert known.all() and summary["dims"] == {"emb_ards": 96}
    hidden, attention, _, _ = forward(eager, small_pool[row])
    weights = attention[-1][-1, :-1]
    earlier = (hidden[-1][:-1] * (weights / weights.sum())[:, None]).sum(dim=0)
    expected = torch.cat([half / half.norm() for half in (hidden[-1][-1], earlier)]).numpy()
    np.testing.assert_allclose(vectors[row], expected, rtol=2e-3, atol=2e-3)


def test_the_implementation_of_attention_is_put_back(small_pool, tiny_vlm_dir):
    from curation.signals.vectors.states import pooled_states

    vlm = Vlm(tiny_vlm_dir, device="cpu")
    before = vlm.model.model.language_model.config._attn_implementation
    examples = [vlm.renderer.encode(small_pool[0])]
    with torch.inference_mode():
        pooled_states(vlm, examples, layers=[1], pooling="attention_pair")
    assert vlm.model.model.language_model.config._attn_implementation == before != "eager"


def test_settings_that_do_not_belong(small_pool, tiny_vlm_dir, tmp_path):
    with pytest.raises(ValueError, match="pooling 'attended' takes no tokens, got 'image'"):
        embed_pool(small_pool, tiny_vlm_dir, tmp_path, pooling="attended", tokens="image")
