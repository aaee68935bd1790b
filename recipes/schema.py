"""What a recipe file may say: pydantic models with the meaning beside each field.

A recipe names the arms that are compared (`Recipe`); everything that must be equal between the arms is the frozen
protocol (`Protocol`), which a scale file supplies. See recipes/load.py for how files are merged.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from curation.mini.draft import Defects
from training.spec import FitSpec

MOST = 2**31 - 1
"""Most samples of a pool: rows are 32-bit integers."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What numpy's and torch's generators accept."""
Seeds = Annotated[int, Field(ge=1, le=10_000)] | Annotated[list[Seed], Field(min_length=1)]


def _path(text: str) -> str:
    """Raises ValueError for what no path can be."""
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    if any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("a part of the path is longer than 255 bytes")
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}; write the whole path") from error
    return text


PathText = Annotated[str, AfterValidator(_path)]


def canonical_budget(value: int | str) -> int | str:
    """`30.0 %` -> `30%`, `500` -> 500, `tokens:2e9` -> `tokens:2000000000`. Raises ValueError for anything else."""
    allowed = "a share above 0% and up to 100%, such as 30%, a number of samples from 1, or tokens:N"
    if isinstance(value, int):
        if not 1 <= value <= MOST:
            raise ValueError(f"budget {value} is not allowed; give {allowed}")
        return value
    if tokens := re.fullmatch(r"tokens:(\d{1,30}(?:\.\d{1,30})?(?:e\d{1,3})?)", value.strip(), re.IGNORECASE):
        if not 1 <= float(tokens[1]) <= MOST**2:
            raise ValueError(f"budget {value!r} is not allowed; give {allowed}")
        return f"tokens:{int(float(tokens[1]))}"
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip())
    if not match or not 0 < float(match[1]) <= 100:
        raise ValueError(f"budget {value[:80]!r} is not allowed; give {allowed}")
    return f"{float(match[1]):g}%"


ORACLE = {"capability", "style"}
"""Signals that the mini world's generator knows itself."""
BESIDE = {"reference", "seed_rows"}
"""What selectors read that is no signal: another arm's subset, the rows that the seed model was tuned on."""

