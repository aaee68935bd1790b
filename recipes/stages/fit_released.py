"""A finished scorer or styler in place of a training: converted where it has LLaVA-NeXT's layout, linked where it is a checkpoint."""

from pathlib import Path
from typing import Any

CODE = ("training/convert.py", "training/llava_next.py", "training/models.py")


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Leaves a checkpoint directory in `out`."""
    from training.convert import convert_llava_next, is_llava_next_layout

    source = inputs["model"]
    if is_llava_next_layout(source):
        convert_llava_next(source, out)
        progress.say(f"{source}: converted from LLaVA-NeXT's layout")
        return {"converted": True}
    for file in source.iterdir():
        (out / file.name).symlink_to(file.resolve())
    return {"converted": False}
