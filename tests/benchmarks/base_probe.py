"""Look-up skills of the base model beyond its gates: by position, by content, in the prompt, and copying.

    OMP_NUM_THREADS=1 python tests/benchmarks/base_probe.py [--items 150]

Share of items whose answer is right to the last token (greedy, by teacher forcing).
"""

import argparse
from random import Random

import torch

from curation.mini import art
from curation.mini.makers import NONSENSE
from curation.mini.scene import Scene, Thing, draw, free_cells
from curation.pool.sample import IMAGE_PLACEHOLDER, Sample, Turn
from training.builtin import BUILTIN
from training.collate import Collator
from training.models import image_mode, load
from training.render import IGNORE, Renderer

PROBES = ("what is in a cell", "where is an object", "key bound in the prompt", "copy six words")


def item(probe: str, index: int) -> Sample:
    """One item of a probe: four objects in a picture, or text alone."""
    rng = Random(f"probe/{probe}/{index}")
    names = rng.sample(art.names().objects, 6)
    if probe == "copy six words":
        return Sample(index, str(index), "text", (), (Turn(" ".join(["copy", *names]), " ".join(names)),))
    if probe == "key bound in the prompt":
        keys = rng.sample(NONSENSE, 3)
        bound = " , ".join(f"{n} = {k}" for n, k in zip(names, keys, strict=False))
        return Sample(index, str(index), "text", (), (Turn(f"{bound} ; {names[1]}", keys[1]),))
    things = [
        Thing("object", n, c, variant=rng.randrange(art.ART_STYLES))
        for n, c in zip(names, free_cells(rng, 4), strict=False)
    ]
    asked = things[0]
    question, answer = (asked.where, asked.name) if probe == PROBES[0] else (asked.name, asked.where)
    return Sample(
        index,
        str(index),
        "captions",
        (draw(Scene(things), rng),),
        (Turn(f"{IMAGE_PLACEHOLDER} {question}", answer),),
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=150)
    items = parser.parse_args().items
    model, processor = load(BUILTIN["builtin:mini"])
    renderer = Renderer(processor, image_mode(model))
    collate = Collator(renderer.pad_id, renderer.loader)
    for probe in PROBES:
        batch = collate([renderer.encode(item(probe, i), "last") for i in range(items)])
        labels = batch.pop("labels")[:, 1:]
        guessed = model(**batch).logits.argmax(-1)[:, :-1]
        right = ((guessed == labels) | (labels == IGNORE)).all(1).float().mean()
        print(f"{probe}: {right:.3f} of {items}")


if __name__ == "__main__":
    main()
