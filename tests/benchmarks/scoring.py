"""Cost of trie scoring relative to a bare prefill and to official scoring, in CPU seconds of one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/scoring.py [--rounds 3] [--small]

A random LLaVA-OneVision of about 65M parameters in float32, one image of 730 tokens and about 200 words, and
the 15 queries of `official_style`. With a GPU also the 7B shape in bfloat16, base tile and anyres: samples/s,
TFLOP/s, MFU.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from curation.pool.sample import Sample, Turn
from curation.signals.core.generate import generate
from curation.signals.core.vlm import Vlm
from curation.signals.raters.capability import digit_questions
from curation.signals.raters.official import with_prompt
from curation.signals.raters.prefix import Questions, prefill
from curation.signals.raters.queries import load_queries
from curation.signals.raters.style import style_question
from curation.signals.raters.trie import Question

QUERIES = load_queries("official_style")
WORDS = 200
SIXTY = {
    "hidden": 512,
    "layers": 8,
    "heads": 8,
    "kv": 2,
    "mlp": 1536,
    "vision": (512, 8, 8, 2048),
    "vocabulary": 16_000,
}
SEVEN_B = {
    "hidden": 3584,
    "layers": 28,
    "heads": 28,
    "kv": 4,
    "mlp": 18944,
    "vision": (1152, 26, 16, 4304),
    "vocabulary": 152_064,
}
"""Qwen2-7B and SigLIP-so400m, the parts of LLaVA-OneVision 7B."""
TINY = {
    "hidden": 64,
    "layers": 2,
    "heads": 4,
    "kv": 2,
    "mlp": 128,
    "vision": (64, 2, 4, 128),
    "vocabulary": 1_000,
}
ANYRES = [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)]
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s of NVIDIA's data sheets."""
LIMIT_PREFILL, LIMIT_OFFICIAL = 1.35, 10.0
"""Most trie time / prefill time, and least official time / trie time."""


