"""CPU seconds to tokenise samples into a token store, and memory and seconds to start from one of 2.6M rows.

python tests/benchmarks/token_store.py [--size 16384] [--vocabulary 150000] [--rows 2600000]

The pool is generated: ten sources with the shares of LLaVA's 665K mix and assumed log-normal text lengths,
words of a Zipf law, JPEG files of seven sizes. The tokenizer is a byte-level BPE of that size, trained on
such text with Qwen2's way of splitting words. The large store repeats the small one's shards as files of
their own. Other work on the machine makes wall times long; the CPU seconds are the ones to read.
"""

import argparse
import itertools
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# source: thousands of samples in the 665K mix, mean text tokens (assumed), turns, images
MIX = {
    "llava": (158, 400, 4, 1),
    "sharegpt": (40, 1100, 4, 0),
    "vqav2": (83, 120, 6, 1),
    "gqa": (72, 150, 7, 1),
    "okvqa": (9, 60, 2, 1),
    "ocr_vqa": (80, 200, 5, 1),
    "aokvqa": (66, 70, 2, 1),
    "textcaps": (22, 60, 1, 1),
    "refcoco": (48, 250, 6, 1),
    "vg": (86, 280, 8, 1),
}
SIZES = [(640, 480), (480, 640), (640, 427), (500, 375), (1024, 768), (336, 500), (1280, 960)]
SPREAD = 0.5
"""Standard deviation of the logarithm of a text's length."""
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
SHARD_ROWS = 16_384
BOUND = 15 * 60 * 16 / 2_600_000
"""CPU seconds of a sample: 2.6M in 15 minutes on 16 cores."""


