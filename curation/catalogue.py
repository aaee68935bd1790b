"""Every signal as one record: what makes it, which columns it holds, what it is computed from.

The planner of recipes, the command `python -m curation.signals`, the columns that selectors ask for and the
table in curation/README.md all follow from these records. Adding a signal takes its producer, its test and a
record here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Signal:
    """How one signal is made.

    name: what selectors need; `embedding_*` and `cluster_*` stand for all embeddings and clusterings, which
        recipes name.
    columns: regular expression of its column names, `{0}` for what the star stands for; of several
        alternatives the first that fits counts.
    producer: `module:function`, called as function(pool=..., out=..., on_progress=..., **inputs,
        **arguments).
    command: its name on the command line; several signals may come from one producer.
    inputs: what it is computed from besides the pool, by parameter of the producer. The planner knows
        `scorer`, `styler`, `seed_model` and `base` (checkpoints), `model` (the one that the section names,
        else the base), `vectors` (the signals that hold the section's columns), `features` and `clusters`
        (those that its keys `features` and `cluster` name), `truth` (the mini world's own record), `warmup`,
        `validation`; another signal by its name, and `<embedding>.model`, the model that makes it.
    section: recipe section of its settings (a field of recipes/schema/), `{0}` for what the star stands for;
        empty: it has no settings.
    settings: keys of the section that the producer takes, all but `path` and `revision` if empty.
    scoring: keys of the recipe's section `scoring` that it takes.
    arguments: arguments that tell this signal from others of the same producer.
    vectors: regular expression of those of its columns that hold vectors, which can be clustered.
    passes: forward passes of a VLM for each sample, for estimates of time.
    """

    name: str
    columns: str
    producer: str
    command: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    section: str = ""
    settings: tuple[str, ...] = ()
    scoring: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    vectors: str = ""
    passes: float = 1.0


_LOSSES = {
    "command": "losses",
    "producer": "curation.signals.losses:score_losses",
    "scoring": ("max_tokens",),
}
_ABLATED = {"terms": ["noimg", "noq", "a"]}
_GRADIENTS = {
    "command": "warmup_gradients",
    "producer": "curation.signals.gradients.at_warmup:score_gradients_at_warmup",
    "inputs": {"model_dir": "base", "warmup": "warmup", "validation": "validation"},
    "section": "gradient",
    "settings": ("dim", "seed"),
}

SIGNALS: tuple[Signal, ...] = (
    Signal(
        "capability",
        r"(cap|exp|ent|mass)_\w+",
        "curation.signals.raters.capability:score_capabilities",
        "capability",
        inputs={"model_dir": "scorer"},
        section="scorer",
        settings=("prompts", "mode", "image"),
        scoring=("batch_size",),
    ),
    Signal(
        "style",
        r"styles|style_logp_\w+",
        "curation.signals.raters.style:score_styles",
        "style",
        inputs={"model_dir": "styler"},
        section="styler",
        settings=("prompts", "mode", "threshold", "image"),
        scoring=("batch_size",),
    ),
    Signal(
        "necessity",
        r"nll|el2n|margin|answer_tokens",
        inputs={"model_dir": "seed_model"},
        arguments={"terms": ["full"]},
        **_LOSSES,
    ),
    Signal(
        "necessity_ablated",
        r"nll_(noimg|noq|a)",
        inputs={"model_dir": "seed_model"},
        arguments=_ABLATED,
        passes=3,
        **_LOSSES,
    ),
    Signal(
        "answered",
        r"answer_score|asked_turns",
        "curation.signals.answered.producer:score_answers",
        "answered",
        inputs={"model_dir": "seed_model"},
        section="answered",
        settings=("max_turns", "max_new_tokens"),
        scoring=("max_tokens",),
        passes=30,
    ),
    Signal(
        "base_losses",
        r"base_(nll|el2n|margin|answer_tokens)",
        inputs={"model_dir": "base"},
        arguments={"terms": ["full"], "prefix": "base_"},
        **_LOSSES,
    ),
    Signal(
        "base_losses_ablated",
        r"base_nll_(noimg|noq|a)",
        inputs={"model_dir": "base"},
        arguments=_ABLATED | {"prefix": "base_"},
        passes=3,
        **_LOSSES,
    ),
    Signal(
        "validity",
        r"valid_(with|without)",
        "curation.signals.validity:score_validity",
        "validity",
        inputs={"model_dir": "model"},
        section="validity",
        scoring=("max_tokens",),
        passes=2,
    ),
    Signal(
        "embedding_*",
        r"emb_{0}_(image|text)|emb_{0}",
        "curation.signals.vectors.embeddings:embed_pool",
        "embeddings",
        inputs={"model_dir": "model"},
        section="embeddings.{0}",
        vectors=r"emb_\w+",
    ),
    Signal(
        "spectrum",
        r"spectrum_(entropy|top)",
        "curation.signals.vectors.spectrum:score_spectrum",
        "spectrum",
        inputs={"model_dir": "model"},
        section="spectrum",
        scoring=("max_tokens",),
    ),
    Signal(
        "leverage",
        r"leverage",
        "curation.signals.vectors.leverage:score_leverage",
        "leverage",
        inputs={"vectors": "embedding_attended_visual"},
        section="leverage",
        passes=0.1,
    ),
    Signal(
        "perturbed_losses",
        r"nll_(noised|permuted)",
        "curation.signals.perturbed:score_perturbed_losses",
        "perturbed_losses",
        inputs={"model_dir": "seed_model"},
        section="perturbation",
        scoring=("max_tokens",),
        passes=2,
    ),
    Signal(
        "clip",
        r"clip_(score|image|text)",
        "curation.signals.vectors.clip:score_clip",
        "clip",
        inputs={"model_dir": "model"},
        section="clip",
        vectors="clip_(image|text)",
    ),
    Signal(
        "cluster_*",
        r"(cluster|similarity)_{0}",
        "curation.signals.vectors.clusters:fit_clusters",
        "clusters",
        inputs={"vectors": "vectors"},
        section="clusters.{0}",
        passes=0.1,
    ),
    Signal(
        "quality",
        r"reward|judge|complexity|quality|deita_score",
        "curation.signals.quality.producer:score_quality",
        "quality",
        inputs={"truth": "truth"},
        section="quality",
        passes=0.1,
    ),
    Signal(
        "gradient",
        r"grad|grad_norm|(raw_influence|influence)_\w+",
        arguments={"checkpoints": "last", "adam": False, "prefix": ""},
        vectors="grad",
        passes=3,
        **_GRADIENTS,
    ),
    Signal(
        "gradient_adam",
        r"adam_(grad|grad_norm|influence_\w+)",
        arguments={"checkpoints": "all", "adam": True, "prefix": "adam_"},
        vectors="adam_grad",
        passes=12,
        **_GRADIENTS,
    ),
    Signal(
        "gradient_adam_clean",
        r"clean_adam_(grad|grad_norm|influence_\w+)",
        arguments={"checkpoints": "all", "adam": True, "direction": "clean", "prefix": "clean_adam_"},
        vectors="clean_adam_grad",
        passes=12,
        **_GRADIENTS,
    ),
    Signal(
        "self_filter",
        r"filter_score",
        "curation.signals.scorers.self_filter:score_self_filter",
        "self_filter",
        inputs={"model_dir": "model", "signals": "features"},
        section="self_filter",
        passes=9,
    ),
    Signal(
        "coido",
        r"coido_score",
        "curation.signals.scorers.coido:score_coido",
        "coido",
        inputs={"model_dir": "model", "signals": "features", "clusters": "clusters"},
        section="coido",
        passes=0.6,
    ),
    Signal(
        "once_select",
        r"once_confidence",
        "curation.signals.scorers.once_select:score_once_select",
        "once_select",
        inputs={"signals": "features", "clusters": "clusters"},
        section="once_select",
        passes=0.01,
    ),
    Signal(
        "gradient_masked",
        r"masked_influence_\w+|adam_mean_grad",
        "curation.signals.gradients.masked:score_masked_influence",
        "masked_influence",
        inputs={
            "model_dir": "base",
            "gradients": "gradient_adam",
            "warmup": "warmup",
            "validation": "validation",
        },
        vectors="adam_mean_grad",
        passes=0.1,
    ),
    Signal(
        "step_gain",
        r"step_gain",
        "curation.signals.gradients.one_step:score_step_gain",
        "step_gain",
        inputs={"model_dir": "base", "warmup": "warmup", "validation": "validation"},
        section="one_step",
        scoring=("max_tokens",),
        passes=30,
    ),
    Signal(
        "rds",
        r"rds_\w+",
        "curation.signals.target_queries:score_queries",
        "rds",
        inputs={
            "model_dir": "embedding_position_weighted.model",
            "vectors": "embedding_position_weighted",
            "validation": "validation",
        },
        passes=0.1,
    ),
    Signal(
        "value",
        r"value",
        "curation.signals.subset_value.of_probes:score_value_of_probes",
        "probe_value",
        inputs={"signals": "indicators", "subsets": "subsets", "evaluates": "probes"},
        section="probe",
        settings=("regressor", "indicators", "vectors", "components", "scaling", "seed"),
        passes=0.1,
    ),
    Signal(
        "dup_group",
        r"dup_(group|kind|first)",
        "curation.dedup.signal:score_duplicates",
        "dup_group",
        passes=0.01,
    ),
    Signal(
        "oracle",
        r"(cap|exp|ent|mass)_\w+|styles",
        "curation.signals.raters.oracle:tell_truth",
        "oracle",
        inputs={"truth": "truth"},
        passes=0.01,
    ),
)
MEMBERSHIPS = {"in_reference": "reference", "in_seed": "seed_rows"}
"""Columns that mark rows: of another arm's subset, of the seed model's training. No signals hold them."""
COMMANDS: dict[str, str] = {
    **{signal.command: signal.producer for signal in SIGNALS},
    "gradients": "curation.signals.gradients.producer:score_gradients",
    "ratings": "curation.signals.raters.ratings:score_capabilities_and_styles",
    "capability_by_engine": "curation.signals.raters.by_engine:score_capabilities_by_engine",
    "style_by_engine": "curation.signals.raters.by_engine:score_styles_by_engine",
}
"""Producers by their name on the command line; the last four make the same columns in another way."""


def find(name: str) -> tuple[Signal, str] | None:
    """(record, what its star stands for) of the signal `name`; None for one that has no record."""
    for signal in SIGNALS:
        if match := re.fullmatch(signal.name.replace("*", r"(\w+)"), name):
            return signal, match[1] if match.groups() else ""
    return None


def signal_of(column: str) -> str | None:
    """The signal that holds `column`; None for a column of the pool itself, or of a user's own signal."""
    if column in MEMBERSHIPS:
        return MEMBERSHIPS[column]
    for signal in SIGNALS:
        if match := re.fullmatch(_with_stars(signal.columns), column):
            star = next((text for text in match.groupdict().values() if text is not None), "")
            return signal.name.replace("*", star)
    return None


def _with_stars(pattern: str) -> str:
    """A regular expression whose groups star0, star1, ... are what the star stands for."""
    first, *others = pattern.split("{0}")
    return first + "".join(rf"(?P<star{number}>\w+?){other}" for number, other in enumerate(others))


def holds_vectors(column: str) -> bool:
    """Whether a column holds vectors, which can be clustered."""
    return any(signal.vectors and re.fullmatch(signal.vectors, column) for signal in SIGNALS)


def signals_of(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The signals that these columns come from, each once, in order."""
    return tuple(dict.fromkeys(signal for column in columns if (signal := signal_of(column))))
