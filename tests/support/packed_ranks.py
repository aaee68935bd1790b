"""One step on packs under DeepSpeed, as one rank of several: what torchrun starts for test_packed_ranks.py.

    torchrun --nproc_per_node 2 packed_ranks.py CHECKPOINT OUT

For each ZeRO stage, rank 0 writes OUT/zeroN.json: the loss of each step, and how many packs of all ranks are
fillers: an example without labels.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from training import attention, loss
from training.collate import Collator
from training.distributed import end_rank
from training.models import image_mode, load
from training.packing import PackRule
from training.plan import PlannedBatches
from training.render import IGNORE, Renderer

STEPS = 3


def examples(renderer):
    """Nine examples of very different lengths, all with an image."""
    from PIL import Image

    from curation.pool.sample import Sample, Turn

    pixels = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    turns = [(Turn("<image> what ?", "red " * (1 + 3 * k)),) for k in range(9)]
    return [
        renderer.encode(Sample(k, str(k), "t", (Image.fromarray(pixels[k]),), turns[k])) for k in range(9)
    ]


def packs(renderer, rank: int, world: int, data):
    """The micro-batches of one rank for the one step that all examples make, and the number of labels."""
    lengths = np.array([len(e) for e in data])
    rule = PackRule(lengths, lengths.astype(float), int(lengths.max()) + 20)
    plan = PlannedBatches(9, 9, 0, packs=rule, rank=rank, world=world, accumulation=5)
    collate = Collator(renderer.pad_id, renderer.loader, packed=True)
    batches = [collate([data[i] if i >= 0 else data[-1 - i].muted() for i in own]) for own in plan]
    return batches, sum(int((e.labels[1:] != IGNORE).sum()) for e in data)


def prepared(checkpoint: str):
    """Model, renderer and examples."""
    model, processor = load(checkpoint)
    attention.choose(model)
    loss.install(model, chunk=5)
    renderer = Renderer(processor, image_mode(model))
    return model.train(), renderer, examples(renderer)


def main() -> None:
    import deepspeed

    checkpoint, out = sys.argv[1], Path(sys.argv[2])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    for stage in (2, 3):
        model, renderer, data = prepared(checkpoint)
        batches, labels = packs(renderer, rank, world, data)
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": len(batches),
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": 0.0,
        }
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        values = []
        for _ in range(STEPS):
            total = torch.zeros(())
            for batch in batches:
                # DeepSpeed means over ranks and micro-steps; the loss of the step is a sum.
                value = engine(**batch, num_items_in_batch=labels).loss
                total += value.detach()
                engine.backward(value * world * len(batches))
                engine.step()
            torch.distributed.all_reduce(total)
            values.append(total.item())
        fillers = torch.tensor(sum(int((b["labels"] == IGNORE).all()) for b in batches))
        torch.distributed.all_reduce(fillers)
        if rank == 0:
            (out / f"zero{stage}.json").write_text(json.dumps({"losses": values, "fillers": fillers.item()}))
    end_rank()


if __name__ == "__main__":
    main()
