"""Index and audit a pool: the records of its files, their images, quarantine, unique ids."""

import json
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True
READ = ("format", "image_key", "source_key", "source_depth", "allow_outside")
SHOWN_KEYS = 10


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes the pool, and audit.md after a full audit; returns counts of samples and tokens."""
    from curation.pool.ingest import Options, build_pool

    drawn = config["kind"] == "mini"
    settings: dict[str, Any] = {"audit": config["audit"]}
    settings |= {key: config[key] for key in READ if key in config}
    if config.get("max_pixels"):
        settings["max_pixels"] = config["max_pixels"]
    info = build_pool(
        inputs["source"] / "pool.json" if drawn else inputs["source"],
        inputs["source"] if drawn else inputs.get("images"),
        out,
        options=Options(**settings),
        tokenizer=inputs.get("tokenizer"),
        image_tokens=tokens_per_image(inputs["tokenizer"]) if "tokenizer" in inputs else None,
        max_bad_fraction=config["max_bad_fraction"],
        limit=config["limit"],
        workers=0 if drawn else None,  # nothing of its own drawing can end this process
        on_progress=counter(progress),
    )
    _forget_times(out / "images.parquet")
    for line in _lines(info):
        progress.say(line)
    return {
        "samples": info["n"],
        "records": info["records"],
        "quarantined": info["quarantined"],
        "ids": info["ids"],
        "text_tokens": info["text_tokens"],
        "sources": info["sources"],
        "audit": info["audit"],
    }


def _forget_times(path: Path) -> None:
    """Take out when each image was written: of the same files, copied or drawn again, it is the same pool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from curation import atomic

    table = pq.read_table(path)
    place = table.schema.get_field_index("mtime_ns")
    table = table.set_column(place, table.schema.field(place), pa.nulls(len(table), pa.int64()))
    with atomic.replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _lines(info: dict[str, Any]) -> list[str]:
    """What a user should know before anything is computed on the pool."""
    from curation.printable import printable

    lines = [f"{info['n']:,} samples, {sum(info['quarantined'].values()):,} quarantined"]
    if unknown := info.get("unknown_keys"):
        shown = [f"{printable(key)} {count:,}" for key, count in list(unknown.items())[:SHOWN_KEYS]]
        lines.append(f"keys of records that are not read: {', '.join(shown)}")
    if set(info["sources"]) == {"unknown"}:
        lines.append("all sources are unknown: name their key (pool.source_key), or their folder's depth")
    return [*lines, *info.get("notes", ())]


def tokens_per_image(model_dir: Path) -> int | None:
    """Tokens of an image for models where all images have the same number (image_mode base), else None."""
    config_file = Path(model_dir) / "config.json"
    config = json.loads(config_file.read_text()) if config_file.is_file() else {}
    if config.get("image_mode") != "base":
        return None
    vision = config["vision_config"]
    # One token per patch, and one that the LLaVA-OneVision template adds at the end of an image.
    return (vision["image_size"] // vision["patch_size"]) ** 2 + 1
