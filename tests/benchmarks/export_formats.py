"""Exports: their speed at the size of real pools, and that LLaMA-Factory and ms-swift load what is written.

    OMP_NUM_THREADS=1 python tests/benchmarks/export_formats.py speed --records 2600000 --share 10%
    python tests/benchmarks/export_formats.py load --llamafactory VENV/bin/python --swift VENV/bin/python

`speed` generates a LLaVA list (about 900 bytes a record) with images, builds a pool, chooses at random and
exports in every format, each in a process of its own. CPU seconds are those of the process with all imports;
the unit beside them is a plain copy of as many bytes (read and write in pieces of 1 MB). `load` needs an
interpreter with each library; torch and the pinned versions of `datasets` and transformers make that an
environment of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

IMAGES = 1000
TEXT_FORMATS = ("llava", "jsonl", "llamafactory", "swift", "ids")
IMAGE_FORMATS = ("datasets", "parquet", "webdataset")


def write_source(folder: Path, records: int) -> None:
    """data.json of `records` LLaVA records, every fifth of text alone, and `IMAGES` JPEGs of 224 x 224."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(IMAGES):
        small = Image.fromarray(rng.integers(0, 255, (14, 14, 3), np.uint8))
        small.resize((224, 224)).save(folder / "images" / f"{number}.jpg", quality=90)
    words = np.array([f"w{number:x}" for number in rng.integers(0, 1 << 20, 4096)])
    texts = [[" ".join(words[rng.integers(0, 4096, 24)]) for _ in range(4)] for _ in range(997)]
    with (folder / "data.json").open("w") as file:
        for number in range(records):
            image = number % 5 != 4
            said = [("<image>\n" if image else "") + texts[number % 997][0], *texts[number % 997][1:]]
            turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
            held = {"image": f"{number % IMAGES}.jpg"} if image else {}
            record = {"id": f"{number:09d}", **held, "conversations": turns, "source": f"s{number % 90}"}
            file.write(("[" if number == 0 else ",\n") + json.dumps(record))
        file.write("]\n")


