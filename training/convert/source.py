"""What is read: directories of checkpoints, their JSON files, tokenizers, and weight files.

Weights come from safetensors, or from torch's pickles, of which only tensors are loaded and never code. No
code that a checkpoint brings is run: `trust_remote_code` is always False.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.hub import FILES, local_copy

# torch and transformers take seconds to import: only functions import them, so that --help is instant.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights of a checkpoint that is not sharded; with `.index.json`, of a sharded one's index."""


class ConversionError(ValueError):
    """A checkpoint that cannot be converted, or an output that cannot be written, with the reasons."""


def directory(source: str | Path) -> Path:
    """A checkpoint's directory; a path that exists but is not a directory is never looked up on the Hub.

    A repository on the Hub that has no safetensors is downloaded with its pickles. Raises ConversionError,
    HubError.
    """
    if "\0" in str(source):
        raise ConversionError(f"the source's name contains a NUL byte: {str(source)!r}")
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists():
        raise ConversionError(f"{source} is not a directory: expected a checkpoint directory or a Hub name")
    path = local_copy(source)
    if not any(path.glob("*.safetensors")):
        path = local_copy(source, files=[*FILES, "*.bin"])
    return path


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


def read_config(folder: Path) -> dict[str, Any]:
    """The object in config.json; ConversionError without one."""
    if not (folder / "config.json").exists():
        raise ConversionError(f"{folder} has no config.json")
    return read_object(folder / "config.json")


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer beside the weights. Raises ConversionError."""
    from transformers import AutoTokenizer

    from training.models import quiet

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises a bare Exception for a broken tokenizer.json
        hint = ""
        if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
            hint = "; a tokenizer.model needs sentencepiece and protobuf in versions that fit each other: "
            hint += "else give --tokenizer, a directory with a tokenizer.json"
        raise ConversionError(f"the tokenizer in {folder} cannot be loaded ({error}){hint}") from error


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint directory, in order of their names; safetensors before pickles.

    Raises ConversionError if there are none, or if one that the index names does not exist.
    """
    for name in _WEIGHTS:
        if (index := folder / f"{name}.index.json").exists():
            return [folder / file for file in _indexed(index)]
        if (folder / name).exists():
            return [folder / name]
    raise ConversionError(f"{folder} lacks {' or '.join(_WEIGHTS)}: it has no weights that can be read")


def _indexed(index: Path) -> list[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ConversionError(f"{index} has no weight_map of file names")
    if missing := sorted(n for n in set(weight_map.values()) if not (index.parent / n).is_file()):
        raise ConversionError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names")
    return sorted(set(weight_map.values()))


def read_tensors(file: Path) -> Iterator[tuple[str, "torch.Tensor"]]:
    """(name, tensor) of everything in a weight file, memory-mapped where its format allows it."""
    if file.suffix != ".safetensors":
        yield from _pickled(file).items()
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():
                yield key, handle.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{file} cannot be read ({error}): download it again") from error


def _pickled(file: Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a torch pickle, by the unpickler that refuses everything but tensors and containers."""
    import torch

    try:
        # Only the zip format, torch's own since 1.6, can be memory-mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # on damaged bytes torch's unpickler raises whatever its stack machine does
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ConversionError(
            f"{file} cannot be read as a file of tensors; code in it is never run ({reason})"
        ) from error
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise ConversionError(f"{file} is not a dictionary of tensors")
    return content


def stores(files: list[Path], prefix: str) -> bool:
    """Whether one of the weight files has a weight whose name begins with `prefix`."""
    return any(key.startswith(prefix) for file in files for key in _names(file))


def _names(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(_pickled(file))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{file} cannot be read ({error}): download it again") from error
