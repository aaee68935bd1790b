"""LLaVA-1.5: LlavaLlamaForCausalLM with a CLIP that it does not store, and assembled from its parts."""

import json

import pytest
import torch
from llava_parts import (
    ACROSS,
    ROWS,
    SHAPE,
    SIDE,
    llama_tokenizer,
    make_parts,
    normalised,
    picture,
    text_of,
    weights_on_disk,
    write_alone,
    write_llava,
)
from PIL import Image
from safetensors.torch import save_file

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.convert import ConversionError, assemble, convert_llava_next, is_llava_next_layout
from training.convert.__main__ import main
from training.convert.processor import TEMPLATES, chat_template
from training.models import COMPLETE, load
from training.render import Renderer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@torch.no_grad()
def assert_same_logits(out, parts, images=(0, 1, 3), atol=1e-5):
    """For text alone, one and several images; the pictures are squares of the tower's own size."""
    model, processor = load(out)
    for count in images:
        pictures = [picture(seed) for seed in range(count)]
        inputs = processor(text=[text_of(count)], images=pictures or None, return_tensors="pt")
        tiles = [normalised(each, CLIP_MEAN, CLIP_STD) for each in pictures]
        features = list(parts.features(torch.stack(tiles))) if tiles else []
        expected = parts.logits(inputs["input_ids"][0], processor.image_token_id, features)
        assert expected.std() > 0.1
        actual = model(**inputs).logits[0][:, :ROWS]
        torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)
    return model, processor


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture
def tower(tmp_path, parts):
    parts.tower.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.mark.parametrize(
    ("pickles", "shards", "stored"), [(False, 1, False), (True, 1, False), (True, 3, False), (False, 2, True)]
)
def test_logits_equal_those_of_tower_projector_and_llama(tmp_path, parts, tower, pickles, shards, stored):
    source = write_llava(tmp_path / "source", parts, pickles=pickles, shards=shards, tower=stored)
    out = convert_llava_next(source, tmp_path / "out", vision_tower=tower)
    model, _ = assert_same_logits(out, parts)
    assert (out / COMPLETE).exists() and is_llava_next_layout(source) and not is_llava_next_layout(out)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["image_mode"] == "pad"
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    assert (
        config["image_seq_length"] == ACROSS**2
        and model.config.text_config.rope_parameters["rope_theta"] == 1e4
    )
    record = json.loads((out / "conversion.json").read_text())
    assert record["vision_tower"] == (None if stored else str(tower)) and record["unused"] == []


def test_a_trained_tower_in_the_checkpoint_comes_before_the_one_that_is_given(tmp_path, parts, tower):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**SHAPE)).save_pretrained(tmp_path / "other")
    source = write_llava(tmp_path / "source", parts, tower=True)
    assert_same_logits(convert_llava_next(source, tmp_path / "out", vision_tower=tmp_path / "other"), parts)


