"""A small pool with unequal conversations, and a tiny random checkpoint that can read it."""

import json

import numpy as np
import pytest
from PIL import Image

QUESTIONS = ["what is at b2 ?", "describe the image .", "which letter is in the row ?", "is there a dog ?"]
ANSWERS = ["dog", "yes", "a red circle is above the blue square .", "c a t", "3"]


def write_pool_source(folder, count, seed=0):
    """A LLaVA list: one image each, every fifth text only, every seventh two images, one to three turns."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(count):
        n_images = 0 if i % 5 == 4 else 2 if i % 7 == 6 else 1
        images = [f"images/{i}_{k}.png" for k in range(n_images)]
        for name in images:
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
        turns = []
        for turn in range(1 + i % 3):
            question = " ".join(["<image>"] * (n_images if turn == 0 else 0) + [QUESTIONS[rng.integers(4)]])
            answer = " ".join(ANSWERS[k] for k in rng.integers(0, 5, 1 + i % 4))
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        record = {"id": f"s{i}", "source": f"src{i % 3}", "conversations": turns}
        records.append(record | ({"image": images if n_images > 1 else images[0]} if images else {}))
    (folder / "data.json").write_text(json.dumps(records))
    return folder / "data.json"


@pytest.fixture(scope="session")
def small_pool(tmp_path_factory):
    from curation.pool.ingest import build_pool
    from curation.pool.read import Pool

    folder = tmp_path_factory.mktemp("pool")
    build_pool(write_pool_source(folder, 40), folder, folder / "pool")
    return Pool.open(folder / "pool")


@pytest.fixture(scope="session")
def tiny_vlm_dir(tmp_path_factory):
    from curation.mini.tokenizer import build_tokenizer
    from training.models import build_tiny

    return build_tiny(
        tmp_path_factory.mktemp("vlm") / "model",
        build_tokenizer(),
        hidden=48,
        layers=2,
        vision_layers=2,
        heads=4,
    )
