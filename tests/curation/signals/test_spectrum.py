"""The spectrum of token states against closed forms and against plain forward passes."""

import math

import numpy as np
import pytest

from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.vectors.decoder import LayerError
from curation.signals.vectors.spectrum import score_spectrum, spectrum

torch = pytest.importorskip("torch")


def test_orthogonal_states_of_equal_length_fill_all_directions_equally():
    entropy, top = spectrum(3 * torch.eye(8)[:5])
    assert (entropy, top) == pytest.approx((math.log(5), 1 / 5))


def test_parallel_states_fill_one_direction():
    entropy, top = spectrum(torch.arange(1.0, 7)[:, None] * torch.tensor([[1.0, -2, 0.5]]))
    assert entropy == pytest.approx(0, abs=1e-4) and top == pytest.approx(1)


def test_two_directions_by_their_lengths():
    entropy, top = spectrum(torch.tensor([[3.0, 0, 0], [0, 0, 1.0]]))
    assert top == pytest.approx(0.75)
    assert entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


@pytest.mark.parametrize("states", [torch.zeros(3, 4), torch.tensor([[1.0, float("inf")]])])
def test_states_without_a_spectrum(states):
    assert spectrum(states) is None


@torch.inference_mode()
@pytest.mark.parametrize("layer", [0, -1])
def test_a_pool_has_the_spectrum_of_each_sample_alone_before_the_final_norm(
    small_pool, tiny_vlm_dir, tmp_path, layer
):
    summary = score_spectrum(small_pool, tiny_vlm_dir, tmp_path, layer=layer, max_tokens=300, shard_rows=16)
    table, vlm = read_signal(tmp_path, small_pool.hash), Vlm(tiny_vlm_dir, device="cpu")
    outputs = []
    block = vlm.model.model.language_model.layers[layer]
    handle = block.register_forward_hook(
        lambda module, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    for row in (0, 4, 6):  # one image, none, two
        vlm.hidden(vlm.batch([vlm.renderer.encode(small_pool[row])]))
        values = np.linalg.svd(outputs[-1][0].double().numpy(), compute_uv=False)
        shares = values / values.sum()
        found = table["spectrum_entropy"][row].as_py(), table["spectrum_top"][row].as_py()
        assert found == pytest.approx((-(shares * np.log(shares)).sum(), shares.max()), rel=1e-3)
    handle.remove()
    assert summary["nulls"] == {"spectrum_entropy": 0, "spectrum_top": 0} and summary["samples"] == 40
    assert read_metadata(tmp_path)["layer"] == layer % 2


def test_a_layer_that_the_model_lacks(small_pool, tiny_vlm_dir, tmp_path):
    with pytest.raises(LayerError, match="the model has 2"):
        score_spectrum(small_pool, tiny_vlm_dir, tmp_path, layer=2)
