"""Settings of the signals that selectors read."""

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from curation.signals.scorers.spec import JointSpec, PartSpec
from curation.signals.vectors.presets import published, with_published
from recipes.schema.base import Fraction, ModelPath, NameOrFile, PathText, Section, Seed, default_kind
from recipes.schema.data import Bench
from recipes.schema.models import SeedModel, Vllm
from recipes.schema.teachers import Server
from training.spec import FitSpec


class StatesEmbedding(Section):
    """Vectors from the states of a vision-language model's decoder over the whole conversation."""

    kind: Literal["states"]
    path: ModelPath | None = Field(None, description="model (directory or Hub id); default: `model`")
    revision: str | None = None
    model: Literal["base", "seed_model"] = Field("base", description="the recipe's model, without a `path`")
    layers: list[int] = Field(
        [-1],
        min_length=1,
        description="layers whose states are used, negative from the end; several are concatenated",
    )
    state: Literal["hidden", "attention"] = Field(
        "hidden", description="output of the layers, or of their attention"
    )
    tokens: Literal["all", "image", "text", "text_after_image", "halves", "halves_after_image"] = Field(
        "all",
        description="tokens that are pooled; the halves are two vectors, of the image's tokens and of all "
        "others, or of the text after the image",
    )
    pooling: Literal["mean", "last", "position_weighted", "attended", "attention_pair"] = Field(
        "mean",
        description="mean of the tokens, the last one, weights proportional to the position, the visual "
        "tokens that questions attend to, or the last token beside those that it attends to",
    )
    squash: Literal["none", "tanh"] = Field("none", description="tanh of the pooled vector")
    unit: bool = Field(False, description="unit length for each layer and half, and for all of them together")
    first_tokens: int | None = Field(None, ge=1, description="only the first N tokens; default: all")


class VisionEmbedding(Section):
    """Vectors of the first image from a vision encoder such as DINOv2."""

    kind: Literal["vision"]
    path: ModelPath = Field(description="encoder: builtin:mini_clip (its vision tower), directory or Hub id")
    revision: str | None = None
    pooling: Literal["cls", "mean", "pooler"] = Field(
        "cls", description="class token, mean of the other tokens, or the model's own pooler"
    )


class SentenceEmbedding(Section):
    """Vectors of text from a sentence encoder."""

    kind: Literal["sentence"]
    path: ModelPath = Field(
        description="sentence-transformers (directory or Hub id), or a dual encoder's text tower "
        "(builtin:mini_clip)"
    )
    revision: str | None = None
    text: Literal["first_instruction", "question", "answer", "both"] = Field(
        "first_instruction", description="the first instruction, or text of all turns"
    )


class ClipEmbedding(Section):
    """Vectors of images and text from a dual encoder."""

    kind: Literal["clip"]
    path: ModelPath = Field(description="builtin:mini_clip, directory or Hub id")
    revision: str | None = None
    part: Literal["image", "text", "pair", "turns"] = Field(
        "pair", description="one side, both side by side, or the image beside the mean of the turns' texts"
    )
    text: Literal["first_instruction", "question", "answer", "both"] = Field(
        "both", description="text that is encoded"
    )


Embedding = StatesEmbedding | VisionEmbedding | SentenceEmbedding | ClipEmbedding
"""One named embedding: the column emb_<name>, or emb_<name>_image and emb_<name>_text."""


def embedding_name(name: str) -> str:
    """The name of an embedding. Raises ValueError for one that is also the name of another's column."""
    if not re.fullmatch(r"\w+", name) or name.endswith(("_image", "_text")):
        raise ValueError(
            f"{name[:80]!r} is not allowed as the name of an embedding; give letters, digits and _, and no "
            "ending _image or _text, which the columns of the halves have"
        )
    return name


def _share_of_rows(value: int | str) -> int | str:
    """A number of clusters, or a share such as "1%". Raises ValueError for anything else."""
    if isinstance(value, str) and not re.fullmatch(r"\d{1,2}(\.\d+)?%", value):
        raise ValueError(f"k {value[:80]!r} is not allowed; give a number from 1, or a share such as 1%")
    if isinstance(value, int) and value < 1:
        raise ValueError(f"k {value} is not allowed; give a number from 1, or a share such as 1%")
    return value


def from_presets(section: str) -> BeforeValidator:
    """Gives the entries of `embeddings` or `clusters` what they leave to the preset of their name."""
    return BeforeValidator(lambda value: with_published(section, value))


