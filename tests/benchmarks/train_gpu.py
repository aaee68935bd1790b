"""Training speed on one GPU, rung by rung: padded, grouped, packed, varlen, chunked loss, compiled blocks.

python tests/benchmarks/train_gpu.py --shape C --out OUT/c.json            # 7B width, 8 of 28 layers, full
SFT python tests/benchmarks/train_gpu.py --shape B --ladder padded,compile --steps 20 --out OUT/b.json python
tests/benchmarks/train_gpu.py --shape A --ladder padded,compile --out OUT/a.json python
tests/benchmarks/train_gpu.py --shape C --loader 0,8 --out OUT/loader.json python
tests/benchmarks/train_gpu.py --shape C --save --out OUT/save.json python tests/benchmarks/train_gpu.py --head
--out OUT/head.json python tests/benchmarks/train_gpu.py --tiny --out /tmp/tiny.json           # the same code
on a CPU, in a minute

A: LLaVA-OneVision-0.5B, full. B: LLaVA-OneVision-7B, LoRA of rank 64 on the language model. C: 7B width with
8 of 28 layers, full. Weights are random and made on the device. Images are drawn, texts are random bytes with
the lengths of tests/benchmarks/packing.py's sources; every rung trains on the same samples. Goals: 45 % MFU
packed on B and C, 1.5 x the first rung, less than 2 % of the time waiting for data.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curation.pool.sample import Sample, Turn
from training import attention, blocks, flops, loss
from training.collate import Collator
from training.meters import Meters, count, peak_memory_gb
from training.packing import PackRule
from training.plan import PlannedBatches
from training.render import Encoded, Renderer

SIZES = [(640, 480), (480, 640), (500, 333), (512, 512), (1024, 768), (1024, 1024), (1280, 720)]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and what of it is trained."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    trained: tuple[str, ...] = ("vision", "projector", "language")
    rank: int = 0
    vision: dict[str, int] = field(
        default_factory=lambda: {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        }
    )
    grids: int = 6
    pictures: Sequence[tuple[int, int]] = tuple(SIZES)
    text: int = 300
    cap: int = 16_384
    batch: int = 8


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
SHAPES = {
    "A": Shape(896, 24, 14, 2, 4864, 151_936, True),
    "B": Shape(3584, 28, 28, 4, 18_944, 152_064, False, trained=(), rank=64),
    "C": Shape(3584, 8, 28, 4, 18_944, 152_064, False),
    "tiny": Shape(
        64, 2, 4, 2, 128, 600, False, vision=SMALL, grids=2, pictures=[(64, 48), (90, 60)], text=30, cap=600
    ),
}


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder: what it adds to the ones before."""

    grouped: bool = False
    packed: bool = False
    kernel: attention.Choice = "sdpa"
    chunk: int | None = None
    compiled: bool = False


LADDER = {
    "padded": Rung(),
    "grouped": Rung(grouped=True),
    "packed": Rung(packed=True),
    "varlen": Rung(packed=True, kernel="auto"),
    "chunked": Rung(packed=True, kernel="auto", chunk=2048),
    "compile": Rung(packed=True, kernel="auto", chunk=2048, compiled=True),
}


