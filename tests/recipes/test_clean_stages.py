"""Stages `pool`, `leaks` and `clean` on a small mini world: what is planted is found, dropped or flagged."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killed import contents
from said import Said

from curation.mini.bench import build_bench
from curation.mini.draft import Defects
from curation.mini.pool import build_source
from curation.pool.errors import PoolError
from curation.pool.read import Pool
from recipes.plan_fits import RENDERED
from recipes.stages import clean, leaks, pool, tokens
from recipes.stages.leaked import Leaked
from training.spec import FitSpec

pytest.importorskip("lmms_eval", reason="pip install 'winnow[eval]'")

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
RULES = FitSpec().model_dump(mode="json", include=RENDERED)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """bench, source (200 samples with many leaks and repeats), their audited pool, and its leaks."""
    root = tmp_path_factory.mktemp("world")
    build_bench(root / "bench", items=6, seed=1000)
    (root / "source").mkdir()
    build_source(root / "source", 200, 0, Defects(leaks=0.1, near_duplicates=0.3), root / "bench")
    (root / "pool").mkdir()
    config = {"kind": "mini", "audit": "full", "max_bad_fraction": 0.01, "limit": None}
    pool.run(config, {"source": root / "source"}, root / "pool", Said())
    (root / "leaks").mkdir()
    found = {"suite": "mini", "not_judged": False}
    leaks.run(found, {"pool": root / "pool", "bench": root / "bench"}, root / "leaks", Said())
    return {name: root / name for name in ("bench", "source", "pool", "leaks")}


def measured(**settings) -> dict:
    return {**RULES, "max_length": None, "policy": "drop", **settings}


def cleaned(world, out, measured=None, dedup="off", drop=False) -> tuple[Pool, dict, Said]:
    out.mkdir()
    said = Said()
    inputs = {"pool": world["pool"], "processor": MINI} | ({"leaks": world["leaks"]} if drop else {})
    summary = clean.run({"measured": measured, "dedup": dedup, "workers": 1}, inputs, out, said)
    return Pool.open(out), summary, said


def truth(world, column: str) -> set[str]:
    table = pq.read_table(world["source"] / "truth.parquet")
    return {row["id"] for row in table.to_pylist() if row[column]}


def test_nothing_to_drop_is_the_same_pool_with_its_tokens(world, tmp_path):
    after, summary, _ = cleaned(world, tmp_path / "out", measured())
    before = Pool.open(world["pool"])
    assert after.hash == before.hash and summary == {"samples": 200, "preflight": {}}
    assert before.info["text_tokens"]["unit"] == "words" and before.table["image_tokens"].null_count == 200
    each = after.table["image_tokens"].to_numpy() - 17 * after.table["n_images"].to_numpy()
    assert not each.any() and after.info["text_tokens"]["unit"] == "tokens"


def test_planted_leaks_are_dropped_or_flagged(world, tmp_path):
    planted, found = truth(world, "leak"), Leaked("flag", [world["leaks"]])
    after, summary, _ = cleaned(world, tmp_path / "out", measured(), drop=True)
    left = set(after.table["id"].to_pylist())
    assert len(planted) >= 10 and not planted & left, "every planted leak is found"
    lost = 200 - len(after)
    assert summary["decontaminate"] == {"leak": lost} and lost == len(found.rows(0))
    quarantine = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert {row["reason"] for row in quarantine} == {"leak"} and len(quarantine) == lost
    stamp = found.stamp()
    assert stamp["rows"] == lost and stamp["of"] == 200 and len(stamp["suite"]) >= 16
    assert sum(stamp["items"].values()) == sum(map(len, found.questions.values())) > 0
    assert sum(stamp["sources"].values()) == lost == sum(after.info["decontaminate"]["sources"].values())
    dropped = Leaked("drop", [world["leaks"]])
    assert dropped.questions == {} and dropped.rows(0) == set() and dropped.stamp()["state"] == "drop"
    assert Leaked("flag", []).stamp() == {"state": "off"}


def test_steps_are_taken_in_order_and_each_sample_has_one_reason(world, tmp_path):
    near = {"images": "near", "text": "near", "radius": 8, "threshold": 0.8}
    after, summary, said = cleaned(world, tmp_path / "out", measured(max_length=60), near, drop=True)
    lost = {
        reason: n for step in ("decontaminate", "preflight", "dedup") for reason, n in summary[step].items()
    }
    assert set(lost) == {"leak", "too_long", "copy"} and all(lost.values())
    assert len(after) == 200 - sum(lost.values()) == summary["samples"]
    assert after.info["quarantined"] == lost and after.info["parent"]["n"] == 200
    assert (after.table["text_tokens"].to_numpy() + after.table["image_tokens"].to_numpy()).max() <= 60
    assert (
        any("too_long" in line for line in said.lines)
        and said.lines[-1] == f"{len(after)} of 200 samples stay"
    )


def test_too_long_can_be_an_error(world, tmp_path):
    with pytest.raises(PoolError, match=r"samples have more than train.max_length 60 tokens"):
        cleaned(world, tmp_path / "out", measured(max_length=60, policy="error"))


def test_an_interrupted_stage_goes_on(world, tmp_path, monkeypatch):
    monkeypatch.setattr("training.preflight.PART_ROWS", 64)
    out, steps = tmp_path / "out", []
    out.mkdir()

    class Stops(Said):
        def advance(self, k: int = 1) -> None:
            steps.append(k)
            if sum(steps) >= 64:
                raise KeyboardInterrupt

    config = {"measured": measured(), "dedup": "off", "workers": 1}
    inputs = {"pool": world["pool"], "processor": MINI}
    with pytest.raises(KeyboardInterrupt):
        clean.run(config, inputs, out, Stops())
    assert len(list((out / ".preflight").glob("*.parquet"))) == 1 and clean.RESUMES
    clean.run(config, inputs, out, Said())
    assert Pool.open(out).hash == Pool.open(world["pool"]).hash and not (out / ".preflight").exists()


def test_the_token_store_says_when_images_changed_after_the_pre_flight(world, tmp_path):
    cleaned(world, tmp_path / "clean", measured())
    inputs = {"pool": tmp_path / "clean", "processor": MINI}
    config = {**RULES, "workers": 1}
    first, said = tmp_path / "first", Said()
    first.mkdir()
    assert tokens.run(config, inputs, first, said)["rejected"] == {} and len(said.lines) == 1
    sample = next(sample for sample in Pool.open(tmp_path / "clean").samples() if sample.images)
    moved = sample.images[0].rename(tmp_path / "moved.png")
    try:
        second, said = tmp_path / "second", Said()
        second.mkdir()
        assert sum(tokens.run(config, inputs, second, said)["rejected"].values()) >= 1
        assert "their images have changed since" in said.lines[0]
    finally:
        moved.rename(sample.images[0])


def test_a_world_that_is_drawn_again_gives_the_same_files(tmp_path):
    made = {}
    for root in (tmp_path / "one", tmp_path / "two"):
        build_bench(root / "bench", items=2, seed=1000)
        for name in ("source", "pool", "leaks", "clean"):
            (root / name).mkdir()
        build_source(root / "source", 60, 0, Defects(leaks=0.1), root / "bench")
        config = {"kind": "mini", "audit": "full", "max_bad_fraction": 0.01, "limit": None}
        pool.run(config, {"source": root / "source"}, root / "pool", Said())
        inputs = {"pool": root / "pool", "bench": root / "bench"}
        leaks.run({"suite": "mini", "not_judged": False}, inputs, root / "leaks", Said())
        inputs = {"pool": root / "pool", "processor": MINI, "leaks": root / "leaks"}
        clean.run({"measured": measured(), "dedup": "off", "workers": 1}, inputs, root / "clean", Said())
        made[root] = contents(root)
    one, two = made.values()
    assert {name for name in one if one[name] != two.get(name)} == set() and one.keys() == two.keys()


def test_a_copy_of_the_same_files_gives_the_same_images(world, tmp_path):
    """When a file was written says nothing of its pool."""
    tables = []
    for name in ("one", "two"):
        shutil.copytree(world["source"], tmp_path / name, copy_function=shutil.copy)
        for file in (tmp_path / name).rglob("*.png"):
            os.utime(file, (len(tables), len(tables)))
        (out := tmp_path / f"pool-{name}").mkdir()
        config = {"kind": "file", "audit": "header", "max_bad_fraction": 0.01, "limit": None}
        inputs = {"source": [tmp_path / name / "pool.json"], "images": tmp_path / name}
        pool.run(config, inputs, out, Said())
        tables.append((out / "images.parquet").read_bytes())
    assert tables[0] == tables[1]


def test_a_full_audit_writes_its_page_and_hashes(world):
    assert (world["pool"] / "audit.md").is_file()
    table = Pool.open(world["pool"]).image_table
    assert table["phash"].null_count == 0 and table["bytes_hash"].null_count == 0
    assert json.loads((world["pool"] / "pool.json").read_text())["audit"]["level"] == "full"
