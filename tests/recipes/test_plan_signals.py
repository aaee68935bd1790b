"""The stages that compute the signals which selectors need."""

import pytest

from recipes.code import Stages
from recipes.errors import RecipeError
from recipes.load import load
from recipes.plan import make_plan

ALWAYS = {"bench", "source", "pool", "clean", "leaks", "tokens", "select", "train", "answer", "evaluate"}
ALWAYS.add("compare")
SECTIONS = """\
embeddings:
  own: {kind: states, layers: [-2, -1]}
  both: {kind: states, tokens: halves}
  clip_pair: {path: clip}
  clip_turns: {path: clip}
clip: {path: clip}
clusters:
  text: {column: emb_both_text, k: 4}
  spectral: {column: clip_image, method: spectral, k: 3}
quality: {noise: 0.5}
gradient: {dim: 32, validation: {items: 5, seed: 7}}
probe: {subsets: 3, size: 10, bench: {items: 5, seed: 7}, indicators: [clip_score, reward, answer_tokens]}
signals: {mine: {producer: "my_signals:compute", params: {power: 2}}}
"""


@pytest.fixture
def asking(project, monkeypatch):
    """A function that plans an arm whose selector needs the given signals; returns stages by name."""
    scale = project / "scales" / "tiny.yaml"
    scale.write_text(scale.read_text() + SECTIONS)
    (project / "clip").mkdir()
    (project / "clip" / "config.json").write_text("{}")
    (project / "clip" / "model.safetensors").write_bytes(b"weights")
    (project / "my_signals.py").write_text("def compute(pool, rows, **params): ...\n")
    monkeypatch.syspath_prepend(project)
    counter = iter(range(100))

    def ask(*signals, more="", overrides=()):
        module = f"asks_{next(counter)}_{project.name.replace('-', '_')}"
        (project / f"{module}.py").write_text(
            f"NEEDS = {signals!r}\ndef select(columns, budget, seed): ...\n"
        )
        (project / "one.yaml").write_text(
            f"name: one\nscale: tiny\narms:\n  a: {{selector: '{module}:select', budget: 30%{more}}}\n"
            "  random: {selector: random, budget: 30%}\n"
        )
        return {
            node.name: node for node in make_plan(load("one.yaml", overrides), Stages("dummy_stages")).nodes
        }

    return ask


@pytest.mark.parametrize(
    "signal, stages",
    [
        ("necessity", {"fit_seed", "signal[necessity]"}),
        ("necessity_ablated", {"fit_seed", "signal[necessity_ablated]"}),
        ("base_losses", {"signal[base_losses]"}),
        ("base_losses_ablated", {"signal[base_losses_ablated]"}),
        ("embedding_own", {"signal[embedding_own]"}),
        ("validity", {"signal[validity]"}),
        ("clip", {"signal[clip]"}),
        ("cluster_text", {"signal[embedding_both]", "signal[cluster_text]"}),
        ("cluster_spectral", {"signal[clip]", "signal[cluster_spectral]"}),
        ("quality", {"signal[quality]"}),
        ("gradient", {"fit_warmup", "bench[7]", "signal[gradient]"}),
        ("gradient_adam", {"fit_warmup", "bench[7]", "signal[gradient_adam]"}),
        ("gradient_adam_clean", {"fit_warmup", "bench[7]", "signal[gradient_adam_clean]"}),
        (
            "gradient_masked",
            {"fit_warmup", "bench[7]", "signal[gradient_adam]", "signal[gradient_masked]"},
        ),
        ("step_gain", {"fit_warmup", "bench[7]", "signal[step_gain]"}),
        ("rds", {"bench[7]", "signal[embedding_position_weighted]", "signal[rds]"}),
        ("self_filter", {"signal[embedding_clip_pair]", "signal[self_filter]"}),
        (
            "coido",
            {"signal[embedding_clip_pair]", "signal[clip]", "signal[cluster_coido]", "signal[coido]"},
        ),
        (
            "once_select",
            {"signal[embedding_clip_turns]", "signal[cluster_once_select]", "signal[once_select]"},
        ),
        ("spectrum", {"signal[spectrum]"}),
        ("cluster_datatailor", {"signal[embedding_last_token]", "signal[cluster_datatailor]"}),
        ("leverage", {"signal[embedding_attended_visual]", "signal[leverage]"}),
        ("perturbed_losses", {"fit_seed", "signal[perturbed_losses]"}),
        ("cluster_ards", {"fit_seed", "signal[embedding_ards]", "signal[cluster_ards]"}),
        ("mine", {"signal[mine]"}),
    ],
)
def test_the_stages_of_a_signal(asking, signal, stages):
    nodes = asking(signal)
    assert {name for name, node in nodes.items() if node.kind not in ALWAYS or name == "bench[7]"} == stages
    assert f"signal_{signal}" in nodes["select[a,0]"].inputs
    assert f"signal_{signal}" not in nodes["select[random,0]"].inputs
    assert f"signal_{signal}" in nodes["compare"].inputs