Budget = Annotated[int | str, AfterValidator(canonical_budget)]
BudgetKey = Annotated[
    str, BeforeValidator(lambda key: str(canonical_budget(int(key) if str(key).isdigit() else str(key))))
]
"""A budget as the key of a mapping, where 500 and "500" are the same."""


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Arm(Section):
    """One selector at one budget, with its seeds."""

    selector: str = Field(description="a name from curation/selectors, or my_module:my_function")
    budget: Budget = Field(
        "100%",
        description="share of the pool (30%), number of samples, or text and image tokens (tokens:2e9)",
    )
    seeds: Seeds = Field(
        1, description="n means 0..n-1, or a list; seeds the selection and, by default, the training"
    )
    train_seeds: Seeds | None = Field(
        None, description="if given, every selection seed is trained with each of these"
    )
    params: dict[str, Any] = Field({}, description="keyword arguments of the selector")
    signals: Literal["learned", "oracle", "oracle_knows_wrong"] = Field(
        "learned",
        description="capability and style of every sample from the fits (learned), or from the mini world's own record "
        "without noise: blind to wrong answers (oracle), or with 3 points off for them (oracle_knows_wrong)",
    )

    reference: str | None = Field(
        None,
        description="arm whose subset a selector that needs one (matched_random) compares with, seed by seed",
    )
    rounds: int = Field(
        1,
        ge=1,
        description="with more than 1, each further round tunes the seed model on the subset chosen before and "
        "scores necessity anew (MLLM-Selector)",
    )

    @field_validator("selector")
    @classmethod
    def _selector_exists(cls, name: str) -> str:
        from curation.selectors.registry import get_selector

        get_selector(name)
        return name

    @model_validator(mode="after")
    def _selector_takes_params(self) -> "Arm":
        from curation.selectors.registry import check_params

        check_params(self.selector, self.params)
        return self

    @model_validator(mode="after")
    def _all_takes_everything(self) -> "Arm":
        if self.selector == "all" and self.budget != "100%":
            raise ValueError(f"selector `all` takes the whole pool; budget {self.budget} contradicts it")
        return self

    @model_validator(mode="after")
    def _oracle_is_asked(self) -> "Arm":
        if self.signals != "learned" and not ORACLE & set(self.needs()):
            raise ValueError(
                f"selector `{self.selector}` reads neither capability nor style, so signals: {self.signals} changes nothing"
            )
        return self

    @model_validator(mode="after")
    def _reference_and_rounds_are_used(self) -> "Arm":
        if ("reference" in self.needs()) != (self.reference is not None):
            wants = (
                "wants `reference`, an arm to compare with"
                if self.reference is None
                else "reads no `reference`"
            )
            raise ValueError(f"selector `{self.selector}` {wants}")
        if self.rounds > 1 and "necessity" not in self.needs():
            raise ValueError(
                f"selector `{self.selector}` does not read the seed model's necessity, so rounds: {self.rounds} changes nothing"
            )
        return self

    def needs(self) -> tuple[str, ...]:
        """What the selector reads with these parameters: signals, and `reference` or `seed_rows`."""
        from curation.selectors.registry import needs

        return tuple(needs(self.selector, self.params))

    def learned(self) -> list[str]:
        """The signals that have to be made for this arm: an oracle stands in for capability and style."""
        return [
            name
            for name in self.needs()
            if name not in BESIDE and (self.signals == "learned" or name not in ORACLE)
        ]

    def runs(self) -> list[tuple[int, int]]:
        """(selection seed, train seed) of every repetition. `all` does not depend on a selection seed, so it is 0."""
        chosen = [
            (s, t)
            for s in _seeds(self.seeds)
            for t in (_seeds(self.train_seeds) if self.train_seeds else [s])
        ]
        if self.selector == "all":
            chosen = [(0, t) for _, t in chosen]
        return list(dict.fromkeys(chosen))


def _seeds(seeds: int | list[int]) -> list[int]:
    return list(range(seeds)) if isinstance(seeds, int) else seeds


class MiniPool(Section):
    """A pool drawn by the built-in generator."""

    kind: Literal["mini"]
    size: int = Field(ge=1, le=MOST, description="number of samples drawn")
    seed: Seed = Field(0, description="seed of the generator")
    defects: Defects = Field(Defects(), description="rates of the planted defects")
    max_bad_fraction: Fraction = Field(
        0.01, description="the run stops if more of the pool than this is quarantined"
    )


class LlavaPool(Section):
    """A pool from a LLaVA JSON (or JSONL) file."""

    kind: Literal["llava"]
    source: PathText = Field(description="path of the JSON or JSONL file")
    images: PathText | None = Field(None, description="directory that the image paths are relative to")
    max_bad_fraction: Fraction = Field(
        0.01, description="the run stops if more of the pool than this is quarantined"
    )


class Bench(Section):
    """The held-out items of the mini world, one file for each capability."""

    kind: Literal["mini"] = "mini"
    items: int = Field(ge=1, le=1_000_000, description="items of each benchmark")
    seed: Seed = Field(1000, description="seed of the generator, disjoint from the pool's")


class Base(Section):
    """The model that every training starts from."""

    path: PathText = Field(
        description="builtin:mini, a directory with a Hugging Face checkpoint, or a hub id"
    )
    revision: str | None = Field(None, description="commit or tag of a hub id")


def kind_if_not_said(kind: str) -> BeforeValidator:
    """A section without `kind` is of this one."""
    return BeforeValidator(lambda value: {"kind": kind, **value} if isinstance(value, dict) else value)


