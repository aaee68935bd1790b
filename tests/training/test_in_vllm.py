"""Checkpoints in a stub of vLLM: names of weights, placeholders, one tile of each image, arguments."""

import json
import sys
import types

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from training import in_vllm
from training.images import PixelLoader
from training.models import load, load_processor
from training.render import Encoded, Renderer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {kind: tiny_models.build(kind, root / kind) for kind in ("base", "anyres")}


def picture(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def renamed(source, folder, shards=1):
    """A copy whose tower has transformers' own names, in one or several files."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    weights = {
        name.replace("vision_tower.vision_model.", "vision_tower."): weight
        for name, weight in load_file(source / "model.safetensors").items()
    }
    names = [f"model-{k + 1:05}-of-{shards:05}.safetensors" for k in range(shards)]
    files = names if shards > 1 else ["model.safetensors"]
    where = {name: files[i % shards] for i, name in enumerate(sorted(weights))}
    for file in files:
        part = {name: weights[name] for name, at in where.items() if at == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_tokens_around_those_of_an_image_belong_to_its_placeholder():
    ids = np.array([1, 7, 9, 9, 8, 2, 7, 9, 8], np.int32)
    encoded = Encoded(ids, ids, image_spans=((1, 5), (6, 9)))
    image = Image.new("RGB", (2, 2))
    request = in_vllm.request_of(encoded, 9, [image, image])
    assert request == {"prompt_token_ids": [1, 9, 2, 9], "multi_modal_data": {"image": [image, image]}}
    assert encoded.input_ids.tolist() == [1, 7, 9, 9, 8, 2, 7, 9, 8]
    adjacent = Encoded(ids[1:5].repeat(2), ids[1:5].repeat(2), image_spans=((0, 3), (3, 8)))
    assert in_vllm.request_of(adjacent, 9, [image, image])["prompt_token_ids"] == [9, 9]
    assert in_vllm.request_of(Encoded(ids[:1], ids[:1]), 9, [], (4, 5)) == {"prompt_token_ids": [1, 4, 5]}


def test_a_checkpoint_with_the_names_of_the_hub_is_opened_as_it_is(tiny, tmp_path):
    assert in_vllm.with_hub_keys(tiny["base"], tmp_path) == tiny["base"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shards", [1, 3])
def test_other_names_are_changed_in_a_copy(tiny, tmp_path, shards):
    source = renamed(tiny["base"], tmp_path / "own", shards)
    (tmp_path / "copy").mkdir()
    copy = in_vllm.with_hub_keys(source, tmp_path / "copy")
    assert copy == tmp_path / "copy"
    saved = {k: w for file in copy.glob("*.safetensors") for k, w in load_file(file).items()}
    original = load_file(tiny["base"] / "model.safetensors")
    assert saved.keys() == original.keys() and all(torch.equal(saved[k], original[k]) for k in saved)
    if shards > 1:
        index = json.loads((copy / "model.safetensors.index.json").read_text())["weight_map"]
        assert index.keys() == original.keys() and set(index.values()) == {
            file.name for file in copy.glob("*.safetensors")
        }
    expected, _ = load(tiny["base"])
    got, _ = load(copy)  # config and processor are links
    assert all(torch.equal(p, got.state_dict()[name]) for name, p in expected.state_dict().items())
    assert not any(
        "vision_model" in name for file in source.glob("*.safetensors") for name in load_file(file)
    )


def test_one_tile_is_that_of_training(tiny):
    processor = load_processor(tiny["anyres"])[0]
    renderer = Renderer(processor, "base")
    images = [picture(0, (40, 90)), picture(1, (64, 64))]
    tiles = PixelLoader(processor, "base")
    expected = tiles.batch([[tiles.read(image) for image in images]])
    one = in_vllm.one_tile(processor)
    got = one(images=images, text="<image> and <image>", return_tensors="pt")
    assert got["pixel_values"].shape == (2, 1, 3, 64, 64)
    assert torch.equal(got["pixel_values"][:, 0], expected["pixel_values"])
    assert int((got["input_ids"] == renderer.image_id).sum()) == sum(tiles.tokens(images)) == 34
    single = one(images=images[:1], text="<image>", return_tensors="pt")
    assert single["pixel_values"].shape == (1, 1, 3, 64, 64)
    assert int((single["input_ids"] == renderer.image_id).sum()) == 17
    # The processor itself still tiles.
    assert processor(images=images[:1], text="<image>", return_tensors="pt")["pixel_values"].shape[1] > 1


class Vllm(types.ModuleType):
    """The parts of vLLM that are registered with and started; `registered` and `arguments` record it."""

    def __init__(self, processor, config):
        super().__init__("vllm")
        self.registered, self.arguments, stub = [], None, self

        class LlavaOnevisionProcessingInfo:
            def get_hf_config(self):
                return config

            def get_hf_processor(self, **settings):
                return processor

            def get_num_image_tokens(self, *, image_width, image_height):
                return 1000

        class Registry:
            def register_processor(self, factory, *, info, dummy_inputs):
                return lambda model: stub.registered.append((model, factory, info, dummy_inputs))

        class LLM:
            def __init__(self, **given):
                stub.arguments = given
                stub.files = {file.name for file in stub.folder().iterdir()}

        self.LLM = LLM
        self.onevision = types.SimpleNamespace(
            LlavaOnevisionProcessingInfo=LlavaOnevisionProcessingInfo,
            LlavaOnevisionMultiModalProcessor="factory",
            LlavaOnevisionDummyInputsBuilder="dummy",
            LlavaOnevisionForConditionalGeneration="model",
        )
        self.registry = Registry()

    def folder(self):
        from pathlib import Path

        return Path(self.arguments["model"])


@pytest.fixture
def vllm(monkeypatch, tiny):
    stub = Vllm(load_processor(tiny["base"])[0], types.SimpleNamespace(image_mode="base"))
    modules = {
        "vllm": stub,
        "vllm.multimodal": types.SimpleNamespace(MULTIMODAL_REGISTRY=stub.registry),
        "vllm.model_executor": types.ModuleType("vllm.model_executor"),
        "vllm.model_executor.models": types.SimpleNamespace(llava_onevision=stub.onevision),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return stub


def test_base_mode_counts_and_prepares_one_tile(vllm):
    in_vllm.register_one_tile()
    ((model, factory, info, dummy),) = vllm.registered
    assert (model, factory, dummy) == ("model", "factory", "dummy")
    assert info().get_num_image_tokens(image_width=90, image_height=40) == 17
    assert type(info().get_hf_processor().image_processor).__name__ == "OneTile"
    tiled = Vllm(None, types.SimpleNamespace(image_mode="anyres"))
    vllm.onevision.LlavaOnevisionProcessingInfo = tiled.onevision.LlavaOnevisionProcessingInfo
    in_vllm.register_one_tile()
    assert vllm.registered[1][2]().get_num_image_tokens(image_width=90, image_height=40) == 1000
    assert vllm.registered[1][2]().get_hf_processor() is None


def test_starting(vllm, tiny, tmp_path):
    in_vllm.start(tiny["base"], dtype="float32", max_images=0, max_model_len=512)
    assert len(vllm.registered) == 1 and vllm.arguments == {
        "model": str(tiny["base"]),
        "dtype": "float32",
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": 1},
        "max_model_len": 512,
    }
    in_vllm.start(tiny["anyres"])
    assert len(vllm.registered) == 1
    in_vllm.start(tiny["base"], image_mode="anyres", hf_overrides={"a": 1})
    assert len(vllm.registered) == 1
    assert vllm.arguments["hf_overrides"] == {"a": 1, "image_mode": "anyres"}


def test_the_renamed_copy_lives_as_long_as_the_engine(vllm, tiny, tmp_path):
    source = renamed(tiny["base"], tmp_path / "own")
    llm = in_vllm.start(source)
    folder = vllm.folder()
    assert folder != source and {"config.json", "model.safetensors", "tokenizer.json"} <= vllm.files
    assert folder.exists()
    del llm
    assert not folder.exists() and source.exists()


def test_without_vllm(monkeypatch, tiny):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"winnow\[vllm\]"):
        in_vllm.start(tiny["base"])
    with pytest.raises(ImportError, match=r"winnow\[vllm\]"):
        in_vllm.main(["serve", str(tiny["base"])])


def test_serving_passes_the_arguments_on(vllm, tiny, tmp_path, monkeypatch):
    given = []
    main = types.SimpleNamespace(main=lambda: given.append(list(sys.argv)))
    for name in ("vllm.entrypoints", "vllm.entrypoints.cli"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.cli.main", main)
    monkeypatch.setattr(sys, "argv", ["unchanged"])
    source = renamed(tiny["base"], tmp_path / "own")
    in_vllm.main(["serve", str(source), "--port", "8123"])
    (arguments,) = given
    assert arguments[:2] == ["vllm", "serve"] and arguments[2] != str(source)
    assert arguments[arguments.index("--served-model-name") + 1] == str(source)
    assert arguments[arguments.index("--generation-config") + 1] == "vllm"
    assert arguments[-2:] == ["--port", "8123"] and len(vllm.registered) == 1
