"""The base model, and the models that are trained or given before signals can be computed."""

from typing import Any, Literal

from pydantic import Field, model_validator

from recipes.schema.base import Fraction, ModelPath, NameOrFile, Section, Seed
from training.spec import FitSpec


class Base(Section):
    """The model that every training starts from."""

    path: ModelPath = Field(
        description="builtin:mini, a directory with a Hugging Face checkpoint, or a Hub id"
    )
    revision: str | None = Field(None, description="commit or tag of a Hub id")


class SeedModel(Section):
    """The model whose loss measures what a sample can teach (the necessity signal)."""

    share: Fraction = Field(0.1, gt=0, description="random share of the pool that it is trained on")
    seed: Seed = Field(0, description="draws that share, and seeds the training")
    train: FitSpec


class Rater(Section):
    """Scorer or styler: a model fine-tuned on the teacher's labels."""

    path: ModelPath | None = Field(
        None,
        description="a trained model (directory or Hub id, in LLaVA-NeXT's or Hugging Face's layout) "
        "in place of a training, such as mengyaolyu/mmssr-7b-scorer; then only `prompts`, `image` and "
        "`mode` are used",
    )
    revision: str | None = Field(None, description="commit or tag of a Hub id")
    served: str | None = Field(
        None,
        min_length=1,
        description="for `scoring.engine: server`: the model's name on the server; then neither "
        "`train` nor `path` is needed",
    )
    start: Literal["base", "seed_model"] = Field(
        "base",
        description="what is fine-tuned: the base, or the seed model, which was trained on a share of "
        "the pool (the scorer of the papers starts from the task model)",
    )
    holdout: Fraction = Field(
        0.2, description="share of the labelled samples held out for the rank correlation"
    )
    prompts: NameOrFile = Field(
        "compact", description="prompt set: a shipped name or the path of a YAML file"
    )
    image: Literal["single", "anyres"] | None = Field(
        None,
        description="what the rater gets of an image when it scores: one view, or also tiles of a large one; "
        "default: as the prompt set says, else as the checkpoint was trained",
    )
    seed: Seed = Field(0, description="draws the held-out samples, and seeds the training")
    train: FitSpec | None = Field(
        None, description="the training; required unless `path` or `served` is given"
    )

    @model_validator(mode="after")
    def _trained_or_given(self) -> "Rater":
        if self.train is None and self.path is None and self.served is None:
            raise ValueError(
                "missing `train`; give it, or the `path` of a trained model, or the name of a `served` one"
            )
        return self


class Scorer(Rater):
    """The model that rates capabilities."""

    mode: Literal["trie", "official"] = Field(
        "trie", description="all queries in one pass after the shared prefix, or one generation for each"
    )

    balance: Fraction = Field(0.1, description="samples of capabilities rarer than this share are repeated")


class Styler(Rater):
    """The model that names interaction styles."""

    mode: Literal["greedy", "likelihood", "official"] = Field(
        "greedy",
        description="after the shared prefix, decode the list of styles or score the nine style names; or "
        "generate once for each sample",
    )
    threshold: float = Field(
        0.5,
        gt=0,
        le=1,
        description="for `likelihood`: styles of at least this share of the best style's probability "
        "are kept",
    )


class Vllm(Section):
    """vLLM in this process (extra `vllm`)."""

    dtype: str = "auto"
    allow_anyres: bool = Field(
        False,
        description="have vLLM tile images as the processor does, also for a checkpoint that was trained on "
        "one base tile (image_mode: base); without it such a checkpoint gets its one tile",
    )
    block: int = Field(64, ge=1, description="samples whose prefixes fit into the KV cache together")
    llm: dict[str, Any] = Field(
        {}, description="further arguments of vllm.LLM, such as tensor_parallel_size or max_model_len"
    )
