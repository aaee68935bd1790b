"""Checkpoints: load, build a tiny one, freeze parts, add LoRA, save with canonical names, hash.

model, processor = load("runs/base")
save_checkpoint(model, processor, Path("runs/copy"))
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from curation import killpoints
from training import families
from training.families import PARTS
from training.hub import HubError, local_copy

CHECKPOINT_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "processor*",
    "preprocessor*",
)
"""The files that `checkpoint_hash` covers; others in the directory (logs, notes) do not matter."""

COMPLETE = "COMPLETE"
"""Marker file of a finished directory, written last: its presence means that the directory is complete."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings inside the block, and restore both afterwards."""
    if not torch.cuda.is_available():
        # accelerate imports DeepSpeed if it is installed, which would then warn that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def dtype_of(name: str) -> torch.dtype:
    """The type of weights with one of the names DTYPES. Raises ValueError."""
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return getattr(torch, name)


def load(path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Any]:
    """Model (evaluation mode, weights as `dtype`) and processor of a directory or Hub name; or HubError."""
    path = _known(local_copy(path))
    with quiet():
        model = AutoModelForImageTextToText.from_pretrained(str(path), dtype=dtype)
        processor = AutoProcessor.from_pretrained(str(path))
    # Qwen's classes say False about the loss of their own. Ours takes the number of labels of the step
    # (training/trainer.py), and Trainer passes it to models only that do not say so.
    model.accepts_loss_kwargs = True
    return model.eval(), processor


def load_processor(path: str | Path) -> tuple[Any, str]:
    """Processor and image mode of a directory or Hub name, without loading weights. Raises HubError."""
    path = _known(local_copy(path))
    with quiet():
        config = AutoConfig.from_pretrained(str(path))
        return AutoProcessor.from_pretrained(str(path)), getattr(config, "image_mode", "anyres")


def _known(path: Path) -> Path:
    """The directory, if its configuration names a kind of model that transformers knows; else HubError."""
    from transformers import CONFIG_MAPPING

    config = path / "config.json"
    kind = json.loads(config.read_text()).get("model_type") if config.is_file() else None
    if kind is not None and kind not in CONFIG_MAPPING:
        raise HubError(
            f"{path}: transformers knows no model of the type {kind!r}: the checkpoint has its authors' own "
            "layout; name one in transformers' layout, which `python -m training.convert` makes of LLaVA's"
        )
    return path


def image_mode(model: PreTrainedModel) -> str:
    """The checkpoint's setting: `base` (one tile per image) or `anyres` (the processor's own tiling)."""
    return getattr(model.config, "image_mode", "anyres")


def build_tiny(
    out: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    image_size: int = 64,
    patch: int = 16,
    hidden: int = 128,
    layers: int = 3,
    vision_layers: int = 3,
    heads: int = 4,
    kv_heads: int | None = None,
    intermediate: int | None = None,
    vision_hidden: int | None = None,
    vision_intermediate: int | None = None,
    max_positions: int = 2048,
    initializer_range: float = 0.08,
    shift_heads: Sequence[int] = (),
    seed: int = 0,
) -> Path:
    """Write a randomly initialised LLaVA-OneVision (SigLIP, MLP projector, Qwen2 with tied embeddings).

    Its image mode is "base": each image takes (image_size / patch)^2 + 1 tokens. `shift_heads`: the first
    heads of the first layer start out attending to the token at this distance back. The tokenizer needs
    `<image>`, a pad token and an end token, else ValueError; `<video>`, which the processor requires, is
    added if missing.
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    _check_tokenizer(tokenizer)
    vision_hidden = vision_hidden or hidden
    vision = SiglipVisionConfig(
        hidden_size=vision_hidden,
        intermediate_size=vision_intermediate or 4 * vision_hidden,
        num_hidden_layers=vision_layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate or 3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=max_positions,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=[[image_size, image_size]],
        tie_word_embeddings=True,
    )
    config.image_mode = "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config)
    _start_as_shifts(model.model.language_model, shift_heads)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return save_checkpoint(model, onevision_processor(tokenizer, image_size, patch), out)


def _start_as_shifts(decoder: Any, distances: Sequence[int], size: float = 6.0) -> None:
    """Make the first heads of the first layer attend to the token `distances` positions back.

    Their queries and keys are constants (weight 0, bias only), rotated against each other so that the rotary
    embedding aligns them exactly at that distance.
    """
    attention, frequencies = decoder.layers[0].self_attn, decoder.rotary_emb.inv_freq.float().cpu()
    if not distances:
        return
    if (
        len(distances) > decoder.config.num_attention_heads
        or decoder.config.num_key_value_heads < decoder.config.num_attention_heads
    ):
        raise ValueError(
            "shift_heads: at most one distance per attention head, and no grouped-query attention"
        )
    half = len(frequencies)
    with torch.no_grad():
        for head, distance in enumerate(distances):
            rows = slice(head * 2 * half, (head + 1) * 2 * half)
            rotated = torch.cat([torch.cos(distance * frequencies), -torch.sin(distance * frequencies)])
            for layer, bias in (
                (attention.q_proj, rotated),
                (attention.k_proj, torch.cat([torch.ones(half), torch.zeros(half)])),
            ):
                layer.weight[rows] = 0
                layer.bias[rows] = size * bias


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    vocab = tokenizer.get_vocab()
    if "<image>" not in vocab or tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer needs the token <image>, a pad_token and an eos_token")
    if "<video>" not in vocab:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<video>"]}, replace_extra_special_tokens=False
        )


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token of the vocabulary."""
    return tokenizer.get_vocab()[token]


