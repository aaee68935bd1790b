"""Losses under perturbation: what is changed, closed forms of the noise, and plain forward passes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.pool.sample import Sample, Turn
from curation.signals.core.options import format_of, options_of, permuted, permuted_turn
from curation.signals.core.table import read_signal
from curation.signals.core.vlm import PassStats, Vlm
from curation.signals.perturbed import kept, noised, noised_image, score_perturbed_losses

torch = pytest.importorskip("torch")
LINES = "<image>\nWhich one?\nA. a dog\nB. a cat\nC. A. Einstein\nAnswer with the option's letter"


def sample(*turns, images=("1.png",)):
    return Sample(0, "s", "src", images, tuple(Turn(*turn) for turn in turns))


def test_options_on_lines_get_other_letters_and_the_text_before():
    found = permuted_turn(Turn(LINES, "B"))
    assert found == Turn(
        "<image>\nWhich one?\nQ. A. Einstein\nW. a dog\nE. a cat\nAnswer with the option's letter",
        "E",
    )
    assert options_of(LINES).texts == ["a dog", "a cat", "A. Einstein"]


def test_options_in_brackets_keep_small_letters():
    turn = permuted_turn(Turn("which ? ( a ) dog ( b ) red cat ( c ) 3", "c"))
    assert turn == Turn("which ? ( q ) 3 ( w ) dog ( e ) red cat", "q")
    assert permuted_turn(Turn("which ?\n(A) x\n(B) y", "(A)."), "ABCDEFG") == Turn(
        "which ?\n(A) y\n(B) x", "(B)."
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is it?", "A"),
        ("Which?\nA. x", "A"),
        ("Which?\nA. x\nB. y", "x"),
        ("Which?\nA. x\nB. y", "C"),
        ("Which?\nB. x\nC. y", "B"),
    ],
)
def test_what_is_no_choice_question_stays(question, answer):
    assert permuted_turn(Turn(question, answer)) is None
    assert permuted(sample((question, answer))) is None


def test_a_sample_keeps_its_other_turns():
    turns = [("what ?", "dog"), ("which ? ( a ) x ( b ) y", "a")]
    assert permuted(sample(*turns)).turns == (Turn("what ?", "dog"), Turn("which ? ( q ) y ( w ) x", "w"))


@pytest.mark.parametrize(
    ("question", "answer", "name"),
    [
        ("Who?\nAnswer the question using a single word or phrase.", "me", "phrase"),
        ("Which?\nAnswer with the option's letter from the given choices directly.", "?", "choice"),
        ("which ? ( a ) x ( b ) y", "b", "choice"),
        ("Provide a one-sentence caption for the provided image.", "a dog", "caption"),
        ("Provide the bounding box coordinate of the region this sentence describes: dog", "0", "box"),
        ("Describe it.", "a dog", "image"),
    ],
)
def test_formats(question, answer, name):
    assert format_of(sample((question, answer))) == name
    assert format_of(sample(("Hello.", "Hi."), images=())) == "text"


def test_the_variance_that_is_kept_falls_from_one_to_almost_nothing():
    first = 1 / (1 + math.exp(6)) * (5e-3 - 1e-5) + 1e-5
    assert kept(0) == pytest.approx(1 - first)
    assert kept(999) == pytest.approx(math.exp(-0.0025 * 1000), rel=0.02)  # mean beta 0.0025
    assert all(kept(step) > kept(step + 100) for step in range(0, 900, 100))


def test_noise_of_a_grey_image_has_the_expected_mean_and_spread():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    share = 1 - 0.02  # small noise, which no end of the range cuts
    step = next(step for step in range(1000) if kept(step) < share)
    values = np.asarray(noised_image(grey, step, np.random.default_rng(0))).astype(float) / 255
    assert values.mean() == pytest.approx(math.sqrt(kept(step)) * 128 / 255, abs=2e-3)
    assert values.std() == pytest.approx(math.sqrt(1 - kept(step)), rel=0.02)


def test_noise_follows_from_the_id_and_the_seed(small_pool):
    stats, first = PassStats(), small_pool[0]

    def pixels(given, seed):
        return np.asarray(noised(given, 300, seed, stats).images[0])

    assert np.array_equal(pixels(first, 0), pixels(replace(first, row=9), 0))
    assert not np.array_equal(pixels(first, 0), pixels(first, 1))
    assert not np.array_equal(pixels(first, 0), pixels(replace(first, id="other"), 0))
    assert noised(replace(first, images=()), 300, 0, stats) is None and not stats.missing
    assert noised(replace(first, images=(Path("gone.png"),)), 300, 0, stats) is None
    assert stats.missing == {"missing_image": 1}


@torch.inference_mode()
def test_a_pool_has_the_models_own_loss_of_each_changed_sample(small_pool, tiny_vlm_dir, tmp_path):
    summary = score_perturbed_losses(small_pool, tiny_vlm_dir, tmp_path, shard_rows=25, device="cpu")
    table, vlm = read_signal(tmp_path, small_pool.hash), Vlm(tiny_vlm_dir, device="cpu")
    for row in (0, 6):
        changed = noised(small_pool[row], 300, 0, PassStats())
        loss = vlm.model(**vlm.collator([vlm.renderer.encode(changed)])).loss.item()
        plain = vlm.model(**vlm.collator([vlm.renderer.encode(small_pool[row])])).loss.item()
        assert table["nll_noised"][row].as_py() == pytest.approx(loss, rel=1e-4)
        assert abs(loss - plain) > 1e-3
    imageless = [row for row in range(40) if not small_pool[row].images]
    assert [row for row in range(40) if table["nll_noised"][row].as_py() is None] == imageless
    assert summary["nulls"] == {"nll_noised": len(imageless), "nll_permuted": 40}
    assert summary["samples"] == 40 and summary["forwards"] == 40 - len(imageless)


def test_settings_out_of_range(small_pool, tiny_vlm_dir, tmp_path):
    with pytest.raises(ValueError, match="step must be from 0 to 999, got 1000"):
        score_perturbed_losses(small_pool, tiny_vlm_dir, tmp_path, step=1000)
    with pytest.raises(ValueError, match="7 different"):
        score_perturbed_losses(small_pool, tiny_vlm_dir, tmp_path, letters="QQERTYU")
