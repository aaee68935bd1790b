"""Convert checkpoints in LLaVA-NeXT's own layout to Hugging Face checkpoints of LLaVA-OneVision.

    python -m training.convert mengyaolyu/mmssr-7b-scorer --out checkpoints/scorer
    python -m training.convert DIR --out DIR2 --image-mode anyres

LLaVA-NeXT's class LlavaQwenForCausalLM (SigLIP tower, two-layer projector, Qwen2) computes the same as
LlavaOnevisionForConditionalGeneration, under other parameter names. Weights are memory-mapped, one file at a
time, and keep their dtype; only an enlarged embedding is copied. A weight without a parameter, or a parameter
without a weight, is an error. `conversion.json` lists the weights that LLaVA-NeXT stores but never uses.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.hub import HubError, local_copy
from training.llava_next import ConversionError, fill, read_object

# torch and transformers take seconds to import: only functions import them, so that --help is instant.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = Path(__file__).parent / "templates" / "llava_next_qwen.jinja"
KNOWN_TOWERS: dict[str, dict[str, int]] = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
"""Shapes of whole pretrained towers: a checkpoint names its tower but does not describe it."""

TOWER_KEYS = tuple(KNOWN_TOWERS["google/siglip-so400m-patch14-384"])
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
)
"""Required settings of Qwen2: instead of an absent one, its class would silently use a default."""
TEXT_OPTIONS = (
    "hidden_act",
    "initializer_range",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
)
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": ("spatial_unpad",),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False, None),
}
"""Settings that change the computation -> the values that LLaVA-OneVision implements."""


def is_llava_next_layout(path: str | Path) -> bool:
    """Whether a checkpoint directory has LLaVA-NeXT's layout. FileNotFoundError without a config.json."""
    settings = json.loads((Path(path) / "config.json").read_text())
    return "LlavaQwenForCausalLM" in settings.get("architectures", []) or "mm_vision_tower" in settings


