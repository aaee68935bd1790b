"""The checkpoint that a training ends with, written one weight at a time.

    save_model(model, processor, Path("checkpoints/a"), writes=rank == 0)

No rank ever holds a second model: under ZeRO-3 one weight at a time is gathered, LoRA is merged layer by
layer into what is written and not into the model, and a safetensors file is written in the order of its
header, so that not even a shard is collected first. Weights keep the type that they were trained in, and have
the names of the Hub's checkpoints of the model's class.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from curation import killpoints
from training.models import COMPLETE, hub_key, quiet, tied_names

SHARD_BYTES = 5 * 10**9
"""A checkpoint file holds at most this many bytes of weights, unless a single weight is larger."""
ADAPTED = ".base_layer.weight"
"""End of the in-memory name of a weight that has LoRA adapters."""
FORMAT_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the types in a safetensors header (its specification is in the library's README)."""


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message says why, and which earlier one is intact."""


@dataclass(frozen=True)
class Weight:
    """One weight of a checkpoint: name in its files, shape and type, and how it is computed.

    `needs`: the parameters that `value` reads, which must be whole while it is called.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    needs: tuple[torch.Tensor, ...]
    value: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def whole(parameters: Sequence[torch.Tensor]) -> AbstractContextManager[Any]:
    """While the block runs, every rank has these parameters whole, which ZeRO-3 spreads over the ranks."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(sharded)
    return context


def weights_of(model: Any) -> list[Weight]:
    """The weights of a checkpoint of `model`, which may be a PeftModel or sharded by ZeRO-3."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    tied = tied_names(inner)
    found = []
    for name, tensor in inner.state_dict(keep_vars=True).items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" in name or plain in tied:
            continue
        key, shape = hub_key(inner.config, plain), tuple(getattr(tensor, "ds_shape", tensor.shape))
        if name.endswith(ADAPTED):
            needs, value = _merged(tensor, inner.get_submodule(name.removesuffix(ADAPTED)))
        else:
            needs, value = _plain(tensor)
        found.append(Weight(key, shape, tensor.dtype, needs, value))
    return found


Source = tuple[tuple[torch.Tensor, ...], Callable[[], torch.Tensor]]
"""The parameters that a weight needs, and how it is computed."""


def _plain(tensor: torch.Tensor) -> Source:
    return (tensor,), lambda: tensor


def _merged(base: torch.Tensor, layer: Any) -> Source:
    """The weight of a LoRA layer with its adapters merged, as PEFT's `merge` computes it."""
    adapters = layer.active_adapters
    factors = [each[name].weight for name in adapters for each in (layer.lora_A, layer.lora_B)]

    def value() -> torch.Tensor:
        merged = base.detach().clone()
        for name in adapters:
            merged += layer.get_delta_weight(name).detach()
        return merged

    return (base, *factors), value


def save_model(
    model: Any, processor: Any, out: Path, *, writes: bool = True, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a Hugging Face checkpoint, COMPLETE last. All ranks must call this; the one with `writes` writes.

    Raises SaveError where the disk is too small, before anything is written.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    shards = _shards(weights_of(model), shard_bytes)
    names = [_shard_name(number, len(shards)) for number in range(len(shards))]
    if writes:
        _make_room(out, sum(weight.bytes for shard in shards for weight in shard))
    for shard, name in zip(shards, names, strict=True):
        write_weights(shard, out / name, writes)
        if writes:
            killpoints.reach("inside checkpoint")
    if writes:
        if len(shards) > 1:
            _write_index(shards, names, out)
        _write_rest(inner, processor, out)
        killpoints.reach("before complete")
        (out / COMPLETE).touch()
    return out


def write_weights(weights: Sequence[Weight], path: Path, writes: bool = True) -> None:
    """Write a safetensors file. All ranks must call this; the one with `writes` writes."""
    # The library's own order: each weight lies at a multiple of the size of its numbers.
    ordered = sorted(weights, key=lambda weight: (-weight.dtype.itemsize, weight.name))
    with SafetensorsFile(path, ordered) if writes else nullcontext() as file:
        for weight in ordered:
            with torch.no_grad(), whole(weight.needs):
                if file is not None:
                    file.write(weight.value())


class SafetensorsFile:
    """A safetensors file that is written weight by weight, in the order of its header, and then synced."""

    def __init__(self, path: Path, weights: Sequence[Weight]) -> None:
        self.path, self.weights = path, list(weights)
        self._at = 0

    def __enter__(self) -> Self:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for weight in self.weights:
            begin, end = end, end + weight.bytes
            own = {"dtype": FORMAT_NAMES[weight.dtype], "shape": list(weight.shape)}
            header[weight.name] = {**own, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._handle = self.path.open("wb")
        self._handle.write(len(text).to_bytes(8, "little") + text)
        return self

    def write(self, tensor: torch.Tensor) -> None:
        """Write the next weight. Raises ValueError if it is not what the header says."""
        weight = self.weights[self._at]
        if (tuple(tensor.shape), tensor.dtype) != (weight.shape, weight.dtype):
            raise ValueError(f"{weight.name}: {tensor.shape} {tensor.dtype}, announced {weight}")
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._handle.write(flat.numpy().data)
        self._at += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._handle:
            if error is None:
                self._handle.flush()
                os.fsync(self._handle.fileno())  # a marker must not reach the disk before what it stands for


def _shards(weights: Sequence[Weight], limit: int) -> list[list[Weight]]:
    """The weights in order, cut where a file would exceed `limit` bytes."""
    shards: list[list[Weight]] = [[]]
    size = 0
    for weight in weights:
        if shards[-1] and size + weight.bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(weight)
        size += weight.bytes
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _write_index(shards: Sequence[Sequence[Weight]], names: Sequence[str], out: Path) -> None:
    files = {weight.name: name for shard, name in zip(shards, names, strict=True) for weight in shard}
    size = sum(weight.bytes for shard in shards for weight in shard)
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _write_rest(inner: Any, processor: Any, out: Path) -> None:
    """Configurations, as `PreTrainedModel.save_pretrained` writes them, and the processor."""
    vars(inner.config).pop("use_cache", None)  # Trainer writes it into the config
    inner.config.dtype = str(inner.dtype).removeprefix("torch.")
    inner.config.architectures = [type(inner).__name__]
    with quiet():
        inner.config.save_pretrained(out)
        if inner.can_generate():
            inner.generation_config.save_pretrained(out)
        processor.save_pretrained(out)


def _make_room(out: Path, needed: int) -> None:
    """Remove what an interrupted save left, and raise SaveError unless `needed` bytes are free."""
    out.mkdir(parents=True, exist_ok=True)
    (out / COMPLETE).unlink(missing_ok=True)
    for file in [*out.glob("model*.safetensors"), *out.glob("model.safetensors.index.json")]:
        file.unlink()
    check_space(out, needed)


def check_space(folder: Path, needed: int) -> None:
    """Raise SaveError unless `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SaveError(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def named_weights(parameters: Iterable[tuple[str, torch.Tensor]]) -> list[Weight]:
    """Parameters as they are, under their own names."""
    return [Weight(name, tuple(each.shape), each.dtype, *_plain(each)) for name, each in parameters]
