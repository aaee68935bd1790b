"""A starting point from its parts: a language model, a vision tower and a projector file.

So begins LLaVA-1.5's second stage: Vicuna, CLIP and the `mm_projector.bin` of the first (arXiv 2310.03744,
section 3.4).
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.blueprint import Blueprint
from training.convert.images import read_images
from training.convert.language import config_alone
from training.convert.source import ConversionError, directory, read_tokenizer, weight_files
from training.convert.tower import describe
from training.convert.weights import Stream, language_names, projector_names, tower_names
from training.convert.write import write

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    import torch
    from transformers import PreTrainedTokenizerBase

ONEVISION = ("anyres_max_9", "(1x1),...,(6x6)")
"""Image aspect and grids of LLaVA-OneVision (arXiv 2408.03326, section 3.2)."""


def assemble(
    language: str | Path,
    vision: str | Path,
    projector: Path,
    out: Path,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    image_aspect: str | None = None,
    grids: Any = None,
    image_mode: str | None = None,
    seed: int = 0,
) -> Path:
    """Write the checkpoint that the three parts make to the directory `out`.

    language, vision: directory or Hub name of a Llama, Mistral, Qwen2 or Qwen3, and of a CLIP or SigLIP.
    projector: two linear layers, as LLaVA's first stage saves them (`mm_projector.bin`) or as safetensors.
    tokenizer: as in `convert_llava_next`.
    image_aspect: "pad" by default for CLIP, which makes a LLaVA-1.5; "anyres_max_9" for SigLIP, which makes a
        LLaVA-OneVision. "anyres" with CLIP makes a LLaVA-NeXT. grids: for anyres, as in `convert_llava_next`;
        by default (1x1),...,(6x6) for SigLIP.
    image_mode: as in `convert_llava_next`.
    seed: of the `image_newline` of a LLaVA-NeXT or -OneVision, when the projector file has none.
    Raises ConversionError, HubError.
    """
    out, projector = Path(out), Path(projector)
    if not projector.is_file():
        raise ConversionError(f"the projector file {projector} does not exist")
    folder = directory(language)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConversionError(f"{out} is inside the source {folder}: choose another directory")
    text, tower = config_alone(folder), describe(str(vision), None)
    usual, usual_grids = ("pad", None) if tower.kind == "clip" else ONEVISION
    images = read_images(image_aspect or usual, grids or usual_grids, tower.side)
    merge = "flat" if tower.kind == "clip" and not images.tiled else "spatial_unpad"
    blueprint = Blueprint(text, tower, merge, images, image_mode)
    decided = blueprint.record()
    files, tower_files = (
        weight_files(folder),
        weight_files(directory(vision)),
    )
    record = {
        "source": {"language": str(language), "vision": str(vision), "projector": str(projector)},
        "vision_tower": str(tower_files[0].parent),
        **decided,
    }
    made = {} if merge == "flat" else {"model.image_newline": _newline(text.hidden_size, seed)}
    return write(
        blueprint,
        tokenizer or read_tokenizer(folder),
        lambda model: [
            Stream(files, language_names()),
            Stream(tower_files, tower_names(model)),
            Stream([projector], projector_names()),
        ],
        out,
        record,
        made,
    )


def _newline(width: int, seed: int) -> "torch.Tensor":
    """LLaVA-NeXT's first value of `image_newline` [width]: normal with standard deviation 1 / sqrt(width)."""
    import torch

    return torch.randn(width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
