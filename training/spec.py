"""The settings that decide the outcome of a training, as a pydantic model that recipes embed."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Part = Literal["vision", "projector", "language"]


class LoraSpec(BaseModel):
    """Low-rank adapters on the linear layers of `parts`; the rest of the model is frozen."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    r: int = Field(16, gt=0, description="rank")
    alpha: float = Field(32, gt=0, description="scale numerator: the update is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    parts: tuple[Part, ...] = ("language",)


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
    micro_batch: int | None = Field(None, gt=0, description="examples per forward pass of a process")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1, description="fraction of the steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(
        1.0, ge=0, description="the gradient norm is clipped to this; 0: no clipping"
    )
    seed: int = Field(0, ge=0)
    lora: LoraSpec | None = None
    freeze: tuple[Part, ...] = ()
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    deepspeed: str | None = Field(None, description="zero2, zero3 or the path of a DeepSpeed JSON config")
    processes: int | None = Field(None, gt=0, description="DeepSpeed processes; default: GPUs, or 2 on CPU")
    loss_norm: Literal["token", "microbatch"] = Field(
        "token", description="loss is the mean over the labels of the global batch, or of each micro-batch"
    )
    loss_turns: Literal["all", "last"] = "all"
    save_steps: int | None = Field(
        None, gt=0, description="save a checkpoint to resume from every this many steps"
    )
    max_length: int | None = Field(None, gt=0, description="tokens; longer examples are rejected and counted")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="stop when more than this share of the examples is rejected"
    )
    grouping: Literal["random", "length"] = "random"
    cache_mb: int = Field(256, ge=0, description="RAM for decoded images")

    @model_validator(mode="after")
    def _consistent(self) -> "FitSpec":
        if self.lora and self.freeze:
            raise ValueError("lora freezes everything but its adapters: leave `freeze` empty")
        if set(self.freeze) == {"vision", "projector", "language"}:
            raise ValueError("all parts are frozen: nothing to train")
        return self

    def lr_of(self) -> dict[str, float]:
        """Peak learning rate of each part."""
        return {part: self.part_lr.get(part, self.lr) for part in ("vision", "projector", "language")}
