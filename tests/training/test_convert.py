"""Conversion of checkpoints in LLaVA-NeXT's layout, against a forward pass composed from their parts."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.convert import ConversionError, convert_llava_next, is_llava_next_layout, main
from training.models import COMPLETE, load
from training.render import Renderer

ROOT = Path(__file__).resolve().parents[2]
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GRID = [[28, 28], [28, 56], [56, 28], [56, 56]]
TOKENS = 300
"""Number of ids of the tokenizer without placeholders."""


def bytes_tokenizer():
    """256 bytes, Qwen2's special tokens, and fillers up to TOKENS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"filler{i}" for i in range(TOKENS - len(alphabet) - 3)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, *fillers])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )


def parts(rows, tied):
    """A whole pretrained tower (three layers, with head), projector, newline, decoder; random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_theta=1e6,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    tower = SiglipVisionModel(SiglipVisionConfig(**TOWER)).eval()
    for parameter in tower.parameters():  # norms and biases too: a mixed-up pair would show
        torch.nn.init.normal_(parameter, std=0.3)
    projector = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 32)).eval()
    return tower, projector, torch.randn(32), Qwen2ForCausalLM(text).eval()


def original_weights(tower, projector, newline, decoder, tied, whole_tower=False):
    """What LLaVA-NeXT saves: no last tower layer and no head, unless the tower was stored as it came."""
    tower_keys = {k.removeprefix("vision_model."): v for k, v in tower.state_dict().items()}
    keep = {
        k: v for k, v in tower_keys.items() if whole_tower or not k.startswith(("encoder.layers.2.", "head."))
    }
    weights = {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in keep.items()}
    weights |= {f"model.mm_projector.{k}": v for k, v in projector.state_dict().items()}
    weights |= {"model.image_newline": newline, **decoder.state_dict()}
    if tied:
        del weights["lm_head.weight"]
    return {k: v.clone().contiguous() for k, v in weights.items()}


def original_config(decoder, tied, **changes):
    c = decoder.config
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "torch_dtype": "float32",
        "vocab_size": c.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": 1e6,
        "rope_scaling": None,
        "hidden_act": "silu",
        "sliding_window": 131072,
        "use_sliding_window": False,
        "max_window_layers": 2,
        "tie_word_embeddings": tied,
        "mm_vision_tower": "made/by-hand",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_resampler_type": None,
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": GRID,
        "image_token_index": 151646,
        **changes,
    }


def write_original(folder, rows=320, tied=False, shards=1, whole_tower=False, **changes):
    """A checkpoint in LLaVA-NeXT's layout; returns (folder, its parts)."""
    made = parts(rows, tied)
    weights = original_weights(*made, tied, whole_tower)
    folder.mkdir(parents=True)
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
    else:
        names = sorted(weights)
        index = {}
        for s in range(shards):
            file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
            save_file({name: weights[name] for name in names[s::shards]}, folder / file)
            index |= dict.fromkeys(names[s::shards], file)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index})
        )
    bytes_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(original_config(made[3], tied, **changes)))
    return folder, made


def reference_logits(made, ids, image_id, tiles):
    """Logits [T, rows]: each image is one tile; tower without its last layer, projector, newline."""
    tower, projector, newline, decoder = made
    at, features = torch.tensor(ids) == image_id, []
    embedded = decoder.model.embed_tokens(torch.tensor(ids).masked_fill(at, 0))
    for tile in tiles:
        vision = getattr(tower, "vision_model", tower)
        x = vision.embeddings(tile[None])
        for layer in vision.encoder.layers[:2]:
            x = layer(x, attention_mask=None)
            x = x[0] if isinstance(x, tuple) else x
        features.append(torch.cat([projector(x[0]), newline[None]]))
    if features:
        embedded[at] = torch.cat(features)
    assert int(at.sum()) == 5 * len(tiles)
    return decoder(inputs_embeds=embedded[None]).logits[0]


def picture(seed, size=(28, 28)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    )