class Server(Section):
    """How a chat-completions server is reached, and what it may cost. Never changes a result: what is served is known by its model's name."""

    url: str | None = Field(
        None,
        description="address up to and with /v1 (vLLM, SGLang, a paid service); OpenAI's own if not given",
    )
    key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        description="name of the environment variable that holds the key, never the key "
        "itself; OPENAI_API_KEY for OpenAI's own, no key elsewhere if not given",
    )
    concurrency: int = Field(8, ge=1, description="samples asked about at a time")
    timeout: float = Field(60.0, gt=0, description="seconds for one attempt")
    retries: int = Field(
        4, ge=0, description="further attempts after a timeout, a lost connection, 408, 409, 429 or 5xx"
    )
    max_failed: Fraction = Field(
        0.05,
        description="the run stops where more than this share of the samples got no answer that can be used; "
        "a new run asks for those again",
    )
    input_price: float = Field(0.0, ge=0, description="US dollars for a million tokens read")
    output_price: float = Field(0.0, ge=0, description="US dollars for a million tokens written")
    max_cost_usd: float | None = Field(
        None, gt=0, description="a run stops before a request that might exceed it"
    )
    image_tokens: int = Field(
        2000, ge=0, description="tokens that an image is held to cost at most, for max_cost_usd"
    )
    token_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the server calls the most tokens to write"
    )

    @field_validator("url")
    @classmethod
    def _no_secret_in_the_address(cls, url: str | None) -> str | None:
        """The address is written into recipe.yaml, logs and trackers. The message must not repeat it."""
        parts = urlsplit(url or "")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "an address must not hold a user, a password or a query; put the key into an environment variable and "
                "name it in key_env"
            )
        return url

    @model_validator(mode="after")
    def _a_cap_needs_prices(self) -> "Server":
        if self.max_cost_usd is not None and not (self.input_price or self.output_price):
            raise ValueError("max_cost_usd needs input_price and output_price")
        return self


class Teacher(Section):
    """What labels a small share of the pool, so that scorer and styler can be trained: what all teachers have in common."""

    share: Fraction = Field(0.05, gt=0, description="share of the pool that is labelled")
    floor: int = Field(3, ge=0, description="labels of every source at least, however small it is")
    temper: Fraction = Field(
        1.0,
        description="the other labels go to the sources by size to this power: 1 = in proportion, 0 = equally",
    )
    seed: Seed = Field(0, description="draws the labelled share (metadata: and the noise)")


class MetadataTeacher(Teacher):
    """The mini world's own record, with noise."""

    kind: Literal["metadata"]
    noise: Fraction = Field(0.2, description="share of the scores moved by one")
    knows_wrong: bool = Field(False, description="whether the teacher may see that a planted answer is wrong")
    knows_rate: Fraction = Field(0.7, description="share of the wrong answers that it then sees")


class ApiTeacher(Teacher):
    """A vision model behind a chat-completions server: one request for each sample, all scores and styles in one JSON answer."""

    kind: Literal["api"]
    model: str = Field(
        min_length=1,
        description="name under which the server knows the model; another model needs another name",
    )
    prompt: PathText | None = Field(
        None,
        description="text file with the instructions in place of the built-in ones (curation/teacher/api.py); the "
        "rubric and the style keys follow them",
    )
    detail: Literal["low", "high", "auto"] | None = Field(None, description="the protocol's image detail")
    json_schema: bool = Field(
        True, description="bind the server to the answer's schema; answers are checked in either case"
    )
    repeats: int = Field(
        2, ge=0, description="how often an answer that is no valid label is sent back with what is wrong"
    )
    max_tokens: int = Field(512, ge=1, description="tokens that an answer may take")
    server: Server = Server()


class SeedModel(Section):
    """The model whose loss says what a sample has to teach (the necessity signal)."""

    share: Fraction = Field(0.1, gt=0, description="random share of the pool that it is trained on")
    seed: Seed = Field(0, description="draws that part, and seeds the training")
    train: FitSpec


