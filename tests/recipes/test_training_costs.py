"""The costs of the trainings that a dry run prints."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.sample import Sample, Turn
from recipes.code import Stages
from recipes.graph import store_path
from recipes.load import load
from recipes.plan import make_plan
from recipes.run import main
from recipes.training_costs import TrainingCosts, spec_of

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
PARAMETERS = 1_440_256


@pytest.fixture
def real(project):
    """The project with the mini world's base in place of the dummy one."""
    for file in MINI.iterdir():
        shutil.copy(file, project / "base" / file.name)
    return project


def planned(project, *overrides):
    """TrainingCosts, and the stages of the plan by name."""
    loaded = load("demo.yaml", list(overrides))
    plan = make_plan(loaded, Stages("dummy_stages"))
    return TrainingCosts(loaded, project), {node.name: node for node in plan.nodes}


def test_every_training_stage_has_a_cost(real):
    costs, stages = planned(real)
    trainings = {name for name, node in stages.items() if costs.of(node)}
    assert (
        trainings == {name for name in stages if name.startswith(("train[", "fit_seed", "fit_rater"))}
        and {"train[full,0]", "fit_rater[scorer]"} <= trainings
    )
    full, part = costs.of(stages["train[full,0]"]), costs.of(stages["train[random,0]"])
    assert full.steps == -(-600 // 16) and part.steps == -(-180 // 16)
    assert full.tokens == 600 * (300 + 17) and full.samples == 600  # a tile is 16 patches and a newline
    assert full.parameters == full.trained == PARAMETERS
    assert full.disk.final == 4 * PARAMETERS and full.gpu_hours is None
    assert any("600 samples of clean, assumed" in note for note in costs.notes)


def test_hours_are_those_of_the_named_gpu_and_processes(real):
    costs, stages = planned(real, "resources.gpu=h100", "resources.mfu=0.5", "train.processes=4")
    cost = costs.of(stages["train[full,0]"])
    assert cost.gpu_hours == pytest.approx(cost.flops / (989e12 * 0.5 * 3600))
    assert cost.hours == cost.gpu_hours / 4 and cost.fits
    plain, same = planned(real)
    assert cost.flops == plain.of(same["train[full,0]"]).flops


def test_lengths_are_those_of_a_pool_and_a_subset_that_are_built(real):
    costs, stages = planned(real)
    pool = store_path(real, "clean", stages["clean"].hash)
    pool.mkdir(parents=True)
    columns = {"text_tokens": range(600), "image_tokens": [17] * 600, "n_images": [1] * 600}
    pq.write_table(pa.table({k: pa.array(v, pa.int32()) for k, v in columns.items()}), pool / "pool.parquet")
    (pool / "pool.json").write_text(json.dumps({"n": 600}))
    (pool / "done.json").write_text("{}")
    full = costs.of(stages["train[full,0]"])
    assert full.tokens == sum(range(600)) + 600 * 17
    assert any("the pool's text tokens" in note for note in costs.notes)
    expected = costs.of(stages["train[random,0]"]).tokens
    assert expected == pytest.approx(0.3 * full.tokens, rel=0.01)


def test_lengths_are_those_of_a_finished_token_store(real, monkeypatch):
    from training.token_store import ListSource, RendererOf, write

    costs, stages = planned(real)
    train, subset = stages["train[full,0]"], stages["select[random,0]"]
    place = store_path(real, "tokens", train.inputs["tokens"].hash)
    samples = [
        Sample(n, str(n), "made", (), (Turn("why", "so " * n),)) for n in range(20)
    ]  # the first has no answer
    store = write(ListSource(samples), RendererOf(real / "base"), place / "store", workers=1)
    assert costs.of(train).samples == 600, "an unfinished stage is not read"
    (place / "done.json").write_text("{}")
    costs = TrainingCosts(load("demo.yaml"), real)
    full = costs.of(train)
    assert full.samples == 600 * 19 / 20 and full.tokens / full.samples == pytest.approx(
        store.lengths.sum() / 19, rel=0.01
    )
    assert any("20 samples of tokens, counted: the token store" in note for note in costs.notes)
    chosen = store_path(real, "select", subset.hash)
    chosen.mkdir(parents=True)
    (chosen / "done.json").write_text("{}")
    rows = pa.table({"row": pa.array([0, 7, 19], pa.int32())})
    monkeypatch.setattr("curation.subset.read_subset", lambda folder: rows)
    part = costs.of(stages["train[random,0]"])
    assert part.samples == 2 and part.tokens == store.lengths[[7, 19]].sum()
    next((place / "store").glob("*.shard")).unlink()
    costs = TrainingCosts(load("demo.yaml"), real)
    assert costs.of(train).samples == 600 and any("cannot be read" in note for note in costs.notes)


def test_a_training_of_steps_has_these_steps(real):
    costs, stages = planned(real, "train.max_steps=7")
    cost = costs.of(stages["train[full,0]"])
    assert cost.steps == 7 and cost.samples == 7 * 16


def test_a_dry_run_prints_the_costs_and_their_total(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["demo.yaml", "resources.gpu=a100_80", "--dry-run"], "dummy_stages") == 0
    out = capsys.readouterr().out
    assert "a100_80 hours" in out and "GB a process" in out and "7 trainings:" in out and "40% MFU" in out
    assert main(["demo.yaml", "resources.gpu=h1000", "--dry-run"], "dummy_stages") == 2
    assert "gpu must be one of" in capsys.readouterr().err


def test_a_narrow_table_cuts_no_name_and_no_cell(real, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo.yaml", "resources.gpu=a100_80", "--dry-run"], "dummy_stages") == 0
    out = capsys.readouterr().out
    _, stages = planned(real)
    assert all(f" {name} " in out for name in stages) and "…" not in out
    assert all(line.rstrip().endswith("│") for line in out.splitlines() if line.startswith("│"))


def test_a_base_without_shapes_is_said_once(project, capsys):
    assert main(["demo.yaml", "--dry-run"], "dummy_stages") == 0
    out = capsys.readouterr().out
    assert out.count("no estimate of the trainings: ") == 1 and "GB a process" not in out


def test_a_hub_name_has_the_shape_of_the_published_model(real):
    costs, stages = planned(real, "base.path=llava-hf/llava-onevision-qwen2-0.5b-si-hf")
    assert costs.of(stages["train[full,0]"]).parameters == 893_675_552
    costs, stages = planned(real, "base.path=someone/else")
    assert (
        costs.of(stages["train[full,0]"]) is None and "someone/else is not on this machine" in costs.notes[0]
    )


def test_the_settings_are_those_of_the_stage(real):
    _, stages = planned(real, "train.lr=3e-5")
    assert spec_of(stages["train[full,0]"]).lr == 3e-5
    assert spec_of(stages["fit_rater[styler]"]).batch_size == 16
    assert spec_of(stages["pool"]) is None


@pytest.mark.slow
def test_gpu_names_do_not_load_torch(project):
    code = "import sys, recipes.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=MINI.parents[2]).returncode == 0
