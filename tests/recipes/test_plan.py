"""The graph of stages: its nodes, and what their hashes depend on."""

import dataclasses
import time

import pytest
from plans import AFTER_LABELS, AFTER_RATERS, AFTER_SELECT, STAGES, by_name, changed, plan

from recipes.errors import RecipeError
from recipes.load import load
from recipes.plan import make_plan
from recipes.plan_fits import RENDERED
from training.hub import HubModel
from training.spec import FitSpec
from training.token_store import RendererOf


def test_the_chain(project):
    nodes = by_name()
    kinds = {node.family for node in nodes.values()}
    assert kinds == {"bench", "source", "pool", "clean", "leaks", "tokens", "labels", *AFTER_LABELS}
    assert sorted(nodes["select[mmssr,0]"].inputs) == ["pool", "signal_capability", "signal_style"]
    assert sorted(nodes["select[random,0]"].inputs) == ["pool"]
    assert nodes["train[random,1]"].config["seed"] == 1
    assert nodes["train[random,1]"].inputs["subset"] is nodes["select[random,1]"]
    evaluated = nodes["evaluate[full,0]"].inputs
    assert evaluated["bench"] is nodes["bench"]
    assert sorted(evaluated) == ["answers", "bench", "suite", "tasks"]  # the last two are files of the suite
    answer = evaluated["answers"]
    assert answer is nodes["answer[full,0]"] and answer.inputs["bench"] is nodes["bench"]
    assert answer.inputs["model"] is nodes["train[full,0]"]
    assert sorted(answer.inputs) == ["bench", "model", "tasks"], "not the suite: an extractor may change"
    compare = nodes["compare"]
    assert [run["arm"] for run in compare.config["runs"]] == ["mmssr", "mmssr", "random", "random", "full"]
    assert [node.name for node in compare.inputs["evaluates"]] == [
        "evaluate[mmssr,0]",
        "evaluate[mmssr,1]",
        "evaluate[random,0]",
        "evaluate[random,1]",
        "evaluate[full,0]",
    ]


@pytest.mark.parametrize(
    "shuffled, runs",
    [
        ("all", ["mmssr,0", "mmssr,1", "random,0", "random,1", "full,0"]),
        ("first", ["mmssr,0", "random,0", "full,0"]),
        ("none", []),
    ],
)
def test_repetitions_that_are_also_evaluated_with_shuffled_images(project, shuffled, runs):
    nodes = by_name(f"evaluation.shuffled={shuffled}")
    asked = {name for name, node in nodes.items() if node.kind == "answer" and node.config["shuffled"]}
    assert asked == {f"answer[{run}]" for run in runs}


def test_parents_come_first(project):
    seen = set()
    for node in plan().nodes:
        assert {parent.name for parent in node.parents()} <= seen
        seen.add(node.name)


@pytest.mark.parametrize(
    "arm, kinds",
    [
        ("{selector: random}", set()),
        ("{selector: mllm_selector}", {"fit_seed", "signal[necessity]"}),
        ("{selector: mmssr, params: {bins: source}}", {"labels", "fit_rater[scorer]", "signal[capability]"}),
    ],
)
def test_only_the_signals_that_the_selectors_need(project, arm, kinds):
    (project / "one.yaml").write_text(f"name: one\nscale: tiny\narms: {{a: {arm}}}\n")
    always = {"bench", "source", "pool", "clean", "leaks", "tokens", "select", "train", "answer", "evaluate"}
    always.add("compare")
    assert {node.family for node in plan(file="one.yaml").nodes} - always == kinds


def test_a_rater_may_start_from_the_seed_model(project):
    base, nodes = by_name(), by_name("scorer.start=seed_model")
    assert "fit_seed" not in base and "signal[necessity]" not in nodes
    assert nodes["fit_rater[scorer]"].inputs["base"] is nodes["fit_seed"]
    assert (
        nodes["fit_rater[styler]"].hash == base["fit_rater[styler]"].hash
        and nodes["train[full,0]"].hash == base["train[full,0]"].hash
    )
    assert nodes["compare"].config["protocol"] == "modified"


def test_a_needed_section_that_is_missing(project):
    scale = project / "scales" / "tiny.yaml"
    scale.write_text("".join(line for line in scale.read_text().splitlines(True) if "styler" not in line))
    with pytest.raises(
        RecipeError, match=r"styler: missing; the signals of these arms need it: mmssr \(mmssr\)"
    ):
        plan()


def test_recipes_share_equal_stages(project):
    (project / "other.yaml").write_text(
        "name: other\nscale: tiny\nroot: else\n"
        "resources: {executor: pool, workers: 5}\ntrack: {mode: disabled}\n"
        "arms:\n  chance: {selector: random, budget: 30.0%, seeds: 3}\n"
        "  everything: {selector: all, seeds: [0]}\n"
    )
    ours, theirs = by_name(), by_name(file="other.yaml")
    for stage in ("select", "train", "evaluate"):
        assert ours[f"{stage}[random,0]"].hash == theirs[f"{stage}[chance,0]"].hash
        assert ours[f"{stage}[full,0]"].hash == theirs[f"{stage}[everything,0]"].hash
    assert ours["compare"].hash != theirs["compare"].hash


