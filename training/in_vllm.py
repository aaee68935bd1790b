"""vLLM for checkpoints of this project: in this process or as a server, with images read as in training.

    llm = start("runs/sft", dtype="float32", max_images=1)
    python -m training.in_vllm serve runs/sft --port 8000 --dtype float32     # arguments of `vllm serve`

vLLM reads the Hub's names of weights only, and always tiles the images of LLaVA-OneVision (anyres). Here a
checkpoint with transformers' own names is opened through a renamed copy, and one whose config has the image
mode "base" gets one tile of each image, made by the code that makes it in training.
"""

import argparse
import copy
import json
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from training.hub import local_copy

# numpy, torch and transformers are imported by functions only, so that --help is instant.
if TYPE_CHECKING:
    from PIL import Image

    from training.render import Encoded


def import_vllm() -> Any:
    """The package vllm. Raises ImportError with an install hint."""
    try:
        import vllm
    except ImportError as error:
        raise ImportError("vLLM is not installed: pip install winnow[vllm]") from error
    return vllm


def start(
    checkpoint: str | Path,
    *,
    dtype: str = "auto",
    max_images: int = 1,
    image_mode: str | None = None,
    **options: Any,
) -> Any:
    """A `vllm.LLM` with its prefix cache on.

    dtype: as vLLM names it; its "auto" is the checkpoint's own. max_images: most images of one prompt.
    image_mode: "anyres" tiles images although the checkpoint's own mode is "base". options: further arguments
    of vllm.LLM. Raises ImportError with an install hint, HubError.
    """
    from training.models import load_processor

    vllm = import_vllm()
    folder = local_copy(checkpoint)
    if (image_mode or load_processor(folder)[1]) == "base":
        register_one_tile()
    if image_mode:
        options["hf_overrides"] = {**options.get("hf_overrides", {}), "image_mode": image_mode}
    scratch = TemporaryDirectory(prefix="winnow-vllm-")
    llm = vllm.LLM(
        model=str(with_hub_keys(folder, Path(scratch.name))),
        dtype=dtype,
        enable_prefix_caching=True,
        limit_mm_per_prompt={"image": max(max_images, 1)},
        **options,
    )
    weakref.finalize(llm, scratch.cleanup)
    return llm


def request_of(
    encoded: "Encoded", image_id: int, images: "Sequence[Image.Image]", ending: Sequence[int] = ()
) -> dict[str, Any]:
    """The request for a rendered prompt of any family, followed by the tokens `ending`.

    Each image's tokens, the placeholder and others, become one placeholder again: vLLM expands placeholders
    itself.
    """
    import numpy as np

    keep, ids = np.ones(len(encoded), bool), encoded.input_ids.copy()
    for start, stop in encoded.image_spans:
        ids[start], keep[start + 1 : stop] = image_id, False
    data = {"multi_modal_data": {"image": list(images)}} if images else {}
    return {"prompt_token_ids": [*ids[keep].tolist(), *ending], **data}


def with_hub_keys(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint itself if its weights have the Hub's names, else a copy in `folder` with those names.

    Files other than the weights are links. The copy is as large as the weights.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig

    from training.models import hub_key, quiet

    with quiet():
        config = AutoConfig.from_pretrained(str(checkpoint))
    files = sorted(checkpoint.glob("*.safetensors"))
    names = []
    for file in files:
        with safe_open(file, "pt") as opened:
            names += opened.keys()
    if all(hub_key(config, name) == name for name in names):
        return checkpoint
    for file in checkpoint.iterdir():
        if file not in files and not file.name.endswith(".index.json"):
            (folder / file.name).symlink_to(file.resolve())
    for file in files:
        weights = {hub_key(config, name): weight for name, weight in load_file(file).items()}
        save_file(weights, folder / file.name, metadata={"format": "pt"})
    for file in checkpoint.glob("*.safetensors.index.json"):
        index = json.loads(file.read_text())
        index["weight_map"] = {hub_key(config, name): part for name, part in index["weight_map"].items()}
        (folder / file.name).write_text(json.dumps(index))
    return folder


def register_one_tile() -> None:
    """Make vLLM, in this process, read LLaVA-OneVision's images in the mode of the checkpoint's config.

    vLLM prepares images and counts their tokens in the process that takes the requests: that is enough. Its
    model appends the newline to an image of one tile itself.
    """
    from vllm.model_executor.models import llava_onevision as onevision
    from vllm.multimodal import MULTIMODAL_REGISTRY

    class Info(onevision.LlavaOnevisionProcessingInfo):
        """Images as the config's `image_mode` says."""

        def get_hf_processor(self, **settings: Any) -> Any:
            processor = super().get_hf_processor(**settings)
            return one_tile(processor) if self._one_tile() else processor

        def get_num_image_tokens(self, **size: int) -> int:
            if self._one_tile():
                return self.get_hf_processor().num_image_tokens + 1
            return super().get_num_image_tokens(**size)

        def _one_tile(self) -> bool:
            return getattr(self.get_hf_config(), "image_mode", "anyres") == "base"

    MULTIMODAL_REGISTRY.register_processor(
        onevision.LlavaOnevisionMultiModalProcessor,
        info=Info,
        dummy_inputs=onevision.LlavaOnevisionDummyInputsBuilder,
    )(onevision.LlavaOnevisionForConditionalGeneration)


def one_tile(processor: Any) -> Any:
    """A copy of LLaVA-OneVision's processor that gives one tile of each image, as mode "base" in training."""
    from training.images import PixelLoader

    out = copy.copy(processor)
    out.image_processor = copy.copy(processor.image_processor)
    out.image_processor.__class__ = _one_tile_class(type(processor.image_processor))
    out.image_processor.tiles = PixelLoader(processor, "base", cache_mb=0)
    return out


@cache
def _one_tile_class(image_processor: type) -> type:
    from transformers import BatchFeature
    from transformers.image_utils import make_flat_list_of_images

    class OneTile(image_processor):
        """Pixels [images, 1, 3, side, side], and sizes that say so."""

        def __call__(self, images: Any, *args: Any, **settings: Any) -> Any:
            flat = make_flat_list_of_images(images)
            batch = self.tiles.batch([[self.tiles.read(image) for image in flat]])
            return BatchFeature({**batch, "pixel_values": batch["pixel_values"][:, None]})

    return OneTile


def main(arguments: list[str]) -> None:
    """`serve CHECKPOINT ...`: vLLM's own server, with the differences above.

    The model is served under the name it is given here, and no sampling setting comes from the checkpoint's
    generation_config.json. Raises ImportError with an install hint, HubError.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.in_vllm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("checkpoint", help="a checkpoint directory or Hub name; also the model's name")
    parser.add_argument("others", nargs=argparse.REMAINDER, help="arguments of `vllm serve`")
    given = parser.parse_args(arguments)
    import_vllm()
    from vllm.entrypoints.cli.main import main as vllm_main

    register_one_tile()
    with TemporaryDirectory(prefix="winnow-vllm-") as scratch:
        folder = with_hub_keys(local_copy(given.checkpoint), Path(scratch))
        own = ["--served-model-name", given.checkpoint, "--generation-config", "vllm"]
        sys.argv = ["vllm", "serve", str(folder), *own, "--enable-prefix-caching", *given.others]
        vllm_main()


if __name__ == "__main__":
    main(sys.argv[1:])
