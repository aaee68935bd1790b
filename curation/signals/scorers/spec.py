"""Settings of a training of a model and a score net together, as pydantic models that recipes embed.

Rates, batch and adapters are those of LLaVA-1.5's training with LoRA (a reading: the facts we have of both
methods name the number of epochs of Self-Filter only).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from training.spec import LoraSpec, Part

OPERATIONAL = {"micro_batch", "gradient_checkpointing", "save_steps"}
"""Fields that change how a step is computed, but not its outcome."""


class JointSpec(BaseModel):
    """One process trains both; the weights of a batch come from the scores of all its samples."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    epochs: float = Field(3, gt=0, le=1000, description="passes over the samples that are trained on")
    max_steps: int | None = Field(None, gt=0, description="optimizer steps, in place of epochs")
    lr: float = Field(2e-4, gt=0, description="peak learning rate of the model")
    net_lr: float = Field(1e-3, gt=0, description="peak learning rate of the score net")
    batch_size: int = Field(128, gt=1, description="samples of a step, between which the weights are shared")
    micro_batch: int | None = Field(16, gt=0, description="samples of a forward pass; null: all of a step")
    warmup: float = Field(0.03, ge=0, lt=1, description="fraction of the steps; then a cosine to 0")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="the gradient norm of the model is clipped to this")
    seed: int = Field(0, ge=0, description="draws the batches, the adapters and the net")
    lora: LoraSpec | None = Field(
        LoraSpec(r=128, alpha=256), description="adapters; null: all parts that are not frozen are trained"
    )
    freeze: tuple[Part, ...] = ()
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = True
    save_steps: int = Field(200, gt=0, description="steps between states that a killed run resumes from")

    def steps(self, samples: int) -> int:
        """Optimizer steps of a training on so many samples."""
        per_epoch = -(-samples // self.batch_size)
        return self.max_steps or max(1, round(self.epochs * per_epoch))


class PartSpec(JointSpec):
    """On a part of the pool, once."""

    epochs: float = Field(1, gt=0, le=1000, description="passes over the samples that are trained on")