def onevision_processor(
    tokenizer: PreTrainedTokenizerBase,
    image_size: int,
    patch: int,
    pinpoints: Sequence[Sequence[int]] = (),
    chat_template: str | None = None,
) -> Any:
    """LLaVA-OneVision's processor for a SigLIP tower with tiles of `image_size` pixels.

    `pinpoints`: anyres grids [height, width] in pixels; default: one tile. `chat_template` default: the
    tokenizer's.
    """
    from transformers import (
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    # SigLIP's mean and std are 0.5; the default of the class is CLIP's.
    pixels: dict[str, Any] = {
        "size": {"height": image_size, "width": image_size},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    grids = [list(pair) for pair in pinpoints] or [[image_size, image_size]]
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=grids, **pixels),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**pixels),
        num_image_tokens=(image_size // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=chat_template or tokenizer.chat_template,
    )


def freeze(model: PreTrainedModel, parts: Iterable[str]) -> None:
    """Disable the gradients of the named parts; ValueError for an unknown part."""
    parts = set(parts)
    if unknown := parts - set(PARTS):
        raise ValueError(f"unknown parts {sorted(unknown)}: must be among {sorted(PARTS)}")
    if not parts:
        return
    family = families.of_config(model.config)
    for name, parameter in model.named_parameters():
        if family.part_of(name) in parts:
            parameter.requires_grad_(False)


def add_lora(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    parts: Iterable[str] = ("language",),
    train_parts: Iterable[str] = (),
) -> Any:
    """A PeftModel around `model` with LoRA on the linear layers of `parts`; everything else is frozen.

    `train_parts` are trained fully beside the adapters.
    """
    from peft import LoraConfig, get_peft_model

    family, whole = families.of_config(model.config), set(train_parts)
    scale: Any = alpha  # PEFT's annotation says int, but it takes any number
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=r, lora_alpha=scale, lora_dropout=dropout, target_modules=family.lora_targets(tuple(parts))
        ),
    )
    for name, parameter in adapted.named_parameters():
        if family.part_of(name) in whole:  # PEFT's `modules_to_save` would train a copy, under other names
            parameter.requires_grad_(True)
    return adapted


def save_checkpoint(model: PreTrainedModel, processor: Any, out: Path) -> Path:
    """Write a Hugging Face checkpoint (safetensors, the Hub's key names, processor), COMPLETE last."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / COMPLETE).unlink(missing_ok=True)
    with quiet():
        if families.find(model.config.model_type) is None:
            model.save_pretrained(out)
        else:
            model.save_pretrained(out, state_dict=hub_weights(model), save_original_format=False)
        killpoints.reach("inside checkpoint")
        processor.save_pretrained(out)
    killpoints.reach("before complete")
    (out / COMPLETE).touch()
    return out


def hub_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Hub name -> weight; of weights that are tied, the one that the others are tied to."""
    tied = tied_names(model)
    weights = model.state_dict()
    return {hub_key(model.config, name): weights[name] for name in weights if name not in tied}


def tied_names(model: PreTrainedModel) -> set[str]:
    """In-memory names of the weights that are tied to another one, and which a checkpoint leaves out."""
    return set(model.all_tied_weights_keys)


def hub_key(config: Any, name: str) -> str:
    """The name of a weight in the checkpoints on the Hub of the model that `config` describes.

    In-memory names and names in files by transformers are both understood; names of an unknown family stay as
    they are.
    """
    family = families.find(config.model_type)
    return family.hub_key(config, name) if family else name


DTYPES = ("float32", "bfloat16", "float16")
"""Names of the types that weights can be loaded in."""
INCIDENTAL = {"transformers_version", "dtype", "is_local", "local_files_only"}
"""Keys in a checkpoint's JSON files that depend on who wrote or read it; weights carry their own dtype."""


def checkpoint_hash(path: str | Path) -> str:
    """sha256 of the weights, config and processor files of a checkpoint directory or Hub name.

    It does not depend on library versions. FileNotFoundError if there are no safetensors weights.
    """
    path, digest = local_copy(path), hashlib.sha256()
    files = sorted({p for pattern in CHECKPOINT_FILES for p in path.glob(pattern)})
    if not any(p.suffix == ".safetensors" for p in files):
        raise FileNotFoundError(f"{path} has no safetensors file: not a checkpoint")
    for file in files:
        digest.update(file.name.encode() + b"\0")
        if file.suffix == ".json":
            digest.update(json.dumps(_essential(json.loads(file.read_text())), sort_keys=True).encode())
        else:
            with file.open("rb") as handle:
                for block in iter(lambda: handle.read(1 << 22), b""):
                    digest.update(block)
    return digest.hexdigest()


def _essential(value: Any) -> Any:
    """`value` without INCIDENTAL keys, at every depth."""
    if isinstance(value, dict):
        return {k: _essential(v) for k, v in value.items() if k not in INCIDENTAL}
    return [_essential(v) for v in value] if isinstance(value, list) else value