def test_adams_own_update_is_a_signal_beside_the_released_direction(asking):
    nodes = asking("gradient_adam", "gradient_adam_clean")
    released, own = (
        nodes[f"signal[{name}]"].config["arguments"] for name in ("gradient_adam", "gradient_adam_clean")
    )
    assert own == released | {"direction": "clean", "prefix": "clean_adam_"} and "direction" not in released


def test_queries_are_embedded_by_the_model_of_the_pools_vectors(asking):
    """The base, or the one that the recipe's entry names."""
    nodes = asking("rds")
    rds, vectors = nodes["signal[rds]"], nodes["signal[embedding_position_weighted]"]
    assert rds.inputs["vectors"] == vectors
    assert rds.inputs["model_dir"] == vectors.inputs["model_dir"]
    assert rds.inputs["validation"] == nodes["bench[7]"]
    other = asking("rds", overrides=["embeddings.position_weighted.path=clip"])
    own = other["signal[rds]"].inputs["model_dir"]
    assert own == other["signal[embedding_position_weighted]"].inputs["model_dir"]
    assert own != rds.inputs["model_dir"]


def test_the_settings_of_a_step_are_those_of_its_section(asking):
    nodes = asking("step_gain", overrides=["one_step.anchors=7", "one_step.lr=0.5"])
    arguments = nodes["signal[step_gain]"].config["arguments"]
    assert arguments == {"anchors": 7, "optimizer": "adam", "lr": 0.5, "seed": 0, "max_tokens": 2048}


def test_targets_need_their_section(asking):
    with pytest.raises(RecipeError, match="gradient: missing"):
        asking("rds", overrides=["gradient=null"])


def test_items_of_one_seed_and_two_numbers_are_two_stages(asking):
    nodes = asking("gradient", "value", overrides=["probe.bench.items=3"])
    assert nodes["signal[gradient]"].inputs["validation"] is nodes["bench[7]"]
    assert nodes["evaluate[probe,0]"].inputs["bench"] is nodes["bench[7,3]"]
    assert (nodes["bench[7]"].config["items"], nodes["bench[7,3]"].config["items"]) == (5, 3)


def test_the_probe_reads_the_vectors_that_it_names(asking):
    overrides = ["probe.vectors=[clip_image, emb_both_text]", "probe.scaling=published", "clip.unit=whole"]
    overrides += ["probe.indicators=[clip_score, answer_characters]"]
    nodes = asking("value", overrides=overrides)
    value = nodes["signal[value]"]
    assert value.inputs["signals"] == [nodes["signal[clip]"], nodes["signal[embedding_both]"]]
    assert value.config["arguments"]["vectors"] == ["clip_image", "emb_both_text"]
    assert value.config["arguments"]["scaling"] == "published"
    assert nodes["signal[clip]"].config["arguments"] == {"text": "answer", "unit": "whole"}
    with pytest.raises(RecipeError, match=r"probe.vectors: `clip_score` is not a column of vectors"):
        asking("value", overrides=["probe.vectors=[clip_score]"])


def test_a_published_embedding_needs_no_entry(asking, project):
    nodes = asking("cluster_presel", "embedding_last_token")
    clusters, dino = nodes["signal[cluster_presel]"], nodes["signal[embedding_dino]"]
    assert clusters.inputs["vectors"] == [dino]
    assert clusters.config["arguments"] == {
        "name": "presel",
        "column": "emb_dino",
        "method": "kmeans",
        "k": "1%",
        "within": "source",
        "iterations": 50,
        "seed": 12345,
        "engine": "torch",
    } | {key: clusters.config["arguments"][key] for key in clusters.config["arguments"] if key == "threshold"}
    assert str(dino.inputs["model_dir"].path) == "facebook/dinov2-base"
    assert dino.config["arguments"] == {"name": "dino", "kind": "vision", "pooling": "cls"}
    last = nodes["signal[embedding_last_token]"]
    assert last.inputs["model_dir"].path == project / "base", "the base, where the preset names no model"
    assert last.config["arguments"]["pooling"] == "last"


