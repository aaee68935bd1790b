"""Build the model of a blueprint, fill it with weights, and save the checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.blueprint import Blueprint
from training.convert.config import model_config
from training.convert.processor import make_processor
from training.convert.source import ConversionError
from training.convert.weights import Stream, fill

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    import torch
    from transformers import PreTrainedTokenizerBase


def write(
    blueprint: Blueprint,
    tokenizer: "PreTrainedTokenizerBase",
    streams: Callable[[Any], list[Stream]],
    out: Path,
    record: dict[str, Any],
    made: "dict[str, torch.Tensor] | None" = None,
) -> Path:
    """Build the model, fill it, and save the checkpoint with `conversion.json`, which begins with `record`.

    `streams`: from the model on the meta device to the weights that fill it. `made`: see `weights.fill`.
    """
    import torch

    from training.models import quiet, save_checkpoint

    with quiet():
        _add_tokens(tokenizer, blueprint.model_type)
        rows = blueprint.text.vocab_size
        config, model_class = model_config(blueprint, tokenizer)
        # On the meta device nothing is allocated: each parameter then becomes its memory-mapped weight.
        with torch.device("meta"):
            model = model_class(config)
        filled = fill(model, streams(model), rows, str(record["source"]), made)
        processor = make_processor(blueprint, config, tokenizer)
    ends = [tokenizer.eos_token_id]
    if "<|eot_id|>" in tokenizer.get_vocab():  # Llama 3 ends a turn, not the text
        ends = sorted({*ends, tokenizer.get_vocab()["<|eot_id|>"]})
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    config.text_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
    out.mkdir(parents=True, exist_ok=True)
    (out / "conversion.json").write_text(json.dumps({**record, **filled}, indent=1) + "\n")
    return save_checkpoint(model.eval(), processor, out)


def _add_tokens(tokenizer: "PreTrainedTokenizerBase", model_type: str) -> None:
    """`<image>`, for OneVision `<video>`, and `<pad>` if there is none, as in the Hub's checkpoints."""
    from transformers import AddedToken

    if tokenizer.eos_token_id is None:
        raise ConversionError("the tokenizer needs an end token")
    needed = ["<image>", "<video>"] if model_type == "llava_onevision" else ["<image>"]
    absent = [token for token in needed if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in absent], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