def convert_llava_next(
    src: str | Path,
    out: Path,
    *,
    vision_config: dict[str, Any] | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    image_mode: str = "base",
) -> Path:
    """Write the checkpoint `src` (directory or Hub name) in Hugging Face layout to the directory `out`.

    vision_config: SiglipVisionConfig values of the whole pretrained tower, if it is not a known one and
        cannot be looked up. LLaVA-NeXT drops the tower's last layer, so one layer less is built and stored.
    tokenizer: replaces the one beside the weights; `<image>` and `<video>` are added to it. The embedding
        gets more rows only if the tokens exceed the present ones (each a copy of the mean row; a multiple of
        64 in all).
    image_mode: "base" (one tile: how mmSSR's code runs its scorer) or "anyres" (how it was trained).
    Raises ConversionError, or HubError when `src` is neither a directory nor found on the Hub.
    """
    source, out = _local(src), Path(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise ConversionError(f"{out} is inside the source {source}: choose another directory")
    settings = _settings(source)
    tower = _tower(settings, vision_config)

    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    from training.models import onevision_processor, quiet, save_checkpoint

    with quiet():
        tokenizer = _with_placeholders(tokenizer or _tokenizer(source))
        config = _config(settings, tower, tokenizer, image_mode)
        # On the meta device nothing is allocated: each parameter then becomes its memory-mapped weight.
        with torch.device("meta"):
            model = LlavaOnevisionForConditionalGeneration(config)
        record = fill(model, source, settings["vocab_size"])
    model.generation_config.eos_token_id = config.text_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
    processor = onevision_processor(
        tokenizer, tower["image_size"], tower["patch_size"], config.image_grid_pinpoints, TEMPLATE.read_text()
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "conversion.json").write_text(json.dumps({"source": str(src), **record}, indent=1) + "\n")
    return save_checkpoint(model.eval(), processor, out)


def _local(source: str | Path) -> Path:
    """The source's directory; a path that exists but is not a directory is never looked up on the Hub."""
    if "\0" in str(source):
        raise ConversionError(f"the source's name contains a NUL byte: {str(source)!r}")
    if Path(source).exists() and not Path(source).is_dir():
        raise ConversionError(f"{source} is not a directory: expected a checkpoint directory or a Hub name")
    return local_copy(source)


def _settings(source: Path) -> dict[str, Any]:
    """config.json, checked to describe a model that LLaVA-OneVision can represent."""
    path = source / "config.json"
    if not path.exists():
        raise ConversionError(f"{source} has no config.json")
    settings = read_object(path)
    wrong = []
    if settings.get("architectures") != ["LlavaQwenForCausalLM"]:
        wrong.append(f"architectures {settings.get('architectures')}")
    wrong += [
        f"{key} {settings.get(key)!r}" for key, values in SUPPORTED.items() if settings.get(key) not in values
    ]
    required = (*TEXT_KEYS, "rope_theta")
    wrong += [f"no {key}" for key in required if key not in settings]
    wrong += [f"{key} {settings[key]!r}" for key in required if not _number(settings.get(key, 0))]
    if not re.fullmatch(r"anyres_max_\d+", str(settings.get("image_aspect_ratio"))):
        wrong.append(f"image_aspect_ratio {settings.get('image_aspect_ratio')!r}")
    if wrong:
        raise ConversionError(f"{path} does not describe a model that can be converted: {'; '.join(wrong)}")
    return settings


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tower(settings: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any]:
    """SiglipVisionConfig values of the tower as LLaVA-NeXT runs it: without last layer and pooling head."""
    name = str(settings.get("mm_vision_tower"))
    whole = given or KNOWN_TOWERS.get(name) or _published_tower(name)
    if whole.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise ConversionError(
            f"the vision tower {name!r} is a {whole['model_type']}: only SigLIP towers can be converted"
        )
    if wrong := [key for key in TOWER_KEYS if not isinstance(whole.get(key), int)]:
        raise ConversionError(f"vision_config needs integers for {', '.join(wrong)}")
    return {**whole, "num_hidden_layers": whole["num_hidden_layers"] - 1, "vision_use_head": False}


def _published_tower(name: str) -> dict[str, Any]:
    """The configuration that the tower was published with."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"the shape of the vision tower {name!r} is unknown ({error}): give vision_config"
        ) from error
    return getattr(config, "vision_config", config).to_dict()


def _tokenizer(source: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # the tokenizers library raises a bare Exception for a broken tokenizer.json
        raise ConversionError(f"the tokenizer in {source} cannot be loaded ({error})") from error


def _with_placeholders(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """The tokenizer with `<image>` and `<video>`; ConversionError without a pad or an end token."""
    from transformers import AddedToken

    absent = [token for token in ("<image>", "<video>") if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in absent], special_tokens=True
    )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ConversionError("the tokenizer needs a pad token and an end token")
    return tokenizer


def _config(
    settings: dict[str, Any], tower: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", image_mode: str
) -> Any:
    """The LlavaOnevisionConfig; its vocabulary is enlarged if the tokens exceed the embedding's rows."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    from training.models import token_id

    if image_mode not in ("base", "anyres"):
        raise ValueError(f"image_mode must be 'base' or 'anyres', got {image_mode!r}")
    needed, tied = max(tokenizer.get_vocab().values()) + 1, bool(settings.get("tie_word_embeddings", False))
    text = {key: settings[key] for key in (*TEXT_KEYS, *TEXT_OPTIONS) if key in settings}
    # The kind of scaling is called `rope_type` or, in older files, `type`; the class reads either one.
    text["rope_parameters"] = {**(settings.get("rope_scaling") or {}), "rope_theta": settings["rope_theta"]}
    if needed > text["vocab_size"]:
        text["vocab_size"] = -(-needed // 64) * 64
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig.from_dict(tower),
        text_config=Qwen2Config.from_dict({**text, "tie_word_embeddings": tied}),
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=_pinpoints(settings.get("image_grid_pinpoints"), tower["image_size"]),
        vision_aspect_ratio=settings["image_aspect_ratio"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=tied,
    )
    config.image_mode = image_mode
    return config


def _pinpoints(value: Any, side: int) -> list[list[int]]:
    """[height, width] of each grid, in pixels; `value`: a list, or a range in tiles "(1x1),...,(6x6)"."""
    if isinstance(value, str) and (
        ends := re.fullmatch(r"\((\d+)x(\d+)\),\s*\.\.\.,\s*\((\d+)x(\d+)\)", value)
    ):
        top, left, bottom, right = map(int, ends.groups())
        return [[i * side, j * side] for i in range(top, bottom + 1) for j in range(left, right + 1)]
    if isinstance(value, str):
        try:
            value = json.loads(value.replace("(", "[").replace(")", "]"))
        except ValueError:
            pass  # refused below, as any other value that is not a list of pairs
    if not isinstance(value, list) or not value or not all(map(_is_size, value)):
        raise ConversionError(f"image_grid_pinpoints must be sizes or a range of grids, got {value!r}")
    return [list(pair) for pair in value]


def _is_size(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(side, int) for side in pair)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Every error is one line on stderr and exit status 1 (2 for wrong usage)."""
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint in LLaVA-NeXT's layout to a Hugging Face checkpoint."
    )
    parser.add_argument("source", help="checkpoint directory or Hub name")
    parser.add_argument("--out", type=Path, required=True, help="directory to create")
    parser.add_argument(
        "--vision-config", type=Path, help="JSON file with the SiglipVisionConfig of the pretrained tower"
    )
    parser.add_argument("--image-mode", choices=["base", "anyres"], default="base")
    args = parser.parse_args(argv)
    try:
        record = _convert(args)
    except (ConversionError, HubError, OSError) as error:
        raise SystemExit(f"error: {' '.join(str(error).split())}") from error
    print(
        f"{args.out}: {record['rows_added']} embedding rows added, "
        f"{len(record['unused'])} weights that are never used left out"
    )


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    if "\0" in str(args.out):
        raise ConversionError(f"--out contains a NUL byte: {str(args.out)!r}")
    if args.out.exists():
        raise ConversionError(f"{args.out} exists: choose a directory that does not")
    tower = read_object(args.vision_config) if args.vision_config else None
    convert_llava_next(args.source, args.out, vision_config=tower, image_mode=args.image_mode)
    return json.loads((args.out / "conversion.json").read_text())


if __name__ == "__main__":
    main()
