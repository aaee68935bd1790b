"""The settings that decide the outcome of a training, as a pydantic model that recipes embed."""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from training.render import RenderRules

Part = Literal["vision", "projector", "language"]
PARTS: tuple[Part, ...] = ("vision", "projector", "language")

LARGE = 10**9
"""Number of parameters above which `FitSpec.doubts` asks."""
OPERATIONAL: dict[str, str] = {
    "save_steps": "when a state to resume from is saved",
    "save_minutes": "when a state to resume from is saved",
    "cache_mb": "where decoded images are kept",
    "from_preset": "a label; the settings themselves decide",
    "micro_batch": "how a step is cut; its loss is the same (but see PER_MICROBATCH)",
    "processes": "over how many processes a step is spread (as micro_batch)",
    "nodes": "over how many processes a step is spread (as micro_batch)",
    "rendezvous": "where the nodes meet",
    "pack_tokens": "how a step is cut, as micro_batch",
    "workers": "who reads the examples, in the same order",
    "attention": "which kernel computes the same sums",
    "loss_chunk": "how many logits exist at one time",
    "compile": "which kernels compute the same sums",
    "gradient_checkpointing": "activations that are computed twice are the same",
    "deepspeed": "where parameters and states lie; what of it decides the outcome is in `training.identity`",
}
"""Field -> why it is not part of a training's identity: its outcome differs by rounding only, if at all."""
LIMITS: dict[str, str] = {
    "max_bad_fraction": "whether a training is stopped",
    "loss_spike": "whether a training is stopped",
}
"""Field -> why it does not decide the weights; but a finished training may not satisfy another limit."""
PER_MICROBATCH = {"micro_batch", "pack_tokens", "processes", "nodes"}
"""OPERATIONAL fields that decide the outcome while the loss is a mean over micro-batches."""


class LoraSpec(BaseModel):
    """Low-rank adapters on the linear layers of `parts`; the rest of the model is frozen."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    r: int = Field(16, gt=0, description="rank")
    alpha: float = Field(32, gt=0, description="scale numerator: the update is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    parts: tuple[Part, ...] = ("language",)


class FromPreset(BaseModel):
    """Which of `training.presets` settings come from, and the dotted keys whose values differ from it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    changed: tuple[str, ...] = ()


