"""Every shipped preset loads, renders a conversation as its publication does, and says what was changed."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from curation.pool.sample import Sample, Turn
from training import presets
from training.aspects import set_aspect
from training.render import Renderer, fitted
from training.spec import FitSpec

GOLDEN = Path(__file__).parent / "golden"
CONVERSATIONS = json.loads((GOLDEN / "conversations.json").read_text())
TABLE = {"llava15_full": "vicuna_v1", "llava15_lora": "vicuna_v1", "qwen25vl_sft": None}
"""Preset -> golden table; the others have Qwen's. That of Qwen2.5-VL is of another processor."""
PRESETS = [
    "llava15_full",
    "llava15_lora",
    "mmssr_scorer",
    "mmssr_subset_sft",
    "onevision_si_05b",
    "onevision_si_7b",
    "qwen25vl_sft",
]


def test_all_presets_are_tested():
    assert presets.names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_spec_with_a_reference(name):
    preset, spec = presets.load(name), presets.fit_spec(name)
    assert spec.from_preset.name == name and spec.from_preset.changed == ()
    assert any(re.search(r"arXiv \d{4}\.\d{5}", text) for text in preset.reference) and preset.notes
    # What LLaVA's families share (arXiv 2310.03744, 2408.03326), and what 7B needs.
    assert (spec.epochs, spec.schedule, spec.warmup, spec.weight_decay) == (1, "cosine", 0.03, 0)
    assert (spec.precision, spec.gradient_checkpointing) == ("bf16", True) and not spec.doubts(7 * 10**9)


# lr, vision, projector, batch, length: section 5 of the published settings, typed a second time.
PUBLISHED = {
    "llava15_full": (2e-5, None, 2e-5, 128, 2048),
    "llava15_lora": (2e-4, None, 2e-5, 128, 2048),
    "onevision_si_05b": (1e-5, 2e-6, 1e-5, 256, 32768),
    "onevision_si_7b": (1e-5, 2e-6, 1e-5, 256, 32768),
    "mmssr_scorer": (1e-5, 2e-6, 1e-5, 256, 32768),
    "mmssr_subset_sft": (1e-5, 2e-6, 1e-5, 128, 12000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_made_as_in_the_scripts(name):
    """`group_by_modality_length` everywhere; `dataloader_drop_last` and `torch_compile` in OneVision's."""
    spec = presets.fit_spec(name)
    later = not name.startswith("llava15")
    assert (spec.grouping, spec.drop_last, spec.compile) == ("modality_length", later, later)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_batches_and_lengths_are_the_published_ones(name):
    lr, vision, projector, batch, length = PUBLISHED[name]
    spec = presets.fit_spec(name)
    trained = {"language", "projector"} | ({"vision"} if vision else set())
    if spec.lora:
        assert (spec.lora.r, spec.lora.alpha, spec.lora.dropout) == (128, 256, 0.05)
        assert {*spec.lora.parts, *spec.train_parts} == trained
    else:
        assert {"vision", "projector", "language"} - set(spec.freeze) == trained
    rates = spec.lr_of()
    assert (rates["language"], rates["projector"]) == (lr, projector)
    assert vision is None or rates["vision"] == vision
    assert (spec.batch_size, spec.max_length, spec.max_grad_norm) == (batch, length, None)


@pytest.mark.parametrize("name", [name for name in PRESETS if TABLE.get(name, "qwen")])
def test_a_preset_renders_the_published_tokens_and_labels(name, golden_processor):
    table, spec = TABLE.get(name, "qwen"), presets.fit_spec(name)
    processor, expected = golden_processor(table), json.loads((GOLDEN / f"{table}.json").read_text())
    set_aspect(processor, "anyres", spec.image_aspect, spec.image_grids)
    renderer = Renderer(processor, "base" if table == "qwen" else "pad", rules=spec.render_rules())
    for shape, talk in CONVERSATIONS.items():
        pictures = tuple(Image.new("RGB", (28, 28)) for _ in range(talk["images"]))
        turns = tuple(Turn(*turn) for turn in talk["turns"])
        encoded = renderer.encode(Sample(0, shape, "golden", pictures, turns, talk.get("system")))
        assert encoded.input_ids.tolist() == expected[shape]["ids"], shape
        assert encoded.labels.tolist() == expected[shape][spec.loss_tokens], shape
    cut = json.loads((GOLDEN / "truncated.json").read_text())[table]
    pictures = (Image.new("RGB", (28, 28)),)
    long = Sample(
        0, "long", "golden", pictures, tuple(Turn(*turn) for turn in CONVERSATIONS["long"]["turns"])
    )
    assert fitted(renderer.encode(long), 100, spec.too_long).input_ids.tolist() == cut["ids"]


def test_qwens_preset_renders_its_system_prompt_answers_and_ends():
    template = (Path(presets.__file__).parents[1] / "templates" / "qwen2_5_vl.jinja").read_text()
    spec = presets.fit_spec("qwen25vl_sft")
    assert f"<|im_start|>system\\n{spec.system}<|im_end|>" in template
    assert spec.render_rules().loss_tokens == "answer" and not spec.image_first and spec.image_aspect is None


def test_changes_are_listed_and_everything_else_stays():
    spec = presets.fit_spec("llava15_lora", lr=1e-4, lora={"r": 64}, max_length=2048)
    assert spec.from_preset.changed == ("lora.r", "lr")
    assert (spec.lora.r, spec.lora.alpha, spec.part_lr) == (64, 256, {"projector": 2e-5})
    again = FitSpec.model_validate(presets.expanded(spec.model_dump(mode="json")))
    assert again == spec
    told = spec.model_dump(mode="json") | {"from_preset": {"name": "llava15_lora", "changed": []}}
    assert presets.expanded(told)["from_preset"]["changed"] == ["lora.r", "lr"]


def test_a_preset_decides_nothing_beside_its_settings():
    spec = presets.fit_spec("llava15_full")
    plain = FitSpec(**presets.load("llava15_full").fit)
    assert spec.identity() == plain.identity() and plain.from_preset is None


def test_settings_without_a_preset_stay_as_they_are():
    assert presets.expanded({"lr": 0.1, "x": 1}) == {"lr": 0.1, "x": 1}
    with pytest.raises(presets.UnknownPreset, match="did you mean llava15_full"):
        presets.load("llava15_ful")