class Clip(Section):
    """Dual encoder for the CLIP score."""

    path: ModelPath = Field("builtin:mini_clip", description="builtin:mini_clip, directory or Hub id")
    revision: str | None = None
    text: Literal["answer", "question", "both"] = Field(
        "answer", description="the text that is compared with the image"
    )
    unit: Literal["sentences", "whole"] = Field(
        "sentences",
        description="mean of the cosines of the text's first ten sentences, or the cosine of the whole text, "
        "cut at the encoder's context",
    )


class Clustering(Section):
    """Clusters of one or several kinds of vectors; the centroids are stored."""

    column: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="vectors that are clustered: emb_<name>, emb_<name>_image, emb_<name>_text, clip_image, "
        "clip_text or grad; several are concatenated"
    )
    method: Literal["kmeans", "spectral", "ward"] = "kmeans"
    k: Annotated[int | str, AfterValidator(_share_of_rows)] | None = Field(
        None,
        description="number of clusters, or a share of the vectors such as 1%, at least one; not of ward",
    )
    threshold: Fraction | None = Field(
        None, description="of ward: share of the last merge up to which clusters merge; default: 0.1"
    )
    within: Literal["source", "format"] | None = Field(
        None,
        description="clusters inside each source, or each format of question, `k` for each; default: of the "
        "whole pool",
    )
    iterations: int = Field(50, ge=1, description="most steps of k-means")
    seed: Seed = 0
    engine: Literal["torch", "faiss"] = Field("torch", description="implementation of k-means")

    @model_validator(mode="after")
    def _of_its_method(self) -> "Clustering":
        if (self.k is None) != (self.method == "ward"):
            raise ValueError(
                "method ward takes no k but a threshold" if self.k else f"method {self.method} needs k"
            )
        if self.threshold is not None and self.method != "ward":
            raise ValueError(f"threshold belongs to method ward, not to {self.method}")
        return self


@cache
def published_entries(section: str) -> dict[str, Any]:
    """The presets of `embeddings` or `clusters` by name, as sections of a recipe."""
    kinds: dict[str, TypeAdapter[Any]] = {
        "embeddings": TypeAdapter(Annotated[Embedding, Field(discriminator="kind")]),
        "clusters": TypeAdapter(Clustering),
    }
    return {name: kinds[section].validate_python(entry) for name, entry in published(section).items()}


QUALITY_MODELS = ("reward", "complexity", "quality")
"""Columns of the quality signal that a local model computes."""
QUALITY_COLUMNS = (*QUALITY_MODELS, "judge")
"""All columns of the quality signal; `judge` comes from a chat model on a server."""
QUALITY_PARTS = {"deita_score": ("complexity", "quality")}
"""Columns that come with others, and which."""


class MetadataQuality(Section):
    """Reward, judge, complexity and quality of each answer, derived from the mini world's ground truth."""

    kind: Literal["metadata"]
    noise: float = Field(
        1.0, ge=0, description="standard deviation of the noise on each score, relative to the score's own"
    )
    knows_rate: Fraction = Field(
        0.3, description="share of the wrong answers that the judge notices without seeing the image"
    )
    seed: Seed = 0


class TextModel(Section):
    """A text model that grades answers."""

    path: ModelPath = Field(description="directory or Hub id")
    revision: str | None = Field(None, description="commit or tag of a Hub id")


class Judge(Section):
    """A chat model that grades a conversation's text from 0 to 100 (InstructionGPT-4, arXiv 2308.12067)."""

    model: str = Field(
        min_length=1,
        description="the model's name on the server; it identifies the grades, so another model needs "
        "another name",
    )
    server: Server = Server()


class Answered(Section):
    """The seed model's own answers to the pool's questions, beside the reference answers."""

    max_turns: int = Field(3, ge=1, description="questions of a sample that are asked; the first ones")
    max_new_tokens: int = Field(64, ge=1, description="tokens of a generated answer")
    judge: Judge | None = Field(
        None,
        description="a chat model that grades the answers; default: rules by the form of the reference "
        "(option letter, number, words)",
    )


class Validity(Section):
    """How valid a frozen model finds each answer, with and without the question (CVS, arXiv 2603.09715)."""

    path: ModelPath | None = Field(None, description="model (directory or Hub id); default: the base")
    revision: str | None = None
    question: str = Field("Question: ", description="what stands before each question")
    answer: str = Field("Answer: ", description="what stands before each answer")
    query: str = Field(
        "Is the answer valid for the image? Reply with Yes or No.",
        min_length=1,
        description="what is asked after the conversation; the paper's wording is not known to us",
    )
    yes: str = Field("Yes", min_length=1, description="the reply that says so")
    no: str = Field("No", min_length=1, description="the other one; must begin with another token")