def test_an_embedding_is_by_the_model_that_it_names(asking, project):
    nodes = asking("embedding_ards")
    assert nodes["signal[embedding_ards]"].inputs["model_dir"] is nodes["fit_seed"]
    assert "model" not in nodes["signal[embedding_ards]"].config["arguments"]
    nodes = asking("embedding_ards", overrides=["embeddings.ards={model: base}"])
    assert nodes["signal[embedding_ards]"].inputs["model_dir"].path == project / "base"


def test_settings_of_what_the_states_are_measured_by(asking):
    overrides = ["spectrum.layer=-2", "perturbation={step: 500, letters: ABCDEFG}", "leverage.energy=0.8"]
    nodes = asking("spectrum", "perturbed_losses", "leverage", overrides=overrides)
    given = {name: nodes[f"signal[{name}]"].config["arguments"] for name in ("spectrum", "leverage")}
    assert given["spectrum"]["layer"] == -2 and given["leverage"] == {"energy": 0.8}
    perturbed = nodes["signal[perturbed_losses]"].config["arguments"]
    assert (perturbed["step"], perturbed["letters"], perturbed["seed"]) == (500, "ABCDEFG", 0)
    assert nodes["signal[leverage]"].inputs["vectors"] is nodes["signal[embedding_attended_visual]"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{column: emb_last_token, method: ward, k: 5}", "method ward takes no k but a threshold"),
        ("{column: emb_last_token}", "method kmeans needs k"),
        ("{column: emb_last_token, k: 5, threshold: 0.2}", "threshold belongs to method ward, not to kmeans"),
    ],
)
def test_a_clustering_has_the_settings_of_its_method(asking, entry, message):
    with pytest.raises(RecipeError, match=message):
        asking("cluster_deep", overrides=[f"clusters.deep={entry}"])


def test_an_entry_of_a_published_name_changes_the_keys_that_it_gives(asking, project):
    overrides = ["embeddings.tanh_attention={path: base, layers: [0]}", "clusters.coincide={k: 3}"]
    nodes = asking("cluster_coincide", overrides=overrides)
    embedding = nodes["signal[embedding_tanh_attention]"]
    assert embedding.inputs["model_dir"].path == project / "base"
    arguments = embedding.config["arguments"]
    assert (arguments["layers"], arguments["state"], arguments["squash"]) == ([0], "attention", "tanh")
    clusters = nodes["signal[cluster_coincide]"].config["arguments"]
    assert (clusters["k"], clusters["seed"]) == (3, 1234)
    assert clusters["column"] == ["emb_tanh_attention_image", "emb_tanh_attention_text"]


def test_the_same_vectors_serve_several_arms(asking):
    arms = "arms={a: {selector: semdedup, budget: 30%}, random: {selector: deita, budget: 30%}}"
    nodes = asking(overrides=[arms, "clusters.semdedup={k: 4}"])
    assert (
        nodes["select[a,0]"].inputs["signal_embedding_last_token"]
        is (nodes["select[random,0]"].inputs["signal_embedding_last_token"])
    )


def test_the_modules_of_a_sentence_encoder_are_part_of_its_identity(asking, project):
    folder = project / "minilm"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    override = ["embeddings.first_instruction={path: minilm}"]

    def encoder():
        return asking("embedding_first_instruction", overrides=override)[
            "signal[embedding_first_instruction]"
        ]

    seen = [encoder().hash]
    for file in ("modules.json", "1_Pooling/config.json"):
        (folder / file).write_text("[1]")
        seen.append(encoder().hash)
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("needs", "overrides", "message"),
    [
        (
            ("embedding_dyno",),
            [],
            r"embeddings.dyno: missing; a selector reads the column embedding_dyno; did you mean `dino`",
        ),
        ((), ["embeddings.dino={path: base, layers: [1]}"], r"embeddings.dino.layers: unknown key"),
        ((), ["embeddings.mine={layers: [1]}"], r"embeddings.mine: .*[Uu]nable to extract tag"),
        ((), ["embeddings.mine={kind: bert}"], r"embeddings.mine.kind: must be one of 'states', 'vision'"),
        ((), ["embeddings.mine={kind: vision}"], r"embeddings.mine.path: missing"),
        ((), ["embeddings.my_text={kind: states}"], r"'my_text' is not allowed as the name of an embedding"),
        ((), ["embedding={layers: [1]}"], r"embedding: unknown key; did you mean `embeddings`"),
        ((), ["clusters.presel={k: 150%}"], r"k '150%' is not allowed; give a number from 1, or a share"),
        (
            ("cluster_text",),
            ["clusters.text.column=emb_own_text"],
            r"clusters.text.column: `emb_own_text` is not a column of embeddings.own, .* makes emb_own",
        ),
        (
            ("embedding_both",),
            ["arms.random={selector: d2, budget: 30%, params: {vectors: emb_both}}"],
            r"arms.random: `emb_both` is not a column of embeddings.both, .* emb_both_image, emb_both_text",
        ),
        (
            ("self_filter",),
            ["self_filter.features=emb_both"],
            r"self_filter.features: `emb_both` is not a column of embeddings.both, .* makes emb_both_image",
        ),
    ],
)
def test_embeddings_that_cannot_be_are_refused(asking, needs, overrides, message):
    with pytest.raises(RecipeError, match=message):
        asking(*needs, overrides=overrides)


