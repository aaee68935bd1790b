"""Stage `tokens` on a real pool, and what the trainings read of it."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from recipes.plan_fits import RENDERED
from recipes.stages import tokens
from recipes.stages.fitting import stored
from training.render import RenderError
from training.spec import FitSpec
from training.token_store import RendererOf

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
COUNT = 24
"""Three whole shards: which one is written first depends on the process."""


class Progress:
    """Remembers what a stage reports; `stop_after` rows it raises KeyboardInterrupt."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done, self.said, self.stop_after, self.steps = 0, [], stop_after, []

    def total(self, n: int) -> None:
        self.n = n

    def advance(self, k: int = 1) -> None:
        self.done += k
        self.steps.append(k)
        if self.stop_after is not None and self.done >= self.stop_after:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def made(tmp_path, monkeypatch) -> dict[str, Path]:
    """Inputs of stage `tokens`: a pool of COUNT samples, every fifth with a long answer; shards of 8 rows."""
    monkeypatch.setattr(sys.modules["training.token_store.write"], "MIN_SHARD_ROWS", 8)
    images = tmp_path / "images"
    images.mkdir()
    records = []
    for n in range(COUNT):
        Image.new("RGB", (64, 64), (n, 0, 0)).save(images / f"{n}.png")
        turns = [("human", f"<image>\nWhat is {n}?"), ("gpt", "red " * (60 if n % 5 == 0 else 2))]
        conversation = [{"from": who, "value": text} for who, text in turns]
        records.append({"id": f"s{n}", "image": f"{n}.png", "conversations": conversation})
    (tmp_path / "pool.json").write_text(json.dumps(records))
    build_pool(tmp_path / "pool.json", images, tmp_path / "pool")
    return {"pool": tmp_path / "pool", "processor": MINI}


def config(**settings) -> dict:
    return {**FitSpec(**settings).model_dump(mode="json", include=RENDERED), "workers": 1}


def tokenised(made: dict[str, Path], out: Path, **settings) -> dict[str, Path]:
    """The inputs of a training, after stage `tokens`."""
    out.mkdir(exist_ok=True)
    tokens.run(config(**settings), made, out, Progress())
    return {**made, "tokens": out}


def test_a_training_reads_what_the_renderer_gives(made, tmp_path):
    spec = FitSpec(loss_turns="last", system="Be kind.", max_length=60)
    settings = spec.model_dump(mode="json", exclude={"seed"})
    inputs = tokenised(made, tmp_path / "out", loss_turns="last", system="Be kind.")
    examples = stored(inputs, [3, 5, 4], settings)
    renderer, pool = RendererOf.for_training(spec, MINI)(), Pool.open(made["pool"])
    assert [example.name for example in examples] == ["s3", "s4"]
    for example, row in zip(examples, (3, 4), strict=True):
        expected = renderer.encode(pool[row])
        assert example.input_ids.tolist() == expected.input_ids.tolist()
        assert example.labels.tolist() == expected.labels.tolist() and example.images == expected.images
    assert examples.counts == {"too_long": 1} and examples.rejected[0].index == 1
    with pytest.raises(RenderError):
        stored(inputs, [3, 5, 4], settings | {"too_long": "error"})


def test_an_interrupted_stage_continues_with_its_next_shard(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        tokens.run(config(), made, out, Progress(stop_after=8))
    kept = {file: file.stat().st_mtime_ns for file in (out / "store").glob("*.shard")}
    assert len(kept) == 1
    again = Progress()
    summary = tokens.run(config(), made, out, again)
    assert again.steps[0] == 8 and again.done == again.n == COUNT
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert summary["samples"] == COUNT and summary["rejected"] == {} and summary["image_tokens"] == COUNT * 17
    assert f"{COUNT} samples" in again.said[0] and "samples/s" in again.said[0]


def test_rejected_samples_are_counted_by_reason(made, tmp_path):
    (tmp_path / "images" / "7.png").unlink()
    out = tmp_path / "out"
    out.mkdir()
    summary = tokens.run(config(), made, out, Progress())
    assert summary["rejected"] == {"missing_image": 1} and summary["samples"] == COUNT


def test_images_are_found_where_the_pool_finds_them(made, tmp_path):
    """The pool, its file and the images are moved together; the store lies elsewhere and stays."""
    inputs = tokenised(made, tmp_path / "out")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("pool", "pool.json", "images"):
        (tmp_path / name).rename(moved / name)
    examples = stored({**inputs, "pool": moved / "pool"}, [0, 1], FitSpec().model_dump(exclude={"seed"}))
    assert examples[1].images == (moved / "images" / "1.png",) and examples[1].images[0].is_file()
