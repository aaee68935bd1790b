"""The formats of an export: who reads them, and what their output consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curation.export import datasets, ids, llamafactory, llava, parquet, swift, webdataset
from curation.export.job import Job

Images = Literal["own", "paths", "bytes", "either", "none"]
"""Images are named as in the source, by paths of the export, held as bytes, one of both, or not at all."""


@dataclass(frozen=True)
class Format:
    """`write(job, out)` writes the file or into the folder `out` and returns counts by name.

    folder: the output is a folder. suffix: for a path with this suffix it is a file all the same.
    data_files: pattern of the data's files in the folder, for the card.
    """

    write: Callable[[Job, Path], dict[str, int]]
    about: str
    images: Images
    folder: bool = False
    suffix: str | None = None
    data_files: str | None = None

    def is_folder(self, out: Path) -> bool:
        """Whether an export to `out` is a folder."""
        return self.folder and (self.suffix is None or out.suffix != self.suffix)


FORMATS = {
    "llava": Format(
        llava.write, "JSON list (JSON Lines for .jsonl), each record byte for byte", "own", data_files="{out}"
    ),
    "jsonl": Format(llava.write, "the same records as JSON Lines", "own", data_files="{out}"),
    "llamafactory": Format(
        llamafactory.write,
        "folder for LLaMA-Factory: messages, and dataset_info.json",
        "paths",
        folder=True,
        data_files="{name}.json",
    ),
    "swift": Format(
        swift.write,
        "JSON Lines (a list for .json) for ms-swift: messages, images",
        "paths",
        data_files="{out}",
    ),
    "datasets": Format(
        datasets.write,
        "folder for datasets.load_from_disk, with the images",
        "either",
        folder=True,
        data_files="data-*.arrow",
    ),
    "parquet": Format(
        parquet.write,
        "Parquet with the images, as LLaVA-OneVision-Data: a folder, or one file for .parquet",
        "either",
        folder=True,
        suffix=".parquet",
        data_files="data/train-*.parquet",
    ),
    "webdataset": Format(
        webdataset.write,
        "folder of tar shards with the images",
        "bytes",
        folder=True,
        data_files="{name}-*.tar",
    ),
    "ids": Format(ids.write, "the ids, one a line", "none"),
}
