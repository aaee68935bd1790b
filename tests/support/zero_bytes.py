"""A rank that counts the bytes of its model states under DeepSpeed, as JSON lines to the file argv[2].

torchrun --nproc_per_node=2 tests/support/zero_bytes.py BASE OUT
"""

import json
import os
import sys
from pathlib import Path

CASES = [(stage, precision) for stage in ("zero1", "zero2", "zero3") for precision in ("fp32", "bf16")]


def main(base: str, out: Path) -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import torch

    from training.distributed import end_rank

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    for stage, precision in CASES:
        counted = states(base, stage, precision)
        if torch.distributed.get_rank() == 0:
            with out.open("a") as handle:
                handle.write(json.dumps({"stage": stage, "precision": precision, **counted}) + "\n")
    end_rank()


def states(base: str, stage: str, precision: str) -> dict[str, int]:
    """Bytes of weights, gradients, fp32 master weights and Adam's moments after one step; frozen tower."""
    import deepspeed
    import torch

    from training.deepspeed import path_of
    from training.models import freeze, load

    config = json.loads(path_of(stage).read_text())
    zero = config["zero_optimization"]
    zero.update({key: 1000 for key, value in zero.items() if value == "auto"})
    config.update(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1, train_batch_size=2)
    config.update(gradient_clipping=1.0, bf16={"enabled": precision == "bf16"})
    model, _ = load(base, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    freeze(model, ("vision",))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    engine, wrapped, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    ids = torch.arange(8)[None]
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    gradients = gradient_tensors(wrapped)
    engine.step()
    moments = [
        t
        for state in wrapped.optimizer.state.values()
        for t in state.values()
        if torch.is_tensor(t) and t.dim()
    ]
    if stage == "zero3":
        weights, master = [p.ds_tensor for p in model.parameters()], wrapped.fp32_partitioned_groups_flat
    else:
        weights, master = list(model.parameters()), wrapped.single_partition_of_fp32_groups
    # A gradient may be a view of a larger bucket, which is among the buffers.
    counted = {"gradients": sum(gradient.nbytes for gradient in gradients)}
    return counted | {"weights": size(weights), "master": size(master), "moments": size(moments)}


def gradient_tensors(wrapped):
    """The gradients of this rank between backward pass and step."""
    if hasattr(wrapped, "averaged_gradients"):
        own = wrapped.averaged_gradients
        return [tensor for group in own.values() for tensor in group or [] if tensor is not None]
    return []


def size(tensors) -> int:
    """Bytes of the storages of tensors, shared ones once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None
    }
    return sum(storages.values())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