def build(shape: Shape, device: torch.device) -> tuple[Any, Any]:
    """The model in bfloat16 (float32 on a CPU) on the device, and its processor."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    from curation.mini.tokenizer import build_tokenizer
    from training.models import add_lora, onevision_processor, token_id

    tokenizer = build_tokenizer()
    side = shape.vision["image_size"]
    grids = [[side * a, side * b] for a in range(1, shape.grids + 1) for b in range(1, shape.grids + 1)]
    processor = onevision_processor(tokenizer, side, shape.vision["patch_size"], grids)
    text = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32_768,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**shape.vision, vision_use_head=False),
        text_config=text,
        image_token_index=token_id(tokenizer, "<image>"),
        video_token_index=token_id(tokenizer, "<video>"),
        image_grid_pinpoints=grids,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with device:
            model = LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.config.use_cache = False
    return (add_lora(model, r=shape.rank, alpha=shape.rank) if shape.rank else model), processor


def draw(shape: Shape, count: int, folder: Path, renderer: Renderer) -> list[Encoded]:
    """`count` samples with a drawn JPEG each, every tenth of text only; a third of the text is the answer."""
    from PIL import Image

    rng = np.random.default_rng(0)
    out = []
    for row in range(count):
        words = int(np.exp(np.log(shape.text) + 0.6 * rng.standard_normal())) + 4
        question, answer = ("".join(rng.choice(list("abcdefghij "), n)) for n in (2 * words // 3, words // 3))
        images: tuple[Path, ...] = ()
        if row % 10:
            width, height = shape.pictures[row % len(shape.pictures)]
            path = folder / f"{row}.jpg"
            small = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
            Image.fromarray(small).resize((width, height)).save(path)
            images, question = (path,), f"<image> {question}"
        out.append(renderer.encode(Sample(row, str(row), "drawn", images, (Turn(question, f"x{answer}"),))))
    return out


class Data(torch.utils.data.Dataset):
    """Examples by index; a negative one is a filler."""

    def __init__(self, examples: Sequence[Encoded]) -> None:
        self.examples = examples

    def __getitem__(self, index: int) -> Encoded:
        return self.examples[index] if index >= 0 else self.examples[-1 - index].muted()

    def __len__(self) -> int:
        return len(self.examples)


class Workload:
    """A shape's model and samples, and the costs of the samples."""

    def __init__(self, name: str, samples: int, folder: Path, device: torch.device) -> None:
        self.shape, self.device = SHAPES[name], device
        self.model, processor = build(self.shape, device)
        self.renderer = Renderer(processor, "anyres")
        self.examples = draw(self.shape, samples, folder, self.renderer)
        image = np.array([int((e.input_ids == self.renderer.image_id).sum()) for e in self.examples])
        self.lengths = np.array([len(e) for e in self.examples])
        labels = [int((e.labels[1:] != loss.IGNORE).sum()) for e in self.examples]
        sizes = flops.Shape.of(processor_config(self.model))
        lora = {"lora": ("language",), "rank": self.shape.rank} if self.shape.rank else {}
        images = np.array([len(e.images) for e in self.examples])
        patches = flops.image_patches(sizes, image, images)
        self.costs = sizes.training(self.lengths, labels, patches, images, trained=self.shape.trained, **lora)

    def batches(self, rung: Rung) -> PlannedBatches:
        """Micro-batches of a rung; each step trains on the same number of samples."""
        pairs = max(self.shape.batch // 2, 1)
        if not rung.packed:
            lengths = self.lengths if rung.grouped else None
            return PlannedBatches(
                len(self.examples), self.shape.batch, 0, lengths=lengths, accumulation=pairs, drop_last=True
            )
        rule = PackRule(self.lengths, self.costs, self.shape.cap)
        plan = PlannedBatches(len(self.examples), self.shape.batch, 0, packs=rule, drop_last=True)
        plan.accumulation = plan.micro_steps(epochs=1)
        return plan

    def loader(self, rung: Rung, workers: int = 0) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """(indices, batch) of each micro-batch, epoch after epoch."""
        collate = Collator(self.renderer.pad_id, self.renderer.loader, packed=rung.packed)
        plan = self.batches(rung)
        options: dict[str, Any] = {"num_workers": workers, "pin_memory": self.device.type == "cuda"}
        if workers:
            options |= {"persistent_workers": True, "prefetch_factor": 4}
        loader = torch.utils.data.DataLoader(
            Data(self.examples), batch_sampler=plan, collate_fn=collate, **options
        )
        while True:
            yield from zip(plan, loader, strict=True)


def processor_config(model: Any) -> Any:
    """The config of the model, also of one with adapters."""
    return model.get_base_model().config if hasattr(model, "get_base_model") else model.config


def climb(work: Workload, name: str, steps: int, warm_up: int, workers: int) -> dict[str, Any]:
    """Train `steps` optimizer steps on a rung; rates, memory and losses."""
    rung, model = LADDER[name], work.model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    used = attention.choose(base, rung.kernel)
    with _installed(base, rung.chunk):
        if rung.compiled:
            blocks.compile_blocks(model)
        return {"rung": name, "attention": used, **_train(work, rung, steps, warm_up, workers)}


@contextlib.contextmanager
def _installed(base: Any, chunk: int | None) -> Iterator[None]:
    """The chunked loss inside the block; with `chunk` None all labelled tokens at once, as before it
    existed."""
    head = base.get_output_embeddings()
    loss.install(base, chunk or 1 << 40)
    try:
        yield
    finally:
        del base.forward, head.forward


def _train(work: Workload, rung: Rung, steps: int, warm_up: int, workers: int) -> dict[str, Any]:
    model = work.model.train()
    blocks.recompute(model.get_base_model() if hasattr(model, "get_base_model") else model)
    trained = [p for p in model.parameters() if p.requires_grad]
    # Weights and states are bfloat16 here: the step is measured, not the precision of the optimizer.
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=work.device.type == "cuda")
    stream, plan = work.loader(rung, workers), work.batches(rung)
    if work.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    peak = flops.peak(torch.cuda.get_device_name()) if work.device.type == "cuda" else None
    meters, losses, seconds = Meters(peak=peak), [], []
    for step in range(warm_up + steps):
        if step == warm_up:
            _wait(work.device)
            meters = Meters(peak=peak)
        begin, total = time.perf_counter(), 0.0
        with meters.waiting():  # the loss of a step is the mean over the labels of all its micro-batches
            step_batches = [next(stream) for _ in range(plan.accumulation)]
        labels = sum(int((batch["labels"][:, 1:] != loss.IGNORE).sum()) for _, batch in step_batches)
        for indices, batch in step_batches:
            real = [i for i in indices if i >= 0]
            cost = float(work.costs[real].sum())
            meters.add(count(batch, len(real), work.renderer.image_id, work.renderer.pad_id, cost))
            moved = {k: _to(v, work.device) for k, v in batch.items() if k != "attention_mask"}
            value = model(**moved, num_items_in_batch=labels).loss
            value.backward()
            total += value.item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(work.device)
        meters.step()
        losses.append(total)
        seconds.append(time.perf_counter() - begin)
    reserved = torch.cuda.max_memory_reserved() / 1e9 if work.device.type == "cuda" else None
    optimizer.zero_grad(set_to_none=True)
    timed = seconds[warm_up:]
    return {
        **meters.summary(),
        "reserved_gb": reserved,
        "median_step_seconds": round(statistics.median(timed), 4),
        "steps": steps,
        "losses": [round(value, 5) for value in losses],
    }


