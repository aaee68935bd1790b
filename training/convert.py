"""Checkpoints in LLaVA-NeXT's own layout, as Hugging Face checkpoints of LLaVA-OneVision.

    python -m training.convert mengyaolyu/mmssr-7b-scorer --out checkpoints/scorer
    python -m training.convert DIR --out DIR2 --image-mode anyres

LLaVA-NeXT's class LlavaQwenForCausalLM (SigLIP tower, two-layer projector, Qwen2) has the arithmetic of
LlavaOnevisionForConditionalGeneration under other names. Weights are read through memory maps, one file at a time, and
keep their dtype; beside an enlarged embedding nothing is copied. A weight that has no place, or a place that gets no
weight, is an error. `conversion.json` lists the weights that LLaVA-NeXT itself stores and never uses.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from training.hub import local_copy
from training.models import onevision_processor, quiet, save_checkpoint

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
"""Shapes of whole pretrained towers; checkpoints name their tower and do not describe it."""

TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps",
)  # fmt: skip
"""What Qwen2's configuration must say; the class's defaults would give another model without a word."""
TEXT_OPTIONS = (
    "hidden_act", "initializer_range", "use_sliding_window", "sliding_window", "max_window_layers", "attention_dropout",
    "bos_token_id", "eos_token_id",
)  # fmt: skip
SUPPORTED = {
    "mm_projector_type": {"mlp2x_gelu"},
    "mm_patch_merge_type": {"spatial_unpad"},
    "mm_resampler_type": {None},
    "mm_use_im_start_end": {False, None},
}
"""Settings that decide the arithmetic -> the values that LLaVA-OneVision has too."""

_TOWER = "model.vision_tower.vision_tower.vision_model."
_NEVER_USED = re.compile(
    r"(rotary_emb\.inv_freq|embeddings\.position_ids)$|^" + re.escape(_TOWER) + r"head\."
)


class ConversionError(ValueError):
    """A checkpoint that cannot be converted; the message lists what is wrong with it."""


def is_llava_next_layout(path: str | Path) -> bool:
    """Whether a checkpoint directory has LLaVA-NeXT's layout; False for other checkpoints.

    Raises FileNotFoundError where there is no config.json.
    """
    settings = json.loads((Path(path) / "config.json").read_text())
    return "LlavaQwenForCausalLM" in settings.get("architectures", []) or "mm_vision_tower" in settings


def convert_llava_next(
    src: str | Path,
    out: Path,
    *,
    vision_config: dict[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_mode: str = "base",
) -> Path:
    """Write the checkpoint `src` (directory or hub name) in Hugging Face layout to `out`.

    vision_config: SiglipVisionConfig values of the whole pretrained tower, where it is not a known one and cannot be
        looked up. LLaVA-NeXT takes out the tower's last layer, so one layer less is built and stored.
    tokenizer: instead of the one beside the weights; `<image>` and `<video>` are added. Embedding rows are added only if
        the tokens do not fit into those that there are (each a copy of the mean row; a multiple of 64 in all).
    image_mode: "base" (one tile: how mmSSR's code runs its scorer) or "anyres" (how it was trained).
    Raises ConversionError.
    """
    from transformers import LlavaOnevisionForConditionalGeneration

    source, out = local_copy(src), Path(out)
    settings = _settings(source)
    tower = _tower(settings, vision_config)
    with quiet():
        tokenizer = _with_placeholders(tokenizer or _tokenizer(source))
        config = _config(settings, tower, tokenizer, image_mode)
        with torch.device("meta"):
            model = LlavaOnevisionForConditionalGeneration(config)
        record = _fill(model, source, settings["vocab_size"])
    model.generation_config.eos_token_id = config.text_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
    processor = onevision_processor(
        tokenizer, tower["image_size"], tower["patch_size"], config.image_grid_pinpoints, TEMPLATE.read_text()
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "conversion.json").write_text(json.dumps({"source": str(src), **record}, indent=1) + "\n")
    return save_checkpoint(model.eval(), processor, out)


def _settings(source: Path) -> dict[str, Any]:
    """config.json, after checking that the model is one that LLaVA-OneVision can be."""
    path = source / "config.json"
    if not path.exists():
        raise ConversionError(f"{source} holds no config.json")
    settings = json.loads(path.read_text())
    wrong = (
        [f"architectures {settings.get('architectures')}"]
        if settings.get("architectures") != ["LlavaQwenForCausalLM"]
        else []
    )
    wrong += [
        f"{key} {settings.get(key)!r}" for key, values in SUPPORTED.items() if settings.get(key) not in values
    ]
    wrong += [f"no {key}" for key in (*TEXT_KEYS, "rope_theta") if key not in settings]
    if not re.fullmatch(r"anyres_max_\d+", str(settings.get("image_aspect_ratio"))):
        wrong.append(f"image_aspect_ratio {settings.get('image_aspect_ratio')!r}")
    if wrong:
        raise ConversionError(f"{path} is not of a model that can be converted: {'; '.join(wrong)}")
    return settings


def _tower(settings: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any]:
    """SiglipVisionConfig values of the tower as LLaVA-NeXT runs it: without its last layer and its pooling head."""
    from transformers import AutoConfig

    name = str(settings.get("mm_vision_tower"))
    found = given or KNOWN_TOWERS.get(name)
    if found is None:
        try:
            config = AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ConversionError(
                f"the shape of the vision tower {name!r} is not known ({error}): give vision_config"
            ) from error
        found = getattr(config, "vision_config", config).to_dict()
    if found.get("model_type", "siglip_vision_model") != "siglip_vision_model":
        raise ConversionError(
            f"the vision tower {name!r} is a {found['model_type']}: only SigLIP towers can be converted"
        )
    return {**found, "num_hidden_layers": found["num_hidden_layers"] - 1, "vision_use_head": False}


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConversionError(f"{source} holds no tokenizer that can be read ({error}): give one") from error


def _with_placeholders(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    from transformers import AddedToken

    absent = [token for token in ("<image>", "<video>") if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in absent], special_tokens=True
    )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ConversionError("the tokenizer has no pad token or no end token")
    return tokenizer


def _config(
    settings: dict[str, Any], tower: dict[str, Any], tokenizer: PreTrainedTokenizerBase, image_mode: str
) -> Any:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    if image_mode not in ("base", "anyres"):
        raise ValueError(f"image_mode {image_mode!r}: expected 'base' or 'anyres'")
    needed, tied = max(tokenizer.get_vocab().values()) + 1, bool(settings.get("tie_word_embeddings", False))
    text = {key: settings[key] for key in (*TEXT_KEYS, *TEXT_OPTIONS) if key in settings}
    # Its kind stands under `rope_type` or, in older files, `type`: the class reads either, unless we name one ourselves.
    text["rope_parameters"] = {**(settings.get("rope_scaling") or {}), "rope_theta": settings["rope_theta"]}
    if needed > text["vocab_size"]:
        text["vocab_size"] = -(-needed // 64) * 64
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig.from_dict(tower),
        text_config=Qwen2Config.from_dict({**text, "tie_word_embeddings": tied}),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
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
    """[height, width] of each grid: listed in pixels, or all grids of a range in tiles, "(1x1),...,(6x6)"."""
    if isinstance(value, str) and (
        ends := re.fullmatch(r"\((\d+)x(\d+)\),\s*\.\.\.,\s*\((\d+)x(\d+)\)", value)
    ):
        top, left, bottom, right = map(int, ends.groups())
        return [[i * side, j * side] for i in range(top, bottom + 1) for j in range(left, right + 1)]
    listed = (
        json.loads(value.replace("(", "[").replace(")", "]"))
        if isinstance(value, str) and value.startswith("[")
        else value
    )
    if not isinstance(listed, list) or not listed or not all(len(pair) == 2 for pair in listed):
        raise ConversionError(f"image_grid_pinpoints {value!r}: expected a list of sizes or a range of grids")
    return [list(pair) for pair in listed]


@dataclass
class _Weights:
    """What became of the source's weights."""

    unknown: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)


