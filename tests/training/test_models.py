import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.families import of_config
from training.hub import HubError
from training.models import (
    COMPLETE,
    add_lora,
    build_tiny,
    checkpoint_hash,
    freeze,
    hub_key,
    image_mode,
    load,
    load_processor,
    save_checkpoint,
)


def keys_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_tiny_checkpoint_loads_with_the_auto_classes(base):
    model = AutoModelForImageTextToText.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base)
    assert type(model).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert image_mode(model) == "base"
    assert processor.num_image_tokens == 16
    assert processor.tokenizer.chat_template == processor.chat_template
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (base / COMPLETE).exists()


@pytest.mark.parametrize("read", [load, load_processor])
def test_a_checkpoint_in_its_authors_own_layout_is_named(read, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tiny_llava_stablelm"}))
    with pytest.raises(HubError, match=r"no model of the type 'tiny_llava_stablelm'.*training.convert"):
        read(tmp_path)


def test_building_is_deterministic_in_its_seed_and_leaves_the_random_state_alone(tmp_path, base, tokenizer):
    shape = dict(hidden=32, layers=2, vision_layers=2, heads=2)
    state = torch.get_rng_state()
    same = build_tiny(tmp_path / "same", tokenizer, **shape)
    other = build_tiny(tmp_path / "other", tokenizer, **shape, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert checkpoint_hash(same) == checkpoint_hash(base) != checkpoint_hash(other)


def test_hash_sees_weights_and_template_but_not_the_library_version(tmp_path, base, loaded):
    copy = save_checkpoint(*loaded, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert checkpoint_hash(copy) == checkpoint_hash(base)
    (copy / "chat_template.jinja").write_text("other")
    assert checkpoint_hash(copy) != checkpoint_hash(base)
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        checkpoint_hash(tmp_path)


def test_weights_have_the_names_of_the_hub_however_the_model_was_made(tmp_path, base, loaded):
    names = keys_of(base)
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names
    assert "language_model.model.embed_tokens.weight" in names
    assert not any(name.startswith("vision_tower.e") for name in names)
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    weights = load_file(base / "model.safetensors")
    without = {name.replace("vision_tower.vision_model.", "vision_tower."): w for name, w in weights.items()}
    assert without.keys() != weights.keys()
    save_file(without, bare / "model.safetensors", metadata={"format": "pt"})
    for k, source in enumerate((base, bare)):  # transformers reads both names
        again = save_checkpoint(*load(source), tmp_path / str(k))
        saved = load_file(again / "model.safetensors")
        assert saved.keys() == names
        assert all(torch.equal(saved[name], weights[name]) for name in names)
    model = AutoModelForImageTextToText.from_pretrained(base)
    assert all(torch.equal(p, loaded[0].state_dict()[name]) for name, p in model.state_dict().items())


def test_only_clip_and_siglip_towers_are_renamed_on_the_hub():
    def config(kind, tower):
        return SimpleNamespace(model_type=kind, vision_config=SimpleNamespace(model_type=tower))

    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    bare = name.removeprefix("model.")
    clip = config("llava", "clip_vision_model")
    assert hub_key(clip, name) == bare.replace("vision_tower.", "vision_tower.vision_model.")
    assert hub_key(config("llava", "pixtral"), name) == bare
    assert hub_key(SimpleNamespace(model_type="bert"), name) == name
    assert hub_key(clip, hub_key(clip, name)) == hub_key(clip, bare) == hub_key(clip, name)


def test_tokenizer_without_image_token_is_refused(tmp_path, tokenizer):
    plain = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    with pytest.raises(ValueError, match="pad_token"):
        build_tiny(tmp_path, plain)


def test_parts_and_freezing(base):
    model, _ = load(base)
    names = [name for name, _ in model.named_parameters()]
    part_of = of_config(model.config).part_of
    assert {part_of(name) for name in names} == {"vision", "projector", "language"}
    assert part_of("model.image_newline") == "projector"
    freeze(model, ["vision", "language"])
    assert {part_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"projector"}
    with pytest.raises(ValueError, match="unknown parts"):
        freeze(model, ["tower"])


@pytest.mark.parametrize("parts", [("language",), ("language", "vision", "projector")])
def test_merged_lora_equals_the_adapted_model_and_keeps_canonical_names(
    tmp_path, base, parts, renderer, samples
):
    from training.collate import Collator

    model, processor = load(base)
    plain = {name for name, _ in model.named_modules()}
    adapted = add_lora(model, r=4, alpha=8, parts=parts)
    part_of = of_config(model.config).part_of
    touched = {part_of(name) for name, p in adapted.named_parameters() if p.requires_grad}
    assert touched == set(parts)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = Collator(renderer.pad_id, renderer.loader)([renderer.encode(s) for s in samples[:4]])
    with torch.no_grad():
        before = adapted.eval()(**batch).logits
        merged = adapted.merge_and_unload()
        after = merged(**batch).logits
        assert not torch.allclose(before, load(base)[0](**batch).logits, atol=1e-2)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert {name for name, _ in merged.named_modules()} == plain
    assert keys_of(save_checkpoint(merged, processor, tmp_path / "merged")) == keys_of(base)


def test_shift_heads_start_out_attending_a_fixed_distance_back(tmp_path, tokenizer):
    shape = {"hidden": 128, "layers": 2, "vision_layers": 1, "heads": 4}
    model, _ = load(build_tiny(tmp_path / "shifts", tokenizer, shift_heads=[1, 2], **shape))
    plain, _ = load(build_tiny(tmp_path / "plain", tokenizer, **shape))
    model.set_attn_implementation("eager")
    ids = torch.randint(8, len(tokenizer), (2, 24), generator=torch.Generator().manual_seed(0))
    first = model(input_ids=ids, output_attentions=True).attentions[0]
    rows = torch.arange(4, 24)
    for head, distance in enumerate((1, 2)):
        assert first[:, head, rows, rows - distance].min() > 0.9
    assert first[:, 2, rows, rows - 1].mean() < 0.5
    other = {k for k, v in plain.state_dict().items() if not torch.equal(v, model.state_dict()[k])}
    assert {k.split("layers.0.self_attn.")[-1] for k in other} == {
        f"{p}_proj.{w}" for p in "qk" for w in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="shift_heads"):
        build_tiny(tmp_path / "many", tokenizer, shift_heads=[1, 2, 3, 4, 5], **shape)
