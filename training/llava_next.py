"""The weights of a checkpoint in LLaVA-NeXT's layout, under the names of Hugging Face's LLaVA-OneVision."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported inside functions only, as in training.convert
    import torch

_TOWER = "model.vision_tower.vision_tower.vision_model."
_NEVER_USED = re.compile(
    r"(rotary_emb\.inv_freq|embeddings\.position_ids)$|^" + re.escape(_TOWER) + r"head\."
)


class ConversionError(ValueError):
    """A checkpoint that cannot be converted, or an output that cannot be written, with the reasons."""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; ConversionError when it cannot be read or is something else."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not UTF-8
        raise ConversionError(f"{path} is not valid JSON ({error})") from error
    except OSError as error:
        raise ConversionError(f"{path} cannot be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} is not a JSON object")
    return content


@dataclass
class _Weights:
    """What happened to the source's weights: no parameter, never used, wrong shape, or filled."""

    unknown: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)


def fill(model: Any, source: Path, rows: int) -> dict[str, Any]:
    """Assign the weights to a model on the meta device; returns the content of conversion.json."""
    import torch

    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    patches = "embeddings.patch_embedding.weight"
    tower = next(name for name in expected if name.endswith(patches)).removesuffix(patches)
    weights, head = _Weights(), None
    for file in _weight_files(source):
        batch = _renamed(file, weights, expected, tower, model.config, rows)
        weights.filled |= batch.keys()
        # A tied head is no parameter of its own, so it cannot be assigned; it must equal the embedding.
        head = batch.pop("lm_head.weight", head) if model.config.tie_word_embeddings else head
        if not weights.shapes:
            model.load_state_dict(batch, strict=False, assign=True)
    _check_complete(model, source, expected, weights)
    model.tie_weights()
    table = model.get_input_embeddings().weight
    if head is not None and not torch.equal(head, table):
        raise ConversionError(
            f"{source}: tie_word_embeddings is true, but lm_head.weight differs from the embeddings"
        )
    return {"unused": sorted(weights.unused), "embedding_rows": len(table), "rows_added": len(table) - rows}


def _renamed(
    file: Path,
    weights: _Weights,
    expected: dict[str, tuple[int, ...]],
    tower: str,
    config: Any,
    rows: int,
) -> dict[str, "torch.Tensor"]:
    """The tensors of `file` under the model's names; `weights` records everything that does not fit."""
    batch: dict[str, torch.Tensor] = {}
    for key, value in _read(file):
        name = _new_name(key, tower)
        if _NEVER_USED.search(key) or _layer(key) >= config.vision_config.num_hidden_layers:
            weights.unused.append(key)
        elif name not in expected:
            weights.unknown.append(key)
        elif name in weights.filled or name in batch:
            raise ConversionError(f"{file} holds {key}, which was read before")
        else:
            if key in ("lm_head.weight", "model.embed_tokens.weight"):
                value = _enlarged(value, rows, expected[name][0])
            if tuple(value.shape) != expected[name]:
                weights.shapes.append(f"{key} {tuple(value.shape)}, not {expected[name]}")
            batch[name] = value
    return batch


def _check_complete(model: Any, source: Path, expected: dict[str, Any], weights: _Weights) -> None:
    """ConversionError with all weights without a parameter, parameters without a weight, wrong shapes."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    problems = {
        "weights without a parameter": weights.unknown,
        "parameters without a weight": sorted(expected.keys() - weights.filled - tied),
        "wrong shapes": weights.shapes,
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
    """The tower layer that a key belongs to; -1 for other keys."""
    match = re.match(re.escape(_TOWER) + r"encoder\.layers\.(\d+)\.", key)
    return int(match[1]) if match else -1


def _enlarged(table: "torch.Tensor", rows: int, target: int) -> "torch.Tensor":
    """An embedding table [rows, H] with mean rows added up to `target`; one of another size is unchanged."""
    import torch

    if len(table) != rows or target == rows:
        return table
    mean = table.float().mean(dim=0).to(table.dtype)
    return torch.cat([table, mean.expand(target - rows, -1)])


def _weight_files(source: Path) -> list[Path]:
    """The source's safetensors files, in order of their names; ConversionError if one does not exist."""
    index, names = source / "model.safetensors.index.json", ["model.safetensors"]
    if index.exists():
        weight_map = read_object(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ConversionError(f"{index} has no weight_map of file names")
        names = sorted(set(weight_map.values()))
    if missing := [name for name in names if not (source / name).is_file()]:
        raise ConversionError(f"{source} lacks {', '.join(missing)} (only safetensors are read)")
    return [source / name for name in names]


def _read(file: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():
                yield key, handle.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{file} cannot be read ({error}): download it again") from error