def run(*arguments: object) -> tuple[float, float, float]:
    """(CPU seconds, wall seconds, peak in MB) of `python -m ...`."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - start, usage.ru_maxrss / 1024


def copy_seconds(source: Path, target: Path, size: int) -> float:
    """CPU seconds of a copy of the first `size` bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with source.open("rb") as file, target.open("wb") as out:
        left = size
        while left and (piece := file.read(min(left, 1 << 20))):
            out.write(piece)
            left -= len(piece)
    after = resource.getrusage(resource.RUSAGE_SELF)
    target.unlink()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def size_of(out: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return (
        out.stat().st_size if out.is_file() else sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    )


def measure(folder: Path, share: str, formats: tuple[str, ...]) -> Iterator[str]:
    """Select from folder/pool and export; yields the lines of the table."""
    run("curation.select", "random", "--pool", folder / "pool", "--budget", share, "--out", folder / "subset")
    samples = json.loads((folder / "subset" / "manifest.json").read_text())["budget"]["samples"]
    source = ["--pool", folder / "pool", "--out", folder / "out", "--no-card"]
    for form in formats:
        cpu, wall, peak = run("curation.export", folder / "subset", *source, "--format", form, "--overwrite")
        size = size_of(folder / "out")
        unit = copy_seconds(folder / "data.json", folder / "copy", min(size, size_of(folder / "data.json")))
        yield (
            f"| {form} | {samples:,} | {size / 1e6:,.0f} | {cpu:.1f} | {wall:.1f} | {peak:,.0f} | "
            f"{unit:.2f} | {cpu / unit:.0f} |"
        )
        subprocess.run(["rm", "-rf", str(folder / "out")], check=True)


def speed(options: argparse.Namespace) -> None:
    """Print the table of CPU seconds."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_source(folder, options.records)
        size = size_of(folder / "data.json")
        cpu, wall, _ = run(
            *("curation.pool", "build", folder / "data.json", "--images", folder / "images"),
            *("--out", folder / "pool"),
        )
        print(f"{options.records:,} records, {size / 1e6:,.0f} MB; build {cpu:.0f} CPU s, {wall:.0f} s")
        print("| format | samples | MB | CPU s | s | peak MB | copy, CPU s | ratio |")
        for line in measure(folder, options.share, tuple(options.formats)):
            print(line, flush=True)


LLAMAFACTORY = """
import json, sys
from importlib.metadata import version
from transformers import Seq2SeqTrainingArguments
from llamafactory.data.loader import _load_single_dataset
from llamafactory.data.parser import get_dataset_list
from llamafactory.hparams import DataArguments, ModelArguments
folder, cache = sys.argv[1:]
(name,) = json.load(open(folder + "/dataset_info.json"))
(attributes,) = get_dataset_list([name], folder)
data = DataArguments(dataset=name, dataset_dir=folder, media_dir=folder)
training = Seq2SeqTrainingArguments(output_dir=cache)
model = ModelArguments(model_name_or_path="-", cache_dir=cache)
loaded = _load_single_dataset(attributes, model, data, training)
said = []
for line in loaded:
    system = [{"role": "system", "content": line["_system"]}] if line["_system"] else []
    said.append([system + line["_prompt"] + line["_response"], line["_images"] or []])
versions = {name: version(name) for name in ("llamafactory", "datasets", "transformers")}
print(json.dumps([versions, said]))
"""
SWIFT = """
import json, sys
from importlib.metadata import version
from swift.dataset import load_dataset
loaded, _ = load_dataset([sys.argv[1]], num_proc=1, split_dataset_ratio=0, strict=True)
said = [[line["messages"], [image["path"] for image in line["images"] or []]] for line in loaded]
versions = {name: version(name) for name in ("ms-swift", "datasets", "transformers")}
print(json.dumps([versions, said]))
"""


def load(options: argparse.Namespace) -> None:
    """Export the pool of the tests, load it with each library, and compare every message and image."""
    from export_world import CHOSEN, build_world

    from curation.export.__main__ import main as export
    from curation.export.job import messages
    from curation.pool.read import Pool

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = build_world(Path(name))
        expected = list(Pool.open(folder / "pool").samples(CHOSEN))
        for form, code, interpreter, out, more in (
            (
                "llamafactory",
                LLAMAFACTORY,
                options.llamafactory,
                "lf",
                ["--copy-images", str(folder / "lf" / "i")],
            ),
            ("swift", SWIFT, options.swift, "swift.jsonl", []),
        ):
            if interpreter is None:
                continue
            given = [str(folder / "subset"), "--pool", str(folder / "pool"), "--out", str(folder / out)]
            assert export([*given, "--format", form, *more]) == 0
            command = [interpreter, "-c", code, str(folder / out), str(folder / "cache")]
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "MODELSCOPE_CACHE": str(folder / "cache")}
            done = subprocess.run(
                command, stdout=subprocess.PIPE, env=environment, cwd=folder, check=True, text=True
            )
            versions, said = json.loads(done.stdout.splitlines()[-1])
            for (spoken, images), sample in zip(said, expected, strict=True):
                assert spoken == messages(sample)
                pixels = [Path(path).read_bytes() for path in images]
                assert pixels == [path.read_bytes() for path in sample.images]
            print(f"{form}: {len(said)} samples with every message and image as in the pool; {versions}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write temporary files (default: that of the system)"
    )
    commands = parser.add_subparsers(required=True)
    timed = commands.add_parser("speed")
    timed.add_argument("--records", type=int, default=2_600_000)
    timed.add_argument("--share", default="10%")
    timed.add_argument("--formats", nargs="+", default=TEXT_FORMATS, choices=TEXT_FORMATS + IMAGE_FORMATS)
    timed.set_defaults(run=speed)
    loaded = commands.add_parser("load")
    loaded.add_argument("--llamafactory", metavar="PYTHON")
    loaded.add_argument("--swift", metavar="PYTHON")
    loaded.set_defaults(run=load)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