def _to(value: Any, device: torch.device) -> Any:
    if not torch.is_tensor(value):
        return value
    value = value.to(device, non_blocking=True)
    return value.bfloat16() if value.is_floating_point() and device.type == "cuda" else value


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def loader_rates(work: Workload, workers: Sequence[int], batches: int) -> list[dict[str, Any]]:
    """Images a second that the loader gives by itself, for each number of workers."""
    rows = []
    for number in workers:
        stream = work.loader(LADDER["packed"], number)
        next(stream)
        begin, images = time.perf_counter(), 0
        for _ in range(batches):
            indices, _ = next(stream)
            images += sum(len(work.examples[i].images) for i in indices if i >= 0)
        rows.append(
            {"workers": number, "images_per_second": round(images / (time.perf_counter() - begin), 1)}
        )
    return rows


def head_rates(
    tokens: int, hidden: int, words: int, chunks: Sequence[int], device: torch.device
) -> list[Any]:
    """Milliseconds and peak memory of the loss alone: plain, in chunks, and liger's where it is installed."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    states = torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(words, hidden, device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, words, (tokens,), device=device)

    def plain() -> torch.Tensor:
        logits = torch.nn.functional.linear(states, weight).float()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    ways: dict[str, Callable[[], torch.Tensor]] = {"plain": plain}
    for chunk in chunks:
        ways[f"chunks of {chunk}"] = lambda chunk=chunk: loss._ChunkedLoss.apply(
            states, weight, None, targets, chunk, dtype
        )
    if device.type == "cuda" and (fused := loss._liger()) is not None:
        ways["liger"] = lambda: fused(states, weight, targets, reduction="sum")
    return [_measured(name, way, device) for name, way in ways.items()]


def _measured(name: str, way: Callable[[], torch.Tensor], device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        value = way()
        value.backward()
        _wait(device)
        begin = time.perf_counter()
        for _ in range(3):
            way().backward()
        _wait(device)
    except torch.OutOfMemoryError:
        return {"way": name, "out_of_memory": True}
    milliseconds = (time.perf_counter() - begin) / 3 * 1000
    return {"way": name, "ms": round(milliseconds, 1), "peak_gb": peak_memory_gb(), "loss": value.item()}


def save_rates(work: Workload, folder: Path) -> dict[str, Any]:
    """Seconds and bytes of one checkpoint of weights and Adam's states, written and read."""
    trained = {name: p for name, p in work.model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-5)
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    begin = time.perf_counter()
    torch.save({"weights": trained, "optimizer": optimizer.state_dict()}, folder / "state.pt")
    saved = time.perf_counter() - begin
    begin = time.perf_counter()
    torch.load(folder / "state.pt", map_location="cpu", weights_only=False)
    loaded = time.perf_counter() - begin
    size = (folder / "state.pt").stat().st_size / 1e9
    return {"save_seconds": round(saved, 2), "load_seconds": round(loaded, 2), "gb": round(size, 4)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what the options name and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=["A", "B", "C"], help="sizes of the model")
    parser.add_argument("--ladder", default=",".join(LADDER), help=f"rungs, of {', '.join(LADDER)}")
    parser.add_argument("--steps", type=int, default=30, help="timed optimizer steps of a rung")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before them")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--workers", type=int, default=8, help="loader workers of the ladder")
    parser.add_argument("--loader", help="numbers of workers to compare, e.g. 0,8, instead of the ladder")
    parser.add_argument("--save", action="store_true", help="time a checkpoint instead of the ladder")
    parser.add_argument("--head", action="store_true", help="time the loss alone")
    parser.add_argument("--tiny", action="store_true", help="everything, on a tiny model")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)
    if not (options.shape or options.head or options.tiny):
        parser.error("give --shape, --head or --tiny")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        parser.error("no GPU: only --tiny runs on a CPU")
    result = _run(options, device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    return result


def _run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__}
    if options.head or options.tiny:
        sizes = (64, 16, 100, [8]) if options.tiny else (16_384, 3584, 152_064, [1024, 2048, 4096])
        result["head"] = head_rates(*sizes, device)
    if not (options.shape or options.tiny):
        return result
    shape = "tiny" if options.tiny else options.shape
    steps, warm_up, samples = (
        (2, 1, 24) if options.tiny else (options.steps, options.warm_up, options.samples)
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(shape, samples, Path(folder), device)
        result["shape"] = {"name": shape, **asdict(work.shape)}
        if options.loader or options.tiny:
            numbers = [int(n) for n in (options.loader or "0,1").split(",")]
            result["loader"] = loader_rates(work, numbers, batches=4 if options.tiny else 40)
        if options.save or options.tiny:
            result["save"] = save_rates(work, Path(folder))
        if options.tiny or not (options.loader or options.save):
            workers = 0 if options.tiny else options.workers
            start = {key: value.clone() for key, value in work.model.state_dict().items()}
            result["ladder"] = []
            for rung in options.ladder.split(","):
                work.model.load_state_dict(start)  # each rung starts from the same weights
                result["ladder"].append(climb(work, rung, steps, warm_up, workers))
                print(
                    json.dumps({k: v for k, v in result["ladder"][-1].items() if k != "losses"}), flush=True
                )
    return result


if __name__ == "__main__":
    main()
