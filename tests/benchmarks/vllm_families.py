"""A checkpoint of every model family, as it comes out of a full and of a LoRA training, in a real vLLM.

    tests/benchmarks/vllm_cpu.sh families [--families llava smolvlm]

The models are random, tiny, and trained for a few steps. Prints one JSON object for each: how many greedy
answers of the Hugging Face model vLLM repeats (question with one image, with two, and without), or the error
with which vLLM refuses the checkpoint. The two of a family are loaded in a process of their own.

With two images LLaVA-OneVision is expected to differ: vLLM tiles them, the Hugging Face model and training
take one tile of each.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).resolve().parent.parent / "support"
sys.path.insert(0, str(SUPPORT))

import family_ranks  # noqa: E402
import tiny_families  # noqa: E402

HIDDEN = 128
"""Four heads of 32 dimensions."""
TOKENS = 8
KINDS = ("full", "lora")
MARK = "figures: "
SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", nargs="+", default=tiny_families.NAMES, choices=tiny_families.NAMES)
    parser.add_argument("--only", nargs="+", type=Path, help="load these checkpoints and print their figures")
    given = parser.parse_args()
    if given.only:
        for checkpoint in given.only:
            print(MARK + json.dumps(compared(checkpoint)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="vllm-families-") as folder:
        for name in given.families:
            print(json.dumps({name: measured(name, Path(folder))}), flush=True)


def measured(name: str, folder: Path) -> dict[str, Any]:
    """The figures of each kind of training, or the errors of the process in which it failed."""
    checkpoints = [str(trained(name, kind, folder)) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, __file__, "--only", *checkpoints],
        env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},  # the engine in the same process
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    figures = {kind: json.loads(line) for kind, line in zip(KINDS, lines, strict=False)}
    if done.returncode:
        errors = [line[-300:] for line in done.stderr.splitlines() if "Error" in line]
        figures["refused"] = {"checkpoint": KINDS[len(lines)], "errors": errors[-4:]}
    return figures


def trained(name: str, kind: str, folder: Path) -> Path:
    """A checkpoint of the family after a few steps on samples with no, one and two images."""
    from training.families import PARTS
    from training.fit import fit
    from training.spec import FitSpec, LoraSpec

    base = folder / name
    if not base.exists():
        tiny_families.build(name, base, hidden=HIDDEN)
    samples = [family_ranks.TEXT, family_ranks.LONG, family_ranks.ONE, family_ranks.WIDE, family_ranks.PAIR]
    lora = LoraSpec(r=4, alpha=8, parts=list(PARTS)) if kind == "lora" else None
    out = folder / f"{name}-{kind}"
    fit(FitSpec(epochs=20, batch_size=5, lr=3e-3, lora=lora), base, samples, out)
    return out


def compared(checkpoint: Path) -> dict[str, Any]:
    """Greedy answers of vLLM beside those of the Hugging Face model, from the same token ids."""
    from training import in_vllm
    from training.models import load
    from training.render import Renderer

    model, processor = load(checkpoint)
    renderer = Renderer(processor)
    prompts = [renderer.prompt(sample) for sample in (family_ranks.ONE, family_ranks.PAIR, family_ranks.TEXT)]
    expected = [greedy(model, renderer, prompt) for prompt in prompts]
    llm = in_vllm.start(checkpoint, dtype="float32", max_images=2, enforce_eager=True, max_model_len=1024)
    requests = [in_vllm.request_of(prompt, renderer.image_id, prompt.images) for prompt in prompts]
    import vllm

    settings = vllm.SamplingParams(temperature=0, max_tokens=TOKENS)
    answers = [list(out.outputs[0].token_ids) for out in llm.generate(requests, settings, use_tqdm=False)]
    del llm
    gc.collect()
    equal = [a == b for a, b in zip(expected, answers, strict=True)]
    figures = {"equal": sum(equal), "of": len(equal), "lengths": [len(answer) for answer in answers]}
    pairs = zip(expected, answers, equal, strict=True)
    return figures | {"unequal": [(ours, theirs) for ours, theirs, same in pairs if not same]}


def greedy(model: Any, renderer: Any, prompt: Any) -> list[int]:
    from training.collate import Collator

    batch = Collator(renderer.pad_id, renderer.loader)([prompt])
    del batch["labels"]
    out = model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)
    return out[0, batch["input_ids"].shape[1] :].tolist()


if __name__ == "__main__":
    main()