class Fit(Section):
    """Scorer or styler: a model fine-tuned on the teacher's labels."""

    path: PathText | None = Field(
        None,
        description="a finished model (directory or hub id, LLaVA-NeXT's or Hugging Face's layout) in place of "
        "a training, such as mengyaolyu/mmssr-7b-scorer; then only prompts and mode are used",
    )
    revision: str | None = Field(None, description="commit or tag of a hub id")
    served: str | None = Field(
        None,
        min_length=1,
        description="read with scoring.engine: server: the name under which the server knows the "
        "model; then no training and no `path` is needed",
    )
    start: Literal["base", "seed_model"] = Field(
        "base",
        description="what is fine-tuned: the base, or the seed model, which has been tuned on a part of the pool (the papers' "
        "scorer starts from the task model)",
    )
    holdout: Fraction = Field(0.2, description="share of the labelled samples kept for the rank correlation")
    prompts: str = Field("compact", description="wording of the queries")
    seed: Seed = Field(0, description="draws the held-out samples, and seeds the training")
    train: FitSpec | None = Field(None, description="the training, unless `path` or `served` is given")

    @model_validator(mode="after")
    def _trained_or_given(self) -> "Fit":
        if self.train is None and self.path is None and self.served is None:
            raise ValueError(
                "missing `train`; give it, or `path` of a finished model, or the name of a `served` one"
            )
        return self


class Scorer(Fit):
    """The fit that rates capabilities."""

    mode: Literal["trie", "official"] = Field(
        "trie", description="all queries in one pass after the shared prefix, or one generation each"
    )

    balance: Fraction = Field(0.1, description="samples of capabilities rarer than this share are repeated")


class Styler(Fit):
    """The fit that names interaction styles."""

    mode: Literal["greedy", "likelihood", "official"] = Field(
        "greedy",
        description="decode the list, or score the nine names, after the "
        "shared prefix; or one generation for each sample",
    )
    threshold: float = Field(
        0.5,
        gt=0,
        le=1,
        description="likelihood: further styles down to this share of the best one's probability",
    )


class Embedding(Section):
    """Vectors of the samples' images and texts from a model's hidden states."""

    path: PathText | None = Field(None, description="model (directory or hub id); the base if not given")
    revision: str | None = None
    layers: list[int] = Field(
        [-1],
        min_length=1,
        description="layers whose states are used, negative from the end; several are joined",
    )
    state: Literal["hidden", "attention"] = Field(
        "hidden", description="the layers' output, or that of their attention"
    )
    variant: Literal["mean", "coincide"] = Field(
        "mean", description="mean over tokens, or that of COINCIDE's activations"
    )


class Clip(Section):
    """Dual encoder for the CLIP score."""

    path: PathText = Field("builtin:mini_clip", description="builtin:mini_clip, directory or hub id")
    revision: str | None = None
    text: Literal["answer", "question", "both"] = Field(
        "answer", description="what is compared with the image"
    )


class Clustering(Section):
    """Clusters of one kind of vectors; the centroids are stored."""

    column: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="vectors that are clustered: emb_image, emb_text, clip_image, clip_text or grad; several are laid side by side"
    )
    method: Literal["kmeans", "spectral"] = "kmeans"
    k: int = Field(ge=1, description="number of clusters")
    seed: Seed = 0
    engine: Literal["torch", "faiss"] = Field("torch", description="of k-means")


QUALITY_MODELS = ("reward", "complexity", "quality")
"""Columns of the quality signal that a local model makes; `judge` is the other one."""


class MetadataQuality(Section):
    """Reward, judge, complexity and quality of each answer: the mini world's stand-in, from its own record."""

    kind: Literal["metadata"]
    noise: float = Field(
        1.0, ge=0, description="standard deviation of the noise on each score, in its own spread"
    )
    knows_rate: Fraction = Field(
        0.3, description="share of the wrong answers that the judge notices without seeing the image"
    )
    seed: Seed = 0


class TextModel(Section):
    """A text model that grades answers."""

    path: PathText = Field(description="directory or hub id")
    revision: str | None = Field(None, description="commit or tag of a hub id")


class Judge(Section):
    """A chat model that grades each conversation from 0 to 100 by its text (InstructionGPT-4, arXiv 2308.12067)."""

    model: str = Field(
        min_length=1,
        description="name under which the server knows the model; another model needs another name",
    )
    server: Server = Server()