class Words:
    """Draws text: words of syllables, frequencies by Zipf's law, a full stop now and then."""

    def __init__(self, kinds: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        syllables = [
            a + b + c for a, b, c in itertools.product("bcdfgklmnprstv", "aeiou", ("", "n", "r", "s", "t"))
        ]
        drawn = self.rng.integers(0, len(syllables), (kinds, 4))
        length = self.rng.integers(1, 5, kinds)
        self.words = ["".join(syllables[s] for s in row[:n]) for row, n in zip(drawn, length, strict=True)]
        self.weights = np.cumsum(1 / np.arange(1, kinds + 1))
        self.weights /= self.weights[-1]

    def text(self, count: int) -> str:
        """`count` words."""
        places = np.searchsorted(self.weights, self.rng.random(max(1, count)))
        words = [self.words[place] for place in places]
        words[::12] = [f"{word.capitalize()}," for word in words[::12]]
        return " ".join(words) + "."


def build_checkpoint(out: Path, vocabulary: int, words: Words) -> None:
    """Tokenizer and processor of LLaVA-OneVision, with the config that names it; no weights are needed."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import LlavaOnevisionConfig, PreTrainedTokenizerFast

    from training.models import onevision_processor

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((" ".join(words.words[i::50]) for i in range(50)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL,
    )
    grids = [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)]
    template = (Path("training") / "templates" / "llava_onevision.jinja").read_text()
    onevision_processor(tokenizer, 384, 14, grids, template).save_pretrained(out)
    LlavaOnevisionConfig().save_pretrained(out)


def build_source(folder: Path, size: int, words: Words, words_per_token: float) -> Path:
    """A LLaVA JSON file of `size` samples with its images."""
    rng = np.random.default_rng(1)
    images = []
    for number in range(350):
        images.append(f"images/{number:05d}.jpg")
        pixels = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        path = folder / images[-1]
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize(SIZES[number % len(SIZES)]).save(path, quality=80)
    shares = np.array([row[0] for row in MIX.values()], float)
    kinds = rng.choice(len(MIX), size, p=shares / shares.sum())
    with (folder / "pool.jsonl").open("w") as file:
        for row, kind in enumerate(kinds):
            name, (_, mean, turns, image) = list(MIX.items())[kind]
            tokens = mean * np.exp(rng.normal(-(SPREAD**2) / 2, SPREAD))
            each = int(tokens * words_per_token / turns / 2)
            talk = []
            for turn in range(turns):
                head = "<image>\n" if image and turn == 0 else ""
                talk.append({"from": "human", "value": head + words.text(each)})
                talk.append({"from": "gpt", "value": words.text(each)})
            record: dict[str, Any] = {"id": f"{name}/{row:07d}", "source": name, "conversations": talk}
            if image:
                record["image"] = images[rng.integers(len(images))]
            file.write(json.dumps(record) + "\n")
    return folder / "pool.jsonl"


def cpu() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@contextmanager
def timed(owner: Any, name: str, spent: dict[str, float]) -> Iterator[None]:
    """Add up the CPU seconds of the calls of a method or function in `spent`, by its name."""
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - begin

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, original)


def measure_stages(pool: Any, factory: Callable[[], Any], out: Path) -> None:
    """CPU milliseconds of a sample by stage, in this process."""
    from training.token_store import PoolSource, build, write

    writing = sys.modules["training.token_store.write"]
    renderer, spent = factory(), {}
    size = len(pool)
    begin = time.process_time()
    list(PoolSource(pool).part(0, size, out))
    reading = time.process_time() - begin
    with (
        timed(renderer, "encode_many", spent),
        timed(renderer, "_labelled_text", spent),
        timed(renderer, "_encodings", spent),
        timed(renderer.loader, "image_ids", spent),
        timed(build.Columns, "add", spent),
        timed(build.Columns, "_images", spent),
        timed(writing, "save_shard", spent),
    ):
        begin = time.process_time()
        write(PoolSource(pool), lambda: renderer, out, workers=1, shard_rows=SHARD_ROWS)
        total = time.process_time() - begin
    stages = {
        "reading the record": reading,
        "rendering the template": spent["_labelled_text"],
        "tokenising": spent["_encodings"],
        "image headers and counts": spent["image_ids"] + spent["_images"],
        "all of encode_many": spent["encode_many"],
        "columns": spent["add"],
        "writing the file": spent["save_shard"],
        "all": total,
    }
    for name, seconds in stages.items():
        print(f"{name}: {seconds / size * 1e3:.3f} CPU ms a sample", flush=True)
    hours = total / size * 2_600_000 / 16 / 60
    print(f"2.6M samples on 16 cores: {hours:.1f} minutes (bound 15: {BOUND * 1e3:.1f} CPU ms a sample)")


def measure_scaling(pool: Any, factory: Callable[[], Any], out: Path) -> None:
    """The same with one process and with two, without the start, which costs as much for any size."""
    from training.token_store import PoolSource, write

    for workers in (1, 2):
        spent = []
        times: list[tuple[int, float]] = []

        def note(done: int, total: int, times: list[tuple[int, float]] = times) -> None:
            times.append((done, time.monotonic()))

        for size in (1024, len(pool)):
            folder, begin = out / f"{workers} {size}", cpu()
            times.clear()
            source = PoolSource(head(pool, size))
            write(source, factory, folder, workers=workers, shard_rows=512, on_progress=note)
            spent.append(cpu() - begin)
        (first, start), (last, end) = times[1], times[-1]
        print(
            f"{workers} process(es): {spent[0]:.0f} CPU s for the first 1,024 samples, then "
            f"{(spent[1] - spent[0]) / (len(pool) - 1024) * 1e3:.2f} CPU s for 1,000; "
            f"{(last - first) / (end - start):.0f} samples/s after the first shard",
            flush=True,
        )


def head(pool: Any, size: int) -> Any:
    """The first rows of a pool, as a pool of their own."""
    info = pool.info | {"hash": f"{pool.hash} {size}"}
    return type(pool)(pool.folder, pool.table.slice(0, size), info, pool.files, pool.images)


def enlarge(small: Path, big: Path, rows: int) -> None:
    """A store of about `rows` rows from the full shards of a small one; files of their own."""
    from training.token_store.layout import HEADER_BYTES, Info, read_info, shard_path

    info = read_info(small)
    full = info.rows // info.shard_rows
    large = Info(**{**asdict(info), "rows": -(-rows // info.shard_rows) * info.shard_rows})
    big.mkdir()
    (big / "store.json").write_text(json.dumps(asdict(large)))
    bodies = []
    for shard in range(full):
        content = shard_path(small, shard).read_bytes()
        head = content[:HEADER_BYTES].replace(info.key.encode(), large.key.encode())
        bodies.append((head, content[HEADER_BYTES:]))
        assert zlib.crc32(bodies[-1][1]) == int(head.split(b"crc32=")[1].split()[0], 16)
    for shard in range(large.shards):
        with shard_path(big, shard).open("wb") as file:
            file.writelines(bodies[shard % full])
    size = sum(path.stat().st_size for path in big.glob("*.shard"))
    print(f"large store: {large.rows:,} rows, {large.shards} shards, {size / 1e9:.2f} GB", flush=True)


def memory() -> str:
    """Resident memory of this process; mapped pages of files are in it, and are shared with other readers."""
    fields = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    names = ("VmRSS", "VmHWM", "RssAnon")
    now, peak, own = (int(fields[name].split()[0]) / 1e6 for name in names)
    return f"{now:.2f} GB resident (at most {peak:.2f} so far), {own:.2f} GB of it not shared"


def forget(folder: Path) -> None:
    """Drop the store's files from the page cache."""
    for path in folder.glob("*.shard"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure_reader(folder: Path) -> None:
    """What one rank needs; runs in a process of its own."""
    begin = time.monotonic()
    from training.token_store import TokenStore

    print(f"imports: {time.monotonic() - begin:.1f} s; {memory()}")
    for name in ("from disk", "from the page cache"):
        if name == "from disk":
            forget(folder)
        begin, used = time.monotonic(), time.process_time()
        store = TokenStore.open(folder)
        seconds, used = time.monotonic() - begin, time.process_time() - used
        print(f"open with checksums, {name}: {seconds:.1f} s ({used:.1f} CPU s); {memory()}")
    begin = time.monotonic()
    everything = store.examples(np.arange(len(store)), max_length=8192)
    print(f"examples of all {len(everything):,} rows: {time.monotonic() - begin:.1f} s; {memory()}")
    begin = time.monotonic()
    everything.fingerprint()
    print(f"their fingerprint: {time.monotonic() - begin:.1f} s; {memory()}")
    sent = pickle.dumps(everything)
    begin = time.monotonic()
    everything = pickle.loads(sent)
    print(f"unpickled from {len(sent) / 1e6:.0f} MB: {time.monotonic() - begin:.1f} s; {memory()}")
    begin = time.process_time()
    for row in np.random.default_rng(0).permutation(len(everything))[:20_000]:
        everything[row]
    print(f"reading: {(time.process_time() - begin) / 20_000 * 1e6:.0f} CPU us an example; {memory()}")


def measure_start(folder: Path, checkpoint: Path) -> None:
    """A training on 200k of the rows, up to its plan; runs in a process of its own."""
    from training.plan import PlannedBatches
    from training.token_store import RendererOf, TokenStore

    begin = time.monotonic()
    renderer = RendererOf(checkpoint)()
    steps = [("processor", time.monotonic() - begin)]
    begin = time.monotonic()
    store = TokenStore.open(folder, renderer=renderer.fingerprint())
    steps.append(("open with checksums", time.monotonic() - begin))
    begin = time.monotonic()
    rows = np.random.default_rng(0).choice(len(store), min(200_000, len(store)), replace=False)
    examples = store.examples(np.sort(rows), max_length=8192)
    examples.fingerprint()
    steps.append((f"{len(examples):,} examples and fingerprint", time.monotonic() - begin))
    begin = time.monotonic()
    batches = PlannedBatches(len(examples), 256, 0, lengths=examples.lengths, world=8, accumulation=2)
    count = sum(1 for _ in batches)
    steps.append((f"plan of {count:,} micro-batches", time.monotonic() - begin))
    print("; ".join(f"{name} {seconds:.1f} s" for name, seconds in steps) + f"; {memory()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16_384, help="samples that are tokenised")
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--rows", type=int, default=2_600_000, help="rows of the large store; 0: none")
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        return measure_reader(options.reader)
    if options.start:
        return measure_start(*options.start)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(root: Path, options: argparse.Namespace) -> None:
    from curation.pool.ingest import build_pool
    from curation.pool.read import Pool
    from training.token_store import PoolSource, RendererOf, write

    words = Words(2 * options.vocabulary)
    begin = time.monotonic()
    build_checkpoint(root / "checkpoint", options.vocabulary, words)
    factory = RendererOf(root / "checkpoint")
    tokenizer = factory().tokenizer
    text = words.text(20_000)
    tokens = len(tokenizer(text)["input_ids"])
    words_per_token = 20_000 / tokens
    print(
        f"tokenizer of {len(tokenizer):,} tokens in {time.monotonic() - begin:.0f} s, "
        f"{len(text) / tokens:.1f} characters a token",
        flush=True,
    )
    size = max(options.size, SHARD_ROWS if options.rows else 0)
    source = build_source(root, size, words, words_per_token)
    build_pool(source, root, root / "pool")
    pool = Pool.open(root / "pool")
    part = head(pool, options.size)
    measure_stages(part, factory, root / "stages")
    store = write(PoolSource(part), factory, root / "stages", workers=1)
    mean, images = store.lengths.mean(), store.image_tokens.mean()
    print(f"{mean:.0f} tokens a sample, {images:.0f} of them of images; at most {store.lengths.max():,}")
    measure_scaling(part, factory, root / "scaling")
    if not options.rows:
        return
    shutil.rmtree(root / "scaling")
    write(PoolSource(pool), factory, root / "small", workers=2, shard_rows=SHARD_ROWS)
    enlarge(root / "small", root / "big", options.rows)
    for arguments in (["--reader", root / "big"], ["--start", root / "big", root / "checkpoint"]):
        begin = time.monotonic()
        subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)
        print(
            f"{arguments[0][2:]}: {time.monotonic() - begin:.1f} s from the start of its process", flush=True
        )


if __name__ == "__main__":
    main()