def test_equal_arms_are_one_node(project):
    nodes = plan("arms.again={selector: random, budget: 30%, seeds: 1}").nodes
    assert len(nodes) == len(plan().nodes)
    assert len(nodes[-1].config["runs"]) == 6


def test_train_seeds_share_a_selection(project):
    nodes = by_name("arms.random.seeds=1", "arms.random.train_seeds=[4, 5]")
    assert nodes["train[random,0,4]"].inputs["subset"] is nodes["train[random,0,5]"].inputs["subset"]


@pytest.mark.parametrize(
    "override, kinds",
    [
        ("root=elsewhere", set()),
        ("resources.executor=pool", set()),
        ("track.mode=disabled", set()),
        ("train.save_steps=5", set()),
        ("train.cache_mb=5", set()),
        ("train.save_minutes=5", set()),
        ("train.micro_batch=5", set()),
        ("train.processes=4", set()),
        ("train.deepspeed=zero3", set()),
        ("train.gradient_checkpointing=true", set()),
        ("train.max_bad_fraction=0.5", AFTER_SELECT),
        ("train.max_grad_norm=none", AFTER_SELECT),
        ("description=other", {"compare"}),
        ("name=other", {"compare"}),
        ("margin=0.5", {"compare"}),
        ("evaluation.batch_size=5", {"answer", "evaluate", "compare"}),
        ("train.lr=0.5", AFTER_SELECT),
        ("arms.mmssr.params.bins=none", {"select", *AFTER_SELECT}),
        (
            "scorer.train.lr=0.5",
            {"fit_rater[scorer]", "signal[capability]", "select", *AFTER_SELECT},
        ),
        (
            "scoring.batch_size=5",
            AFTER_RATERS,
        ),
    ],
)
def test_an_override_changes_only_dependent_stages(project, override, kinds):
    assert changed(by_name(), by_name(override)) == kinds


def test_a_change_of_one_arm_leaves_the_others(project):
    before, after = by_name(), by_name("arms.mmssr.budget=10%")
    assert before["evaluate[random,1]"].hash == after["evaluate[random,1]"].hash
    assert before["select[mmssr,0]"].hash != after["select[mmssr,0]"].hash


def test_limit_shortens_pool_and_benchmarks_but_draws_nothing_again(project):
    nodes = by_name("limit=50")
    assert changed(by_name(), nodes) == {"pool", "clean", "leaks", "tokens", "labels", *AFTER_LABELS}
    assert nodes["pool"].config["limit"] == nodes["evaluate[full,0]"].config["limit"] == 50
    assert nodes["compare"].config["protocol"] == "modified"


def test_the_base_model_is_hashed_by_content(project):
    before = by_name()
    (project / "base" / "README.md").write_text("a model card")
    (project / "base").rename(project / "moved")
    assert by_name("base.path=moved")["train[full,0]"].hash == before["train[full,0]"].hash
    (project / "moved" / "model.safetensors").write_bytes(b"other weights")
    after = by_name("base.path=moved")
    assert after["train[full,0]"].hash != before["train[full,0]"].hash
    assert after["clean"].hash == before["clean"].hash  # reads the processor only
    (project / "moved" / "tokenizer.json").write_text("[]")
    last = by_name("base.path=moved")
    assert last["clean"].hash != before["clean"].hash and last["pool"].hash == before["pool"].hash


def test_a_hub_id_is_a_model(project):
    nodes = by_name("base.path=organisation/name", "base.revision=abc")
    assert nodes["train[full,0]"].inputs["base"].path == HubModel("organisation/name", "abc")
    assert nodes["train[full,0]"].hash != by_name("base.path=organisation/name")["train[full,0]"].hash


@pytest.mark.parametrize(
    "override, message",
    [
        ("base.path=gone", "base.path: stages `train` and `pool` need gone, which does not exist"),
        ("base.path=scales", "not a checkpoint: it has no config.json"),
    ],
)
def test_a_missing_base_names_the_stages_that_need_it(project, override, message):
    with pytest.raises(RecipeError, match=message) as caught:
        plan(override)
    assert f"command line `{override}`" in str(caught.value)


LLAVA = (
    "pool: {kind: llava, source: data.json, images: pictures}\nbase: {path: base}\ntrain: {lr: 1}\nname: l\n"
)


