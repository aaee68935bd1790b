"""Gates of a base model: does it read images at all, measured on held-out captions before arms are compared.

    measure_gates(Path("curation/mini/base"), items=300)

Greedy decoding gives the gold answer if and only if the arg-max is right at every answer token under teacher
forcing, so one forward pass per item is enough.
"""

from pathlib import Path

import torch

from curation.mini.captions import GATES, gate_sample
from training.collate import Collator
from training.models import image_mode, load
from training.render import IGNORE, Renderer


@torch.inference_mode()
def measure_gates(model_dir: Path, items: int = 300, seed: int = 0, batch_size: int = 50) -> dict[str, dict]:
    """Exact-match share of each gate: {gate: {value, n, wanted, passed}}."""
    model, processor = load(model_dir)
    renderer = Renderer(processor, image_mode(model))
    collate = Collator(renderer.pad_id, renderer.loader)
    out = {}
    for gate, required in GATES.items():
        right = 0
        for start in range(0, items, batch_size):
            encoded = [
                renderer.encode(gate_sample(gate, i, seed), "last")
                for i in range(start, min(start + batch_size, items))
            ]
            batch = collate(encoded)
            labels = batch.pop("labels")[:, 1:]  # the logits at position t predict the token at t + 1
            predicted = model(**batch).logits.argmax(-1)[:, :-1]
            right += int(((predicted == labels) | (labels == IGNORE)).all(1).sum())
        share = right / items
        out[gate] = {"value": share, "n": items, "wanted": required, "passed": share >= required}
    return out