class ModelsQuality(Section):
    """Reward, judge, complexity and quality of each answer by models; only the given models have a column."""

    kind: Literal["models"]
    reward: TextModel | None = Field(
        None, description="sequence classifier with one logit: the reward of (question, answer)"
    )
    complexity: TextModel | None = Field(
        None,
        description="causal model trained as Deita's complexity scorer (arXiv 2312.15685), such as "
        "hkust-nlp/deita-complexity-scorer",
    )
    quality: TextModel | None = Field(
        None,
        description="causal model trained as Deita's quality scorer, such as hkust-nlp/deita-quality-scorer",
    )
    judge: Judge | None = None
    max_tokens: int = Field(8192, ge=1, description="tokens of a batch, padding included")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the models' weights")

    @model_validator(mode="after")
    def _has_a_column(self) -> "ModelsQuality":
        if not self.columns():
            raise ValueError(f"no model is given; give at least one of {', '.join(QUALITY_COLUMNS)}")
        return self

    def columns(self) -> list[str]:
        """The columns that these models compute."""
        return [name for name in QUALITY_COLUMNS if getattr(self, name) is not None]


class LlavaItems(Section):
    """The user's own validation items."""

    kind: Literal["llava"]
    source: PathText = Field(
        description="JSON or JSONL file in LLaVA's format; the field `source` of an item names its task"
    )
    images: PathText | None = Field(
        None, description="directory that image paths are relative to; default: that of `source`"
    )


class SuiteItems(Section):
    """Validation items of real benchmarks: a suite whose data are other splits than the reported ones."""

    kind: Literal["suite"]
    suite: NameOrFile = Field(description="a name in evaluation/suites, or a path; its file names the splits")
    mirror: PathText = Field(description="folder with the repositories of that suite")
    items: int | None = Field(None, ge=1, description="the first N questions of each task; default: all")


class DrawnSuiteItems(SuiteItems):
    """Such items, drawn at random, with their reference answers."""

    items: int | None = Field(None, ge=1, description="questions drawn of each task; default: all")
    seed: Seed = Field(0, description="draws the items")


Validation = Annotated[Bench | LlavaItems | DrawnSuiteItems, Field(discriminator="kind")]
ProbeItems = Annotated[Bench | SuiteItems, Field(discriminator="kind")]


class Spectrum(Section):
    """Singular values of the token states (DataTailor, arXiv 2412.06293)."""

    path: ModelPath | None = Field(None, description="model (directory or Hub id); default: the base")
    revision: str | None = None
    layer: int = Field(
        -1, description="block whose states are read, before the final norm; -2: as the paper's text"
    )


class Perturbation(Section):
    """What the losses under perturbation are computed with (ARDS)."""

    step: int = Field(300, ge=0, lt=1000, description="of the images' noise, as a diffusion adds it")
    letters: str = Field(
        "QWERTYU", pattern="^[A-Z]{7}$", description="in the place of an option's letters A to G"
    )
    seed: Seed = Field(0, description="draws the noise")


class Leverage(Section):
    """Leverage scores of the vectors emb_attended_visual (ScalSelect, arXiv 2602.11636)."""

    energy: float = Field(0.9, gt=0, le=1, description="share of the squared singular values that is kept")


class Gradient(Section):
    """Projected LoRA gradients at checkpoints of a warm-up training, compared with those of validation items.

    Targeted: the validation items are of the same kind as the benchmarks.
    """

    warmup: SeedModel | None = Field(
        None,
        description="the LoRA training whose adapters, one for each epoch, the gradients are computed "
        "at; default: the settings of `seed_model`",
    )
    dim: int = Field(1024, ge=1, description="length of a projected gradient, for each adapter")
    seed: Seed = Field(0, description="draws the projection")
    validation: Annotated[Validation, default_kind("mini")] = Field(
        description="items whose gradients are the target: of the mini world, the user's own (llava) or of "
        "real benchmarks (suite); must not be those that the arms are compared on, which is checked"
    )


class OneStep(Section):
    """What one step of the warm-up's optimizer on a sample does to the loss of anchors (OST).

    The anchors are items of `gradient.validation`, the weights the last ones of `gradient.warmup`.
    """

    anchors: int = Field(100, ge=1, description="items whose loss is measured")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="of the step; adam with the moments that the warm-up ended with"
    )
    lr: float | None = Field(
        None, gt=0, description="learning rate of the step; default: the mean of the warm-up's last epoch"
    )
    seed: Seed = Field(0, description="draws the anchors")


