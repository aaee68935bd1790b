"""Ranks that train the same samples under one engine after the other, in one start of torchrun.

    torchrun --nproc_per_node 2 tests/support/many_engines.py FOLDER    # FOLDER/work.pickle: see `main`

Writes FOLDER/<name>, a checkpoint for each setting, and FOLDER/<name>.engine-<rank>, what trained it; under
DeepSpeed also FOLDER/<name>.clipping-<rank>, the gradient norm above which it clips, 0.0 for never.
"""

import os
import pickle
import sys
from pathlib import Path
from unittest.mock import patch


def main(folder: Path) -> None:
    """`work.pickle`: base, samples, and (name, FitSpec) pairs, those without DeepSpeed first."""
    import torch

    from training.distributed import check_engine, end_rank, start_engine
    from training.fit import fit
    from training.trainer import PlannedTrainer

    base, samples, specs = pickle.loads((folder / "work.pickle").read_bytes())
    rank = int(os.environ["RANK"])
    plain = PlannedTrainer.training_step
    start_engine(specs[0][1].deepspeed)
    for name, spec in specs:

        def note(trainer, engine, *args, name=name, **options):
            found = check_engine(engine, trainer.args.deepspeed)
            (folder / f"{name}.engine-{rank}").write_text(found)
            if trainer.args.deepspeed:
                (folder / f"{name}.clipping-{rank}").write_text(str(engine.gradient_clipping()))
            return plain(trainer, engine, *args, **options)

        with patch.object(PlannedTrainer, "training_step", note):
            fit(spec, base, samples, folder / name, keep_adapters=spec.lora is not None)
        forget_engine()
        torch.distributed.barrier()
    end_rank()


def forget_engine() -> None:
    """The next training in this process gets the engine that its settings name, not the last one's."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