def test_losses_by_model_and_part(asking):
    nodes = asking("necessity", "necessity_ablated", "base_losses", "base_losses_ablated")
    losses = {
        name: (
            node.config["arguments"]["terms"],
            node.config["arguments"].get("prefix", ""),
            node.inputs["model_dir"] is nodes["fit_seed"],
        )
        for name, node in nodes.items()
        if node.kind == "signal"
    }
    assert losses == {
        "signal[necessity]": (["full"], "", True),
        "signal[base_losses]": (["full"], "base_", False),
        "signal[necessity_ablated]": (["noimg", "noq", "a"], "", True),
        "signal[base_losses_ablated]": (["noimg", "noq", "a"], "base_", False),
    }


@pytest.fixture
def graders(project):
    """The files of two text models, and the overrides that name them."""
    for name in ("judge_of_pairs", "judge_of_questions"):
        (project / name).mkdir()
        (project / name / "config.json").write_text("{}")
        (project / name / "model.safetensors").write_bytes(b"weights")
        (project / name / "model.safetensors").write_text(name)
    judge = "judge: {model: j, server: {url: 'http://localhost:1/v1'}}"
    return [f"quality={{kind: models, reward: {{path: judge_of_pairs}}, {judge}}}"]


def test_quality_by_models(asking, graders, project):
    nodes = asking("quality", overrides=graders)  # replaces the section of the scale, which has another kind
    made = nodes["signal[quality]"]
    assert (
        set(made.inputs) == {"pool", "reward_model"}
        and made.inputs["reward_model"].path == project / "judge_of_pairs"
    )
    assert made.config["arguments"]["judge_model"] == "j"
    assert nodes["compare"].inputs["signal_quality"] == [made]
    elsewhere = asking("quality", overrides=[*graders, "quality.judge.server.url=http://localhost:2/v1"])[
        "signal[quality]"
    ]
    assert elsewhere.hash == made.hash, "the address of a model is not hashed"
    (project / "scales" / "other.yaml").write_text(
        (project / "scales" / "tiny.yaml")
        .read_text()
        .replace("quality: {noise: 0.5}", graders[0].replace("quality=", "quality: "))
    )
    assert (
        load("one.yaml", ["scale=other", "quality.judge.server.url=http://localhost:2/v1"]).protocol
        == "standard"
    )
    assert load("one.yaml", ["scale=other", "quality.judge.model=k"]).modified == ("quality.judge.model",)
    (project / "judge_of_pairs" / "model.safetensors").write_text("other weights")
    other = asking("quality", overrides=graders)["signal[quality]"]
    assert other.hash != made.hash
    added = asking("quality", overrides=[*graders, "quality.quality={path: judge_of_questions}"])[
        "signal[quality]"
    ]
    assert set(added.inputs) == {"pool", "reward_model", "quality_model"} and added.hash != other.hash


