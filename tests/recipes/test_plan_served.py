"""Plans with teachers and raters on a server: stages, what their hashes cover, invalid combinations."""

import re

import pytest
from plans import AFTER_LABELS, AFTER_SELECT, by_name, changed
from pydantic import ValidationError

from curation.closure import REPOSITORY
from recipes.code import Stages
from recipes.errors import RecipeError
from recipes.load import load
from recipes.plan import make_plan
from recipes.schema import ApiTeacher, MetadataTeacher, Server

API = "teacher={kind: api, model: m, noise: null}"
SERVED = ("scoring.engine=server", "scorer.served=rater", "styler.served=namer")


@pytest.fixture
def nodes(project):
    """A function that returns a plan's stages by name; the scale sets only the share of the teacher."""
    scale = project / "scales" / "tiny.yaml"
    scale.write_text(
        scale.read_text().replace("teacher: {share: 0.05, noise: 0.2}", "teacher: {share: 0.05}")
    )
    return by_name


FROM_LABELS = {"labels_api", *AFTER_LABELS}


@pytest.mark.parametrize(
    "override, kinds",
    [
        ("teacher.server.url=http://elsewhere/v1", set()),
        ("teacher.server.key_env=OTHER", set()),
        ("teacher.server.concurrency=3", set()),
        (
            "teacher.server={timeout: 5, retries: 0, token_field: max_completion_tokens}",
            set(),
        ),
        ("teacher.server.max_failed=0.5", FROM_LABELS),  # how many samples may have no labels
        ("teacher.model=other", FROM_LABELS),
        ("teacher.repeats=0", FROM_LABELS),
        ("teacher.detail=low", FROM_LABELS),
        ("teacher.share=0.1", FROM_LABELS),
        ("teacher.prompt=told.txt", FROM_LABELS),
    ],
)
def test_a_teacher_is_identified_by_model_and_prompt_not_by_address(nodes, project, override, kinds):
    (project / "told.txt").write_text("Rate strictly.")
    api = ("teacher.kind=api", "teacher.model=m")
    assert changed(nodes(*api), nodes(*api, override)) == kinds


def test_a_teachers_prompt_is_hashed_by_content(nodes, project):
    api = ("teacher.kind=api", "teacher.model=m", "teacher.prompt=told.txt")
    (project / "told.txt").write_text("Rate strictly.")
    before = nodes(*api)
    (project / "told.txt").write_text("Rate mildly.")
    assert "labels_api" in changed(before, nodes(*api))
    (project / "told.txt").unlink()
    with pytest.raises(
        RecipeError, match=r"stage `labels_api` needs the file told\.txt, which does not exist"
    ):
        nodes(*api)


def test_the_report_sees_an_api_teachers_labels(nodes):
    """It says how far two labels of a sample agree."""
    inputs = nodes("teacher.kind=api", "teacher.model=m")["compare"].inputs.values()
    flat = [one for value in inputs for one in (value if isinstance(value, list) else [value])]
    assert "labels_api" in {getattr(one, "kind", None) for one in flat}


def test_an_api_teacher_needs_no_ground_truth(nodes):
    plan = nodes("teacher.kind=api", "teacher.model=m")
    assert set(plan["labels_api"].inputs) == {"pool"} and "labels" not in plan
    assert (
        plan["fit_rater[scorer]"].inputs["labels"]
        is plan["labels_api"]
        is plan["fit_rater[styler]"].inputs["labels"]
    )


def test_a_server_is_not_part_of_the_protocol(nodes, project):
    scale = project / "scales" / "tiny.yaml"
    scale.write_text(
        scale.read_text().replace("teacher: {share: 0.05}", "teacher: {kind: api, model: m, share: 0.05}")
    )
    assert (
        load(
            "demo.yaml",
            ["teacher.server.url=http://a/v1", "scoring.server.concurrency=2", "scoring.server.key_env=K"],
        ).protocol
        == "standard"
    )
    assert load("demo.yaml", ["teacher.model=other", "scoring.engine=vllm"]).modified == (
        "scoring.engine",
        "teacher.model",
    )


@pytest.mark.parametrize(
    "override, kinds",
    [
        ("scoring.server.url=http://elsewhere/v1", set()),
        ("scoring.server={concurrency: 2, timeout: 5, key_env: OTHER}", set()),
        ("scoring.batch_size=5", set()),
        ("scoring.vllm.block=5", set()),
        ("scorer.served=other", {"signal[capability]", "select", *AFTER_SELECT}),
        (
            "styler.prompts=official_style",
            {"fit_rater[styler]", "signal[style]", "select", *AFTER_SELECT},
        ),
    ],
)
def test_a_served_rater_is_identified_by_its_name(nodes, override, kinds):
    assert changed(nodes(*SERVED), nodes(*SERVED, override)) - {"compare"} == kinds - {"compare"}


