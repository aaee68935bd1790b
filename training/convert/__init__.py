"""Starting points that Transformers cannot load, as Hugging Face checkpoints with the Hub's key names.

- `llava_layout`: checkpoints that LLaVA's or LLaVA-NeXT's own code wrote (LLaVA-1.5, LLaVA-NeXT, OneVision)
- `assembled`: a language model, a vision tower and a projector file
- `blueprint` decides the class and the image mode; `config`, `processor`, `weights`, `write` make it;
  `source`, `language`, `tower`, `images` read what it is made of

    convert_llava_next("llava-v1.5-7b", Path("checkpoints/llava15"))
    assemble("vicuna-7b-v1.5", "clip-vit-large-patch14-336", Path("mm_projector.bin"), Path("start"))
"""

from training.convert.assembled import assemble
from training.convert.llava_layout import convert_llava_next, is_llava_next_layout
from training.convert.source import ConversionError

__all__ = ["ConversionError", "assemble", "convert_llava_next", "is_llava_next_layout"]