class Probe(Section):
    """The subset probe of InstructionGPT-4: measures what training on subsets of known content is worth."""

    subsets: int = Field(30, ge=3, description="number of subsets: clusters of images, made equally large")
    size: int = Field(114, ge=1, description="samples of each subset")
    seed: Seed = 0
    bench: Annotated[ProbeItems, default_kind("mini")] = Field(
        description="items that the probes are evaluated on: of the mini world, or of real benchmarks "
        "(suite); must not be those that the arms are compared on, which is checked"
    )
    train: FitSpec | None = Field(None, description="training of a probe; default: that of the arms")
    regressor: Literal["ridge", "mlp", "set_attention"] = "ridge"
    indicators: list[str] = Field(
        ["clip_score", "answer_tokens", "reward", "judge"],
        description="numeric columns used as features; answer_characters, the length of the answers, needs "
        "no signal",
    )
    vectors: list[str] = Field(
        ["clip_image", "clip_text"],
        description="vector columns whose components are used; the paper's text feature is the last token "
        "of a chat model, an embedding of kind `sentence` with last-token pooling",
    )
    scaling: Literal["standard", "published"] = Field(
        "standard",
        description="features of deviation 1 over the pool, or as the paper's code scales them: reward times "
        "10, characters times 100 / 1009, the others and the components as they are",
    )
    components: int = Field(
        6, ge=0, description="principal components of each vector column used as further features"
    )


Columns = str | Annotated[list[str], Field(min_length=1)]


class SelfFilter(Section):
    """Self-Filter's score (arXiv 2402.12501): a linear net trained with a model, whose losses it weights."""

    path: ModelPath | None = Field(None, description="model (directory or Hub id); default: the base")
    revision: str | None = None
    features: Columns = Field(
        "emb_clip_pair",
        description="what the net reads: vectors, or numbers, which are scaled to [-1, 1]",
    )
    joint: JointSpec = JointSpec()


class Coido(Section):
    """CoIDO's score (arXiv 2510.17847): a net that is trained with a model on a part of the pool."""

    path: ModelPath | None = Field(None, description="model (directory or Hub id); default: the base")
    revision: str | None = None
    features: Columns = Field(["emb_clip_pair", "clip_score"], description="as of self_filter")
    cluster: str = Field("coido", pattern=r"^\w+$", description="clusters whose weights are kept even")
    share: Fraction = Field(0.2, description="part of the pool that is trained on")
    spread: Literal["variance", "deviation"] = Field(
        "variance", description="of the mean weights of clusters: as in the paper, or as in its code"
    )
    joint: PartSpec = PartSpec()


class OnceSelect(Section):
    """OnceSelect's confidence (arXiv 2605.26761): a small classifier of clusters."""

    features: str = Field("emb_clip_turns", description="vectors whose first half is the image's")
    cluster: str = Field("once_select", pattern=r"^\w+$", description="clusters that are learned")
    share: Fraction = Field(0.03, description="of each cluster, the nearest to its centroid are trained on")
    accuracy: Fraction = Field(0.6, description="macro accuracy that the epoch is chosen by")
    epochs: int = Field(50, ge=1)
    hidden: int = Field(256, ge=1, description="units")
    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=1)
    seed: Seed = 0


class CustomSignal(Section):
    """A user-defined signal."""

    producer: str = Field(
        pattern=r"^[\w.]+:\w+$", description="my_module:my_function, compute(pool, rows, **params) -> table"
    )
    params: dict[str, Any] = Field({}, description="further keyword arguments of the function")
    path: ModelPath | None = Field(
        None, description="checkpoint passed to the function as the argument `model`"
    )
    revision: str | None = None


class Scoring(Section):
    """Inference of the signals over the whole pool."""

    batch_size: int = Field(16, ge=1, description="samples of a batch of capability or style queries")
    max_tokens: int = Field(2048, ge=1, description="tokens of a batch of answer losses, padding included")
    engine: Literal["hf", "vllm", "server"] = Field(
        "hf",
        description="inference engine of scorer and styler: transformers (hf), vLLM in this process, "
        "or a chat-completions server that serves them (`scorer.served`, `styler.served`); all other "
        "signals use hf",
    )
    vllm: Vllm = Vllm()
    server: Server = Server()
