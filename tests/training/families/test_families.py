"""What every model family has to hold: the same tests for each, on a tiny random model."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_families
import torch
from family_ranks import LONG, ONE, PAIR, TEXT, WIDE, draw
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from curation.pool.sample import Sample, Turn
from training import families
from training.chat_template import TEMPLATES, messages_of
from training.collate import Collator
from training.fit import fit
from training.models import add_lora, freeze, load, save_checkpoint
from training.render import IGNORE, Renderer
from training.spec import FitSpec, LoraSpec

SAMPLES = (TEXT, LONG, ONE, WIDE, PAIR)
ANSWER_ENDS = {
    "llava": " {}</s>",
    "llava_next": " {}</s>",
    "llava_onevision": "{}<|im_end|>",
    "qwen2_5_vl": "{}<|im_end|>",
    "qwen3_vl": "{}<|im_end|>",
    "internvl": "{}<|im_end|>",
    "smolvlm": " {}<end_of_utterance>",
}
"""What the model has to write for an answer: the text that carries the loss."""
LLAVA = r"language_model\.(lm_head|model)\.|multi_modal_projector\.linear|vision_tower\.vision_model\."
LLAVA_NAMES = (
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "vision_tower.vision_model.embeddings.patch_embedding.weight",
)
HUB = {
    "llava": (LLAVA, ("language_model.lm_head.weight", *LLAVA_NAMES)),
    "llava_next": (rf"{LLAVA}|image_newline", ("language_model.lm_head.weight", *LLAVA_NAMES)),
    "llava_onevision": (rf"{LLAVA}|image_newline", ("image_newline", *LLAVA_NAMES)),
    "qwen2_5_vl": (
        r"lm_head\.|model\.(embed_tokens|layers|norm)\.|visual\.(blocks|merger|patch_embed)\.",
        ("lm_head.weight", "model.layers.0.self_attn.q_proj.bias", "visual.blocks.0.attn.qkv.weight"),
    ),
    "qwen3_vl": (
        r"model\.language_model\.(embed_tokens|layers|norm)\."
        r"|model\.visual\.(blocks|deepstack_merger_list|merger|patch_embed|pos_embed)\.",
        (
            "model.language_model.layers.0.self_attn.q_norm.weight",
            "model.visual.deepstack_merger_list.0.norm.weight",
            "model.visual.merger.linear_fc1.weight",
        ),
    ),
    "internvl": (
        r"language_model\.(lm_head|model)\.|multi_modal_projector\.|vision_tower\.(embeddings|encoder\.layer)\.",
        (
            "language_model.lm_head.weight",
            "multi_modal_projector.layer_norm.weight",
            "vision_tower.encoder.layer.0.attention.projection_layer.weight",
        ),
    ),
    "smolvlm": (
        r"lm_head\.|model\.(connector|text_model|vision_model)\.",
        (
            "lm_head.weight",
            "model.connector.modality_projection.proj.weight",
            "model.vision_model.post_layernorm.weight",
        ),
    ),
}
"""How all names in the Hub's checkpoints of a class begin, and some of them: sources are in the families."""

pytestmark = pytest.mark.parametrize("name", tiny_families.NAMES)


@pytest.fixture
def base(family_checkpoint, name):
    return family_checkpoint(name)


@pytest.fixture
def loaded(base):
    return load(base)


@pytest.fixture
def renderer(loaded):
    return Renderer(loaded[1])


def keys_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def collated(renderer, samples):
    return Collator(renderer.pad_id, renderer.loader)([renderer.encode(sample) for sample in samples])


def by_the_processor(renderer, processor, samples):
    """The same samples through the processor itself, from the text of our template."""
    texts = [renderer._render(messages_of(sample))[0] for sample in samples]
    images = [list(sample.images) for sample in samples if sample.images] or None
    return processor(text=texts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)


def test_config_and_processor_lead_to_the_family(name, loaded):
    model, processor = loaded
    family = families.of_config(model.config)
    assert family is families.of_processor(processor) is families.find(name)
    assert family.name == name
    assert (TEMPLATES / f"{family.template(processor)}.jinja").exists()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.id)
