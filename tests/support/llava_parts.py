"""A tiny CLIP or SigLIP, projector and Llama or Mistral: as LLaVA-1.5 and LLaVA-NeXT store them, and apart.

`Parts.logits` is their forward pass in plain torch, after the papers (arXiv 2304.08485 and 2310.03744; the
tiles of LLaVA-NeXT by its blog post of January 2024): the tower's layer -2 without the class token, a
two-layer GELU projector, features in the place of `<image>`, the language model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

ROWS = 262
"""Words of the tokenizer before a conversion: 256 bytes and six special tokens."""
SIDE, PATCH, WIDTH = 56, 14, 32
ACROSS = SIDE // PATCH
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def llama_tokenizer(pad=False):
    """Bytes with Llama's special tokens; like Llama's it has no pad token unless asked for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "[a]", "[b]", "[c]"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **marks, **({"pad_token": "<unk>"} if pad else {}))


@dataclass
class Parts:
    """The modules of a model before it is stored."""

    tower: torch.nn.Module
    projector: torch.nn.Sequential
    newline: torch.Tensor
    decoder: torch.nn.Module
    clip: bool

    def features(self, tiles):
        """Projected features [tiles, patches, WIDTH] of normalised tiles [tiles, 3, SIDE, SIDE]."""
        states = self.tower(tiles, output_hidden_states=True).hidden_states
        return self.projector(states[-2][:, 1:] if self.clip else states[-2])

    def logits(self, ids, image_id, features):
        """[T, ROWS]: `features`, one [n, WIDTH] an image, take the places of `image_id` in order."""
        ids = torch.as_tensor(ids)
        at = ids == image_id
        embedded = self.decoder.model.embed_tokens(ids.masked_fill(at, 0))
        if features:
            assert int(at.sum()) == sum(map(len, features)), "another number of image tokens"
            embedded[at] = torch.cat(features)
        return self.decoder(inputs_embeds=embedded[None]).logits[0]


def make_parts(language="llama", clip=True, tied=False):
    """Random parts, with biases and norms that are not their usual zeros and ones."""
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(0)
    shape = {
        "vocab_size": ROWS,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
    }
    if language == "mistral":
        decoder = MistralForCausalLM(MistralConfig(**shape, sliding_window=None))
    elif language == "qwen2":
        decoder = Qwen2ForCausalLM(Qwen2Config(**shape))
    else:
        decoder = LlamaForCausalLM(LlamaConfig(**shape))
    tower = (
        CLIPVisionModel(CLIPVisionConfig(**SHAPE)) if clip else SiglipVisionModel(SiglipVisionConfig(**SHAPE))
    )
    for parameter in [*tower.parameters(), *decoder.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    projector = torch.nn.Sequential(
        torch.nn.Linear(32, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH)
    )
    return Parts(tower.eval(), projector.eval(), torch.randn(WIDTH), decoder.eval(), clip)


def settings_of(parts, architecture, **changes):
    """The config.json that LLaVA's code writes; like the first Llamas' it names no rope_theta."""
    return {
        "architectures": [architecture],
        "model_type": "llava_llama",
        "vocab_size": ROWS,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": parts.decoder.config.rms_norm_eps,
        "hidden_act": "silu",
        "initializer_range": 0.2,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "mm_vision_tower": "nobody/no-such-clip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_hidden_size": 32,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        **changes,
    }


def stored(parts, tower=False, newline=False):
    """The state of a LLaVA checkpoint; LLaVA-1.5 stores no tower."""
    weights = {**parts.decoder.state_dict()}
    weights |= {f"model.mm_projector.{key}": value for key, value in parts.projector.state_dict().items()}
    if tower:
        state = {key.removeprefix("vision_model."): value for key, value in parts.tower.state_dict().items()}
        weights |= {f"model.vision_tower.vision_tower.vision_model.{key}": v for key, v in state.items()}
    if newline:
        weights["model.image_newline"] = parts.newline
    return {key: value.clone().contiguous() for key, value in weights.items()}


def write_llava(folder, parts, architecture="LlavaLlamaForCausalLM", *, pickles=False, shards=1, **options):
    """A checkpoint in LLaVA's layout; `tower`, `newline`: what it stores; other options: its settings."""
    what = {key: options.pop(key) for key in ("tower", "newline") if key in options}
    weights = stored(parts, **what)
    folder.mkdir(parents=True)
    names, index = sorted(weights), {}
    stem, ending = ("pytorch_model", "bin") if pickles else ("model", "safetensors")
    for shard in range(shards):
        file = f"{stem}.{ending}" if shards == 1 else f"{stem}-{shard + 1:05d}-of-{shards:05d}.{ending}"
        part = {name: weights[name] for name in names[shard::shards]}
        torch.save(part, folder / file) if pickles else save_file(part, folder / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": index}))
    llama_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings_of(parts, architecture, **options)))
    return folder


def write_alone(folder, parts):
    """The directories of the language model and of the tower, and LLaVA's projector file."""
    parts.decoder.save_pretrained(folder / "language")
    llama_tokenizer().save_pretrained(folder / "language")
    parts.tower.save_pretrained(folder / "tower")
    state = {f"model.mm_projector.{key}": value for key, value in parts.projector.state_dict().items()}
    torch.save(state, folder / "mm_projector.bin")
    return folder / "language", folder / "tower", folder / "mm_projector.bin"


def picture(seed, width=SIDE, height=SIDE):
    """A picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def normalised(image, mean, std):
    """[3, H, W] of a picture."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def text_of(images, question="What is it?"):
    """A prompt with a placeholder for each image."""
    return "USER: " + "<image>\n" * images + question + " ASSISTANT:"


def weights_on_disk(folder: Path):
    """The names of the weights in a checkpoint."""
    from safetensors import safe_open

    names = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as handle:
            names += handle.keys()
    return set(names)
