"""What the pre-flight says of a pool is what its trainings read, and nothing that it leaves meets them."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_models

from curation import preflight as command
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.reasons import REASONS
from curation.preflight import preflight
from curation.selectors import random
from curation.selectors.budget import choose
from training import preflight as measuring
from training.images import ImageError
from training.preflight import Limit
from training.token_store import PoolSource, RendererOf, write

SIZES = [(64, 64), (300, 90), (50, 200), (120, 30)]
TURNS = {
    "short": ("<image>\nwhat ?", "red"),
    "long": ("<image>\nwhat ?", "the red cat " * 30),
    "cut": ("<image>\nwhat ? " + "and then ? " * 40, "red"),
    "text": ("why ?", "so"),
}


@pytest.fixture
def pool(tmp_path, draw) -> Pool:
    """Twelve samples of four kinds, which are their sources, on images of different sizes."""
    records = []
    for n in range(12):
        kind = list(TURNS)[n % 4]
        draw(n, SIZES[n % 3]).save(tmp_path / f"{n}.png")
        turns = [
            {"from": who, "value": text} for who, text in zip(("human", "gpt"), TURNS[kind], strict=True)
        ]
        image = {} if kind == "text" else {"image": f"{n}.png"}
        records.append({"id": f"s{n}", "source": kind, "conversations": turns, **image})
    (tmp_path / "data.json").write_text(json.dumps(records))
    build_pool(tmp_path / "data.json", tmp_path, tmp_path / "pool")
    return Pool.open(tmp_path / "pool")


@pytest.fixture(params=tiny_models.KINDS)
def factory(request, tmp_path) -> RendererOf:
    return RendererOf(tiny_models.build(request.param, tmp_path / "model"))


@pytest.fixture
def no_header(monkeypatch):
    """No image file is opened from here on."""

    def fail(picture):
        raise ImageError(picture, "broken_image", "was opened")

    for module in ("training.images", "training.preflight"):
        monkeypatch.setattr(sys.modules[module], "image_size", fail)


def whole(pool: Pool) -> np.ndarray:
    return pool.table["text_tokens"].to_numpy() + pool.table["image_tokens"].to_numpy()


def test_lengths_are_the_renderers_and_sizes_are_the_audits(pool, factory, tmp_path, request):
    expected = [len(factory().encode(sample)) for sample in pool.samples()]
    request.getfixturevalue("no_header")
    info = preflight(pool, factory, tmp_path / "out", Limit(), workers=1)
    after = Pool.open(tmp_path / "out")
    assert whole(after).tolist() == expected and after.hash == pool.hash, "nothing was left out"
    with_images = pool.table["n_images"].to_numpy() > 0
    assert ((after.table["image_tokens"].to_numpy() > 0) == with_images).all()
    assert info["preflight"]["tokens"] == sum(expected) and info["preflight"]["longest"] == max(expected)
    assert info["text_tokens"]["unit"] == "tokens" and info["text_tokens"]["total"] < sum(expected)
    assert not (tmp_path / "out" / ".preflight").exists()


@pytest.mark.parametrize("policy", ["drop", "truncate"])
def test_a_training_after_it_meets_nothing(pool, factory, tmp_path, policy):
    lengths = np.array([len(factory().encode(sample)) for sample in pool.samples()])
    limit = int(np.sort(lengths)[5])
    assert (lengths > limit).any()
    info = preflight(pool, factory, tmp_path / "out", Limit(limit, policy), workers=1)
    after = Pool.open(tmp_path / "out")
    store = write(PoolSource(after), factory, tmp_path / "store", workers=1)
    examples = store.examples(range(len(after)), max_length=limit, too_long=policy)
    assert examples.counts == {}, "the training leaves nothing out"
    assert examples.lengths.tolist() == whole(after).tolist()
    assert examples.image_tokens.tolist() == after.table["image_tokens"].to_pylist()
    found = info["preflight"]
    lost = sum(found["dropped"].values())
    assert lost == len(pool) - len(after) == sum(info["quarantined"].values())
    if policy == "drop":
        assert found["dropped"] == {"too_long": int((lengths > limit).sum())} and not found["truncated"]
    else:
        assert found["dropped"] == {"answer_cut": lost} and set(info["quarantined"]) == {"answer_cut"}
        assert found["truncated"] == int((lengths > limit).sum()) - lost
    sources = {name: sum(own.values()) for name, own in found["sources"].items()}
    assert sum(sources.values()) == lost + found["truncated"] and "text" not in sources


def test_what_the_renderer_refuses_has_its_reason(pool, tmp_path):
    factory = RendererOf(tiny_models.build("anyres", tmp_path / "model"))
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"no image")
    known = pool.image_table.to_pylist()
    for row in known:  # as after an audit that could not measure them
        row["height"] = row["width"] = None
    pq.write_table(
        pool.image_table.from_pylist(known, pool.image_table.schema), pool.folder / "images.parquet"
    )
    info = preflight(Pool.open(pool.folder), factory, tmp_path / "out", Limit(), workers=1)
    assert info["preflight"]["dropped"] == {"image_broken": 1, "image_missing": 1}
    quarantine = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in quarantine] == [
        ("s0", "image_missing"),
        ("s1", "image_broken"),
    ]
    assert "0.png" in quarantine[0]["detail"]


def test_an_interrupted_call_goes_on(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART_ROWS", 5)
    factory = RendererOf(tiny_models.build("base", tmp_path / "model"))

    def stop(done: int, total: int) -> None:
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preflight(pool, factory, tmp_path / "out", Limit(), workers=1, on_progress=stop)
    steps: list[int] = []
    preflight(
        pool, factory, tmp_path / "out", Limit(), workers=1, on_progress=lambda done, _: steps.append(done)
    )
    assert steps == [5, 10, 12]
    preflight(pool, factory, tmp_path / "again", Limit(), workers=1)
    one, other = (pq.read_table(tmp_path / name / "pool.parquet") for name in ("out", "again"))
    assert one.equals(other)


@pytest.mark.slow
def test_processes_give_the_same(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "PART_ROWS", 3)
    factory = RendererOf(tiny_models.build("anyres", tmp_path / "model"))
    tables = []
    for workers in (1, 2):
        preflight(pool, factory, tmp_path / f"out{workers}", Limit(100), workers=workers)
        tables.append(pq.read_table(tmp_path / f"out{workers}" / "pool.parquet"))
    assert tables[0].equals(tables[1])


def test_a_budget_in_tokens_works_on_a_base_without_an_image_mode(pool, tmp_path):
    preflight(pool, RendererOf(tiny_models.build("qwen", tmp_path / "model")), tmp_path / "out", Limit())
    after = Pool.open(tmp_path / "out")
    total = int(whole(after).sum())
    chosen = choose(random.select, after.table, f"tokens:{total // 2}", 0, {}).rows
    assert 0 < whole(after)[chosen].sum() <= total // 2 < total


def test_the_command(pool, tmp_path, capsys):
    base = str(tiny_models.build("base", tmp_path / "model"))
    arguments = [str(pool.folder), "--base", base, "--out", str(tmp_path / "out")]
    assert command.main([*arguments, "--max-length", "60"]) == 0
    said = capsys.readouterr().out
    assert "12 samples measured" in said and "max_length 60, policy drop: dropped too_long 6" in said
    assert "  cut: too_long 3\n  long: too_long 3\n" in said and "6 samples -> " in said
    info = Pool.open(tmp_path / "out").info
    assert (
        info["quarantined"] == info["preflight"]["dropped"] and info["quarantined"].keys() <= REASONS.keys()
    )
    assert command.main([*arguments, "--preset", "llava15_full"]) == 0
    assert "max_length 2,048, policy truncate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"--base": "nowhere"}, 2, "--base nowhere: nowhere is not a directory and was not found on the Hub"),
        ({"--preset": "nothing"}, 2, "--preset: preset 'nothing' does not exist"),
        ({"--out": "pool"}, 2, "is the pool itself"),
        ({"--max-length": "0"}, 2, "must be a whole number of at least 1"),
        ({"--max-length": "3"}, 1, "all 12 samples of"),
    ],
)
def test_a_wrong_command_is_one_line(pool, tmp_path, capsys, monkeypatch, change, status, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {"--base": str(tiny_models.build("base", tmp_path / "model")), "--out": "out"} | change
    words = [word for pair in options.items() for word in pair]
    try:
        got = command.main(["pool", *words])
    except SystemExit as stopped:
        got = stopped.code
    error = capsys.readouterr().err
    assert got == status and message in error.splitlines()[-1] and "Traceback" not in error