def test_labels_cover_the_answers_and_nothing_else(name, renderer, sample):
    encoded = renderer.encode(sample)
    trained = encoded.labels != IGNORE
    text = renderer.tokenizer.decode(encoded.input_ids[trained])
    assert text == "".join(ANSWER_ENDS[name].format(turn.answer) for turn in sample.turns)
    assert np.array_equal(encoded.labels[trained], encoded.input_ids[trained])
    prompt = renderer.prompt(sample)
    assert np.array_equal(encoded.input_ids[: len(prompt)], prompt.input_ids)
    last = np.flatnonzero(np.diff(trained.astype(int)) == 1)[-1] + 1
    assert last == len(prompt)


def test_tokens_and_pixels_equal_the_processors_own(name, loaded, renderer):
    processor = loaded[1]
    for sample in SAMPLES:
        ours, theirs = collated(renderer, [sample]), by_the_processor(renderer, processor, [sample])
        assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
        for key in ours.keys() & {"image_sizes", "image_grid_thw", "pixel_attention_mask"}:
            assert torch.equal(ours[key], torch.as_tensor(theirs[key]))
        if sample.images:
            pixels = torch.as_tensor(theirs["pixel_values"])
            torch.testing.assert_close(ours["pixel_values"].reshape(pixels.shape), pixels)


SIZES = [(32, 32), (90, 40), (30, 200), (64, 64), (17, 33), (200, 30), (65, 64), (128, 100)]


def test_an_image_takes_as_many_tokens_as_the_model_makes_of_it(name, loaded, renderer):
    model, _ = loaded
    for seed, size in enumerate(SIZES):
        sample = Sample(0, "x", "t", (draw(seed, size),), (Turn("<image>", "red"),))
        batch = collated(renderer, [sample])
        inputs = {
            key: batch[key]
            for key in batch
            if key not in {"input_ids", "labels", "attention_mask", "mm_token_type_ids"}
        }
        with torch.no_grad():
            made = model.get_image_features(**inputs, return_dict=True).pooler_output
        rows = sum(part.flatten(0, -2).shape[0] for part in made)
        assert rows == int((batch["input_ids"] == renderer.image_id).sum()), size


def test_a_padded_batch_gives_each_sample_the_logits_that_it_has_alone(name, loaded, renderer):
    model, _ = loaded
    batch = collated(renderer, SAMPLES)
    with torch.no_grad():
        together = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        for row, sample in enumerate(SAMPLES):
            alone = model(**{k: v for k, v in collated(renderer, [sample]).items() if k != "labels"}).logits
            torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=2e-5, rtol=1e-4)


def test_given_positions_are_the_models_own(name, loaded, renderer):
    model, processor = loaded
    family = families.find(name)
    for sample in SAMPLES:
        batch = collated(renderer, [sample])
        rows = family.positions(processor, batch["input_ids"][0].numpy(), family.grids(batch))
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        positions = torch.from_numpy(rows if len(rows) == 1 else rows[:, None])
        with torch.no_grad():
            assert torch.equal(model(**inputs, position_ids=positions).logits, model(**inputs).logits)


def test_a_pack_has_the_logits_of_its_samples(name, loaded, renderer):
    """Without a mask: transformers tells the samples apart by the positions."""
    model, processor = loaded
    family, collator = families.find(name), Collator(renderer.pad_id, renderer.loader)
    examples = [renderer.encode(sample) for sample in (WIDE, TEXT, PAIR, LONG, ONE)]
    alone = [collator([example]) for example in examples]
    rows = [family.positions(processor, b["input_ids"][0].numpy(), family.grids(b)) for b in alone]
    pixels = renderer.loader.batch([[renderer.loader.read(p) for p in e.images] for e in examples])
    ids = torch.cat([batch["input_ids"] for batch in alone], dim=1)
    packed = {
        "input_ids": ids,
        "position_ids": torch.from_numpy(family.packed_positions(rows)),
        **family.extra_inputs(processor, ids),
        **pixels,
    }
    with torch.no_grad():
        logits = model(**packed, use_cache=False).logits[0].split([len(e) for e in examples])
        for part, batch in zip(logits, alone, strict=True):
            single = model(**{k: v for k, v in batch.items() if k not in {"labels", "attention_mask"}}).logits
            torch.testing.assert_close(part, single[0], atol=2e-5, rtol=1e-4)


