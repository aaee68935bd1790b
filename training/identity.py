"""What makes a training the same as another one, in a form that can say in which points two differ.

    identity = Identity.of(spec, base_hash, examples, world=2)
    identity.hash                            # equal for trainings of equal outcome, up to rounding
    identity.differences(Identity.read(folder))     # ["lr: 0.001 -> 0.002", "examples differ: 3 of 24 ..."]

Saving, caching, processes and devices are not part of it (`OPERATIONAL` in training/spec.py).
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from curation import atomic
from training.spec import PER_MICROBATCH, FitSpec

FILE, ROWS = "identity.json", "identity.rows.npy"
NAMED = 3
"""How many examples that differ a message names."""
ENGINE_ONLY = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "activation_checkpointing",
    "checkpoint",
    "aio",
    "compile",
    "wall_clock_breakdown",
    "steps_per_print",
    "dump_state",
    "memory_breakdown",
    "flops_profiler",
    "comms_logger",
    "tensorboard",
    "wandb",
    "csv_monitor",
}
"""Top-level keys of a DeepSpeed config that say where and how something is computed, never what.

Any other key decides (precision, optimizer, clipping, and what DeepSpeed may yet invent), and so does
quantised communication within `zero_optimization`.
"""


def deciding(config: dict[str, Any], precision: str) -> dict[str, Any]:
    """What of a DeepSpeed config decides a training's outcome; "auto" values are the training's own settings.

    {} for the shipped configs in fp32: then a training is the same as one without DeepSpeed. With `precision`
    bf16, DeepSpeed keeps weights as bfloat16 (with float32 masters), where autocast keeps float32.
    """
    zero = config.get("zero_optimization", {})
    quantised = {key: value for key, value in zero.items() if "quantized" in key and value}
    own = {key: value for key, value in config.items() if key not in ENGINE_ONLY}
    found = {**_without_auto(own), **({"zero_optimization": quantised} if quantised else {})}
    return found | ({"weights": "bfloat16"} if precision == "bf16" else {})


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    """The config without values "auto" and without what is then empty, at every depth."""
    kept = {k: _without_auto(v) if isinstance(v, dict) else v for k, v in config.items()}
    return {key: value for key, value in kept.items() if value != "auto" and value != {}}


@dataclass(frozen=True, eq=False)
class Identity:
    """`settings`: what decides the outcome beside base and examples, as JSON values; `base`: its hash.

    `rows`: uint64 [n], a hash of each example; None for lazy data, of which only the `count` is known.
    """

    settings: dict[str, Any]
    base: str
    count: int
    rows: np.ndarray | None

    @classmethod
    def of(
        cls,
        spec: FitSpec,
        base: str,
        examples: Sequence[Any],
        *,
        lazy: bool = False,
        world: int = 1,
        **more: Any,
    ) -> Self:
        """The identity of a training of `examples` (Encoded, or with a method `row_hashes()`).

        `world`: number of processes; it decides only while the loss is a mean over micro-batches. `more`:
        further settings that decide, left out while they are None or False.
        """
        settings = spec.identity()
        if spec.loss_norm == "microbatch":
            micro = spec.micro_batch or math.ceil(spec.batch_size / world)
            settings = {key: value for key, value in settings.items() if key not in PER_MICROBATCH}
            cut = {"micro_batches": world * math.ceil(spec.batch_size / (world * micro))}
            packed = {"pack_tokens": spec.pack_tokens, "processes": world}
            settings |= packed if spec.pack_tokens else cut
        if spec.deepspeed:
            from training.distributed import read_config

            settings["deepspeed"] = deciding(read_config(spec.deepspeed), spec.precision) or None
        settings |= more
        kept = {key: value for key, value in settings.items() if value is not None and value is not False}
        # Through JSON, so that it is equal to what is read back.
        return cls(json.loads(json.dumps(kept)), base, len(examples), None if lazy else row_hashes(examples))

    @property
    def hash(self) -> str:
        """sha256 of everything that decides the outcome."""
        digest = hashlib.sha256(json.dumps([self.settings, self.base, self.count], sort_keys=True).encode())
        if self.rows is not None:
            digest.update(self.rows.astype("<u8").tobytes())
        return digest.hexdigest()

    def without_rows(self) -> Self:
        """The same without the hashes of the examples."""
        return replace(self, rows=None)

    def decides(self) -> dict[str, Any]:
        """What decides, without the examples' hashes, as JSON values."""
        return {"settings": self.settings, "base": self.base, "count": self.count}

    def write(self, folder: Path) -> None:
        """Write it into `folder`, the rows first."""
        if self.rows is not None:
            with atomic.replacing(folder / ROWS) as temporary, temporary.open("wb") as handle:
                np.save(handle, self.rows)
        atomic.write_json(folder / FILE, {**self.decides(), "rows": self.rows is not None})

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What `write` left in `folder`; None if it is not there."""
        if not (folder / FILE).exists():
            return None
        own = json.loads((folder / FILE).read_text())
        rows = np.load(folder / ROWS) if own["rows"] else None
        return cls(own["settings"], own["base"], own["count"], rows)

    def differences(self, earlier: Self | None, names: Sequence[str] = ()) -> list[str]:
        """In which points this training differs from an earlier one; [] if in none.

        `names`: a name for each example, to say which differ.
        """
        if earlier is None:
            return ["it was written by an earlier version of this program"]
        found = [
            f"{key}: {json.dumps(earlier.settings.get(key))} -> {json.dumps(self.settings.get(key))}"
            for key in sorted(earlier.settings.keys() | self.settings.keys())
            if earlier.settings.get(key) != self.settings.get(key)
        ]
        if earlier.base != self.base:
            found.append("the base differs (weights, config or processor)")
        return found + self._rows_differ(earlier, names)

    def _rows_differ(self, earlier: Self, names: Sequence[str]) -> list[str]:
        if self.rows is None or earlier.rows is None:
            differ = self.count != earlier.count or (self.rows is None) != (earlier.rows is None)
            return [f"examples differ: {earlier.count} -> {self.count} rows"] if differ else []
        if np.array_equal(self.rows, earlier.rows):
            return []
        before, now = Counter(earlier.rows.tolist()), Counter(self.rows.tolist())
        gone, seen, at = (before - now).total(), Counter[int](), []
        for index, row in enumerate(self.rows.tolist()):
            seen[row] += 1
            if seen[row] > before[row]:  # equal examples may occur several times
                at.append(index)
        if not at and not gone:
            return ["examples are in another order"]
        which = ", ".join(str(names[i]) if len(names) > i else f"row {i}" for i in at[:NAMED])
        such = f", such as {which}" if which else ""
        return [
            f"examples differ: {len(at)} of {self.count} rows are new{such}; "
            f"{gone} of the {earlier.count} before are gone"
        ]


def row_hashes(examples: Sequence[Any]) -> np.ndarray:
    """A hash uint64 [n] of the tokens, labels and image names of each example.

    Examples with a method `row_hashes()` know their own, so that nothing is read here.
    """
    if hasattr(examples, "row_hashes"):
        return examples.row_hashes()
    names = _image_names(examples)
    hashes = np.empty(len(examples), dtype=np.uint64)
    for index, example in enumerate(examples):
        digest = hashlib.blake2b(digest_size=8)
        for array in (example.input_ids, example.labels):
            digest.update(np.asarray(array, dtype=np.int32).tobytes())
        digest.update(repr([names.get(str(image), "drawn") for image in example.images]).encode())
        hashes[index] = int.from_bytes(digest.digest(), "little")
    return hashes


def _image_names(examples: Sequence[Any]) -> dict[str, str]:
    """Image path -> path below the folder that all images share: a moved data set is still the same."""
    paths = {str(p) for example in examples for p in example.images if isinstance(p, (str, Path))}
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return {path: os.path.relpath(path, shared) for path in paths}
