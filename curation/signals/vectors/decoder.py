"""The layers of a vision-language model's decoder, and their outputs in a forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from curation.signals.core.vlm import Vlm


class LayerError(ValueError):
    """A layer that the model does not have, or a model whose layers cannot be found."""


def layer_states(
    vlm: "Vlm", batch: dict[str, "torch.Tensor"], layers: Sequence[int], state: str
) -> list["torch.Tensor"]:
    """The states [B, T, H] of the layers, from one forward pass."""
    with captured(vlm.model, layers, state) as outputs:
        after_norm = vlm.hidden(batch)
    # The last block's output lacks the decoder's final norm, which the model's last hidden state includes.
    last = len(decoder_layers(vlm.model)) - 1
    return [after_norm if state == "hidden" and layer == last else outputs[layer] for layer in layers]


def decoder_layers(model: Any) -> Sequence[Any]:
    """The blocks of a vision-language model's decoder. Raises LayerError where they are in another place."""
    decoder = getattr(getattr(model, "model", model), "language_model", None)
    if decoder is None or not hasattr(decoder, "layers"):
        raise LayerError(
            f"{type(model).__name__} has no model.language_model.layers: "
            "its hidden states cannot be read by layer"
        )
    return decoder.layers


def resolve_layers(layers: Sequence[int], count: int) -> list[int]:
    """Layer numbers from 0, of `count` layers.

    Raises LayerError for a number out of range, and for none at all.
    """
    if not layers or any(not -count <= layer < count for layer in layers):
        raise LayerError(
            f"layers must be from 0 (or -{count}) to {count - 1} (or -1), "
            f"the model has {count}; got {list(layers)}"
        )
    return [layer % count for layer in layers]


@contextmanager
def captured(model: Any, layers: Sequence[int], state: str) -> Iterator[dict[int, Any]]:
    """Inside the block, a dictionary of the layers' outputs in the last forward pass: {layer: [B, T, H]}."""
    outputs: dict[int, Any] = {}

    def keep(layer: int, _module: Any, _inputs: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    blocks = decoder_layers(model)
    targets = [
        (layer, blocks[layer].self_attn if state == "attention" else blocks[layer]) for layer in layers
    ]
    hooks = [module.register_forward_hook(partial(keep, layer)) for layer, module in targets]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