def test_a_rater_that_is_only_served_has_no_fit(nodes):
    only = [
        f"{rater}={{train: null, served: {name}}}"
        for rater, name in (("scorer", "rater"), ("styler", "namer"))
    ]
    plan = nodes("scoring.engine=server", *only)
    assert not {"labels", "fit_rater[scorer]", "fit_rater[styler]"} & set(plan) and set(
        plan["signal[capability]"].inputs
    ) == {"pool", "prompts"}
    assert nodes(*SERVED)["signal[style]"].inputs["served"].name == "fit_rater[styler]", (
        "the trained model is assumed to be the served one"
    )


def test_vllm_reads_the_fit(nodes):
    plain, plan = nodes(), nodes("scoring.engine=vllm")
    assert (
        plan["signal[capability]"].inputs["model"] is plan["fit_rater[scorer]"]
        and plan["fit_rater[scorer]"].hash == plain["fit_rater[scorer]"].hash
    )
    other = nodes("scoring.engine=vllm", "scoring.vllm.dtype=bfloat16")
    assert all(other[name].hash != plan[name].hash for name in ("signal[capability]", "signal[style]"))
    unread = ("scorer.served=rater", "scoring.server.url=http://a/v1")
    assert changed(plain, nodes(*unread)) <= {"compare"}, "scoring.engine: hf uses no server"


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["scoring.engine=server"],
            r"scorer.served: missing; `scoring.engine: server` needs the model's name",
        ),
        (
            [*SERVED, "styler.mode=likelihood"],
            r"styler.mode: must be `greedy` with `scoring.engine: server`, got `likelihood`",
        ),
        (
            ["scoring.engine=vllm", "scorer.mode=official"],
            r"scorer.mode: must be `trie` with `scoring.engine: vllm`, got `official`",
        ),
        (
            ["scorer.served=rater", "scorer.train=null"],
            r"scorer.train: missing; a model that is only `served` needs `scoring.engine: server`",
        ),
        (["scoring.engine=tgi"], r"scoring.engine: got 'tgi'; .*'hf', 'vllm' or 'server'"),
        (["teacher.kind=human"], r"teacher.kind: must be one of 'metadata', 'api', got 'human'"),
        (["teacher.kind=api"], r"teacher.model: missing \(the model's name on the server"),
        (["teacher.noise=2.0"], r"teacher.noise: got 2.0; .*less than or equal to 1"),
        (["teacher.noize=0.1"], r"teacher.noize: unknown key; did you mean `noise`"),
        (["teacher.kind=api", "teacher.model=m", "teacher.noise=0.1"], r"teacher.noise: unknown key"),
        (
            ["teacher.kind=api", "teacher.model=m", "teacher.server.key_env=sk-123"],
            r"teacher.server.key_env: .*name of the environment variable",
        ),
        (
            ["teacher.kind=api", "teacher.model=m", "teacher.server.max_cost_usd=5"],
            r"teacher.server: max_cost_usd needs input_price and output_price",
        ),
        (
            ["teacher.kind=api", "teacher.model=m", "teacher.server.concurency=5"],
            r"concurency: unknown key; did you mean `concurrency`",
        ),
    ],
)
def test_invalid_combinations_are_refused(nodes, overrides, message):
    with pytest.raises(RecipeError, match=message):
        nodes(*overrides)


@pytest.mark.parametrize(
    "override",
    [
        "teacher.server.url={url}",
        "teacher.server={url}",
        "teacher.server.url=[{url}]",
        "teacher.server.timeout={url}",
        "teacher.detail={url}",
        "scoring.server.url={url}",
        "nowhere={url}",
    ],
)
def test_no_error_repeats_a_secret_of_an_address(nodes, override):
    url = "http://bob:PASSW0RD@127.0.0.1:9/v1?api-key=QUERYKEY"
    with pytest.raises(RecipeError) as caught:
        nodes("teacher.kind=api", "teacher.model=m", override.format(url=url))
    assert not any(secret in str(caught.value) for secret in ("bob", "PASSW0RD", "QUERYKEY"))


