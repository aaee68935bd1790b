"""FLOPs of scoring, by rule, against what PyTorch's counter sees the models compute."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from encoded_lengths import of_encoded
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from curation.pool.sample import Sample, Turn
from training.estimate.encoders import Encoder, Tower, encoder_at
from training.estimate.lengths import Lengths
from training.estimate.passes import forward, generation, gradients, of_mean, questions, without_images
from training.estimate.shapes import Shape, ShapeError
from training.spec import FitSpec, LoraSpec

CLIP = Path(__file__).resolve().parents[2] / "curation" / "mini" / "clip"
TOLERANCE = 0.02
"""Relative: biases, norms and rotary embeddings are not counted."""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """vlm(kind): a tiny model opened for scoring."""
    from curation.signals.core.vlm import Vlm

    made = {}

    def of(kind):
        if kind not in made:
            folder = tiny_models.build(kind, tmp_path_factory.mktemp("passes") / kind)
            made[kind] = Vlm(folder, device="cpu")
        return made[kind]

    return of


def examples(vlm, count=1):
    words = " ".join(["word"] * 60)
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    sample = Sample(0, "0", "test", (image,), (Turn(f"<image> what {words}", f"red {words}"),))
    encoded = [vlm.renderer.encode(sample)] * count
    return encoded, of_encoded(encoded, vlm.processor.image_token_id)


def counted(function):
    """FLOPs of a call without gradients; fused attention is not counted on a CPU, so it is plain."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def unseen(shape, lengths):
    """Pairs of tokens that plain attention computes and masks: each counts 2 FLOPs for query, 2 for value."""
    tokens = lengths.tokens.astype(float)
    return float((2 * shape.sizes.language.attention * tokens * (tokens - 1)).sum())


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_a_loss_is_one_forward_pass(kind, opened):
    from curation.signals.losses import answer_losses

    vlm = opened(kind)
    encoded, lengths = examples(vlm, 2)
    shape = Shape.of_checkpoint(vlm.path)
    expected = forward(shape, lengths, lengths.labels) + unseen(shape, lengths)
    assert counted(lambda: answer_losses(vlm, encoded)) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["llava"])
def test_questions_share_their_prefix(kind, opened):
    from curation.signals.raters.prefix import Questions
    from curation.signals.raters.trie import Question

    vlm = opened(kind)
    encoded, lengths = examples(vlm)
    answers = ((5,), (6,))
    asked = [Question((7, 8, 9, 10, n), answers) for n in range(11, 25)]
    own = Questions(vlm, asked)
    shape = Shape.of_checkpoint(vlm.path)
    depths = own.plan.trie.depth.tolist()
    assert len(depths) == 4 + 14
    expected = questions(shape, lengths, depths, 14)
    # The masked pass computes every pair of a node with the prefix and all nodes.
    nodes, seen = len(depths), sum(depths) + len(depths)
    expected += unseen(shape, lengths) + 4 * shape.sizes.language.attention * (nodes**2 - seen)
    found = counted(lambda: own(encoded))
    assert found == pytest.approx(expected, rel=TOLERANCE)
    assert found < 14 * forward(shape, lengths), "14 questions cost far less than 14 passes"


def test_a_generation_reads_each_token_once(opened):
    vlm = opened("llava")
    shape = Shape.of_checkpoint(vlm.path)
    sample = Sample(0, "0", "test", (), (Turn("what is " + "this " * 30, "red"),))
    prompt = vlm.renderer.prompt(sample)
    lengths = of_encoded([prompt], vlm.processor.image_token_id)
    new = 6
    batch = vlm.batch([prompt])
    ids = batch["input_ids"]

    def run():
        vlm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
        )

    # Plain attention computes all pairs of the prompt; what follows sees only what is before it.
    expected = generation(shape, lengths, new) + unseen(shape, lengths)
    assert counted(run) == pytest.approx(expected, rel=TOLERANCE)


def test_gradients_to_adapters_are_two_passes_and_the_projection(opened):
    vlm = opened("llava")
    _, lengths = examples(vlm, 3)
    shape, lora = Shape.of_checkpoint(vlm.path), LoraSpec(r=4)
    plain, projected = gradients(shape, lengths, lora), gradients(shape, lengths, lora, dim=100)
    weights = sum(shape.trained(FitSpec(lora=lora)).values())
    assert projected - plain == 2 * weights * 100 * 3
    passes = forward(shape, lengths, lengths.labels)
    assert 1.5 * passes < plain < 3 * passes


def test_a_text_without_its_image_costs_the_text_alone(opened):
    vlm = opened("llava")
    _, lengths = examples(vlm)
    shape = Shape.of_checkpoint(vlm.path)
    bare = without_images(lengths)
    assert bare.tokens[0] == lengths.tokens[0] - lengths.image_tokens[0]
    assert forward(shape, bare) < forward(shape, lengths)
    doubled = replace(bare, tokens=2 * bare.tokens)
    assert forward(shape, doubled) > 2 * forward(shape, bare), "attention grows with the square"
    assert of_mean(Lengths.assumed(4, 10, 0, 0), 2, 100.0) == 50.0


def test_both_towers_of_a_clip_model():
    from transformers import CLIPModel

    own, model = Encoder.of_checkpoint(CLIP), CLIPModel.from_pretrained(CLIP, dtype=torch.float32).eval()
    found = counted(lambda: model.vision_model(torch.zeros(3, 3, 64, 64)))
    assert found == pytest.approx(own.images(3), rel=TOLERANCE)
    found = counted(lambda: model.text_model(torch.ones(2, 20, dtype=torch.long)))
    assert found == pytest.approx(own.texts([20, 20]), rel=TOLERANCE)
    assert own.texts([500]) == own.texts([77]), "longer texts are cut"


def test_published_encoders_have_their_published_size():
    # 304M and 86M parameters, of which the tables and norms are no matrices.
    assert encoder_at("openai/clip-vit-large-patch14").vision.weights == pytest.approx(303e6, rel=0.01)
    assert encoder_at("facebook/dinov2-base").vision.weights == pytest.approx(85.5e6, rel=0.01)
    assert encoder_at("sentence-transformers/all-MiniLM-L6-v2").text.weights == pytest.approx(
        10.6e6, rel=0.01
    )
    with pytest.raises(ShapeError, match="someone/else is not on this machine"):
        encoder_at("someone/else")


def test_a_tower_by_hand():
    assert Tower(1000, 10).flops([3, 4]) == 2 * 1000 * 7 + 4 * 10 * (9 + 16)
    assert Tower(1000, 10).flops([3], causal=True) == 2 * 1000 * 3 + 4 * 10 * 6
    assert np.isclose(Encoder(Tower(10, 0), Tower(0, 0), 5, 7).images(2), 2 * 2 * 10 * 5)
