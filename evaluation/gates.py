"""Gates of a base model: does it read images at all, on held-out captions, before anything is compared.

    measure_gates(Path("curation/mini/base"), items=300)

Greedy decoding equals the gold answer exactly when the arg-max is right at every answer token under teacher forcing, so
one forward pass for each item is enough.
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
    for gate, wanted in GATES.items():
        right = 0
        for start in range(0, items, batch_size):
            encoded = [
                renderer.encode(gate_sample(gate, i, seed), "last")
                for i in range(start, min(start + batch_size, items))
            ]
            batch = collate(encoded)
            labels = batch.pop("labels")[:, 1:]
            guessed = model(**batch).logits.argmax(-1)[:, :-1]
            right += int(((guessed == labels) | (labels == IGNORE)).all(1).sum())
        out[gate] = {"value": right / items, "n": items, "wanted": wanted, "passed": right / items >= wanted}
    return out