def test_the_tower_of_a_whole_clip_in_one_pickle(tmp_path, parts):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=CLIPTextConfig(**text, vocab_size=50).to_dict(), vision_config=SHAPE)
    clip, state = CLIPModel(config), parts.tower.state_dict()
    others = {k: v for k, v in clip.state_dict().items() if not k.startswith("vision_model.")}
    whole = others | {f"vision_model.{k.removeprefix('vision_model.')}": v for k, v in state.items()}
    config.save_pretrained(tmp_path / "clip")
    torch.save(whole, tmp_path / "clip" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    source = write_llava(tmp_path / "source", parts)
    out = convert_llava_next(source, tmp_path / "out", vision_tower=tmp_path / "clip")
    assert_same_logits(out, parts)
    unused = json.loads((out / "conversion.json").read_text())["unused"]
    assert sorted(unused) == sorted(others)


def test_names_and_words_are_those_of_the_hubs_llava_1_5(tmp_path, parts, tower):
    out = convert_llava_next(write_llava(tmp_path / "s", parts), tmp_path / "out", vision_tower=tower)
    names = weights_on_disk(out)
    assert {
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.2.mlp.fc2.bias",  # the layer after the one that is read
        "vision_tower.vision_model.post_layernorm.bias",
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    } <= names and all(
        name.startswith(("vision_tower.vision_model.", "multi_modal_projector.", "language_model."))
        for name in names
    )
    model, processor = load(out)
    ids = processor.tokenizer.convert_tokens_to_ids(["<image>", "<pad>"])
    assert ids == [ROWS, ROWS + 1] and model.config.text_config.vocab_size == 320
    assert processor.tokenizer.pad_token_id == ROWS + 1


def test_the_prompt_is_vicunas(tmp_path, parts, tower):
    out = convert_llava_next(write_llava(tmp_path / "s", parts), tmp_path / "out", vision_tower=tower)
    assert marked(load(out)[1].chat_template) == (
        "<s>A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\nQ ASSISTANT:{ A</s>}USER: R ASSISTANT:{ B</s>}"
    )


@pytest.mark.parametrize(("aspect", "mode"), [("pad", "pad"), ("square", "crop"), ("crop", "crop")])
def test_padded_or_cropped_as_the_aspect_says(tmp_path, parts, tower, aspect, mode):
    source = write_llava(tmp_path / "source", parts, image_aspect_ratio="crop" if aspect == "pad" else "pad")
    out = convert_llava_next(source, tmp_path / "out", vision_tower=tower, image_aspect=aspect)
    model, processor = load(out)
    wide = picture(
        0, width=2 * SIDE if mode == "crop" else SIDE, height=SIDE if mode == "crop" else SIDE // 2
    )
    square = wide.crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE))
    if mode == "pad":
        square = Image.new("RGB", (SIDE, SIDE), (122, 116, 104))  # CLIP's mean colour
        square.paste(wide, (0, SIDE // 4))
    pixels = processor.image_processor([wide], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels, normalised(square, CLIP_MEAN, CLIP_STD), atol=1e-5, rtol=0)
    assert model.config.image_mode == mode


@torch.no_grad()
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_the_renderer_and_the_collator_feed_a_converted_llava_1_5(tmp_path, parts, tower, aspect):
    source = write_llava(tmp_path / "source", parts, image_aspect_ratio=aspect)
    model, processor = load(convert_llava_next(source, tmp_path / "out", vision_tower=tower))
    renderer = Renderer(processor, model.config.image_mode)
    wide = picture(0, SIDE, SIDE // 2) if aspect == "pad" else picture(0, 2 * SIDE, SIDE)
    square = wide.crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE))
    if aspect == "pad":
        square = Image.new("RGB", (SIDE, SIDE), (122, 116, 104))
        square.paste(wide, (0, SIDE // 4))
    images, turns = (wide, picture(1)), (Turn("<image> or <image>?", "Two."), Turn("Why?", "So."))
    encoded = renderer.encode(Sample(0, "a", "t", images, turns))
    batch = Collator(renderer.pad_id, renderer.loader)([encoded])
    batch.pop("labels")
    tiles = torch.stack([normalised(each, CLIP_MEAN, CLIP_STD) for each in (square, images[1])])
    ids = encoded.input_ids.astype(int)
    expected = parts.logits(ids, renderer.image_id, list(parts.features(tiles)))
    torch.testing.assert_close(model(**batch).logits[0][:, :ROWS], expected, atol=1e-4, rtol=1e-4)


def test_parts_make_a_llava_1_5(tmp_path, parts):
    out = assemble(*write_alone(tmp_path, parts), tmp_path / "out")
    model, _ = assert_same_logits(out, parts)
    assert (model.config.model_type, model.config.image_mode) == ("llava", "pad")
    source = write_llava(tmp_path / "llava", parts)
    same = convert_llava_next(source, tmp_path / "same", vision_tower=tmp_path / "tower")
    for file in ("config.json", "chat_template.jinja", "processor_config.json", "model.safetensors"):
        assert (out / file).read_bytes() == (same / file).read_bytes(), file


@pytest.mark.parametrize("names", ["bare", "transformers", "lora"])
def test_a_projector_in_safetensors_and_under_other_names(tmp_path, parts, names):
    language, tower, _ = write_alone(tmp_path, parts)
    prefix = {
        "bare": "",
        "transformers": "multi_modal_projector.linear_",
        "lora": "base_model.model.model.mm_projector.",
    }
    state = {prefix[names] + key: value for key, value in parts.projector.state_dict().items()}
    if names == "transformers":
        state = {key.replace("_0.", "_1."): value for key, value in state.items()}
    save_file(state, tmp_path / "projector.safetensors")
    assert_same_logits(assemble(language, tower, tmp_path / "projector.safetensors", tmp_path / "out"), parts)


def test_qwen_and_siglip_make_a_llava_onevision(tmp_path):
    parts = make_parts("qwen2", clip=False, tied=True)
    language, tower, projector = write_alone(tmp_path, parts)
    out = assemble(language, tower, projector, tmp_path / "out")
    model, processor = load(out)
    config = model.config
    assert (config.model_type, config.image_mode) == ("llava_onevision", "anyres")
    assert config.vision_aspect_ratio == processor.vision_aspect_ratio == "anyres_max_9"
    assert len(config.image_grid_pinpoints) == 36 and config.vision_config.num_hidden_layers == 2
    assert json.loads((out / "conversion.json").read_text())["initialised"] == ["model.image_newline"]
    newline = model.model.image_newline
    assert 0.5 < float(newline.detach().std()) * 32**0.5 < 2
    with torch.no_grad():
        pictures = [picture(0), picture(1)]  # several images: one tile and a newline each
        inputs = processor(text=[text_of(2)], images=[pictures], return_tensors="pt")
        tiles = torch.stack([normalised(each, [0.5] * 3, [0.5] * 3) for each in pictures])
        features = [torch.cat([each, newline[None]]) for each in parts.features(tiles)]
        expected = parts.logits(inputs["input_ids"][0], processor.image_token_id, features)
        actual = model(**inputs).logits[0][:, :ROWS]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_what_is_missing_or_does_not_fit_is_one_line(tmp_path, parts, tower):
    source = write_llava(tmp_path / "source", parts)
    with pytest.raises(ConversionError, match=r"(?s)'nobody/no-such-clip' is unknown.*vision_tower, its dir"):
        convert_llava_next(source, tmp_path / "out")
    with pytest.raises(
        ConversionError,
        match=r"does not store the weights of its vision tower.*no-such-clip.*give vision_tower",
    ):
        convert_llava_next(
            source, tmp_path / "out", vision_config={**SHAPE, "model_type": "clip_vision_model"}
        )
    with pytest.raises(ConversionError, match="a model without image_newline takes pad or crop"):
        convert_llava_next(
            source, tmp_path / "out", vision_tower=tower, image_aspect="anyres", grids="(1x1),(1x2)"
        )
    language, tower, projector = write_alone(tmp_path, parts)
    command = [
        "assemble",
        "--language",
        str(language),
        "--vision",
        str(tower),
        "--out",
        str(tmp_path / "out"),
    ]
    wrong = {f"model.mm_projector.{k}": v for k, v in torch.nn.Linear(3, 3).state_dict().items()}
    shapes = {"0.weight": torch.ones(32, 7), "0.bias": torch.ones(32), "2.weight": torch.ones(32, 32)}
    for content, message in (
        (None, "projector file .* does not exist"),
        (b"text", r"cannot be read as a file of tensors; code in it is never run"),
        (
            wrong,
            "weights without a parameter: model.mm_projector.bias, model.mm_projector.weight; parameters",
        ),
        (shapes, r"linear_2.bias; wrong shapes: 0.weight \(32, 7\), not \(32, 32\)"),
        ([torch.ones(2)], "is not a dictionary of tensors"),
    ):
        file = tmp_path / "wrong.bin"
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            torch.save(content, file)
        with pytest.raises(SystemExit, match=message) as caught:
            main([*command, "--projector", str(file)])
        assert str(caught.value.code).startswith("error: ") and "\n" not in caught.value.code
    with pytest.raises(SystemExit, match="is a CLIPVisionModel: the language model must be one of Llama"):
        main([*command[:2], str(tower), *command[3:], "--projector", str(projector)])
    with pytest.raises(SystemExit, match=r"the vision tower .* is a llama: only SigLIP and CLIP towers"):
        main([*command[:4], str(language), *command[5:], "--projector", str(projector)])
    assert not (tmp_path / "out").exists()


def test_the_command_assembles(tmp_path, parts, capsys):
    language, tower, projector = write_alone(tmp_path, parts)
    parts_of_it = ["--language", str(language), "--vision", str(tower), "--projector", str(projector)]
    (tmp_path / "words").mkdir()
    llama_tokenizer(pad=True).save_pretrained(tmp_path / "words")
    (language / "tokenizer.json").unlink()
    words = ["--tokenizer", str(tmp_path / "words")]
    main(["assemble", *parts_of_it, *words, "--image-aspect", "crop", "--out", str(tmp_path / "out")])
    assert load(tmp_path / "out")[1].tokenizer.pad_token == "<unk>"
    assert "llava, image mode crop; 58 embedding rows added, 0 weights" in capsys.readouterr().out


CODE = "from pathlib import Path\nPath({marker!r}).touch()\nclass Thing: pass\n"


@pytest.mark.parametrize("where", ["language", "tower", "llava", "projector"])
def test_code_that_a_checkpoint_brings_is_never_run(tmp_path, parts, where):
    language, tower, projector = write_alone(tmp_path, parts)
    llava, marker = write_llava(tmp_path / "llava", parts), tmp_path / "ran"
    folder = {"language": language, "tower": tower, "llava": llava}.get(where)
    if folder:
        (folder / "code.py").write_text(CODE.format(marker=str(marker)))
        for file in ("config.json", "tokenizer_config.json"):
            if (folder / file).exists():
                content = json.loads((folder / file).read_text())
                classes = {name: "code.Thing" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
                content["auto_map"] = {**classes, "AutoTokenizer": ["code.Thing", "code.Thing"]}
                (folder / file).write_text(json.dumps(content))
    else:
        torch.save({"0.weight": Touch(marker)}, projector)
    try:
        if where == "llava":
            convert_llava_next(llava, tmp_path / "out", vision_tower=tower)
        else:
            assemble(language, tower, projector, tmp_path / "out")
    except ConversionError as error:
        assert where == "projector" or "trust_remote_code" in str(error)
    assert not marker.exists()


class Touch:
    """A pickle that makes a file when code in it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        from pathlib import Path

        return (Path.touch, (self.path,))


TURNS = [("user", "<image>\nQ"), ("assistant", "A"), ("user", "R"), ("assistant", "B")]
PROMPTS = {
    "llava_next_mistral": "<s>[INST] <image>\nQ [/INST]{ A </s>}[INST] R [/INST]{ B </s>}",
    "llava_next_llama_3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, and assist the user with a "
        "variety of tasks using natural language.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{A<|eot_id|>}"
        "<|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{B<|eot_id|>}"
    ),
}
"""Template -> what `marked` gives."""


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompts_of_llava_nexts_other_language_models(name):
    assert marked((TEMPLATES / f"{name}.jinja").read_text()) == PROMPTS[name]


def marked(template):
    """The conversation in TURNS by a chat template, each part with loss in braces."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template(
        [[{"role": role, "content": content} for role, content in TURNS]],
        chat_template=template,
        return_assistant_tokens_mask=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    text = texts[0]
    for start, end in reversed(spans[0]):
        text = f"{text[:start]}{{{text[start:end]}}}{text[end:]}"
    return text


def test_the_template_follows_the_marks_of_the_tokenizer():
    tokenizer = llama_tokenizer()
    assert "USER: " in chat_template("llama", tokenizer)
    assert "[INST]" in chat_template("mistral", tokenizer)
    tokenizer.add_tokens(["<|start_header_id|>"], special_tokens=True)
    assert "<|eot_id|>" in chat_template("llama", tokenizer)
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    assert "<|im_end|>" in chat_template("llama", tokenizer)
