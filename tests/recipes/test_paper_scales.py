"""The scales of published trainings: each is planned on a small pool, and says what it costs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from recipes.errors import RecipeError
from recipes.external import Fingerprints, _count
from recipes.load import HERE, load
from recipes.plan import make_plan
from recipes.run import main
from recipes.training_costs import TrainingCosts
from training import presets

SCALES = {
    "llava_ov_05b_si": ("onevision_si_05b", "mmssr10"),
    "llava_ov_7b_si": ("mmssr_subset_sft", "mmssr10"),
    "llava15_7b": ("llava15_full", "llava10"),
    "qwen25vl_7b": ("qwen25vl_sft", "mm14"),
}
"""Scale -> (preset of the SFT, suite)."""
POOL = ["pool.source=pool.json", "track.mode=disabled"]
COUNT = 400


@pytest.fixture
def pool(tmp_path, monkeypatch) -> Path:
    """The current directory, with a LLaVA file of COUNT samples."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    turns = [("human", "<image>\nWhat?"), ("gpt", "Nothing.")]
    conversation = [{"from": who, "value": text} for who, text in turns]
    records = [{"id": f"s{n}", "image": "a.png", "conversations": conversation} for n in range(COUNT)]
    (tmp_path / "pool.json").write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_scale_of_a_paper_is_here():
    assert {path.stem for path in (HERE / "scales").glob("*.yaml")} == {"mini", "smoke", *SCALES}


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_is_a_preset_packed_and_saved_by_time(pool, scale):
    loaded = load("mmssr_30pct.yaml", [f"scale={scale}", *POOL])
    recipe, (preset, suite) = loaded.recipe, SCALES[scale]
    assert loaded.protocol == "standard", "the user's pool is not a modification"
    assert recipe.train.from_preset.name == preset and recipe.evaluation.suite == suite
    assert recipe.train.pack_tokens and recipe.train.save_minutes
    published = presets.load(preset).fit
    assert recipe.train.loss_norm == "token"
    own = {"pack_tokens"} | ({"loss_norm"} if published["loss_norm"] == "microbatch" else set())
    assert set(recipe.train.from_preset.changed) == own, "all else is as published"
    assert recipe.scorer.train.from_preset.name == recipe.styler.train.from_preset.name == "mmssr_scorer"
    assert recipe.scorer.train.pack_tokens is None, "branches of one example cannot be packed"


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_is_planned_with_its_costs(pool, scale):
    loaded = load("mmssr_30pct.yaml", [f"scale={scale}", *POOL, "resources.gpu=h100", "train.processes=16"])
    plan = make_plan(loaded)
    costs = TrainingCosts(loaded, pool)
    stages = {node.name: node for node in plan.nodes}
    assert {node.kind for node in plan.nodes} >= {"pool", "labels_api", "fit_rater", "tokens", "train"}
    full, part = costs.of(stages["train[full,0]"]), costs.of(stages["train[random,0]"])
    size = loaded.recipe.train.batch_size
    for cost, samples in ((full, COUNT), (part, 0.3 * COUNT)):
        whole = samples // size * size if loaded.recipe.train.drop_last else samples
        assert cost.samples == (whole or samples)
    assert full.gpu_hours > part.gpu_hours > 0 and full.fits, "on 16 H100 with ZeRO-3"
    assert costs.of(stages["fit_rater[scorer]"])


def test_a_dry_run_prints_stages_hours_and_memory(pool, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ["mmssr_30pct.yaml", "scale=llava_ov_7b_si", *POOL, "resources.gpu=h100", "--until", "train"]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "h100 hours" in out and "GB a process" in out and "400 samples of clean, assumed" in out
    assert main([*command[:-2], "--dry-run"]) == 2, "the evaluation needs a mirror and a judge"
    assert "evaluation.judge: missing" in capsys.readouterr().err


def test_a_scale_without_a_pool_says_what_to_give(pool):
    with pytest.raises(RecipeError, match=r"llava15_7b\.yaml:\d+: pool\.source: missing \(path of the data"):
        load("mmssr_30pct.yaml", ["scale=llava15_7b"])


def test_what_a_scale_leaves_open_is_no_modification_but_what_it_sets_is(pool):
    both = ["scale=llava15_7b", *POOL, "evaluation.judge=not judged"]
    assert load("mmssr_30pct.yaml", [*both, "pool.images=."]).protocol == "standard"
    assert load("mmssr_30pct.yaml", [*both, "teacher.model=mine"]).modified == ("teacher.model",)
    scale = pool / "scales" / "fixed.yaml"
    scale.parent.mkdir()
    text = (HERE / "scales" / "llava15_7b.yaml").read_text()
    scale.write_text(text.replace("{kind: file,", "{kind: llava, source: ../pool.json,"))
    (pool / "other.json").write_text("[]")
    (pool / "own.yaml").write_text("name: own\nscale: fixed\narms: {a: {selector: random, budget: 5}}\n")
    assert load("own.yaml").protocol == "standard"
    assert load("own.yaml", ["pool.source=other.json"]).modified == ("pool.source",)


def test_conversations_are_counted_across_blocks(pool):
    prints = Fingerprints()
    assert prints.records(pool / "pool.json") == COUNT
    file = pool / "few.txt"
    file.write_bytes(b"ababxabab" * 3)
    assert [_count(file, b"abx", block) for block in (1, 2, 3, 4, 100)] == [3] * 5
