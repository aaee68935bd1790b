"""LLaVA-1.5 and OneVision's own anyres tiling go the same path as the mini world's base mode."""

import json

import pytest
import torch

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.fit import FitSpec, fit
from training.models import build_tiny, load, save_checkpoint
from training.render import Renderer

GRID = [[64, 64], [64, 128], [128, 64], [128, 128]]


@pytest.fixture(scope="module")
def llava(tmp_path_factory, tokenizer):
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_id, image_seq_length=4
    )
    pixels = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.chat_template = tokenizer.chat_template
    torch.manual_seed(0)
    return save_checkpoint(
        LlavaForConditionalGeneration(config), processor, tmp_path_factory.mktemp("llava") / "m"
    )


@pytest.fixture(scope="module")
def anyres(tmp_path_factory, tokenizer):
    out = build_tiny(
        tmp_path_factory.mktemp("anyres") / "m", tokenizer, hidden=32, layers=1, vision_layers=1, heads=2
    )
    model, processor = load(out)
    model.config.image_mode = "anyres"
    model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = GRID
    return save_checkpoint(model, processor, out)


def mixed_samples(draw):
    ask = "<image> what colour ?"
    return [
        Sample(0, "square", "t", (draw(0),), (Turn(ask, "red"),)),
        Sample(1, "wide", "t", (draw(1, (150, 60)),), (Turn(ask, "blue"), Turn("how many ?", "2"))),
        Sample(2, "text", "t", (), (Turn("how many ?", "3"),)),
        Sample(3, "pair", "t", (draw(2), draw(3, (40, 90))), (Turn("<image> <image> what ?", "cat"),)),
    ]


@pytest.mark.parametrize("which", ["llava", "anyres"])
def test_mixed_batches_equal_the_processors_and_train(which, request, draw, tmp_path):
    base = request.getfixturevalue(which)
    model, processor = load(base)
    renderer = Renderer(processor, getattr(model.config, "image_mode", "anyres"))
    samples = mixed_samples(draw)
    collator = Collator(renderer.pad_id, renderer.loader)
    with torch.no_grad():
        for sample in (samples[0], samples[1], samples[3]):
            ours = model(**collator([renderer.prompt(sample)])).logits[0, -1]
            text = renderer.tokenizer.decode(
                [i for i in renderer.prompt(sample).input_ids if i != renderer.image_id]
            )
            text = text.replace("<|user|>", "<|user|> " + "<image> " * len(sample.images), 1)
            inputs = processor(
                images=[list(sample.images)], text=[text], return_tensors="pt", add_special_tokens=False
            )
            torch.testing.assert_close(ours, model(**inputs).logits[0, -1], atol=1e-4, rtol=1e-4)
    result = fit(FitSpec(epochs=10, batch_size=2, lr=1e-2), base, samples, tmp_path / "out")
    assert result["losses"][-1] < 0.5 * result["losses"][0]
    load(tmp_path / "out")
    kept = json.loads((tmp_path / "out/config.json").read_text())
    assert kept["model_type"] == json.loads((base / "config.json").read_text())["model_type"]


def test_left_padded_anyres_batch_generates(anyres, draw):
    model, processor = load(anyres)
    renderer = Renderer(processor, "anyres")
    prompts = [renderer.prompt(s) for s in mixed_samples(draw)]
    left = Collator(renderer.pad_id, renderer.loader, side="left")

    def answers(examples):
        batch = left(examples)
        batch.pop("labels")
        out = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
        return out[:, batch["input_ids"].shape[1] :].tolist()

    assert answers(prompts) == [answers([p])[0] for p in prompts]