def test_the_way_of_asking_identifies_no_label_and_second_labels_do(nodes):
    api = ("teacher.kind=api", "teacher.model=m")
    before = nodes(*api)
    batch = ("teacher.mode=batch", "teacher.batch={price: 0.4, poll: 5}", "teacher.server.longest_wait=5")
    assert changed(before, nodes(*api, *batch)) == set()
    assert changed(before, nodes(*api, "teacher.agreement=0.1")) == FROM_LABELS
    asked = nodes(*api, *batch)["labels_api"].config["server"]
    assert asked["mode"] == "batch" and asked["batch"]["price"] == 0.4


def test_the_metadata_teacher_labels_no_other_pool(project):
    (project / "own.yaml").write_text(
        "name: own\npool: {kind: llava, source: data.json}\nbase: {path: base}\ntrain: {lr: 1}\n"
        "teacher: {share: 0.1}\n"
        "scorer: {train: {lr: 1}}\nstyler: {train: {lr: 1}}\narms: {a: {selector: mmssr, budget: 5}}\n"
    )
    (project / "data.json").write_text("[]")
    with pytest.raises(
        RecipeError,
        match=r"own.yaml:5: teacher.kind: `metadata` reads the mini world's ground truth.*give `api`",
    ):
        make_plan(load("own.yaml"), Stages("dummy_stages"))
    loaded = load("own.yaml", ["teacher.kind=api", "teacher.model=m"])
    assert "labels_api" in {node.family for node in make_plan(loaded, Stages("dummy_stages")).nodes}


def test_the_recipe_in_the_readme_for_a_user_pool(project):
    text = (REPOSITORY / "curation" / "README.md").read_text()
    (project / "own.yaml").write_text(
        next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: api" in block)
    )
    (project / "mix665k.json").write_text("[]")
    (project / "images").mkdir()
    loaded = load("own.yaml")
    kinds = {node.family for node in make_plan(loaded).nodes}
    assert {"pool", *FROM_LABELS} - AFTER_SELECT <= kinds
    served = load(
        "own.yaml",
        [*SERVED, "scorer.train=null", "styler.train=null", "scoring.server.url=http://127.0.0.1:8000/v1"],
    )
    kinds = {node.family for node in make_plan(served).nodes}
    assert {"signal[capability]", "signal[style]", "select"} <= kinds and not {
        "labels_api",
        "fit_rater[scorer]",
        "fit_rater[styler]",
    } & kinds


def test_every_parameter_of_a_user_selector_is_hashed(project, monkeypatch):
    """`server` and `cache_mb` are not hashed as settings, but they are as parameters of a selector."""
    (project / "mine.py").write_text(
        "NEEDS = ()\ndef select(columns, budget, seed, server='a', cache_mb=1): ...\n"
    )
    monkeypatch.syspath_prepend(project)
    (project / "demo.yaml").write_text(
        "name: demo\nscale: tiny\narms: {mine: {selector: 'mine:select', budget: 10%}}\n"
    )
    plans = [
        {node.name: node.hash for node in make_plan(load("demo.yaml", more), Stages("dummy_stages")).nodes}
        for more in ([], ["arms.mine.params.server=b"], ["arms.mine.params.cache_mb=2"])
    ]
    assert len({plan["select[mine,0]"] for plan in plans}) == 3


def test_defaults_of_the_teachers():
    assert MetadataTeacher(kind="metadata").model_dump() == {
        "kind": "metadata",
        "share": 0.05,
        "noise": 0.2,
        "knows_wrong": False,
        "knows_rate": 0.7,
        "floor": 3,
        "temper": 1.0,
        "seed": 0,
    }
    assert ApiTeacher(kind="api", model="m").server == Server()
    with pytest.raises(ValidationError, match="key_env"):
        Server(key_env="sk-proj-1234")


@pytest.mark.parametrize("engine", [(), ("scoring.engine=vllm",)], ids=["hf", "vllm"])
def test_the_view_of_the_image_is_each_raters_own_and_trains_nothing_again(nodes, engine):
    plain, plan = nodes(*engine), nodes(*engine, "scorer.image=single")
    assert plan["signal[capability]"].config["arguments"]["image"] == "single"
    assert plan["signal[style]"].config["arguments"]["image"] is None
    expected = {"signal[capability]", "select", *AFTER_SELECT}
    assert changed(plain, plan) - {"compare"} == expected - {"compare"}


def test_a_server_cannot_be_asked_for_a_view(nodes):
    with pytest.raises(RecipeError, match=r"styler.image: a server prepares images itself"):
        nodes(*SERVED, "styler.image=anyres")
