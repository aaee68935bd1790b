"""Answers per second beside lmms-eval's own model classes: same questions, same tiny checkpoints, one run.

OMP_NUM_THREADS=1 python tests/benchmarks/evaluation_speed.py [--questions 480] [--batch-size 16]

lmms-eval 0.7.3 asks LLaVA with its class `llava_hf`, which takes one question at a time, and Qwen2.5-VL with
`qwen2_5_vl`, in batches of `--batch-size`. Ours is measured with as many rows, and with as many tokens as a
batch of theirs may have (`max_batch_tokens`: batch size x the longest question): as much memory.

Both classes import `decord` (pip install decord==0.6.0), which reads videos: without it, an empty module
takes its place, and a line says so. All weights are float32; `qwen2_5_vl` loads them as bfloat16 whatever is
asked for, so they are replaced after that. So that answers can be compared, every question has one image (of
several, `llava_hf` has OneVision tile each, which the model was not made for), and its sides are multiples of
28 pixels (which nobody resizes for Qwen2.5-VL). The row of the end token is enlarged in the output layer:
random weights would hardly ever end an answer.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from evaluation.model import Answerer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

SIDES = (56, 84, 112)
LIMITS = (4, 16, 64)
"""New tokens of a choice, a short and a long answer."""
TEMPLATE = (
    "{% for m in messages %}<|user|> {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
IMAGE_OF = {"qwen": "<|vision_start|><|image_pad|><|vision_end|>"}
CLASS_OF = {"llava": "llava_hf", "anyres": "llava_hf", "qwen": "qwen2_5_vl"}
ENDING = 2.5
"""Factor of the end token's row."""


@dataclass(frozen=True)
class Question:
    """A question as `evaluation.answer` wants it."""

    task: str
    index: int
    messages: Callable[[], Any]
    generation: Mapping[str, Any]


def make_documents(count: int) -> list[dict[str, Any]]:
    """Documents with an image as PNG bytes, a text of 4 to 120 words, and one of LIMITS."""
    random, words = Random(0), "what is the dog cat red blue at b 3 color of left many".split()
    documents = []
    for index in range(count):
        size = (random.choice(SIDES), random.choice(SIDES), 3)
        pixels = np.random.default_rng(index).integers(0, 256, size, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        text = " ".join(random.choices(words, k=random.choice((4, 12, 40, 120))))
        documents.append({"image": buffer.getvalue(), "text": text, "limit": random.choice(LIMITS)})
    return documents


def messages_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Chat messages of a document, its image decoded."""
    image = Image.open(io.BytesIO(document["image"])).convert("RGB")
    content = [{"type": "image", "url": image}, {"type": "text", "text": document["text"]}]
    return [{"role": "user", "content": content}]


def generation_of(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"max_new_tokens": document["limit"], "temperature": 0, "do_sample": False}


def build_checkpoint(kind: str, folder: Path) -> Path:
    """A tiny checkpoint such as those on the Hub: a template for lists of parts, one end token."""
    from tiny_models import build

    from training.models import load, save_checkpoint

    model, processor = load(build(kind, folder))
    processor.chat_template = TEMPLATE.replace("IMAGE", IMAGE_OF.get(kind, "<image>"))
    end = processor.tokenizer.eos_token_id
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id = end
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    with torch.no_grad():
        model.get_output_embeddings().weight[end] *= ENDING
    return save_checkpoint(model, processor, folder)


def open_theirs(kind: str, checkpoint: Path, device: str, batch_size: int) -> Any:
    """lmms-eval's model of the checkpoint, in float32."""
    try:
        import decord  # noqa: F401
    except ImportError:
        print("decord is not installed: an empty module stands in for it (it reads videos only)", flush=True)
        sys.modules["decord"] = stub = types.ModuleType("decord")
        stub.VideoReader = stub.cpu = None
    if kind == "qwen":
        from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL

        from training.models import load

        limits = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}
        model = Qwen2_5_VL(str(checkpoint), device=device, device_map=device, batch_size=batch_size, **limits)
        # Their weights went through bfloat16: these are the checkpoint's.
        model._model = load(checkpoint)[0].to(device)
        return model
    from lmms_eval.models.chat.llava_hf import LlavaHf

    return LlavaHf(str(checkpoint), device=device, device_map=device, dtype="float32", batch_size=1)


def ask_theirs(model: Any, documents: Sequence[Mapping[str, Any]]) -> list[str]:
    from lmms_eval.api.instance import Instance

    model.task_dict = {"fixture": {"test": documents}}
    requests = [
        Instance(
            "generate_until",
            (document["text"], messages_of, generation_of(document), index, "fixture", "test"),
            0,
            {"task": "fixture", "doc_id": index, "repeats": 1},
        )
        for index, document in enumerate(documents)
    ]
    return [result.text.strip() for result in model.generate_until(requests)]


def ask_ours(answerer: "Answerer", documents: Sequence[Mapping[str, Any]], loaders: int) -> list[str]:
    from evaluation.answer import answers

    questions = [
        Question("fixture", index, partial(messages_of, document), generation_of(document))
        for index, document in enumerate(documents)
    ]
    found = {
        question.index: answer.text
        for batch in answers(answerer, questions, loaders=loaders)
        for question, _, answer in batch
    }
    return [found[index] for index in range(len(documents))]


def timed(work: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """(result, wall seconds, CPU seconds)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def compare(kind: str, folder: Path, questions: int, batch_size: int, device: str) -> None:
    """Print one line for each way to answer the questions with one checkpoint."""
    from evaluation.model import Answerer

    checkpoint = build_checkpoint(kind, folder)
    documents = make_documents(questions)
    theirs = open_theirs(kind, checkpoint, device, batch_size)
    load_ours = partial(Answerer.load, checkpoint, device=device, dtype="float32", template="checkpoint")
    rows = load_ours(batch_size=batch_size)
    longest = max(rows.prompt(messages_of(d)).length + d["limit"] for d in documents)
    tokens = load_ours(batch_size=questions, max_batch_tokens=batch_size * longest)
    ways = {
        f"lmms-eval `{CLASS_OF[kind]}`, batches of {1 if kind != 'qwen' else batch_size}": partial(
            ask_theirs, theirs
        ),
        f"ours, batches of {batch_size}": partial(ask_ours, rows, loaders=0),
        f"ours, {batch_size * longest:,} tokens": partial(ask_ours, tokens, loaders=0),
        f"ours, {batch_size * longest:,} tokens, 1 loader": partial(ask_ours, tokens, loaders=1),
    }
    first: tuple[list[str], float, float] | None = None
    for name, ask in ways.items():
        ask(documents[:8])  # the first passes of a process are slow
        found, wall, cpu = timed(partial(ask, documents))
        first = first or (found, wall, cpu)
        equal = sum(map(str.__eq__, found, first[0]))
        print(
            f"| {kind} | {name} | {questions / wall:.0f} | {cpu:.2f} | {first[1] / wall:.1f} | "
            f"{first[2] / cpu:.1f} | {equal} |",
            flush=True,
        )
        words = [len(text.split()) for text in found]
    print(f"words of an answer: {min(words)} to {max(words)}, {len(set(found))} different answers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=480)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| checkpoint | answered by | answers/s | CPU s | times theirs | by CPU seconds | same answers |")
    with tempfile.TemporaryDirectory() as folder:
        for kind in CLASS_OF:
            compare(kind, Path(folder) / kind, args.questions, args.batch_size, args.device)


if __name__ == "__main__":
    main()
