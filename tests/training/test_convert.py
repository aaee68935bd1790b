"""LLaVA-NeXT checkpoints with SigLIP and Qwen: the logits after conversion equal those of their parts."""

import json

import pytest
import torch
from llava_layouts import (
    GRID,
    TOKENS,
    TOWER,
    as_tile,
    change,
    picture,
    reference_logits,
    write_original,
)
from safetensors.torch import load_file, save_file

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.convert import ConversionError, convert_llava_next, is_llava_next_layout
from training.models import COMPLETE, load
from training.render import Renderer

TURNED = [[height, width] for width, height in GRID]
"""The grids as Transformers writes them."""

SAMPLES = [
    Sample(0, "one", "t", (picture(0),), (Turn("<image>\nHow many?", "Two."),)),
    Sample(
        1,
        "two",
        "t",
        (picture(1), picture(2)),
        (Turn("<image> and <image>?", "A dog"), Turn("Why?", "Because")),
    ),
    Sample(2, "text", "t", (), (Turn("Say it.", "It"),)),
]


@torch.no_grad()
def assert_same_logits(out, made, rows=320):
    model, processor = load(out)
    renderer = Renderer(processor, model.config.image_mode)
    collator = Collator(renderer.pad_id, renderer.loader)
    for sample in SAMPLES:
        encoded = renderer.encode(sample)
        batch = collator([encoded])
        batch.pop("labels")
        expected = reference_logits(
            made, encoded.input_ids.tolist(), renderer.image_id, [as_tile(image) for image in sample.images]
        )
        assert expected.std() > 0.1
        torch.testing.assert_close(model(**batch).logits[0][:, :rows], expected, atol=1e-5, rtol=1e-5)
    return model, processor


@pytest.mark.parametrize(("shards", "tied"), [(1, False), (3, False), (1, True)])
def test_converted_logits_equal_the_composed_forward(tmp_path, shards, tied):
    source, made = write_original(tmp_path / "original", shards=shards, tied=tied)
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="base")
    model, processor = assert_same_logits(out, made)
    assert (out / COMPLETE).exists() and not is_llava_next_layout(out) and is_llava_next_layout(source)
    assert model.config.image_mode == "base" and model.config.tie_word_embeddings is tied
    assert model.config.vision_config.num_hidden_layers == 2 and model.config.image_grid_pinpoints == TURNED
    assert (
        processor.image_processor.image_grid_pinpoints == TURNED
        and list(processor.image_processor.image_mean) == [0.5] * 3
    )
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    assert json.loads((out / "conversion.json").read_text()) == {
        "source": str(source),
        "vision_tower": None,
        "image_aspect": "anyres_max_9",
        "model": "llava_onevision",
        "image_mode": "base",
        "unused": [],
        "initialised": [],
        "embedding_rows": 320,
        "rows_added": 0,
    }
    ids = processor.tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    assert ids == [TOKENS, TOKENS + 1] == [model.config.image_token_index, model.config.video_token_index]
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_names_on_disk_are_those_of_a_checkpoint_saved_by_transformers(tmp_path, base):
    source, _ = write_original(tmp_path / "original")
    convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    ours, canonical = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    assert {k for k in ours if k != "language_model.lm_head.weight"} == set(
        canonical
    )  # `base` has tied embeddings
    assert len(ours) == len(canonical) + 1


def test_the_prompt_has_llava_nexts_system_turn(tmp_path):
    source, _ = write_original(tmp_path / "original")
    _, processor = load(
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="anyres")
    )
    renderer = Renderer(processor, "anyres")
    text = processor.tokenizer.decode(
        [i for i in renderer.encode(SAMPLES[0]).input_ids if i != renderer.image_id]
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\nTwo.<|im_end|>\n"
    )


def test_tokens_that_do_not_fit_add_rows(tmp_path):
    source, made = write_original(tmp_path / "original", rows=TOKENS)
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="base")
    model, _ = assert_same_logits(out, made, rows=TOKENS)
    table = model.get_input_embeddings().weight
    assert table.shape[0] == 320 == model.config.text_config.vocab_size
    torch.testing.assert_close(table[TOKENS:], table[:TOKENS].mean(dim=0).expand(20, -1))
    assert json.loads((out / "conversion.json").read_text())["rows_added"] == 20


def test_what_is_stored_and_never_used_is_left_out_and_listed(tmp_path):
    source, made = write_original(
        tmp_path / "original", whole_tower=True, image_grid_pinpoints="(1x1),...,(2x3)"
    )
    weights = load_file(source / "model.safetensors") | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)
    }
    save_file(weights, source / "model.safetensors")
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="base")
    model, _ = assert_same_logits(out, made)
    unused = json.loads((out / "conversion.json").read_text())["unused"]
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" in unused and len(unused) == len(weights) - len(
        model.state_dict()
    )
    assert all(".head." in key or ".layers.2." in key or "inv_freq" in key for key in unused)
    assert model.config.image_grid_pinpoints == [
        [28 * height, 28 * width] for width in (1, 2) for height in (1, 2, 3)
    ]


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_stretched_positions_stay_stretched(tmp_path, key):
    source, made = write_original(tmp_path / "original", rope_scaling={key: "linear", "factor": 4.0})
    made[3].model.rotary_emb.inv_freq /= 4
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="base")
    model, _ = assert_same_logits(out, made)
    assert model.config.text_config.rope_parameters["rope_type"] == "linear"


def test_weights_that_do_not_match_are_listed(tmp_path):
    source, _ = write_original(tmp_path / "original")
    odd = {"model.vision_resampler.query": torch.ones(2), "model.image_newline": torch.ones(31)}
    change(source, drop=["model.norm.weight", "model.mm_projector.2.bias"], add=odd)
    with pytest.raises(ConversionError) as caught:
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    message = str(caught.value)
    assert "weights without a parameter: model.vision_resampler.query" in message
    assert (
        "parameters without a weight: model.language_model.norm.weight, "
        "model.multi_modal_projector.linear_2.bias" in message
    )
    assert "model.image_newline (31,), not (32,)" in message
    assert not (tmp_path / "out" / COMPLETE).exists()


def test_tied_embeddings_with_another_head_are_refused(tmp_path):
    source, made = write_original(tmp_path / "original", tied=True)
    change(source, add={"lm_head.weight": made[3].model.embed_tokens.weight.detach().clone()})
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER, image_mode="base")
    assert_same_logits(out, made)
    change(source, add={"lm_head.weight": torch.zeros(320, 32)})
    with pytest.raises(ConversionError, match="differs from the embeddings"):
        convert_llava_next(source, tmp_path / "again", vision_config=TOWER)