def test_a_user_data_file(project):
    (project / "own.yaml").write_text(LLAVA + "arms: {a: {selector: random, budget: 5}}\n")
    (project / "data.json").write_text("[]")
    (project / "pictures").mkdir()
    first = by_name(file="own.yaml")
    assert "source" not in first and "bench" not in first
    assert first["pool"].inputs["source"].path == project / "data.json"
    (project / "data.json").write_text("[ ]")
    assert by_name(file="own.yaml")["pool"].hash != first["pool"].hash


@pytest.mark.parametrize("missing", ["data.json", "pictures"])
def test_missing_data_names_the_stage_that_needs_it(project, missing):
    (project / "own.yaml").write_text(LLAVA + "arms: {a: {selector: random, budget: 5}}\n")
    (project / "data.json").write_text("[]")
    (project / "pictures").mkdir()
    (project / missing).rename(project / "away")
    with pytest.raises(
        RecipeError, match=rf"own.yaml:1: stage `pool` needs the (file|directory) {project / missing}"
    ):
        plan(file="own.yaml")


# -------------------------------------------------------------------------- token stores


def test_the_pool_is_tokenised_once_for_all_trainings_by_the_same_rules(project):
    nodes = by_name("arms.again={selector: mllm_selector, budget: 10%, rounds: 2}")
    tokens = [node for node in nodes.values() if node.kind == "tokens"]
    assert [node.name for node in tokens] == ["tokens"] and tokens[0].inputs["pool"] is nodes["clean"]
    readers = [node for node in nodes.values() if node.kind in ("train", "fit_seed", "fit_warmup")]
    assert len(readers) > 6 and all(node.inputs["tokens"] is tokens[0] for node in readers)


def test_a_training_by_other_rules_has_tokens_of_its_own(project):
    arm = "arms.again={selector: mllm_selector, budget: 10%}"
    nodes = by_name(arm, "seed_model.train.system=Be kind.", "pool_seeds=2")
    assert [name for name, node in nodes.items() if node.kind == "tokens"] == [
        "tokens[seed_model,p0]",
        "tokens[seed_model,p1]",
        "tokens[p0]",
        "tokens[p1]",
    ]
    assert nodes["fit_seed[p1]"].inputs["tokens"].config["system"] == "Be kind."
    assert nodes["train[full,p1,0]"].inputs["tokens"] is nodes["tokens[p1]"]


def test_tokens_depend_on_what_the_renderer_reads_only(project):
    tokens = by_name()["tokens"]
    assert by_name("train.lr=0.5", "resources.token_workers=7")["tokens"].hash == tokens.hash
    assert by_name("train.max_length=50")["tokens"].hash != tokens.hash, "of fewer samples, perhaps"
    (project / "base" / "model.safetensors").write_bytes(b"other weights")
    assert by_name()["tokens"].hash == tokens.hash
    assert by_name("train.image_first=true")["tokens"].hash != tokens.hash
    (project / "base" / "config.json").write_text("{ }")
    assert by_name()["tokens"].hash != tokens.hash


def test_the_settings_of_tokens_are_those_that_a_renderer_takes(tmp_path):
    other = {
        "system": "Be kind.",
        "image_first": True,
        "loss_tokens": "llava_next",
        "loss_turns": "last",
        "image_aspect": "pad",
        "image_grids": "(1x1),(1x2)",
    }
    assert other.keys() == RENDERED
    for key, value in other.items():
        assert RendererOf.for_training(FitSpec(**{key: value}), tmp_path) != RendererOf.for_training(
            FitSpec(), tmp_path
        ), key
    plain = RendererOf.for_training(FitSpec(), tmp_path)
    taken = dataclasses.asdict(plain)["rules"].keys() | {"image_aspect", "image_grids"}
    assert taken == RENDERED, "a new rule of the renderer is a key of stage `tokens` too"


def test_goal_base_is_one_stage(project):
    (project / "b.yaml").write_text("name: b\ngoal: base\npretrain: {steps: 3}\n")
    assert [(n.kind, n.config) for n in plan(file="b.yaml").nodes] == [("pretrain", {"steps": 3})]


def test_unknown_stage_names_the_nearest(project):
    with pytest.raises(RecipeError, match="no stage `trian` in this plan; did you mean `train`"):
        plan().matching("trian")
    assert len(plan().matching("train")) == 5
    assert [n.name for n in plan().matching("train[full,0]")] == ["train[full,0]"]


@pytest.mark.slow
def test_ten_thousand_arms_are_planned_within_five_cpu_seconds(project):
    arms = "\n".join(f"  a{n}: {{selector: random, budget: 30%, seeds: [{n}]}}" for n in range(10_000))
    (project / "many.yaml").write_text(
        f"name: many\nscale: tiny\narms:\n{arms}\nbaseline: a0\nreference: a0\n"
    )
    loaded = load("many.yaml")
    started = time.process_time()
    assert len(make_plan(loaded, STAGES).nodes) == 40_007
    assert time.process_time() - started < 5, "CPU seconds"
