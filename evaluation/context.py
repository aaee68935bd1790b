"""What a report contains besides scores: pool, subsets, costs, notes. Plain data, kept as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Subset:
    """What one selection chose. `mix`: kind ("source", "style", "capability") -> {name: share in 0..1}.

    The kind "capability x style" has names of the form "capability | style". `leaked`: samples that repeat a
    question of the benchmarks; None where nobody looked.
    """

    arm: str
    seed: int
    samples: int
    text_tokens: int | None = None
    image_tokens: int | None = None
    mix: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pool: int | None = None
    leaked: int | None = None


@dataclass(frozen=True)
class Cost:
    """What one selection and one training of an arm cost, mean over its repetitions; None: not known.

    `selection_*` is all that the arm's subset needed beyond the pool itself: teacher, fits, signals and the
    selection, whether another arm shares them or not. Seconds are wall seconds of the machine that ran it;
    FLOPs are counted by rule (`training.estimate`), GPU-hours follow from them; money is in US dollars.
    """

    selection_seconds: float | None = None
    selection_flops: float | None = None
    selection_gpu_hours: float | None = None
    selection_money: float | None = None
    training_seconds: float | None = None
    training_flops: float | None = None
    training_gpu_hours: float | None = None


@dataclass(frozen=True)
class Context:
    """What the report contains besides the comparison; the section of an empty field is omitted.

    `protocol`: the frozen settings. `modified`: frozen keys that were overridden, "key: old -> new". `pool`:
    facts about the pool. `quarantined`: number of samples by reason. `sources`: source -> {column: count} of
    what was kept, taken out and flagged. `overlap`: (arm, arm) -> share in 0..1 of the first arm's subset
    that is also in the second's. `pool_mix`: as `Subset.mix`, of the whole pool. `scorer`: capability ->
    {"spearman": ..., "n": ...} on held-out labels. `seconds`: stage -> seconds. `costs`: by arm. `notes`:
    sentences at the end of the report.
    """

    title: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    modified: Sequence[str] = ()
    pool: Mapping[str, Any] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    subsets: Sequence[Subset] = ()
    overlap: Mapping[tuple[str, str], float] = field(default_factory=dict)
    pool_mix: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    scorer: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; `from_dict` reads it back."""
        return asdict(self) | {"overlap": [[a, b, share] for (a, b), share in self.overlap.items()]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Context":
        """The context that `to_dict` wrote. Raises TypeError for an unknown field."""
        return cls(
            **{
                **content,
                "subsets": [Subset(**subset) for subset in content["subsets"]],
                "overlap": {(a, b): share for a, b, share in content["overlap"]},
                "costs": {arm: Cost(**cost) for arm, cost in content["costs"].items()},
            }
        )
