"""Tiny checkpoints in the layouts of LLaVA and LLaVA-NeXT, and their forward pass composed from the parts."""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

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


def change(folder, drop=(), add=None):
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if k not in drop} | (
        add or {}
    )
    save_file(weights, folder / "model.safetensors")
