"""How fast pools are built: a generated LLaVA file, in MB of JSON a CPU second, beside parsers alone.

python tests/benchmarks/ingest.py --records 1000000 --pictures 100000 --dir /tmp/ingest
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

WORDS = (
    "the a man woman dog sitting on table with red blue large small in front of near and is are holding "
    "looking at street water tree building plate food several image shows scene right left person background"
).split()
FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K")
BODIES = 20_000
PIECE = 64 << 20
LINKS = 50_000
"""Names of one file; ext4 allows 65,000."""


def main() -> None:
    """Generate what is missing, build in a process of its own, parse the same bytes, print a row."""
    options = _options()
    file = write_records(options.dir / f"{options.form}-{options.records}-{options.pictures}.json", options)
    write_pictures(options.dir / "images", options.pictures)
    size = file.stat().st_size / 1e6
    print(f"{options.records:,} records, {size:,.0f} MB, {options.pictures:,} pictures")
    if options.no_collector:
        gc.disable()
    if not options.no_parsers:
        for name, loads in parsers().items():
            seconds = sum(parse_seconds(loads, piece) for piece in pieces(file))
            print(f"{name:18} {size / seconds:6.1f} MB per CPU second ({seconds:.1f} s)", flush=True)
    images, out, workers = options.dir / "images", options.dir / "pool", options.workers
    command = [sys.executable, "-m", "curation.pool", "build", str(file), "--images", str(images)]
    wall, cpu, own, together = measure([*command, "--out", str(out), "--workers", str(workers)])
    print(
        f"{'pool build':18} {size / cpu:6.1f} MB per CPU second ({cpu:.1f} s), {wall:.1f} s wall with "
        f"{workers} workers, peak {own:,.0f} MB in the main process, {together:,.0f} MB with the workers"
    )


def write_records(path: Path, options: argparse.Namespace) -> Path:
    """A JSON list of about 920 bytes a record, as LLaVA-665K has them: one image, one to six questions."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    bodies = [json.dumps(in_form(_conversation(rng), options.form))[1:] for _ in range(BODIES)]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for row in range(options.records):
            picture = picture_name(rng.randrange(options.pictures))
            head = f'{{"id": "{row:012d}", "image": "{picture}", '
            file.write(f"{', ' if row else '['}{head}{bodies[rng.randrange(BODIES)]}")
        file.write("]")
    os.replace(temporary, path)
    return path


def _conversation(rng: random.Random) -> list[dict[str, str]]:
    turns = []
    for turn in range(rng.choice((1, 1, 2, 3, 5, 6))):
        question = " ".join(rng.choices(WORDS, k=rng.randint(5, 14))) + "?"
        answer = " ".join(rng.choices(WORDS, k=rng.choice((1, 2, 12, 35, 70)))) + "."
        turns.append({"from": "human", "value": ("" if turn else "<image>\n") + question})
        turns.append({"from": "gpt", "value": answer})
    return turns


def in_form(turns: list[dict[str, str]], form: str) -> dict[str, object]:
    """A record without id and image: plain LLaVA, with two keys that nobody reads, with a system turn, or in
    roles and contents."""
    if form == "keys":
        return {"model": "m", "split": "train", "conversations": turns}
    if form == "system":
        return {"conversations": [{"from": "system", "value": "Answer briefly."}, *turns]}
    if form == "messages":
        roles = {"human": "user", "gpt": "assistant"}
        return {"messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]}
    return {"conversations": turns}


def picture_name(number: int) -> str:
    """`coco/train2017/000000000005.jpg`."""
    return f"{FOLDERS[number % len(FOLDERS)]}/{number:012d}.jpg"


def write_pictures(folder: Path, count: int) -> None:
    """JPEG files of a few pixels: what is measured is the reading of headers, not of disks."""
    from PIL import Image

    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    picture = Image.effect_noise((32, 32), 60).convert("RGB")
    for number in range(count):
        path = folder / picture_name(number)
        if path.exists():
            continue
        if number % LINKS:
            path.hardlink_to(folder / picture_name(number - number % LINKS))
        else:
            picture.save(path)


def parsers() -> dict[str, Callable[[bytes], object]]:
    """Bare parsers of JSON, which make Python objects of all records."""
    import msgspec
    import orjson

    return {"orjson": orjson.loads, "msgspec": msgspec.json.decode, "json": json.loads}


def pieces(file: Path) -> Iterator[bytes]:
    """The list in lists of about 64 MB, as nobody has the memory for all objects at once."""
    with file.open("rb") as stream:
        rest = stream.read(1)[1:]
        while data := stream.read(PIECE):
            data = rest + data
            cut = data.rfind(b'}, {"id"') + 1 or len(data)
            last = len(data) < PIECE
            yield b"[" + (data if last else data[:cut] + b"]")
            rest = b"" if last else data[cut:].removeprefix(b", ")


def parse_seconds(loads: Callable[[bytes], object], data: bytes) -> float:
    """CPU seconds, without those of freeing the objects."""
    start = time.process_time()
    value = loads(data)
    seconds = time.process_time() - start
    del value
    return seconds


def measure(command: list[str]) -> tuple[float, float, float, float]:
    """(wall seconds, CPU seconds of all processes, peak MB of the first one, peak MB of all together)."""
    root = Path(__file__).resolve().parents[2]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seen, own, together = psutil.Process(process.pid), 0.0, 0.0
    while process.poll() is None:
        sizes = [_unshared(one) for one in (seen, *_children(seen))]
        own, together = max(own, sizes[0]), max(together, sum(sizes))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    used = psutil.Process().cpu_times()
    return time.perf_counter() - start, used.children_user + used.children_system, own, together


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _unshared(process: psutil.Process) -> float:
    """MB of a process, with its share of what it shares with others."""
    try:
        return process.memory_full_info().pss / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--pictures", type=int, default=2_000, help="distinct image files")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dir", type=Path, required=True, help="folder for the generated files and the pool")
    parser.add_argument("--form", choices=("plain", "keys", "system", "messages"), default="plain")
    parser.add_argument(
        "--no-collector", action="store_true", help="parsers alone run without Python's garbage collector"
    )
    parser.add_argument("--no-parsers", action="store_true", help="measure the build alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
