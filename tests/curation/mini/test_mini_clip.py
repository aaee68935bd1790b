"""The mini world's shipped CLIP: the figures of its card, measured again, and how its examples are drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from curation.mini.clip.build import TEXT_TOKENS, batches, build_model, pair, retrieval

CLIP = Path(__file__).parents[3] / "curation" / "mini" / "clip"


def test_it_is_small_and_its_card_shows_the_measured_figures():
    assert (CLIP / "model.safetensors").stat().st_size <= 1_500_000
    card, measured = (CLIP / "README.md").read_text(), json.loads((CLIP / "retrieval.json").read_text())
    assert measured["items"] == 800 and measured["among"] == 16
    for direction in ("text_of_image", "image_of_text"):
        assert f"| {measured[direction]:.3f} |" in card


def test_held_out_retrieval_is_as_claimed():
    claimed, again = json.loads((CLIP / "retrieval.json").read_text()), retrieval(CLIP, items=320, seed=7)
    for direction in ("text_of_image", "image_of_text"):
        p = claimed[direction]
        assert abs(again[direction] - p) < 4 * np.sqrt(p * (1 - p) / 320)
        assert again[direction] > 0.85


def test_examples_depend_on_their_key_only_and_grow_with_progress():
    (image, text), (again, same) = pair("0/5"), pair("0/5")
    assert text == same and np.array_equal(np.asarray(image), np.asarray(again)) and image.size == (64, 64)
    texts = [[pair(f"x/{i}", progress)[1] for i in range(200)] for progress in (0.0, 1.0)]
    words = [np.mean([len(t.split()) for t in some]) for some in texts]
    assert words[1] > words[0] + 2
    assert not any("?" in text for some in texts for text in some), "questions occur in the pool only"


def test_texts_end_with_the_token_that_is_pooled():
    model, tokenizer, _ = build_model()
    [batch] = batches(4, 4, 0, tokenizer)
    end = model.config.text_config.eos_token_id
    assert ((batch["input_ids"] == end).sum(dim=1) == 1).all()
    cut = tokenizer(" ".join(["dog"] * 200), truncation=True)["input_ids"]
    assert len(cut) == TEXT_TOKENS and cut[-1] == end
    assert batch["pixel_values"].shape == (4, 3, 64, 64) and batch["pixel_values"].abs().max() <= 1


def test_the_image_processor_scales_as_in_training():
    torch = pytest.importorskip("torch")
    from curation.signals.vectors.dual_encoder import DualEncoder

    encoder = DualEncoder(CLIP, device="cpu")
    image, text = pair("0/1")
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    ours = encoder.processor([pixels], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(ours, pixels.float() / 127.5 - 1, atol=1e-5, rtol=0)
    other = pair("0/2")[1]
    own, wrong = encoder.texts([text, other], 2) @ encoder.images([pixels])[0]
    assert own > wrong
