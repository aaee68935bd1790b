"""A word-level tokenizer with a compact chat template, a tiny checkpoint, and samples over drawn images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.pool.sample import Sample, Turn

WORDS = (
    "what is at where the of in colour how many score ? . , yes no red blue green dog cat car a1 a2 b1 b2"
).split()
SPECIAL = ["<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"]
TEMPLATE = (
    "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}{{- '<|assistant|> ' -}}"
    "{%- generation -%}{{- m['content'] + ' <|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- '<|user|> ' + m['content'] + ' ' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|> ' -}}{%- endif -%}"
)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate([*SPECIAL, *(str(d) for d in range(10)), *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<image>"],
        chat_template=TEMPLATE,
    )


def make_image(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def make_samples(folder: Path, count: int, seed: int = 0) -> list[Sample]:
    """Solid-colour images, one or two turns; every fifth is text only, every seventh has two images."""
    rng = np.random.default_rng(seed)
    samples = []
    for row in range(count):
        colour = list(COLOURS)[rng.integers(3)]
        turns = [Turn("<image> what colour ?", colour)]
        path = folder / f"{colour}.png"
        Image.new("RGB", (64, 64), COLOURS[colour]).save(path)
        images = (path,)
        if row % 5 == 4:
            digit = str(rng.integers(10))
            images, turns = (), [Turn(f"score {digit} ?", f"yes {digit} .")]
        elif row % 7 == 6:
            images, turns = (path, path), [Turn("<image> <image> what colour ?", f"{colour} , {colour}")]
        if row % 3 == 0:
            turns.append(Turn("is the dog at a1 ?", "no , the dog is at b2"))
        samples.append(Sample(row, f"s{row}", "test", images, tuple(turns)))
    return samples


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def base(tmp_path_factory, tokenizer) -> Path:
    from training.models import build_tiny

    out = tmp_path_factory.mktemp("base") / "model"
    return build_tiny(out, tokenizer, hidden=32, layers=2, vision_layers=2, heads=2)


@pytest.fixture(scope="session")
def loaded(base):
    from training.models import load

    return load(base)


@pytest.fixture(scope="session")
def renderer(loaded):
    from training.render import Renderer

    return Renderer(loaded[1], "base")


@pytest.fixture
def draw():
    """draw(seed, (width, height)) -> PIL image of noise."""
    return make_image


@pytest.fixture(scope="session")
def samples_in():
    """samples_in(folder, count, seed=0) -> samples whose images lie in `folder`."""
    return make_samples


@pytest.fixture
def samples_of(tmp_path):
    """samples_of(count, seed=0) -> samples whose images lie in tmp_path."""
    return lambda count, seed=0: make_samples(tmp_path, count, seed)


@pytest.fixture
def samples(samples_of) -> list[Sample]:
    return samples_of(24)


GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_processor():
    """golden_processor(table) -> a new processor with the golden tokenizer, four tokens an image."""
    return make_golden_processor


def make_golden_processor(table: str):
    from transformers import (
        CLIPImageProcessor,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    file, side = str(GOLDEN / f"{table.removesuffix('_v1')}_tokenizer.json"), {"height": 28, "width": 28}
    if table == "vicuna_v1":
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=file, additional_special_tokens=["<image>"], **special
        )
        images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side)
        return LlavaProcessor(
            images,
            tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=file, additional_special_tokens=["<|im_start|>", "<image>"], **special
    )
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=[[28, 28], [28, 56], [56, 28]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=3,
        vision_feature_select_strategy="full",
    )
