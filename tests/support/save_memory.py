"""Ranks that train one step and measure how much memory the writing of the final checkpoint takes.

    torchrun --nproc_per_node 2 tests/support/save_memory.py FOLDER    # with work.pickle: base, samples, spec

Writes FOLDER/grown-<rank>: bytes that the process grew by while it saved, and then with a copy of the model.
"""

import ctypes
import gc
import mmap
import os
import pickle
import re
import sys
from pathlib import Path
from unittest.mock import patch


def resident(kind: str) -> int:
    """VmRSS (now) or VmHWM (at most since the last reset) of this process, in bytes."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


def main(folder: Path) -> None:
    from training import fit as fitting
    from training.distributed import end_rank, start_engine

    base, samples, spec = pickle.loads((folder / "work.pickle").read_bytes())
    plain = fitting.save_model
    size = (base / "model.safetensors").stat().st_size

    def measured(*args, **kwargs):
        # Memory that is free within the process would hide what the saving takes.
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        out = plain(*args, **kwargs)
        grown = resident("VmHWM") - before
        copy = mmap.mmap(-1, size)  # what a second model would have added, to see that it is noticed
        for start in range(0, size, mmap.PAGESIZE):
            copy[start] = 1
        second = resident("VmHWM") - before
        copy.close()
        (folder / f"grown-{os.environ['RANK']}").write_text(f"{grown} {second}")
        return out

    start_engine(spec.deepspeed)
    with patch.object(fitting, "save_model", measured):
        fitting.fit(spec, base, samples, folder / "out")
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
