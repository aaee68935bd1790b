"""A recipe: the arms that are compared, and the frozen protocol that they share."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from recipes.schema.arms import Arm, Controls
from recipes.schema.base import (
    BudgetKey,
    Section,
    Seeds,
    WorkPath,
    default_kind,
    required,
    seed_list,
)
from recipes.schema.data import Bench, FilePool, MiniPool
from recipes.schema.evaluation import Evaluation
from recipes.schema.models import Base, Scorer, SeedModel, Styler
from recipes.schema.signals import (
    Answered,
    Clip,
    Clustering,
    Coido,
    CustomSignal,
    Embedding,
    Gradient,
    Leverage,
    MetadataQuality,
    ModelsQuality,
    OnceSelect,
    OneStep,
    Perturbation,
    Probe,
    Scoring,
    SelfFilter,
    Spectrum,
    Validity,
    embedding_name,
    from_presets,
)
from recipes.schema.teachers import ApiTeacher, MetadataTeacher
from training.estimate.gpus import gpu_of
from training.spec import FitSpec


class Resources(Section):
    """Where stages run. Never changes a result."""

    executor: Literal["inline", "pool"] = Field(
        "inline",
        description="this process, or single-threaded worker processes, each with a GPU of its own; a stage "
        "that uses several GPUs needs `inline`: a training with `train.deepspeed` on more than one, "
        "`answer_workers` above 1",
    )
    workers: int = Field(
        2,
        ge=1,
        le=1024,
        description="worker processes of the pool, all on this machine; with GPUs, at most as many as these",
    )
    answer_workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that answer one checkpoint's benchmarks, one for each GPU",
    )
    token_workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="processes that tokenise a pool; default: one for each core, but fewer for a small pool",
    )
    gpu: str | None = Field(
        None,
        description="GPU that hours are estimated for: h100, a100_80, ...; a budget in GPU-hours (gpuh:10) "
        "is turned into FLOPs by it and `mfu`",
    )
    mfu: float | None = Field(
        None, gt=0, le=1, description="share of its peak that they reach; default: 0.4, assumed"
    )
    usd_per_gpu_hour: float | None = Field(
        None, ge=0, description="price of an hour of `gpu` in US dollars, for the costs of the report"
    )

    @field_validator("gpu")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            gpu_of(name)
        return name


class Track(Section):
    """Experiment trackers. Never changes a result, and passes no secret on."""

    backends: list[Literal["wandb", "tensorboard", "trackio", "jsonl"]] = Field(
        ["wandb"], description="who is told; each works in a process of its own"
    )
    mode: Literal["offline", "online", "disabled"] = Field(
        "offline",
        description="`online` lets wandb and trackio reach their servers; `offline` only writes into the run "
        "directory",
    )
    project: str = Field("winnow", min_length=1, max_length=128)
    entity: str | None = Field(None, description="user or team on wandb's server; default: its own")
    group: str | None = Field(
        None, max_length=128, description="default: the recipe's name and a hash of its protocol"
    )
    tags: list[str] = Field([], description="in addition to those of arm, selector, budget and scale")
    log_samples: bool = Field(
        False, description="log some conversations of each subset: the only text of the data that leaves"
    )


Teachers = Annotated[MetadataTeacher | ApiTeacher, Field(discriminator="kind")]
Embeddings = Annotated[Embedding, Field(discriminator="kind")]
EmbeddingName = Annotated[str, AfterValidator(embedding_name)]
Qualities = Annotated[MetadataQuality | ModelsQuality, Field(discriminator="kind")]


class Protocol(Section):
    """The frozen part, which a scale file supplies. An override stamps the results `protocol: modified`."""

    pool: Annotated[MiniPool | FilePool, Field(discriminator="kind")] | None = None
    bench: Bench | None = None
    base: Base | None = None
    teacher: Annotated[Teachers, default_kind("metadata")] | None = None
    seed_model: SeedModel | None = None
    scorer: Scorer | None = None
    styler: Styler | None = None
    embeddings: Annotated[dict[EmbeddingName, Embeddings], from_presets("embeddings")] = Field(
        {},
        description="embeddings, which selectors read as emb_<name>; the published ones need no entry, and "
        "one of their name changes the keys that it gives",
    )
    clip: Clip | None = None
    clusters: Annotated[
        dict[Annotated[str, Field(pattern=r"^\w+$")], Clustering], from_presets("clusters")
    ] = Field(
        {}, description="clusterings, which selectors read as cluster_<name>; published ones as `embeddings`"
    )
    quality: Annotated[Qualities, default_kind("metadata")] | None = None
    answered: Answered = Answered()
    validity: Validity = Validity()
    spectrum: Spectrum = Spectrum()
    perturbation: Perturbation = Perturbation()
    leverage: Leverage = Leverage()
    gradient: Gradient | None = None
    one_step: OneStep = OneStep()
    probe: Probe | None = None
    self_filter: SelfFilter = SelfFilter()
    coido: Coido = Coido()
    once_select: OnceSelect = OnceSelect()
    signals: dict[Annotated[str, Field(pattern=r"^\w+$")], CustomSignal] = Field(
        {}, description="user-defined signals, by the name that selectors need"
    )
    train: FitSpec | None = Field(None, description="the SFT of every arm")
    scoring: Scoring = Scoring()
    evaluation: Evaluation = Evaluation()
    limit: int | None = Field(
        None, ge=1, description="only the first N pool samples and N items of each benchmark"
    )


class Recipe(Protocol):
    """One experiment."""

    name: str = Field(
        pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)?$",
        max_length=200,
        description="names the run directory; a cell of a sweep is sweep/cell",
    )
    description: str = ""
    goal: Literal["compare", "base"] = Field("compare", description="compare arms, or train a base model")
    scale: str | None = Field(None, description="file in recipes/scales that supplies the protocol")
    arms: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Arm] = Field({}, description="what is compared")
    controls: Controls = Controls()
    seeds: Seeds = Field(1, description="the `seeds` of an arm that gives none")
    random_seeds: Seeds | None = Field(
        None, description="the same for arms of the selector `random`; default: as `seeds`"
    )
    pool_seeds: Seeds | None = Field(
        None,
        description="in place of pool.seed (mini pools): everything but the benchmarks is repeated on "
        "a pool of each seed; n means 0..n-1, or a list",
    )
    baseline: str | dict[BudgetKey, str] | None = Field(
        None,
        description="arm that differences are taken against: one for all arms, or one for the arms of "
        "each budget, such as {10%: random_10, 30%: random_30}; an arm whose budget is not listed gets "
        "no difference",
    )
    reference: str | None = Field(None, description="arm that is the denominator of /FULL")
    margin: float = Field(
        1.0,
        gt=0,
        description="points within which an arm and its baseline are called equivalent; declared before the "
        "run, never after it",
    )
    pretrain: dict[str, Any] | None = Field(None, description="settings of the base training (goal: base)")
    resources: Resources = Resources()
    track: Track = Track()
    root: WorkPath = Field(".", description="directory that holds store/ and runs/")

    @model_validator(mode="before")
    @classmethod
    def _seeds_of_arms(cls, value: Any) -> Any:
        """Arms that give no seeds have those of the recipe, which the scale may supply."""
        arms = value.get("arms") if isinstance(value, dict) else None
        if not isinstance(arms, dict):
            return value
        seeds = value.get("seeds", 1)
        random = value["random_seeds"] if value.get("random_seeds") is not None else seeds
        given = {"random": random}
        return value | {
            "arms": {
                name: {"seeds": given.get(str(arm.get("selector")), seeds), **arm}
                if isinstance(arm, dict)
                else arm
                for name, arm in arms.items()
            }
        }

    def drawn_pools(self) -> list[int | None]:
        """The seeds of the pools on which the experiment is repeated; [None] for a pool that is not drawn."""
        pool = required(self.pool)
        if not isinstance(pool, MiniPool):
            return [None]
        return list(dict.fromkeys([pool.seed] if self.pool_seeds is None else seed_list(self.pool_seeds)))

    def repetitions(self) -> int:
        """The largest number of runs that an arm has on each pool."""
        return max(len(arm.runs()) for arm in self.arms.values())