def _fill(model: Any, source: Path, rows: int) -> dict[str, Any]:
    """Give every parameter of a model on the meta device its weight; returns what conversion.json tells."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tower = next(
        name for name in expected if name.endswith("embeddings.patch_embedding.weight")
    ).removesuffix("embeddings.patch_embedding.weight")
    depth, seen, head = model.config.vision_config.num_hidden_layers, _Weights(), None
    for file in _weight_files(source):
        found = {}
        for key, value in _read(file):
            name = _new_name(key, tower)
            if _NEVER_USED.search(key) or _layer(key) >= depth:
                seen.unused.append(key)
            elif name not in expected:
                seen.unknown.append(key)
            elif name in seen.filled or name in found:
                raise ConversionError(f"{source} holds {key} twice")
            else:
                value = (
                    _enlarged(value, rows, expected[name][0])
                    if key in ("lm_head.weight", "model.embed_tokens.weight")
                    else value
                )
                if tuple(value.shape) != expected[name]:
                    seen.shapes.append(f"{key} {tuple(value.shape)}, not {expected[name]}")
                found[name] = value
        seen.filled |= found.keys()
        head = found.pop("lm_head.weight", head) if model.config.tie_word_embeddings else head
        if not seen.shapes:
            model.load_state_dict(found, strict=False, assign=True)
    _complain(model, source, expected, seen)
    model.tie_weights()
    if head is not None and not torch.equal(head, model.get_input_embeddings().weight):
        raise ConversionError(
            f"{source}: tie_word_embeddings is true, yet lm_head.weight differs from the embeddings"
        )
    table = model.get_input_embeddings().weight.shape[0]
    return {"unused": sorted(seen.unused), "embedding_rows": table, "rows_added": table - rows}


def _complain(model: Any, source: Path, expected: dict[str, Any], seen: _Weights) -> None:
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    missing = sorted(expected.keys() - seen.filled - tied)
    problems = {
        "weights without a place": seen.unknown,
        "places without a weight": missing,
        "other shapes": seen.shapes,
    }
    if lines := [f"{what}: {', '.join(sorted(names))}" for what, names in problems.items() if names]:
        raise ConversionError(f"{source} cannot be converted; " + "; ".join(lines))


def _new_name(key: str, tower: str) -> str:
    """The name in LlavaOnevisionForConditionalGeneration, for every key that LLaVA-NeXT writes."""
    for old, new in (
        (_TOWER, tower),
        ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
        ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
        ("model.image_newline", "model.image_newline"),
        ("model.", "model.language_model."),
    ):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _layer(key: str) -> int:
    """The tower layer that a key belongs to, -1 for other keys."""
    found = re.match(re.escape(_TOWER) + r"encoder\.layers\.(\d+)\.", key)
    return int(found[1]) if found else -1


def _enlarged(table: torch.Tensor, rows: int, wanted: int) -> torch.Tensor:
    """An embedding table [rows, H] with mean rows added up to `wanted`; one of another size is left for the shape check."""
    if len(table) != rows or wanted == rows:
        return table
    mean = table.float().mean(dim=0).to(table.dtype)
    return torch.cat([table, mean.expand(wanted - rows, -1)])


def _weight_files(source: Path) -> list[Path]:
    index = source / "model.safetensors.index.json"
    names = (
        sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if index.exists()
        else ["model.safetensors"]
    )
    if absent := [name for name in names if not (source / name).exists()]:
        raise ConversionError(f"{source} lacks {', '.join(absent)} (only safetensors are read)")
    return [source / name for name in names]


def _read(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():
                yield key, handle.get_tensor(key)
    except SafetensorError as error:
        raise ConversionError(f"{file} cannot be read ({error}): fetch it again") from error


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Convert a checkpoint in LLaVA-NeXT's layout to a Hugging Face checkpoint."
    )
    parser.add_argument("source", help="directory or hub name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--vision-config", type=Path, help="JSON file with the pretrained tower's SiglipVisionConfig"
    )
    parser.add_argument("--image-mode", choices=["base", "anyres"], default="base")
    given = parser.parse_args()
    tower = json.loads(given.vision_config.read_text()) if given.vision_config else None
    try:
        convert_llava_next(given.source, given.out, vision_config=tower, image_mode=given.image_mode)
    except ConversionError as error:
        raise SystemExit(f"error: {error}") from error
    record = json.loads((given.out / "conversion.json").read_text())
    print(
        f"{given.out}: {record['rows_added']} embedding rows added, {len(record['unused'])} weights that are never used left out"
    )


if __name__ == "__main__":
    main()
