"""WebDataset: tar shards of KEY.json and KEY.jpg, or KEY.0.jpg, KEY.1.png, ... for several images.

KEY is the rank in nine digits, the same as in the table of rows. KEY.json is the record in LLaVA's form; its
`image` names the images' files in the shard.
"""

import io
import tarfile
from pathlib import Path

import msgspec

from curation.export.job import Job, conversations, with_extras
from curation.export.pictures import suffix
from curation.pool.sample import Sample

_BLOCK = 512


def write(job: Job, out: Path) -> dict[str, int]:
    """Write `NAME-000000.tar`, ... into the folder `out`; a shard holds whole samples."""
    shards, size, tar = 0, 0, None
    try:
        for rank, sample in enumerate(job.samples()):
            members = _members(job, sample, f"{rank:09d}")
            needed = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
            if tar is None or size + needed > job.shard_bytes:
                if tar is not None:
                    tar.close()
                tar, size = tarfile.open(out / f"{job.name}-{shards:06d}.tar", "w"), 0
                shards += 1
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
            size += needed
    finally:
        if tar is not None:
            tar.close()
    return {"shards": shards}


def _members(job: Job, sample: Sample, key: str) -> list[tuple[str, bytes]]:
    """(file name, bytes) of the sample's files, the record first."""
    images = job.pictures.read(sample)
    single = len(images) == 1
    names = [
        f"{key}.{suffix(name, data)}" if single else f"{key}.{number}.{suffix(name, data)}"
        for number, (name, data) in enumerate(images)
    ]
    held = {"image": names[0] if single else names} if names else {}
    record = with_extras(sample, {**held, "conversations": conversations(sample)})
    files = [(name, data) for name, (_, data) in zip(names, images, strict=True)]
    return [(f"{key}.json", msgspec.json.encode(record)), *files]