def test_every_parameter_belongs_to_a_part_and_can_be_frozen(name, base):
    family = families.find(name)
    model, _ = load(base)
    inner = model.model
    tower = {
        "smolvlm": ("vision_model", "connector"),
        "qwen2_5_vl": ("visual", "visual.merger"),
        "qwen3_vl": ("visual", "visual.merger", "visual.deepstack_merger_list"),
    }.get(name, ("vision_tower", "multi_modal_projector"))
    projector = {id(p) for at in tower[1:] for p in inner.get_submodule(at).parameters()}
    if hasattr(inner, "image_newline"):
        projector.add(id(inner.image_newline))
    vision = {id(p) for p in inner.get_submodule(tower[0]).parameters()} - projector
    expected = {
        n: "projector" if id(p) in projector else "vision" if id(p) in vision else "language"
        for n, p in model.named_parameters()
    }
    assert set(expected.values()) == set(families.PARTS)
    assert {n: family.part_of(n) for n in expected} == expected
    freeze(model, ["vision", "language"])
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, part in expected.items() if part == "projector"
    }


@pytest.mark.parametrize("part", families.PARTS)
def test_lora_adapts_all_linear_layers_of_a_part_and_no_others(name, base, part):
    family = families.find(name)
    model, _ = load(base)
    head = model.get_output_embeddings()
    linear = {
        n
        for n, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and family.part_of(f"{n}.weight") == part
    }
    adapted = add_lora(model, r=2, alpha=4, parts=(part,))
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    found = {n.removeprefix("base_model.model.").split(".lora_")[0] for n in trained}
    assert linear and found == linear


def test_base_has_the_names_of_the_hub(name, base):
    names, (beginnings, some) = keys_of(base), HUB[name]
    assert set(some) <= names
    assert not [each for each in names if not re.match(beginnings, each)]


def test_every_layout_that_transformers_reads_is_saved_with_the_names_of_the_hub(name, base, tmp_path):
    model, processor = load(base)
    names, weights = keys_of(base), {n: p.clone() for n, p in model.state_dict().items()}
    library, memory = tmp_path / "library", tmp_path / "memory"
    for folder, original in ((library, True), (memory, False)):
        shutil.copytree(base, folder)
        model.save_pretrained(folder, save_original_format=original)
        again, _ = load(folder)
        saved = save_checkpoint(again, processor, tmp_path / f"{folder.name}-saved")
        assert keys_of(saved) == names
        back, info = AutoModelForImageTextToText.from_pretrained(saved, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert all(torch.equal(p, weights[n]) for n, p in back.state_dict().items())


def test_merged_lora_is_saved_with_the_names_of_the_base(name, base, renderer, tmp_path):
    model, processor = load(base)
    adapted = add_lora(model, r=2, alpha=4, parts=families.PARTS)
    for n, parameter in adapted.named_parameters():
        if "lora_B" in n:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = collated(renderer, [ONE, TEXT])
    with torch.no_grad():
        before = adapted.eval()(**batch).logits
        assert not torch.allclose(before, load(base)[0](**batch).logits, atol=1e-2)
        saved = save_checkpoint(adapted.merge_and_unload(), processor, tmp_path / "merged")
        assert keys_of(saved) == keys_of(base)
        torch.testing.assert_close(load(saved)[0](**batch).logits, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", ["full", "lora"])
def test_training_lowers_the_loss_and_keeps_layout_and_class(name, base, tmp_path, spec):
    lora = LoraSpec(r=4, alpha=8, parts=list(families.PARTS)) if spec == "lora" else None
    settings = FitSpec(epochs=6, batch_size=5, micro_batch=2, lr=3e-3, lora=lora)
    result = fit(settings, base, list(SAMPLES), tmp_path / "out")
    assert result["losses"][-1] < result["losses"][0] - 0.2
    assert keys_of(tmp_path / "out") == keys_of(base)
    model, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    kept = json.loads((tmp_path / "out/config.json").read_text())
    assert kept["architectures"] == [type(model).__name__]


def test_the_loss_does_not_depend_on_micro_batches(name, base, tmp_path):
    losses = [
        fit(
            FitSpec(epochs=3, batch_size=5, micro_batch=micro, lr=1e-3),
            base,
            list(SAMPLES),
            tmp_path / str(micro),
        )["losses"]
        for micro in (5, 2)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