class ModelsQuality(Section):
    """Reward, judge, complexity and quality of each answer by models; a column whose model is not given is not made."""

    kind: Literal["models"]
    reward: TextModel | None = Field(
        None, description="sequence classifier with one logit: the reward of (question, answer)"
    )
    complexity: TextModel | None = Field(
        None,
        description="causal model that was trained as Deita's scorer of questions "
        "(arXiv 2312.15685), such as hkust-nlp/deita-complexity-scorer",
    )
    quality: TextModel | None = Field(
        None, description="the same for answers, such as hkust-nlp/deita-quality-scorer"
    )
    judge: Judge | None = None
    max_tokens: int = Field(8192, ge=1, description="tokens of a batch, padding included")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the models' weights")

    @model_validator(mode="after")
    def _makes_a_column(self) -> "ModelsQuality":
        if not self.columns():
            raise ValueError(f"no model is given: name one for {', '.join(QUALITY_MODELS)} or judge")
        return self

    def columns(self) -> list[str]:
        """The columns that these models make."""
        return [name for name in (*QUALITY_MODELS, "judge") if getattr(self, name) is not None]


class Gradient(Section):
    """Projected LoRA gradients at checkpoints of a warm-up, and their agreement with those of validation items (targeted)."""

    warmup: SeedModel | None = Field(
        None,
        description="the LoRA training whose adapters the gradients are taken of, one for each epoch; as the "
        "seed model is trained (`seed_model`) if not given",
    )
    dim: int = Field(1024, ge=1, description="length of a projected gradient, for each adapter")
    seed: Seed = Field(0, description="draws the projection")
    validation: Bench = Field(
        description="items whose gradients are wanted; never those that the arms are compared on"
    )


class Probe(Section):
    """The subset probe of InstructionGPT-4: what training on subsets of known content is worth."""

    subsets: int = Field(30, ge=3, description="number of subsets: clusters of images, made equally large")
    size: int = Field(114, ge=1, description="samples of each subset")
    seed: Seed = 0
    bench: Bench = Field(
        description="items that the probes are evaluated on; never those that the arms are compared on"
    )
    train: FitSpec | None = Field(None, description="training of a probe; that of the arms if not given")
    regressor: Literal["ridge", "mlp", "set_attention"] = "ridge"
    indicators: list[str] = Field(
        ["clip_score", "answer_tokens", "reward", "judge"], description="numeric columns that are features"
    )
    components: int = Field(
        6, ge=0, description="principal components of the image and of the text vectors that are features too"
    )


class CustomSignal(Section):
    """A signal of the user's own."""

    producer: str = Field(
        pattern=r"^[\w.]+:\w+$", description="my_module:my_function, compute(pool, rows, **params) -> table"
    )
    params: dict[str, Any] = {}
    path: PathText | None = Field(None, description="model that it wants as the parameter `model`")
    revision: str | None = None


class Vllm(Section):
    """vLLM in this process (extra `vllm`)."""

    dtype: str = "auto"
    allow_anyres: bool = Field(
        False,
        description="vLLM tiles images as the processor does; a checkpoint that was trained on one base tile "
        "(image_mode: base) is refused unless this is set",
    )
    block: int = Field(64, ge=1, description="samples whose prefixes fit into the cache together")
    llm: dict[str, Any] = Field(
        {}, description="further arguments of vllm.LLM, such as tensor_parallel_size or max_model_len"
    )


class Scoring(Section):
    """Inference of the signals over the whole pool."""

    batch_size: int = Field(16, ge=1, description="samples of a batch of capability or style queries")
    max_tokens: int = Field(2048, ge=1, description="tokens of a batch of answer losses, padding included")
    engine: Literal["hf", "vllm", "server"] = Field(
        "hf",
        description="what asks scorer and styler: the model itself (Hugging Face), vLLM in this process, or a chat-completions server "
        "that serves them (`scorer.served`, `styler.served`); other signals need the model itself",
    )
    vllm: Vllm = Vllm()
    server: Server = Server()


class Evaluation(Section):
    """Benchmarks of every checkpoint."""

    suite: str = Field("mini", description="list of benchmarks in evaluation/suites")
    batch_size: int = Field(64, ge=1)
    shuffled: Literal["all", "first", "none"] = Field(
        "first",
        description="repetitions (of each arm) that are also asked with the image of another question",
    )


