"""One rank that trains a tiny model of each family under a ZeRO stage, or the whole of it without DeepSpeed.

    torchrun --nproc_per_node 2 tests/support/family_ranks.py CHECKPOINTS 2 OUT      # stage 2, or 3
    python tests/support/family_ranks.py CHECKPOINTS 0 OUT                           # without DeepSpeed

CHECKPOINTS holds a checkpoint for each family. Writes OUT/FAMILY.safetensors, the trained weights with
"losses" [steps]. In each step one rank has texts only, or one has one image and the other several.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from curation.pool.sample import Sample, Turn
from training.collate import Collator
from training.distributed import end_rank, touch_vision
from training.loss import install
from training.models import image_mode, load
from training.render import IGNORE, Renderer

WORLD, RATE = 2, 1e-3


def draw(seed: int, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


TEXT = Sample(0, "text", "t", (), (Turn("how many ?", "two"),))
LONG = Sample(1, "long", "t", (), (Turn("how ?", "so"), Turn("why ?", "because it is so")))
ONE = Sample(2, "one", "t", (draw(0, (32, 32)),), (Turn("<image>\nwhat ?", "red"),))
WIDE = Sample(3, "wide", "t", (draw(1, (90, 40)),), (Turn("a <image> b ?", "blue"), Turn("and ?", "no")))
PAIR = Sample(4, "pair", "t", (draw(2, (32, 32)), draw(3, (30, 60))), (Turn("<image> and <image> ?", "cat"),))
STEPS = (
    ((TEXT, LONG), (ONE, PAIR)),
    ((PAIR, TEXT), (LONG,)),
    ((WIDE,), (PAIR, ONE)),
    ((TEXT, LONG), (WIDE, ONE)),
    ((LONG,), (WIDE, TEXT)),
)
"""Samples of each step: those of rank 0, and those of rank 1.

A step without any image is left out: without DeepSpeed the vision tower then has no gradient, and Adam does
not move it; under ZeRO its gradient is zero, and Adam's momentum does.
"""


def main() -> None:
    checkpoints, stage, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    if stage:
        start()
    for folder in sorted(checkpoints.iterdir()):
        weights = under_zero(folder, stage) if stage else alone(folder)
        if int(os.environ.get("RANK", 0)) == 0:
            save_file(weights, out / f"{folder.name}.safetensors")
    if stage:
        end_rank()


def start() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled; inference only
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)


def batches_of(processor, mode: str) -> list[list[dict[str, torch.Tensor]]]:
    """The batches of each step, one for each rank."""
    renderer = Renderer(processor, mode)
    collate = Collator(renderer.pad_id, renderer.loader)
    return [[collate([renderer.encode(sample) for sample in part]) for part in step] for step in STEPS]


def labels_in(step: list[dict[str, torch.Tensor]]) -> int:
    return sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in step)


def prepared(folder: Path):
    model, processor = load(folder)
    mode = image_mode(model)
    install(model)
    return model.train(), batches_of(processor, mode)


def adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    # A large eps: the update of a weight is proportional to its gradient, not to the gradient's sign.
    return torch.optim.AdamW(model.parameters(), lr=RATE, eps=1e-3, weight_decay=0.0)


def without_mask(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "attention_mask"}


def alone(folder: Path) -> dict[str, torch.Tensor]:
    model, steps = prepared(folder)
    optimizer, losses = adam(model), []
    for step in steps:
        total = torch.zeros(())
        for batch in step:
            loss = model(**without_mask(batch), num_items_in_batch=labels_in(step)).loss
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total))
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {**trained, "losses": torch.tensor(losses)}


def under_zero(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # the default is 1.0
        # Small buckets: gradients that arrive in another order on another rank would be mixed up.
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": 5000,
            "allgather_bucket_size": 5000,
            "stage3_prefetch_bucket_size": 5000,
            "stage3_param_persistence_threshold": 0,
        },
    }
    keep = HfDeepSpeedConfig(config)  # while it lives, stage 3 partitions a model as it is loaded
    model, steps = prepared(folder)
    touch_vision(model.model)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adam(model), config=config)
    rank, losses = torch.distributed.get_rank(), []
    for step in steps:
        loss = engine(**without_mask(step[rank]), num_items_in_batch=labels_in(step)).loss * WORLD
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone() / WORLD
        torch.distributed.all_reduce(total)
        losses.append(float(total))
    del keep
    parameters = dict(model.named_parameters())
    if stage == 3:
        with deepspeed.zero.GatheredParameters(list(parameters.values())):
            trained = {name: p.detach().clone() for name, p in parameters.items()}
    else:
        trained = {name: p.detach().clone() for name, p in parameters.items()}
    engine.destroy()
    return {**trained, "losses": torch.tensor(losses)}


if __name__ == "__main__":
    main()
