"""One small pool, written in every format that a pool can be built from."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from PIL import Image

Records = list[dict[str, Any]]


def picture(seed: int, kind: str = "PNG") -> bytes:
    """The bytes of a small image, different for each seed."""
    buffer = io.BytesIO()
    Image.new("RGB", (8 + seed, 8), (seed * 37 % 256, 80, 160)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {
    "coco/train/a.png": picture(0),
    "coco/b.jpg": picture(1, "JPEG"),
    "gqa/a.png": picture(2),
    "c.png": picture(3),
}


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


RECORDS: Records = [
    {
        "id": "a",
        "image": "coco/train/a.png",
        "source": "coco",
        "conversations": talk("<image>\nWas?", "Grün ☃"),
    },
    {
        "id": "b",
        "image": "coco/train/a.png",
        "source": "coco",
        "conversations": talk("<image>\nWhere?", "Left"),
    },
    {"id": "c", "image": None, "source": "chat", "conversations": talk("hi", "hello") + talk("sure?", "yes")},
    {
        "id": "d",
        "image": "gqa/a.png",
        "source": "gqa",
        "conversations": talk("<image>", "a 'cat' \\ \"dog\"\n"),
    },
    {"id": "e", "image": "c.png", "source": "own", "conversations": talk("what <image> ?", "so")},
    {"id": "f", "image": "coco/b.jpg", "source": "coco", "conversations": talk("<image> b", "yes")},
]
"""Each with at most one image, as most tables have; `PAIR` has two."""
PAIR = {
    "id": "p",
    "image": ["coco/b.jpg", "gqa/a.png"],
    "source": "pairs",
    "conversations": talk("<image> or <image>?", "the first"),
}


def write_pictures(folder: Path) -> Path:
    """The pictures as files, as a pool of paths has them; returns the folder."""
    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def json_text(records: Records) -> str:
    return json.dumps(records, ensure_ascii=False, indent=1)


def lines_text(records: Records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _dict(folder: Path, records: Records) -> Path:
    by_id = {r["id"]: {k: v for k, v in r.items() if k != "id"} for r in records}
    return _written(folder / "data.json", json.dumps(by_id).encode())


def _folder(folder: Path, records: Records) -> Path:
    _written(folder / "in" / "1.json", json_text(records[:2]).encode())
    _written(folder / "in" / "2.jsonl", lines_text(records[2:4]).encode())
    _written(folder / "in" / "more" / "3.jsonl.gz", gzip.compress(lines_text(records[4:]).encode()))
    return folder / "in"


def _mixture(folder: Path, records: Records) -> Path:
    _written(folder / "one.json", json_text(records[:3]).encode())
    _written(folder / "two.jsonl", lines_text(records[3:]).encode())
    text = "datasets:\n  - json_path: one.json\n    sampling_strategy: all\n  - {json_path: two.jsonl}\n"
    return _written(folder / "mix.yaml", text.encode())


def embedded(records: Records, key: str = "image") -> Records:
    """The records with {bytes, path} for each picture, as tables hold them."""

    def held(name: Any) -> Any:
        if isinstance(name, list):
            return [held(one) for one in name]
        return None if name is None else {"bytes": PICTURES[name], "path": name}

    return [{k: v for k, v in r.items() if k != "image"} | {key: held(r["image"])} for r in records]


def parquet(path: Path, rows: Records, row_group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group)
    return path


def table_bytes(rows: Records) -> bytes:
    """A Parquet file of the rows."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def dataset(rows: Records) -> Any:
    """A `datasets.Dataset` of the rows whose image column is one."""
    from datasets import Dataset
    from datasets import Image as ImageColumn

    return Dataset.from_list(rows).cast_column("image", ImageColumn())


def _saved(folder: Path, records: Records) -> Path:
    dataset(embedded(records)).save_to_disk(folder / "saved", num_shards=2)
    return folder / "saved"


def _saved_splits(folder: Path, records: Records) -> Path:
    from datasets import DatasetDict

    splits = {"train": dataset(embedded(records)), "test": dataset(embedded(records[:1]))}
    DatasetDict(splits).save_to_disk(folder / "splits")
    return folder / "splits"


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def tar(path: Path, records: Records, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for record in records:
            names = record["image"] if isinstance(record["image"], list) else [record["image"]]
            for number, name in enumerate(n for n in names if n):
                suffix = name.rpartition(".")[2]
                member = (
                    f"{record['id']}.{suffix}" if len(names) == 1 else f"{record['id']}.{number}.{suffix}"
                )
                add_member(archive, member, PICTURES[name])
            add_member(archive, f"{record['id']}.json", json.dumps(record).encode())
    return path


def messages(records: Records) -> Records:
    """LLaMA-Factory's form."""
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {
            "id": r["id"],
            "source": r["source"],
            "images": r["image"] if isinstance(r["image"], list) else [r["image"]] if r["image"] else [],
            "messages": [{"role": roles[t["from"]], "content": t["value"]} for t in r["conversations"]],
        }
        for r in records
    ]


def queries(records: Records) -> Records:
    """ms-swift's form."""
    rows = []
    for record, other in zip(records, messages(records), strict=True):
        texts = [turn["value"] for turn in record["conversations"]]
        history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
        kept = {key: other[key] for key in ("id", "source", "images")}
        rows.append(kept | {"query": texts[-2], "response": texts[-1], "history": history})
    return rows


FORMATS: dict[str, Callable[[Path, Records], Path]] = {
    "list": lambda folder, records: _written(folder / "data.json", json_text(records).encode()),
    "lines": lambda folder, records: _written(folder / "data.jsonl", lines_text(records).encode()),
    "bom": lambda folder, records: _written(folder / "d.json", json_text(records).encode("utf-8-sig")),
    "gzip": lambda folder, records: _written(
        folder / "d.json.gz", gzip.compress(json_text(records).encode())
    ),
    "gzip_lines": lambda folder, records: _written(folder / "x", gzip.compress(lines_text(records).encode())),
    "zstd": lambda folder, records: _written(folder / "d", zstandard.compress(json_text(records).encode())),
    "utf16": lambda folder, records: _written(folder / "d.json", json_text(records).encode("utf-16")),
    "utf16_be_lines": lambda folder, records: _written(
        folder / "d.jsonl", b"\xfe\xff" + lines_text(records).encode("utf-16-be")
    ),
    "utf32": lambda folder, records: _written(folder / "d.json", json_text(records).encode("utf-32")),
    "utf16_in_gzip": lambda folder, records: _written(
        folder / "d.gz", gzip.compress(json_text(records).encode("utf-16"))
    ),
    "dict": _dict,
    "folder": _folder,
    "mixture": _mixture,
    "parquet": lambda folder, records: parquet(folder / "d.parquet", embedded(records)),
    "parquet_lists": lambda folder, records: parquet(
        folder / "d.parquet",
        [row | {"images": [row["images"]] if row["images"] else []} for row in embedded(records, "images")],
    ),
    "parquet_paths": lambda folder, records: parquet(folder / "d.parquet", records),
    "datasets": _saved,
    "datasets_splits": _saved_splits,
    "webdataset": lambda folder, records: tar(folder / "d.tar", records),
    "webdataset_gzip": lambda folder, records: tar(folder / "d.tar.gz", records, "w:gz"),
    "llamafactory": lambda folder, records: _written(
        folder / "d.json", json_text(messages(records)).encode()
    ),
    "swift": lambda folder, records: _written(folder / "d.jsonl", lines_text(queries(records)).encode()),
}
"""Format -> a function that writes the records below a folder and returns what `pool build` is given."""
