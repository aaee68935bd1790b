"""Train the mini world's CLIP from scratch, on captioned pictures drawn on the fly.

    python -m curation.mini.clip.build --out DIR                # about 15 minutes of one CPU thread
    python -m curation.mini.clip.build --check DIR --items 800  # held-out retrieval of a checkpoint

It plays the role of a dual encoder trained on the web: it has seen neither the pool's questions nor the
benchmarks' facts (`Split.owns`), but it knows names that the base model was never trained on. Held-out
pictures are other draws of the same world.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from curation.mini.atom import Split
from curation.mini.captions import grid_scene
from curation.mini.makers import MAKERS, describe
from curation.mini.scene import SIZE, Scene, draw
from curation.mini.tokenizer import END, build_tokenizer

TEXT_TOKENS = 77
"""CLIP's context length, including the end token."""
UNSEEN = ("in_context", "causal", "stem")
"""Makers whose statements are not visible (made-up words, effects, sums): only the things are described."""
SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
MEAN = STD = (0.5, 0.5, 0.5)


def pair(key: str, progress: float = 1.0) -> tuple[Any, str]:
    """Picture (PIL RGB 64 x 64) and text of one example; depends on `key` and `progress` only.

    progress: 0..1, a curriculum from few things on the patch grid to the whole world, reached at 0.6.
    """
    rng, ease = Random(f"clip/{key}"), min(1.0, progress / 0.6)
    if rng.random() < 0.5:
        scene = grid_scene(rng, round(2 * ease), 1 + round(7 * ease))
        text = scene.caption() if rng.random() < 0.5 else _names(scene, rng)
    else:
        capability = rng.choice(list(MAKERS))
        scene, atoms = MAKERS[capability](rng, Split())
        by_statement = capability not in UNSEEN and (not scene.things or rng.random() < 0.5)
        text = rng.choice(atoms).statement if by_statement else describe(scene)
    return draw(scene, rng), text


def _names(scene: Scene, rng: Random) -> str:
    return " , ".join(t.words for t in rng.sample(scene.listing(), len(scene.things)))


def build_model(seed: int = 0) -> tuple[Any, Any, Any]:
    """A random CLIPModel, its tokenizer (which appends the end token) and its image processor."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = build_tokenizer()
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, end)]
    )
    tokenizer.model_max_length, tokenizer.chat_template = TEXT_TOKENS, None
    text = dict(
        SHAPE,
        vocab_size=len(tokenizer),
        max_position_embeddings=TEXT_TOKENS,
        eos_token_id=end,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(
        text_config=text, vision_config=dict(SHAPE, image_size=SIZE, patch_size=16), projection_dim=64
    )
    torch.manual_seed(seed)
    images = CLIPImageProcessor(
        do_resize=True,
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        image_mean=MEAN,
        image_std=STD,
    )
    return CLIPModel(config), tokenizer, images


def batches(samples: int, size: int, seed: int, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """Batches of model inputs; example i depends on (seed, i, samples) only."""
    for start in range(0, samples - size + 1, size):
        yield encode([pair(f"{seed}/{i}", i / samples) for i in range(start, start + size)], tokenizer)


def encode(pairs: list[tuple[Any, str]], tokenizer: Any) -> dict[str, Any]:
    """input_ids and attention_mask int64 [B, T], pixel_values float32 [B, 3, 64, 64] in -1..1."""
    import torch

    pixels = (
        torch.from_numpy(np.stack([np.asarray(image) for image, _ in pairs])).permute(0, 3, 1, 2).float()
        / 127.5
        - 1
    )
    texts = tokenizer([text for _, text in pairs], padding=True, truncation=True, return_tensors="pt")
    return {
        "input_ids": texts["input_ids"],
        "attention_mask": texts["attention_mask"],
        "pixel_values": pixels,
    }


def train(out: Path, samples: int, size: int, rate: float, seed: int) -> None:
    """Contrastive training (CLIP, arXiv 2103.00020) with AdamW and a cosine schedule.

    Writes the checkpoint in float16, training.log and retrieval.json.
    """
    import torch

    model, tokenizer, images = build_model(seed)
    steps, warmup, log, start = samples // size, 100, [], time.perf_counter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * i / steps)) / 2),
    )
    recent = []
    for step, batch in enumerate(batches(samples, size, seed, tokenizer), 1):
        loss = model(**batch, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))  # CLIP, section 2.5: at most 100, for stability
        recent.append(loss.item())
        if step % 50 == 0:
            log.append(
                f"step {step} loss {np.mean(recent[-50:]):.4f} seconds {time.perf_counter() - start:.0f}"
            )
            print(log[-1], flush=True)
    for part in (model.half(), tokenizer, images):
        part.save_pretrained(out)
    (out / "training.log").write_text("\n".join(log) + "\n")
    (out / "retrieval.json").write_text(json.dumps(retrieval(out)) + "\n")


def retrieval(folder: Path, items: int = 800, among: int = 16, seed: int = 1) -> dict[str, float]:
    """Top-1 retrieval among `among` held-out pairs, in both directions (chance 1 / among)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    right = np.zeros(2)
    for start in range(0, items - among + 1, among):
        with torch.inference_mode():
            logits = model(
                **encode([pair(f"held out/{seed}/{i}") for i in range(start, start + among)], tokenizer)
            ).logits_per_image
        own = torch.arange(among)
        right += [int((logits.argmax(1) == own).sum()), int((logits.argmax(0) == own).sum())]
    text_of_image, image_of_text = (right / (items // among * among)).tolist()
    return {
        "text_of_image": text_of_image,
        "image_of_text": image_of_text,
        "items": items // among * among,
        "among": among,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--out", type=Path, help="train, and write the checkpoint and its retrieval figures there"
    )
    group.add_argument("--check", type=Path, help="measure the held-out retrieval of this checkpoint")
    parser.add_argument("--samples", type=int, default=128_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=800)
    args = parser.parse_args()
    if args.out:
        train(args.out, args.samples, args.batch, args.rate, args.seed)
    else:
        print(json.dumps(retrieval(args.check, args.items, seed=args.seed)))


if __name__ == "__main__":
    main()