@pytest.mark.parametrize(
    "arm, more, message",
    [
        (
            "{selector: deita, budget: 30%}",
            [],
            r"quality.complexity: missing; arm `random` \(deita\) reads the column complexity",
        ),
        (
            "{selector: top_k, budget: 30%, params: {column: quality}}",
            [],
            r"quality.quality: missing; arm `random` \(top_k\)",
        ),
        (
            "{selector: instructiongpt4, budget: 30%}",
            ["quality.judge=null", "probe.indicators=[reward, judge]"],
            r"quality.judge: missing; probe.indicators reads the column judge",
        ),
        (
            "{selector: deita, budget: 30%}",
            ["quality.judge=null", "quality.reward=null"],
            "no model is given; give at least one of reward, complexity, quality, judge",
        ),
        (
            "{selector: deita, budget: 30%}",
            ["quality.reward.path=nowhere"],
            "quality.reward.path: a signal needs nowhere, which does not exist",
        ),
        (
            "{selector: deita, budget: 30%}",
            ["quality.kind=human"],
            r"quality.kind: must be one of 'metadata', 'models', got 'human'",
        ),
    ],
)
def test_a_grade_without_its_model_is_refused(asking, graders, arm, more, message):
    overrides = [*graders, f"arms.random={arm}", *more]
    if "nowhere" in str(more):
        overrides += ["quality.complexity={path: judge_of_pairs}", "quality.quality={path: judge_of_pairs}"]
    with pytest.raises(RecipeError, match=message):
        asking(overrides=overrides)


def test_an_arm_needs_models_only_for_the_columns_it_reads(asking, graders):
    assert "signal[quality]" in asking(
        overrides=[*graders, "arms.random={selector: top_k, budget: 30%, params: {column: judge}}"]
    )


def test_the_seed_models_answers_are_scored_by_rule_or_by_a_judge(asking):
    node = asking("answered")["signal[answered]"]
    assert node.config["arguments"] == {"max_turns": 3, "max_new_tokens": 64, "max_tokens": 2048}
    assert node.inputs["model_dir"].name == "fit_seed" and "server" not in node.config
    judge = "answered.judge={model: j, server: {url: 'http://127.0.0.1:1/v1'}}"
    judged = asking("answered", overrides=[judge, "answered.max_turns=1"])["signal[answered]"]
    assert judged.config["arguments"]["judge_model"] == "j" and judged.config["arguments"]["max_turns"] == 1
    assert judged.config["server"]["url"] == "http://127.0.0.1:1/v1"


def test_gradients_are_computed_at_the_checkpoints_of_a_warm_up(asking, project):
    nodes = asking("gradient", "gradient_adam")
    plain, adam = nodes["signal[gradient]"], nodes["signal[gradient_adam]"]
    assert [plain.config["arguments"][key] for key in ("checkpoints", "adam", "prefix")] == [
        "last",
        False,
        "",
    ]
    assert [adam.config["arguments"][key] for key in ("checkpoints", "adam", "prefix")] == [
        "all",
        True,
        "adam_",
    ]
    for node in (plain, adam):
        assert node.inputs["warmup"] is nodes["fit_warmup"] and node.inputs["model_dir"].path == (
            project / "base"
        )
        assert node.inputs["validation"] is nodes["bench[7]"]
    assert (
        nodes["fit_warmup"].config["share"] == 0.1 and nodes["fit_warmup"].config["train"]["lora"]["r"] == 4
    ), "the settings of the seed model"
    assert nodes["compare"].inputs["warmup"] == [nodes["fit_warmup"]], (
        "its seconds count as a cost of the arm"
    )
    runs = asking(overrides=["arms.random={selector: less, budget: 30%}"])["compare"].config["runs"]
    assert {run["arm"]: run["targeted"] for run in runs} == {"a": False, "random": True}
    own = asking("gradient", overrides=["gradient.warmup={share: 0.05, train: {epochs: 4, lora: {r: 8}}}"])
    assert own["fit_warmup"].config["share"] == 0.05 and own["fit_warmup"].config["train"]["epochs"] == 4
    many = asking("gradient", overrides=["seed_model.train={deepspeed: zero3, processes: 8, lora: {r: 4}}"])
    assert many["fit_warmup"].config["train"]["deepspeed"] == "zero3"


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "gradient.warmup={train: {epochs: 4}}",
            r"gradient.warmup.train: gradients are computed at the adapters of a LoRA training",
        ),
        (
            "seed_model.train.lora=null",
            r"seed_model.train: gradients are computed at the adapters of a LoRA training",
        ),
        (
            "gradient.warmup={train: {lora: {r: 8}, seed: 3}}",
            r"gradient.warmup.train.seed: this training is seeded by gradient.warmup.seed",
        ),
    ],
)
def test_a_warm_up_without_adapters_is_refused(asking, override, message):
    with pytest.raises(RecipeError, match=message):
        asking("gradient_adam", overrides=[override])


