"""A stage as its cost needs it: planned, or as the record of one that ran."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.spec import FitSpec

NOT_SETTINGS = {"seed", "subset"}
"""Keys of stage `train` beside the settings of the training."""
Hashes = str | list[str]


@dataclass(frozen=True)
class Step:
    """One stage. `inputs`: the hash (or hashes) of each input; `work`: expected samples, each epoch counted.

    Of a stage that ran also: `folder`, its artefact; `seconds`; `summary`; `device` ("cpu", or the GPUs that
    it could use).
    """

    kind: str
    name: str
    hash: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Hashes]
    work: float = 1.0
    folder: Path | None = None
    seconds: float | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"

    @classmethod
    def of_record(cls, folder: Path) -> "Step":
        """A stage that ran, from its artefact."""
        record = json.loads((folder / "stage.json").read_text())
        return cls(
            record["kind"],
            record["name"],
            record["hash"],
            record["config"],
            record["parents"],
            record["work"],
            folder,
            record["seconds"],
            record["summary"] or {},
            record.get("device", "cpu"),
        )

    @property
    def producer(self) -> str:
        """What computes a signal; empty for other stages."""
        return self.config.get("producer", "")

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of the producer."""
        return self.config.get("arguments", {})

    @property
    def spec(self) -> FitSpec | None:
        """The settings of a training stage; None for other stages."""
        return spec_of(self.kind, self.config)

    @property
    def seen(self) -> float:
        """Samples that a training stage saw, or is expected to see, each epoch counted."""
        return self.summary.get("samples_seen", self.work)


def spec_of(kind: str, config: Mapping[str, Any]) -> FitSpec | None:
    """The settings of a training stage; None for other stages."""
    if kind == "train":
        return FitSpec(**{key: value for key, value in config.items() if key not in NOT_SETTINGS})
    train = config.get("train") if kind.startswith("fit_") else None
    return FitSpec(**train) if train else None