def as_tile(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


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
        torch.testing.assert_close(model(**batch).logits[0][:, :rows], expected, atol=1e-4, rtol=1e-4)
    return model, processor


@pytest.mark.parametrize(("shards", "tied"), [(1, False), (3, False), (1, True)])
def test_converted_logits_equal_the_composed_forward(tmp_path, shards, tied):
    source, made = write_original(tmp_path / "original", shards=shards, tied=tied)
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    model, processor = assert_same_logits(out, made)
    assert (out / COMPLETE).exists() and not is_llava_next_layout(out) and is_llava_next_layout(source)
    assert model.config.image_mode == "base" and model.config.tie_word_embeddings is tied
    assert model.config.vision_config.num_hidden_layers == 2 and model.config.image_grid_pinpoints == GRID
    assert (
        processor.image_processor.image_grid_pinpoints == GRID
        and list(processor.image_processor.image_mean) == [0.5] * 3
    )
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    assert json.loads((out / "conversion.json").read_text()) == {
        "source": str(source),
        "unused": [],
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
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
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
    out = convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    model, _ = assert_same_logits(out, made)
    unused = json.loads((out / "conversion.json").read_text())["unused"]
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" in unused and len(unused) == len(weights) - len(
        model.state_dict()
    )
    assert all(".head." in key or ".layers.2." in key or "inv_freq" in key for key in unused)
    assert model.config.image_grid_pinpoints == [[28 * i, 28 * j] for i in (1, 2) for j in (1, 2, 3)]


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_stretched_positions_stay_stretched(tmp_path, key):
    source, made = write_original(tmp_path / "original", rope_scaling={key: "linear", "factor": 4.0})
    made[3].model.rotary_emb.inv_freq /= 4
    model, _ = assert_same_logits(convert_llava_next(source, tmp_path / "out", vision_config=TOWER), made)
    assert model.config.text_config.rope_parameters["rope_type"] == "linear"


def change(folder, drop=(), add=None):
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if k not in drop} | (
        add or {}
    )
    save_file(weights, folder / "model.safetensors")


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
    assert_same_logits(convert_llava_next(source, tmp_path / "out", vision_config=TOWER), made)
    change(source, add={"lm_head.weight": torch.zeros(320, 32)})
    with pytest.raises(ConversionError, match="differs from the embeddings"):
        convert_llava_next(source, tmp_path / "again", vision_config=TOWER)


def test_missing_and_torn_files(tmp_path):
    source, _ = write_original(tmp_path / "original", shards=3)
    torn = source / "model-00003-of-00003.safetensors"
    torn.write_bytes(torn.read_bytes()[:-50])
    with pytest.raises(ConversionError, match=r"model-00003-of-00003\.safetensors cannot be read"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"lacks model-00002-of-00003\.safetensors"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ConversionError, match=r"lacks model\.safetensors"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)


def test_models_of_another_kind_are_refused(tmp_path):
    source, made = write_original(tmp_path / "original")
    with pytest.raises(ConversionError, match=r"(?s)'made/by-hand' is unknown.*give vision_config"):
        convert_llava_next(source, tmp_path / "out")
    for changes, complaint in (
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "LlavaLlamaForCausalLM"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio 'pad'"),
        (
            {"image_grid_pinpoints": "all"},
            "image_grid_pinpoints must be sizes or a range of grids, got 'all'",
        ),
    ):
        (source / "config.json").write_text(json.dumps(original_config(made[3], False, **changes)))
        assert is_llava_next_layout(source)
        with pytest.raises(ConversionError, match=complaint):
            convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    settings = original_config(made[3], False)
    del settings["rope_theta"]
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConversionError, match="no rope_theta"):
        convert_llava_next(source, tmp_path / "out", vision_config=TOWER)
    shutil.rmtree(source)


def test_the_command(tmp_path, capsys):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    arguments = [str(source), "--out", str(tmp_path / "out")]
    main([*arguments, "--vision-config", str(tmp_path / "tower.json"), "--image-mode", "anyres"])
    assert "0 embedding rows added" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_mode"] == "anyres"
    with pytest.raises(SystemExit, match=r"error: .*give vision_config"):
        main([str(source), "--out", str(tmp_path / "other")])