def test_the_subset_probe(asking):
    nodes = asking("value")
    value = nodes["signal[value]"]
    assert set(value.inputs) == {"pool", "signals", "subsets", "evaluates"}
    assert value.inputs["signals"] == [nodes[f"signal[{name}]"] for name in ("clip", "quality", "necessity")]
    assert value.inputs["evaluates"] == [nodes[f"evaluate[probe,{k}]"] for k in range(3)]
    for k in range(3):
        assert nodes[f"train[probe,{k}]"].config["subset"] == k
        assert nodes[f"evaluate[probe,{k}]"].inputs["bench"] is nodes["bench[7]"] is not nodes["bench"]
        assert nodes[f"answer[probe,{k}]"].config["shuffled"] is False
    assert len(nodes["compare"].inputs["probes"]) == 6, "the probes' seconds count as a cost of the arm"


def test_validation_items_must_not_be_those_of_the_comparison(asking):
    with pytest.raises(
        RecipeError, match=r"probe.bench.seed: seed 1000 draws the items that the arms are compared on"
    ):
        asking("value", overrides=["probe.bench.seed=1000"])
    with pytest.raises(RecipeError, match=r"gradient.validation.seed"):
        asking("gradient", overrides=["gradient.validation.seed=1000"])


def test_each_round_trains_the_seed_model_on_the_previous_subset(asking):
    nodes = asking("necessity", "base_losses", more=", rounds: 3")
    first, second, last = (nodes[f"select[a,0{more}]"] for more in (",round 1", ",round 2", ""))
    assert first.inputs["signal_necessity"] is nodes["signal[necessity]"]
    assert (
        nodes["fit_seed[a,0,round 1]"].inputs["subset"] is first
        and "share" not in nodes["fit_seed[a,0,round 1]"].config
    )
    assert nodes["fit_seed[a,0,round 2]"].inputs["subset"] is second
    assert last.inputs["signal_necessity"].inputs["model_dir"] is nodes["fit_seed[a,0,round 2]"]
    assert last.inputs["signal_base_losses"] is first.inputs["signal_base_losses"]
    assert nodes["train[a,0]"].inputs["subset"] is last


@pytest.mark.parametrize(
    "needs, more, message",
    [
        ((), ", rounds: 2", "reads no signal of the seed model"),
        (("reference",), "", "needs `reference`"),
        ((), ", reference: random", "reads no `reference`"),
        (("reference",), ", reference: rndom", "`rndom` is not an arm; did you mean `random`"),
        (("reference",), ", reference: a", "cannot be its own reference"),
        (
            ("cluster_txt",),
            "",
            "clusters.txt: missing; a selector reads the column cluster_txt; did you mean `text`",
        ),
        (("qality",), "", "the signal `qality` has no producer; did you mean `quality`"),
    ],
)
def test_invalid_needs_are_refused(asking, needs, more, message):
    with pytest.raises(RecipeError, match=message):
        asking(*needs, more=more)


def test_a_reference_is_the_subset_of_the_same_seed(asking):
    nodes = asking("reference", more=", reference: random, seeds: [0, 4]")
    assert nodes["select[a,0]"].inputs["reference"] is nodes["select[random,0]"]
    assert nodes["select[a,4]"].inputs["reference"].config["seed"] == 4


def test_rows_of_the_seed_model(asking):
    nodes = asking("necessity", "seed_rows")
    assert nodes["select[a,0]"].inputs["seed_rows"] is nodes["fit_seed"]


def test_a_released_rater_needs_no_labels(asking, project):
    nodes = asking("capability", overrides=["scorer.path=base"])
    assert nodes["signal[capability]"].inputs["model_dir"] is nodes["fit_released[scorer]"]
    assert not {"labels", "fit_rater[scorer]"} & set(nodes)


@pytest.mark.parametrize(
    "override, message",
    [
        ("clusters.text.column=em_both_txt", "is not a column of vectors; did you mean `emb_both_text`"),
        ("scorer.train=null", "missing `train`; give it, or the `path`"),
    ],
)
def test_invalid_sections_are_refused(asking, override, message):
    with pytest.raises(RecipeError, match=message):
        asking("cluster_text", overrides=[override])


def test_a_budget_in_tokens(asking):
    nodes = asking("necessity", overrides=["arms.a.budget=tokens:2.5e4"])
    assert nodes["select[a,0]"].config["budget"] == "tokens:25000"
    with pytest.raises(RecipeError, match="tokens:N"):
        asking("necessity", overrides=["arms.a.budget=tokens:few"])
