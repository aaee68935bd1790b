"""Recipes on real benchmarks: what a plan refuses, validation items, a run to its report."""

import importlib.util
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from benchmark_mirror import write_mirror
from evaluation_data import png
from plans import by_name, plan

from recipes.engine import refuse_unrunnable
from recipes.errors import RecipeError
from recipes.load import load
from recipes.run import main

RECIPE = """\
name: own
pool: {kind: llava, source: data.json, images: images}
base: {path: "builtin:mini"}
seed_model: {share: 0.2, train: {max_steps: 1, lr: 1e-3, batch_size: 4, lora: {r: 4, alpha: 8}}}
train: {max_steps: 1, lr: 1e-3, batch_size: 4}
arms:
  random: {selector: random, budget: 20%}
  chosen: {selector: perplexity, budget: 20%}
baseline: random
controls: off
evaluation: {suite: rules, data: {mirror: mirror}}
track: {mode: disabled}
"""
MMMU_DEV = """\
name: development
tasks: real
benchmarks:
  - name: mmmu
    label: MMMU dev
    tasks: [mmmu_val_interleaved]
    metric: mmmu_acc
    data: {repo: lmms-lab-encoder/MMMU, split: dev, id: id}
    extractor: {kind: choice, options: options}
"""
"""Another split of a reported benchmark."""
BLINK = """\
  - name: blink
    label: BLINK
    tasks: [{task: blink_counting, config: Counting}, {task: blink_jigsaw, config: Jigsaw}]
    metric: blink_acc
    item: is_correct
    data: {repo: BLINK-Benchmark/BLINK, split: SPLIT, id: idx}
    extractor: {kind: choice, options: choices}
"""
"""Its split `val` is reported; its split `test` has hidden answers."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    return write_mirror(tmp_path_factory.mktemp("data") / "mirror", rows=2)


@pytest.fixture
def own(tmp_path, mirror, monkeypatch):
    """The current directory, with own.yaml, a LLaVA pool of 60 samples and a mirror of all benchmarks."""
    (tmp_path / "images").mkdir()
    records = []
    for number in range(60):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(number))
        turns = [("human", f"<image>\nWhat is in picture {number}?"), ("gpt", f"noise {number}")]
        conversation = [{"from": who, "value": text} for who, text in turns]
        record = {"id": f"s{number}", "image": f"{number}.png", "source": "ab"[number % 2]}
        records.append({**record, "conversations": conversation})
    (tmp_path / "data.json").write_text(json.dumps(records))
    (tmp_path / "own.yaml").write_text(RECIPE)
    shutil.copytree(mirror, tmp_path / "mirror", ignore=shutil.ignore_patterns(".arrow"))
    (tmp_path / "development.yaml").write_text(MMMU_DEV)
    (tmp_path / "reported.yaml").write_text(MMMU_DEV + BLINK.replace("SPLIT", "val"))
    (tmp_path / "hidden.yaml").write_text(MMMU_DEV + BLINK.replace("SPLIT", "test"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*overrides: str) -> str:
    """Why the plan is refused; without dummy stages the message would be the same."""
    with pytest.raises(RecipeError) as caught:
        refuse_unrunnable(plan(*overrides, file="own.yaml"))
    return str(caught.value)


# ------------------------------------------------------------------------------------------ refusals


def test_a_limit_that_splits_a_unit_is_refused_before_anything_is_trained(own):
    assert "limit: limit 3 splits rotation group '1' of mmbench_v11" in refused("limit=3")
    refuse_unrunnable(
        plan("limit=2", "evaluation.suite=mm14", "evaluation.judge=not judged", file="own.yaml")
    )


def test_an_unknown_suite_is_refused(own):
    message = refused("evaluation.suite=rulez")
    assert "evaluation.suite: " in message and "rulez" in message and "rules" in message


def test_lmms_eval_that_is_missing_is_refused(own, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "recipes.plan_evaluation.find_spec", lambda name: None if name == "lmms_eval" else found(name)
    )
    message = refused()
    assert "pip install 'winnow[eval]'" in message and "(stage answer[random,0] cannot run)" in message
    refuse_unrunnable(plan(file="own.yaml"), until="train")


def test_a_mirror_that_is_not_given_or_not_there_is_refused(own):
    assert "evaluation.data.mirror: missing; suite 'rules' reads" in refused("evaluation.data=null")
    message = refused("evaluation.data.mirror=gone")
    assert "evaluation.data.mirror: mirror gone does not exist" in message and "command line" in message


def test_a_mirror_that_lacks_a_repository_or_a_shard_is_refused(own):
    [shard, *_] = sorted((own / "mirror/lmms-lab-encoder/MME").rglob("*-00002-of-*.parquet"))
    shard.unlink()
    message = refused()
    assert "evaluation.data.mirror: " in message and "MME" in message
    shutil.rmtree(own / "mirror/lmms-lab-encoder/ai2d")
    _only("ai2d")
    assert "lacks repository lmms-lab-encoder/ai2d" in refused("evaluation.suite=only.yaml")


def _only(name: str) -> Path:
    """A suite with one benchmark of `rules`."""
    from evaluation.suites import path_of

    suite = yaml.safe_load(path_of("rules").read_text())
    suite["benchmarks"] = [entry for entry in suite["benchmarks"] if entry["name"] == name]
    Path("only.yaml").write_text(yaml.safe_dump(suite))
    return Path("only.yaml")


def test_data_without_a_column_are_refused(own):
    _only("ai2d")
    [file] = (own / "mirror/lmms-lab-encoder/ai2d").rglob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["options"]), file)
    message = refused("evaluation.suite=only.yaml")
    assert "evaluation.data.mirror: " in message and "lacks column options" in message


def test_a_judge_that_is_needed_is_refused_before_anything_is_trained(own):
    message = refused("evaluation.suite=mm14")
    assert "evaluation.judge: missing; " in message and "mmvet" in message and "not judged" in message


def test_not_judged_leaves_the_columns_out_of_every_evaluation(own):
    nodes = by_name("evaluation.suite=mm14", "evaluation.judge=not judged", file="own.yaml")
    answers = [node for node in nodes.values() if node.kind == "answer"]
    assert len(answers) == 2 and not any(node.kind == "judge" for node in nodes.values())
    for node in answers:
        assert "mmvet" not in [benchmark["name"] for benchmark in node.config["benchmarks"]]
    assert all(n.config["not_judged"] for n in nodes.values() if n.kind == "evaluate")


def test_a_judge_is_a_stage_between_answers_and_scores(own):
    nodes = by_name("evaluation.suite=mm14", "evaluation.judge={model: m}", file="own.yaml")
    assert nodes["evaluate[random,0]"].inputs["judgements"] is nodes["judge[random,0]"]
    assert nodes["compare"].inputs["judgements"] == [nodes["judge[random,0]"], nodes["judge[chosen,0]"]]


def test_a_scale_may_name_the_mirror_and_a_recipe_another_place(own):
    scale, recipe = yaml.safe_load(RECIPE), {}
    for key in ("name", "arms", "baseline", "track"):
        recipe[key] = scale.pop(key)
    (own / "scales").mkdir()
    scale["evaluation"]["data"]["mirror"] = "../mirror"  # a scale's paths are relative to its own file
    scale["pool"] |= {"source": "../data.json", "images": "../images"}
    (own / "scales" / "real.yaml").write_text(yaml.safe_dump(scale))
    (own / "scaled.yaml").write_text(yaml.safe_dump({**recipe, "scale": "real"}))
    nodes = by_name(file="scaled.yaml")
    assert nodes["answer[random,0]"].inputs["bench"].path.resolve() == own / "mirror"
    (own / "mirror").rename(own / "moved")
    moved = load("scaled.yaml", ["evaluation.data.mirror=moved"])
    assert moved.protocol == "standard", "the place of the data is no setting of the protocol"
    after = by_name("evaluation.data.mirror=moved", file="scaled.yaml")
    assert after["answer[random,0]"].hash == nodes["answer[random,0]"].hash, "their content is"
    del scale["evaluation"]["data"]
    (own / "scales" / "real.yaml").write_text(yaml.safe_dump(scale))
    assert load("scaled.yaml", ["evaluation.data.mirror=moved"]).protocol == "standard"


def test_a_dry_run_says_what_the_evaluation_costs(own, capsys):
    assert main(["own.yaml", "--dry-run"], "dummy_stages") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "suite rules, 19 benchmarks, 2 checkpoints x" in said and "no judge needed" in said
    [minutes] = [
        word for before, word in zip(said.split(), said.split()[1:], strict=False) if before == "about"
    ]
    assert float(minutes.replace(",", "")) > 1000, "two checkpoints on all of VQAv2 alone take 1,800"


# ------------------------------------------------------------------------------------------ validation items

TARGETED = ["arms.chosen.selector=less", "gradient.dim=16"]


def test_validation_items_of_a_suite_are_a_stage_of_their_own(own):
    items = "gradient.validation={kind: suite, suite: development.yaml, mirror: mirror, items: 3, seed: 5}"
    nodes = by_name(*TARGETED, items, file="own.yaml")
    made, check = nodes["validation[gradient]"], nodes["held_out[gradient]"]
    assert made.config == {"kind": "suite", "suite": "development.yaml", "items": 3, "seed": 5}
    signals = [node for node in nodes.values() if made in node.parents() and node.kind == "signal"]
    assert signals and check.inputs["items"] is made
    assert nodes["compare"].inputs["held_out"] == [check], "nothing is reported without the check"
    assert made.repetition < 0 and check.repetition < 0, "before anything is trained"
    trained = [node for node in nodes.values() if node.kind == "train"]
    assert not any(check in node.parents() for node in trained), (
        "other reported benchmarks train nothing again"
    )


def test_validation_items_of_the_user(own):
    items = "gradient.validation={kind: llava, source: data.json, images: images}"
    nodes = by_name(*TARGETED, items, file="own.yaml")
    assert nodes["validation[gradient]"].inputs["source"].path == own / "data.json"
    with pytest.raises(RecipeError, match=r"stage `validation` needs the file gone\.json"):
        by_name(*TARGETED, "gradient.validation={kind: llava, source: gone.json}", file="own.yaml")


def test_a_validation_suite_must_have_data_and_no_judge(own):
    items = "gradient.validation={{kind: suite, suite: {}, mirror: {}}}"
    assert "gradient.validation.suite: mmvet" in refused(*TARGETED, items.format("mm14", "mirror"))
    assert "gradient.validation.mirror: mirror gone" in refused(*TARGETED, items.format("rules", "gone"))
    assert "gradient.validation.suite: " in refused(*TARGETED, items.format("rulez", "mirror"))


def test_probes_are_evaluated_on_the_validation_suite(own):
    nodes = by_name(
        "arms.chosen.selector=instructiongpt4",
        "clip={}",
        "clusters={instructiongpt4: {k: 2}}",
        "probe={subsets: 3, size: 5, indicators: [clip_score], bench: "
        "{kind: suite, suite: development.yaml, mirror: mirror, items: 2}}",
        file="own.yaml",
    )
    probe, reported = nodes["answer[probe,0]"], nodes["answer[random,0]"]
    assert [b["name"] for b in probe.config["benchmarks"]] == ["mmmu"] and probe.config["limit"] == 2
    assert len(reported.config["benchmarks"]) == 19 and reported.config["limit"] is None
    assert nodes["held_out[probe]"].config["items_of"] == {"suite": "development.yaml", "limit": 2}
    assert nodes["evaluate[probe,0]"].config["suite"] == "development.yaml"


def run_stage(kind: str, config: dict, inputs: dict, out: Path) -> dict:
    """What a stage returns."""
    from recipes.code import Stages

    class Silent:
        def say(self, text): ...

    out.mkdir()
    return Stages().run(kind)(config, inputs, out, Silent())


@pytest.mark.slow
def test_drawn_items_are_right_answers_and_held_apart_from_reported_questions(own):
    from curation.signals.gradients.validation import read_validation
    from evaluation.questions import EvaluationError

    mirror = own / "mirror"

    def draw(suite: str, name: str) -> dict:
        config = {"kind": "suite", "suite": suite, "items": 2, "seed": 3}
        return run_stage("validation", config, {"mirror": mirror}, own / name)

    def check(key: str, name: str, items_of=None, **inputs) -> dict:
        config = {"suite": "rules", "not_judged": False, "items_of": items_of, "key": key}
        return run_stage("held_out", config, {"bench": mirror, **inputs}, own / name)

    assert draw("development.yaml", "items")["items"] == {"mmmu": 2}
    assert draw("reported.yaml", "bad")["items"] == {"mmmu": 2, "blink": 4}
    draw("development.yaml", "again")
    assert (own / "again/items.json").read_bytes() == (own / "items/items.json").read_bytes()
    samples = read_validation(own / "bad", own / "scratch")
    assert {sample.source for sample in samples} == {
        "mmmu",
        "blink/blink_counting/Counting",
        "blink/blink_jigsaw/Jigsaw",
    }
    assert all(s.turns[0].question.count("<image>") == len(s.images) for s in samples)
    assert all(s.turns[0].answer.strip("()") in "ABCD" for s in samples if s.source != "mmmu")
    with pytest.raises(EvaluationError, match="blink_counting/Counting: none of 2 questions has a reference"):
        draw("hidden.yaml", "hidden")

    assert check("gradient.validation", "apart", items=own / "items")["items"] == 2
    with pytest.raises(RecipeError, match=r"gradient\.validation: validation item blink/.* take items of"):
        check("gradient.validation", "shared", items=own / "bad")
    asked = {"suite": "reported.yaml", "limit": None}
    with pytest.raises(RecipeError, match=r"probe\.bench: validation blink.* is question .* of blink/"):
        check("probe.bench", "asked", asked, mirror=mirror)


@pytest.mark.slow
def test_the_users_items_are_compared_by_words_and_pixels_not_by_files(own):
    """A reported question in other words around it, its image in another file format."""
    from curation.pool.ingest import build_pool
    from evaluation.held_out import check_items, items_of_pool
    from evaluation.opened import open_suite
    from evaluation.repository import MirrorError
    from evaluation.shuffled import images

    _only("ai2d")
    opened = open_suite("only.yaml", own / "mirror")
    [part] = opened.parts["ai2d"]
    picture = images(part.messages(0))[0].convert("RGB")
    prompt = f"<image>\nLook closely. {part.docs[0]['question'].upper()} Answer at once."

    def items(name: str, image) -> list:
        image.save(own / f"{name}.bmp")
        turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": "A"}]
        record = {"id": name, "source": "t", "image": f"{name}.bmp", "conversations": turns}
        (own / f"{name}.json").write_text(json.dumps([record]))
        build_pool(own / f"{name}.json", own, own / name)
        return items_of_pool(own / name)

    assert check_items(opened, items("other", picture.rotate(180))) >= 1, "the words alone are no repetition"
    with pytest.raises(MirrorError, match="validation item same is question 0 of ai2d, which is reported"):
        check_items(opened, items("same", picture))


# ------------------------------------------------------------------------------------------ end to end


@pytest.mark.slow
def test_a_recipe_on_a_user_s_pool_and_real_benchmarks_runs_to_its_report(own):
    recipe = yaml.safe_load(RECIPE)
    recipe["arms"]["targeted"] = {"selector": "less", "budget": "20%"}
    recipe["gradient"] = {
        "dim": 16,
        "validation": {"kind": "suite", "suite": "development.yaml", "mirror": "mirror", "items": 1},
    }
    (own / "own.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["own.yaml"]) == 0
    report = (own / "runs/own/report.md").read_text()
    assert "**protocol: the recipe's own** (no scale file is named)" in report
    assert "MMStar 24 of 1,500" in report and "MMBench v1.1 2 of 1,292" in report, "two rings of questions"
    row = next(line for line in report.splitlines() if line.startswith("| MME |"))
    assert row.startswith("| MME | mme_perception_score+mme_cognition_score | 2,800 | image pair | 14 | 28 |")
    assert "- POPE" not in report.partition("Deviations")[2].partition("## Pool")[0]
    assert "MMT-Bench: no literal <image> in the prompt" in report
    assert "prompts as in training (template: training), weights in float32, suite rules" in report
    assert "| answer |" in report and "Targeted (targeted)" in report
    comparison = json.loads((own / "runs/own/comparison.json").read_text())
    assert len(comparison["n"]) == 19 and comparison["units"]["mme"] == 14 and comparison["n"]["mme"] == 28
    assert [arm["arm"] for arm in comparison["arms"]] == ["random", "chosen", "targeted"]
    checked = json.loads((own / "runs/own/stages/held_out[gradient]/held_out.json").read_text())
    assert checked["items"] == 1
