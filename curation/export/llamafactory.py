"""LLaMA-Factory: a folder to give as `dataset_dir`, with the records and the dataset_info.json they need.

The records are in its ShareGPT form with the tags of OpenAI's messages. Image paths are absolute, or relative
to the folder (`media_dir`, which is `dataset_dir` unless set) if the images were copied into it.
"""

from pathlib import Path

from curation import atomic
from curation.export.job import Job, messages, with_extras
from curation.export.json_file import write_records

ROLES = {"role_tag": "role", "content_tag": "content"} | {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def write(job: Job, out: Path) -> dict[str, int]:
    """Write `NAME.json` and `dataset_info.json` into the folder `out`."""
    # A list: of JSON Lines `datasets` takes the types from the first 10 MB, and fails if
    # these hold text alone. Every record has the key `images` for the same reason.
    paths = job.pictures.paths
    write_records(
        out / f"{job.name}.json",
        (with_extras(s, {"messages": messages(s), "images": paths(s)}) for s in job.samples()),
        lines=False,
    )
    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": f"{job.name}.json", "formatting": "sharegpt", "columns": columns, "tags": ROLES}
    atomic.write_json(out / "dataset_info.json", {job.name: entry})
    return {}