class Resources(Section):
    """Where stages run. Never changes a result."""

    executor: Literal["inline", "pool"] = Field(
        "inline", description="this process, or one-thread worker processes"
    )
    workers: int = Field(2, ge=1, le=1024, description="worker processes of the pool, all on this machine")


class Wandb(Section):
    """Weights & Biases."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "winnow"


class Track(Section):
    """Experiment trackers. Never changes a result."""

    wandb: Wandb = Wandb()


class Protocol(Section):
    """The frozen part: what a scale file supplies. A change is legal and stamps the results `protocol: modified`."""

    pool: Annotated[MiniPool | LlavaPool, Field(discriminator="kind")] | None = None
    bench: Bench | None = None
    base: Base | None = None
    teacher: (
        Annotated[
            Annotated[MetadataTeacher | ApiTeacher, Field(discriminator="kind")], kind_if_not_said("metadata")
        ]
        | None
    ) = None
    seed_model: SeedModel | None = None
    scorer: Scorer | None = None
    styler: Styler | None = None
    embedding: Embedding | None = None
    clip: Clip | None = None
    clusters: dict[Annotated[str, Field(pattern=r"^\w+$")], Clustering] = Field(
        {}, description="clusterings, read by selectors as cluster_<name>"
    )
    quality: (
        Annotated[
            Annotated[MetadataQuality | ModelsQuality, Field(discriminator="kind")],
            kind_if_not_said("metadata"),
        ]
        | None
    ) = None
    gradient: Gradient | None = None
    probe: Probe | None = None
    signals: dict[Annotated[str, Field(pattern=r"^\w+$")], CustomSignal] = Field(
        {}, description="signals of your own, by the name that selectors need"
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
        description="names the run directory; a sweep's cell is sweep/cell",
    )
    description: str = ""
    goal: Literal["compare", "base"] = Field("compare", description="compare arms, or train a base model")
    scale: str | None = Field(None, description="file in recipes/scales that supplies the protocol")
    arms: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], Arm] = Field({}, description="what is compared")
    pool_seeds: Seeds | None = Field(
        None,
        description="instead of pool.seed (mini pools): everything but the benchmarks is repeated "
        "on a pool of each seed; n means 0..n-1, or a list",
    )
    baseline: str | dict[BudgetKey, str] | None = Field(
        None,
        description="arm that differences are taken against: one for all arms, or one for the arms of each budget, such as "
        "{10%: random_10, 30%: random_30}; an arm whose budget is not listed gets no difference",
    )
    reference: str | None = Field(None, description="arm that is the denominator of /FULL")
    pretrain: dict[str, Any] | None = Field(None, description="settings of the base training (goal: base)")
    resources: Resources = Resources()
    track: Track = Track()
    root: PathText = Field(".", description="directory that holds store/ and runs/")

    def drawn_pools(self) -> list[int | None]:
        """The seeds of the pools that the experiment is repeated on; [None] where the pool is given, not drawn."""
        if self.pool.kind != "mini":
            return [None]
        return [self.pool.seed] if self.pool_seeds is None else list(dict.fromkeys(_seeds(self.pool_seeds)))

    def repetitions(self) -> int:
        """Runs, on each pool, of the arm that has most of them."""
        return max(len(arm.runs()) for arm in self.arms.values())


class SweepFile(Section):
    """A recipe with some keys varied; see recipes/sweep.py."""

    name: str = Field(pattern=r"^[\w-][\w.-]*$", description="names the run directory")
    description: str = ""
    recipe: str | dict[str, Any] = Field(
        description="file of a recipe, or the recipe itself (without a name), which may have `extends`"
    )
    mode: Literal["one_at_a_time", "grid"] = Field(
        "one_at_a_time", description="around the recipe's own values, or all combinations"
    )
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="values of each dotted recipe key"
    )
    cells: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")], dict[str, Any]] = Field(
        {}, description="further cells: dotted keys and values"
    )
