"""Weights under the names of Transformers' LLaVA classes, from one or several checkpoints."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.source import ConversionError, read_tensors

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    import torch

LLAVA_TOWER = "model.vision_tower.vision_tower."
"""What the names of a tower's weights begin with in the checkpoints of LLaVA and LLaVA-NeXT."""

_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|embeddings\.position_ids)$")
_TOWER = re.compile(r"^(?:vision_model\.)?((?:embeddings|encoder|pre_layrnorm|post_layernorm|head)\..+)$")
_REST_OF_CLIP = re.compile(r"^(text_model|text_projection|visual_projection|logit_scale|logit_bias)\b")
_PROJECTOR = re.compile(
    r"^(?:.*\bmm_projector\.|multi_modal_projector\.|)(0|2|linear_1|linear_2)\.(weight|bias)$"
)
_EMBEDDINGS = ("lm_head.weight", "model.language_model.embed_tokens.weight")

Rename = Callable[[str], str | None]
"""From a weight's name in a file to the model's; None for a weight that is never used."""


@dataclass(frozen=True)
class Stream:
    """Weight files, and the names of their weights in the model."""

    files: Sequence[Path]
    rename: Rename


@dataclass
class _Weights:
    """What happened to the source's weights: no parameter, never used, wrong shape, or filled."""

    unknown: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)


def fill(
    model: Any,
    streams: Sequence[Stream],
    rows: int,
    what: str,
    made: "dict[str, torch.Tensor] | None" = None,
) -> dict[str, Any]:
    """Assign the weights to a model on the meta device; returns a record for conversion.json.

    `rows` of the embeddings are stored; the model may have more. `what` is named in errors. `made`: values
    for parameters that no file has. A weight without a parameter, a parameter without a weight and a wrong
    shape are ConversionErrors, all of them listed.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights, head = _Weights(), None
    for stream in streams:
        for file in stream.files:
            batch = _renamed(file, stream.rename, weights, expected, rows)
            weights.filled |= batch.keys()
            # A tied head is no parameter of its own, so it cannot be assigned; it must equal the embedding.
            head = batch.pop("lm_head.weight", head) if model.config.tie_word_embeddings else head
            if not weights.shapes:
                model.load_state_dict(batch, strict=False, assign=True)
    added = {name: value for name, value in (made or {}).items() if name not in weights.filled}
    weights.filled |= added.keys()
    _check_complete(model, what, expected, weights)
    table = model.get_input_embeddings().weight
    added = {name: value.to(table.dtype) for name, value in added.items()}
    model.load_state_dict(added, strict=False, assign=True)
    model.tie_weights()
    if head is not None and not _equal(head, table):
        raise ConversionError(
            f"{what}: tie_word_embeddings is true, but lm_head.weight differs from the embeddings"
        )
    return {
        "unused": sorted(weights.unused),
        "initialised": sorted(added),
        "embedding_rows": len(table),
        "rows_added": len(table) - rows,
    }


def _renamed(
    file: Path, rename: Rename, weights: _Weights, expected: dict[str, tuple[int, ...]], rows: int
) -> dict[str, "torch.Tensor"]:
    """The tensors of `file` under the model's names; `weights` records everything that does not fit."""
    batch: dict[str, torch.Tensor] = {}
    for key, value in read_tensors(file):
        name = rename(key)
        if name is None:
            weights.unused.append(key)
        elif name not in expected:
            weights.unknown.append(key)
        elif name in weights.filled or name in batch:
            raise ConversionError(f"{file} holds {key}, which was read before")
        else:
            if name in _EMBEDDINGS:
                value = _enlarged(value, rows, expected[name][0])
            if tuple(value.shape) != expected[name]:
                weights.shapes.append(f"{key} {tuple(value.shape)}, not {expected[name]}")
            batch[name] = value
    return batch


def _check_complete(model: Any, what: str, expected: dict[str, Any], weights: _Weights) -> None:
    """ConversionError with all weights without a parameter, parameters without a weight, wrong shapes."""
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    problems = {
        "weights without a parameter": weights.unknown,
        "parameters without a weight": sorted(expected.keys() - weights.filled - tied),
        "wrong shapes": weights.shapes,
    }
    if lines := [f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names]:
        raise ConversionError(f"{what} cannot be converted; " + "; ".join(lines))


def llava_names(model: Any) -> Rename:
    """The names in a LLaVA or LLaVA-NeXT checkpoint: language model, projector and perhaps a tower."""
    tower, language, projector = tower_names(model), language_names(), projector_names()

    def rename(key: str) -> str | None:
        if key.startswith(LLAVA_TOWER):
            return tower(key.removeprefix(LLAVA_TOWER))
        if key.startswith(("model.mm_projector.", "model.image_newline")):
            return projector(key)
        return language(key)

    return rename


def tower_names(model: Any) -> Rename:
    """The names in a SigLIP or CLIP checkpoint; layers that the model lacks and text parts are not used."""
    patches = "embeddings.patch_embedding.weight"
    prefix = next(key for key in model.state_dict() if key.endswith(patches)).removesuffix(patches)
    layers, has_head = (
        model.config.vision_config.num_hidden_layers,
        any(key.startswith(f"{prefix}head.") for key in model.state_dict()),
    )

    def rename(key: str) -> str | None:
        found = _TOWER.match(key)
        if _BUFFERS.search(key) or _REST_OF_CLIP.match(key):
            return None
        if not found:
            return f"{prefix}{key}"  # no parameter: reported
        layer = re.match(r"encoder\.layers\.(\d+)\.", found[1])
        if (layer and int(layer[1]) >= layers) or (found[1].startswith("head.") and not has_head):
            return None
        return prefix + found[1]

    return rename


def language_names() -> Rename:
    """The names in a checkpoint of a language model alone (Llama, Mistral, Qwen2)."""

    def rename(key: str) -> str | None:
        if _BUFFERS.search(key):
            return None
        return key.replace("model.", "model.language_model.", 1) if key.startswith("model.") else key

    return rename


def projector_names() -> Rename:
    """The names in a projector file of LLaVA's first stage (`mm_projector.bin`), or of Transformers."""

    def rename(key: str) -> str | None:
        if key.split(".")[-1] == "image_newline":
            return "model.image_newline"
        if not (found := _PROJECTOR.match(key)):
            return key  # no parameter: reported
        layer = {"0": "linear_1", "2": "linear_2"}.get(found[1], found[1])
        return f"model.multi_modal_projector.{layer}.{found[2]}"

    return rename


def _enlarged(table: "torch.Tensor", rows: int, target: int) -> "torch.Tensor":
    """An embedding table [rows, H] with mean rows added up to `target`; one of another size is unchanged."""
    import torch

    if len(table) != rows or target == rows:
        return table
    mean = table.float().mean(dim=0).to(table.dtype)
    return torch.cat([table, mean.expand(target - rows, -1)])


def _equal(a: "torch.Tensor", b: "torch.Tensor") -> bool:
    import torch

    return torch.equal(a, b)