def tokenizer_of(vocabulary: int) -> Any:
    """A tokenizer with one token for each word of the prompts, like BPE for plain English, and fillers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = sorted(
        {
            word
            for text in [*QUERIES.texts(), "system user assistant word"]
            for word in re.findall(r"\w+|[^\w\s]", text)
        }
    )
    special = ["<|pad|>", "<|unknown|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    fillers = [f"filler{k}" for k in range(vocabulary - len(known) - len(special))]
    core = Tokenizer(
        models.WordLevel(
            {word: k for k, word in enumerate([*special, *known, *fillers])}, unk_token="<|unknown|>"
        )
    )
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
    )


class Random(Vlm):
    """A random model of a given shape, in memory."""

    def __init__(self, shape: dict[str, Any], device: str, dtype: str, image_mode: str) -> None:
        from transformers import (
            LlavaOnevisionConfig,
            LlavaOnevisionForConditionalGeneration,
            LlavaOnevisionImageProcessor,
            LlavaOnevisionProcessor,
            LlavaOnevisionVideoProcessor,
            Qwen2Config,
            SiglipVisionConfig,
        )

        tokenizer = tokenizer_of(shape["vocabulary"])
        width, depth, vision_heads, vision_mlp = shape["vision"]
        vision = SiglipVisionConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=vision_heads,
            intermediate_size=vision_mlp,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
        text = Qwen2Config(
            vocab_size=shape["vocabulary"],
            hidden_size=shape["hidden"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv"],
            intermediate_size=shape["mlp"],
            max_position_embeddings=32_768,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        config = LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text,
            image_grid_pinpoints=ANYRES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        )
        pixels = {"size": {"height": 384, "width": 384}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        processor = LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(image_grid_pinpoints=ANYRES, **pixels),
            tokenizer,
            LlavaOnevisionVideoProcessor(**pixels),
            num_image_tokens=729,
            vision_feature_select_strategy="full",
        )
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        with torch.device(device):
            model = LlavaOnevisionForConditionalGeneration(config).eval()
        torch.set_default_dtype(default)
        self.path, self.dtype, self.device = Path("random"), dtype, torch.device(device)
        self._open(model, processor, image_mode)


def example_of(vlm: Vlm, side: int) -> Any:
    """One encoded sample: an image of `side` pixels and WORDS words."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    words = " ".join(f"filler{k}" for k in range(WORDS // 2))
    return vlm.renderer.context(
        Sample(0, "s", "t", (Image.fromarray(pixels),), (Turn(f"<image> {words}", words),))
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call: work of other processes does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.inference_mode()
def ratios(shape: dict[str, Any], rounds: int) -> bool:
    """Time all methods in turn and print medians and ratios; returns whether both bounds hold."""
    vlm = Random(shape, "cpu", "float32", "base")
    example = example_of(vlm, 384)
    digits, style = digit_questions(vlm.renderer, QUERIES), style_question(vlm.renderer, QUERIES)
    prompts = [question.prompt for question in [*digits, style]]
    trie = Questions(vlm, [*digits, Question(style.prompt)])
    likely = Questions(vlm, [*digits, style])
    greedy = Questions(vlm, [*digits, Question(style.prompt)], continued=len(digits), max_new_tokens=8)
    methods = {
        "bare prefill": lambda: prefill(vlm, [example]),
        "trie, 15 queries": lambda: trie([example]),
        "trie, style by likelihood": lambda: likely([example]),
        "trie, style greedy, 8 tokens": lambda: greedy([example]),
        "official, 15 generations": lambda: [
            generate(vlm, [with_prompt(example, prompt)], 2)[0] for prompt in prompts
        ],
    }
    images = int((example.input_ids == vlm.renderer.image_id).sum())
    parameters = sum(p.numel() for p in vlm.model.parameters())
    print(
        f"{parameters / 1e6:.0f}M parameters, prefix {len(example)} tokens ({images} of images), "
        f"15 queries: {sum(map(len, prompts))} tokens flat, {len(trie.plan.trie)} in the trie, "
        f"{len(likely.plan.trie)} with style names"
    )
    trie([example])  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, work in methods.items():
            seconds[name].append(cpu_seconds(work))
    return report(seconds)


def report(seconds: dict[str, list[float]]) -> bool:
    """Print CPU seconds and the ratios' medians over rounds; returns whether both bounds hold."""

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    for name, values in seconds.items():
        print(
            f"  {name:30s} {statistics.median(values):8.3f} CPU s  "
            f"{ratio(name, 'bare prefill'):6.2f} x bare prefill"
        )
    prefills, faster = (
        ratio("trie, 15 queries", "bare prefill"),
        ratio("official, 15 generations", "trie, 15 queries"),
    )
    ok = prefills <= LIMIT_PREFILL, faster >= LIMIT_OFFICIAL
    print(f"trie / bare prefill {prefills:.2f} (bound {LIMIT_PREFILL}): {'pass' if ok[0] else 'FAIL'}")
    print(f"official / trie {faster:.1f} (bound {LIMIT_OFFICIAL:.0f}): {'pass' if ok[1] else 'FAIL'}")
    return all(ok)


def flops(shape: dict[str, Any], prefix: int, nodes: int, tiles: int) -> float:
    """FLOP of one sample: linear layers and attention of tower and decoder; no vocabulary head or norms."""
    head = shape["hidden"] // shape["heads"]
    layer = shape["hidden"] * (2 * shape["hidden"] + 2 * shape["kv"] * head + 3 * shape["mlp"])
    seen = prefix * prefix / 2 + nodes * (prefix + nodes / 2)
    decoder = shape["layers"] * (2 * layer * (prefix + nodes) + 4 * shape["hidden"] * seen)
    width, depth, _, mlp = shape["vision"]
    tower = depth * (2 * (4 * width * width + 2 * width * mlp) * 729 + 4 * width * 729 * 729)
    projector = 2 * 729 * shape["hidden"] * (width + shape["hidden"])
    return decoder + tiles * (tower + projector)


@torch.inference_mode()
def throughput(
    shape: dict[str, Any], device: str, image_mode: str, side: int, batch: int, steps: int
) -> None:
    """Print samples/s, TFLOP/s and MFU of the 15 queries in one image mode; image decoding is not timed."""
    vlm = Random(shape, device, "bfloat16", image_mode)
    questions = Questions(
        vlm, [*digit_questions(vlm.renderer, QUERIES), style_question(vlm.renderer, QUERIES)]
    )
    example = example_of(vlm, side)
    prepared = vlm.batch([example] * batch)
    vlm.batch = lambda examples: dict(prepared)
    questions([example] * batch)
    start = time.perf_counter()
    for _ in range(steps):
        questions([example] * batch)
    rate = steps * batch / (time.perf_counter() - start)
    tiles = 1 if image_mode == "base" else (side // 384) ** 2 + 1
    done = rate * flops(shape, len(example), len(questions.plan.trie), tiles)
    name = torch.cuda.get_device_name() if device == "cuda" else device
    peak = next((value for key, value in PEAK.items() if key in name), None)
    mfu = f"{done / peak:.1%}" if peak else "unknown peak"
    print(
        f"{name}, {image_mode}, prefix {len(example)} tokens, batch {batch}: "
        f"{rate:.2f} samples/s, {done / 1e12:.0f} TFLOP/s, MFU {mfu}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements of each method")
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes: smoke test; results are not meaningful"
    )
    args = parser.parse_args()
    passed = ratios(TINY if args.small else SIXTY, args.rounds)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" or args.small:
        for image_mode, side, batch in (("base", 384, 32), ("anyres", 1152, 4)):
            throughput(
                TINY if args.small else SEVEN_B,
                device,
                image_mode,
                side,
                2 if args.small else batch,
                1 if args.small else 5,
            )
    else:
        print("no GPU: the 7B shape is skipped")
    raise SystemExit(0 if passed or args.small else 1)


if __name__ == "__main__":
    main()
