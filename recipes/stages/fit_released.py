"""Use a released scorer or styler: convert it from LLaVA-NeXT's layout, or link a Hugging Face checkpoint."""

from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes a checkpoint directory, or links to the files of one."""
    from training.convert import convert_llava_next, is_llava_next_layout

    source = inputs["model"]
    if is_llava_next_layout(source):
        # One tile per image is how mmSSR runs its raters, which it trained with anyres.
        convert_llava_next(source, out, image_mode="base")
        progress.say(f"converted {source} from LLaVA-NeXT's layout")
        return {"converted": True}
    for file in source.iterdir():
        (out / file.name).symlink_to(file.resolve())
    return {"converted": False}
