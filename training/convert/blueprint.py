"""What a checkpoint becomes, decided before its weights are read.

| tower and merge type | class | image aspects |
| --- | --- | --- |
| `flat` (LLaVA-1.5) | LlavaForConditionalGeneration | pad, crop |
| `spatial_unpad`, CLIP (LLaVA-NeXT) | LlavaNextForConditionalGeneration | anyres |
| `spatial_unpad`, SigLIP (LLaVA-OneVision) | LlavaOnevisionForConditionalGeneration | pad, anyres |
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.convert.images import Images
from training.convert.source import ConversionError
from training.convert.tower import Tower

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from transformers import PretrainedConfig

IMAGE_MODES = {
    "llava": ("pad", "crop"),
    "llava_next": ("anyres",),
    "llava_onevision": ("base", "anyres"),
}
"""Class -> the values of `image_mode` that it knows; "base" is one padded tile and a newline.

"crop" is what the tower's own processor does: CLIP's crops the centre, SigLIP's resizes to the square.
"""


@dataclass(frozen=True)
class Blueprint:
    """All that is decided before weights are read.

    `text`: configuration of the language model. `merge`: LLaVA's `mm_patch_merge_type`, "flat" or
    "spatial_unpad". `image_mode`: None is what the aspect asks for.
    """

    text: "PretrainedConfig"
    tower: Tower
    merge: str
    images: Images
    image_mode: str | None = None

    @property
    def model_type(self) -> str:
        """`config.model_type` of the class; ConversionError if none computes the same."""
        if self.merge == "flat":
            if self.images.tiled:
                raise ConversionError(
                    f"the image aspect {self.images.aspect} needs mm_patch_merge_type spatial_unpad: "
                    "a model without image_newline takes pad or crop"
                )
            return "llava"
        if self.tower.kind == "siglip":
            return "llava_onevision"
        images, side = self.images, self.tower.side
        if not images.tiled or images.limit(side) < images.most_tiles(side):
            raise ConversionError(
                f"a LLaVA-NeXT with a CLIP tower needs the image aspect anyres, not {images.aspect}: "
                "Transformers' class tiles every image and scales no features down"
            )
        return "llava_next"

    @property
    def mode(self) -> str:
        """The `image_mode` of the checkpoint."""
        known = IMAGE_MODES[self.model_type]
        own = "anyres" if self.images.tiled else self.images.aspect
        chosen = self.image_mode or own
        if chosen in ("pad", "base"):  # one padded square, with or without the newline that OneVision adds
            chosen = next((name for name in ("pad", "base") if name in known), chosen)
        if chosen not in known or (chosen == "anyres" and not self.images.tiled):
            raise ConversionError(
                f"image_mode {chosen} does not fit {self.model_type} with the image aspect "
                f"{self.images.aspect}: it must be one of {', '.join(known)}"
            )
        return chosen

    def record(self) -> dict[str, str]:
        """What was decided, for conversion.json. Raises ConversionError if no class computes the same."""
        return {
            "image_aspect": self.images.aspect,
            "model": self.model_type,
            "image_mode": self.mode,
        }