BROKEN = {
    "a missing directory": (lambda source: source.parent / "nowhere", {}, "not found on the Hub"),
    "a file instead of a directory": (lambda source: source / "config.json", {}, "is not a directory"),
    "a name with a NUL byte": (lambda source: f"{source}\0", {}, "contains a NUL byte"),
    "an empty directory": (lambda source: source, {"config.json": None}, "has no config.json"),
    "a config that is not JSON": (
        lambda source: source,
        {"config.json": b"{"},
        "config.json is not valid JSON",
    ),
    "a config that is not text": (
        lambda source: source,
        {"config.json": b"\xff"},
        "config.json is not valid JSON",
    ),
    "a config that is a list": (
        lambda source: source,
        {"config.json": b"[]"},
        "config.json is not a JSON object",
    ),
    "another model": (lambda source: source, {"config.json": b"{}"}, "architectures None"),
    "no weights": (lambda source: source, {"model.safetensors": None}, "lacks model.safetensors"),
    "torn weights": (
        lambda source: source,
        {"model.safetensors": b"torn"},
        "model.safetensors cannot be read",
    ),
    "empty weights": (lambda source: source, {"model.safetensors": b""}, "model.safetensors cannot be read"),
    "a broken index": (
        lambda source: source,
        {"model.safetensors.index.json": b"{"},
        "model.safetensors.index.json is not valid JSON",
    ),
    "an index without a map": (
        lambda source: source,
        {"model.safetensors.index.json": b'{"weight_map": [1]}'},
        "has no weight_map of file names",
    ),
    "a broken tokenizer": (
        lambda source: source,
        {"tokenizer.json": b"{"},
        "tokenizer in .* cannot be loaded",
    ),
}
"""What is wrong -> (the source argument, files replaced or (None) removed, message)."""


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_source_is_one_line_and_status_1(tmp_path, case):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    argument, files, message = BROKEN[case]
    for name, content in files.items():
        (source / name).unlink(missing_ok=True)
        if content is not None:
            (source / name).write_bytes(content)
    assert_refused(tmp_path, [str(argument(source)), "--out", str(tmp_path / "out")], message)
    assert not (tmp_path / "out").exists()


def assert_refused(tmp_path, arguments, message):
    """`main` ends with one line that matches `message` and exit status 1."""
    tower = [] if "--vision-config" in arguments else ["--vision-config", str(tmp_path / "tower.json")]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, *tower])
    line = caught.value.code  # a string: printed on stderr, with exit status 1
    assert line.startswith("error: ") and "\n" not in line and re.search(message, line), line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tower.json cannot be read"),
        (b"{", "tower.json is not valid JSON"),
        (b"[]", "tower.json is not a JSON object"),
        (b'{"patch_size": 14}', "vision_config needs integers for hidden_size, intermediate_size"),
        (b'{"model_type": "clip_vision_model"}', "only SigLIP towers can be converted"),
    ],
)
def test_a_bad_vision_config_is_one_line(tmp_path, content, message):
    source, _ = write_original(tmp_path / "original")
    if content is not None:
        (tmp_path / "tower.json").write_bytes(content)
    assert_refused(tmp_path, [str(source), "--out", str(tmp_path / "out")], message)


def test_a_bad_output_is_one_line_before_any_work(tmp_path):
    source, _ = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    (tmp_path / "present").mkdir()
    (tmp_path / "link").symlink_to(source)
    files = sorted(source.iterdir())
    for out, message in (
        (tmp_path / "present", "present exists: choose a directory that does not"),
        (source / "config.json", "exists"),
        (source / "out", "is inside the source"),
        (tmp_path / "link" / "out", "is inside the source"),
        (source / "config.json" / "out", "is inside the source"),
        (tmp_path / "tower.json" / "out", "Not a directory|File exists"),
        (tmp_path / "a\0b", "contains a NUL byte"),
    ):
        assert_refused(tmp_path, [str(source), "--out", str(out)], message)
    assert sorted(source.iterdir()) == files


def test_settings_of_the_wrong_type_are_listed(tmp_path):
    source, made = write_original(tmp_path / "original")
    (tmp_path / "tower.json").write_text(json.dumps(TOWER))
    for changes, message in (
        ({"vocab_size": "many"}, "vocab_size 'many'"),
        ({"rope_theta": None}, "rope_theta None"),
        ({"mm_resampler_type": []}, r"mm_resampler_type \[\]"),
        ({"image_grid_pinpoints": [7]}, r"image_grid_pinpoints must be sizes or a range of grids, got \[7\]"),
        ({"image_grid_pinpoints": "[(1, 2"}, "image_grid_pinpoints must be"),
    ):
        (source / "config.json").write_text(json.dumps(original_config(made[3], False, **changes)))
        assert_refused(tmp_path, [str(source), "--out", str(tmp_path / "out")], message)


def test_wrong_usage_is_status_2(capsys):
    for arguments in ([], ["source"], ["source", "--out", "x", "--image-mode", "tiles"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "invalid choice: 'tiles'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ("training", "evaluation")
        for file in sorted((ROOT / package).rglob("*.py"))
        if 'if __name__ == "__main__":' in file.read_text()
    ],
)
def test_help_is_instant(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "transformers", "numpy", "pyarrow"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
