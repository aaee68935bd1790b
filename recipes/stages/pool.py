"""Ingest a LLaVA JSON file: audit, quarantine, unique ids, token counts."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes pool.parquet, quarantine.parquet and pool.json; returns counts of samples and tokens."""
    from curation.pool.ingest import build_pool

    drawn = config["kind"] == "mini"
    source = inputs["source"] / "pool.json" if drawn else inputs["source"]
    info = build_pool(
        source,
        inputs["source"] if drawn else inputs.get("images"),
        out,
        tokenizer=inputs["tokenizer"],
        image_tokens=tokens_per_image(inputs["tokenizer"]),
        max_bad_fraction=config["max_bad_fraction"],
        limit=config["limit"],
        on_progress=counter(progress),
    )
    progress.say(
        f"{info['n']} samples, {sum(info['quarantined'].values())} quarantined, "
        f"{info['text_tokens']['total']:,} text tokens"
    )
    return {
        "samples": info["n"],
        "records": info["records"],
        "quarantined": info["quarantined"],
        "ids": info["ids"],
        "text_tokens": info["text_tokens"]["total"],
        "sources": info["sources"],
    }


def tokens_per_image(model_dir: Path) -> int | None:
    """Tokens of an image for models where all images have the same number (image_mode base), else None."""
    config_file = Path(model_dir) / "config.json"
    config = json.loads(config_file.read_text()) if config_file.is_file() else {}
    if config.get("image_mode") != "base":
        return None
    vision = config["vision_config"]
    # One token per patch, and one that the LLaVA-OneVision template adds at the end of an image.
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1