class FitSpec(BaseModel):
    """Everything that decides the outcome of a training, except its base and its examples."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    epochs: float = Field(
        1, gt=0, le=10_000, description="passes over the examples; ignored when max_steps is given"
    )
    max_steps: int | None = Field(None, gt=0, le=10**9, description="optimizer steps")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    part_lr: dict[Part, float] = Field(
        default_factory=dict, description="peak learning rate of a part; default: lr"
    )
    batch_size: int = Field(16, gt=0, description="examples per optimizer step, over all processes")
    micro_batch: int | None = Field(
        None,
        gt=0,
        description="examples per forward pass of a process; without effect where `pack_tokens` is set",
    )
    pack_tokens: int | None = Field(
        None,
        gt=0,
        description="the examples of a step go into packs of at most so many tokens, without padding and "
        "balanced over the processes by FLOPs; a longer example is alone in its pack; default: padding",
    )
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(
        1.0, ge=0, description="the gradient norm is clipped to this; none or 0: no clipping"
    )
    seed: int = Field(0, ge=0)
    lora: LoraSpec | None = None
    train_parts: tuple[Part, ...] = Field(
        (),
        description="with `lora`: parts that are trained fully beside the adapters, as LLaVA-1.5's projector",
    )
    freeze: tuple[Part, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool | Annotated[int, Field(ge=1)] = Field(
        False, description="compute activations twice: of each block, or of every n-th decoder block only"
    )
    attention: Literal["auto", "sdpa", "varlen", "flash"] = Field(
        "auto",
        description="attention over packs, see training/attention.py; auto: varlen or flash-attn on a GPU",
    )
    loss_chunk: int = Field(2048, gt=0, description="labelled tokens whose logits exist at one time")
    compile: bool = Field(False, description="torch.compile of each decoder block")
    workers: int | None = Field(
        None,
        ge=0,
        description="loader processes of each rank, which read and decode ahead of it; default: up to 8 with "
        "a GPU, else none",
    )
    deepspeed: str | None = Field(
        None,
        description="zero0, zero1, zero2, zero3, zero2_offload, zero3_offload or the path of a DeepSpeed "
        "JSON config; default: no DeepSpeed, and DDP over several processes",
    )
    processes: int | None = Field(
        None,
        gt=0,
        description="processes per node; default: one without DeepSpeed on one node, else one for each GPU",
    )
    nodes: int = Field(1, gt=0, description="nodes; inside a Slurm allocation, `srun` starts them")
    rendezvous: str | None = Field(
        None,
        pattern=r"^[^\s:]+(:\d{1,5})?$",
        description="host or host:port of the first node, where the others find it; default: its name and "
        "a free port; it also keeps `srun` from being used",
    )
    loss_norm: Literal["token", "microbatch"] = Field(
        "token", description="loss is the mean over the labels of the global batch, or of each micro-batch"
    )
    loss_turns: Literal["all", "last"] = "all"
    loss_tokens: Literal["answer", "llava_next"] = Field(
        "answer",
        description="labels on answers with their end marker; or, as LLaVA-NeXT with Qwen, on whole "
        "assistant turns and on the turn markers and newlines of all roles",
    )
    system: str | None = Field(
        None,
        pattern=r"\S",
        description="system prompt of samples without one of their own; default: the chat template's",
    )
    image_first: bool = Field(
        False, description="the only image of a turn goes before its text, as LLaVA places it"
    )
    image_aspect: str | None = Field(
        None,
        pattern=r"^(base|pad|crop|anyres|anyres_max_[1-9]\d*)$",
        description="one tile (base), a square padded with the mean colour or cropped, or tiles (anyres; "
        "anyres_max_9: with a limit); default: as the base has it; see training/aspects.py",
    )
    image_grids: str | list[tuple[int, int]] | None = Field(
        None,
        description="sizes that tiles are laid on: [height, width] in pixels, or in tiles `(1x1),...,(6x6)`",
    )
    save_steps: int | None = Field(
        None, gt=0, description="save a checkpoint to resume from every this many steps"
    )
    save_minutes: float | None = Field(
        20, gt=0, description="save one also after this many minutes without one; null: never by time"
    )
    loss_spike: float | None = Field(
        None, gt=1, description="stop when a step's loss exceeds this many times the median of the 50 before"
    )
    max_length: int | None = Field(None, gt=0, description="tokens; for longer examples see `too_long`")
    too_long: Literal["drop", "truncate", "error"] = Field(
        "drop",
        description="examples longer than max_length are left out and counted apart from bad ones, truncated "
        "as LLaVA does (but never inside an image), or stop the training",
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="stop when more than this share of the examples is rejected"
    )
    grouping: Literal["random", "length", "modality_length"] = Field(
        "random",
        description="random; length: the examples of a step have like lengths, which changes what a step is "
        "made of; modality_length: as LLaVA's sampler, steps with images or without",
    )
    drop_last: bool = Field(False, description="leave out the last step of an epoch if it is smaller")
    cache_mb: int = Field(256, ge=0, description="RAM for decoded images")
    from_preset: FromPreset | None = Field(
        None,
        description="written by `preset`: the preset that these settings come from, and what was changed",
    )

    @field_validator("max_grad_norm", mode="before")
    @classmethod
    def _no_clipping_is_none(cls, value: Any) -> Any:
        return None if value in ("none", 0) else value

    @model_validator(mode="after")
    def _consistent(self) -> "FitSpec":
        if self.lora and self.freeze:
            raise ValueError("lora freezes everything but its adapters: leave `freeze` empty")
        if self.train_parts and not self.lora:
            raise ValueError("train_parts are parts beside LoRA's adapters: give `lora`, or use `freeze`")
        if self.lora and (both := set(self.lora.parts) & set(self.train_parts)):
            raise ValueError(
                f"{sorted(both)}: a part has adapters (lora.parts) or is in train_parts, not both"
            )
        if set(self.freeze) == {"vision", "projector", "language"}:
            raise ValueError("all parts are frozen: nothing to train")
        if self.loss_tokens == "llava_next" and self.loss_turns == "last":
            raise ValueError("loss_tokens: llava_next labels all turns; leave `loss_turns` at all")
        return self

    def trained(self) -> tuple[Part, ...]:
        """The parts whose own weights are trained; adapters are beside them."""
        if self.lora:
            return self.train_parts
        return tuple(part for part in PARTS if part not in self.freeze)

    def distributed(self) -> bool:
        """Whether the training runs in torchrun processes of its own."""
        return bool(self.deepspeed) or (self.processes or 1) > 1 or self.nodes > 1

    def render_rules(self) -> "RenderRules":
        """What decides the texts and labels of the examples."""
        from training.render import RenderRules

        return RenderRules(self.system, self.image_first, self.loss_tokens, self.loss_turns)

    def lr_of(self) -> dict[str, float]:
        """Peak learning rate of each part."""
        return {part: self.part_lr.get(part, self.lr) for part in ("vision", "projector", "language")}

    def doubts(self, parameters: int) -> list[str]:
        """Settings that rarely suit a model of so many parameters, each with what to consider.

        The defaults suit models of some millions. Published rates for 7B are 1e-5 to 2e-5, with LoRA 2e-4
        (Liu et al., arXiv 2310.03744; Li et al., arXiv 2408.03326).
        """
        if parameters <= LARGE:
            return []
        usual, high = ("1e-4 to 2e-4", 1e-3) if self.lora else ("1e-5 to 2e-5", 1e-4)
        doubts = []
        if max(self.lr_of().values()) >= high:
            doubts.append(f"lr {max(self.lr_of().values()):g}: {usual} are usual")
        if self.precision == "fp32":
            doubts.append("precision fp32: bf16 takes half the memory and is several times faster on a GPU")
        if not self.gradient_checkpointing:
            doubts.append("gradient_checkpointing false: activations may not fit into a GPU's memory")
        if self.grouping == "length":
            doubts.append(
                "grouping length: steps of like lengths; pack_tokens is as fast and keeps them random"
            )
        return [f"{doubt} for a model of {parameters / 1e9:.1f}B parameters" for doubt in doubts]

    def identity(self, limits: bool = False) -> dict[str, Any]:
        """The fields that decide the outcome, as JSON values; `limits`: also those that may refuse it."""
        return self.model_dump(mode="json", include=set(self.deciding(self.loss_norm, limits)))

    @classmethod
    @cache
    def deciding(cls, loss_norm: str, limits: bool = False) -> frozenset[str]:
        """The names of these fields."""
        left_out = OPERATIONAL.keys() | (set() if limits else LIMITS.keys())
        if loss_norm == "microbatch":
            left_out -= PER_MICROBATCH
        return frozenset(cls.model_fields.keys() - left_out)
