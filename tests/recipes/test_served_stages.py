"""A recipe on a user's LLaVA JSON: an API teacher, and raters on a server or in vLLM; all of them stubs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from batch_server import BatchServer
from chat_server import serve
from PIL import Image
from processes import REPOSITORY, environment
from stub_vllm import StubVllm

from curation.taxonomy import CAPABILITY_KEYS
from recipes.run import main

pytest.importorskip("httpx")

pytestmark = pytest.mark.slow
SIZE, LABELLED = 24, 12
RECIPE = """\
name: own
pool: {kind: llava, source: data.json, images: .}
base: {path: "builtin:mini"}
teacher: {kind: api, model: teacher, share: 0.5, server: {retries: 0, concurrency: 1}}
seed_model: {share: 0.5, train: {max_steps: 1, batch_size: 4, lr: 0.001}}
scorer: {prompts: compact, train: {max_steps: 2, batch_size: 8, lr: 0.001}}
styler: {prompts: compact, train: {max_steps: 2, batch_size: 8, lr: 0.001}}
scoring: {server: {retries: 0}}
train: {max_steps: 1, batch_size: 4, lr: 0.001}
arms: {mmssr: {selector: mmssr, budget: 8}}
controls: off
track: {mode: disabled}
"""


def valid(body):
    """A teacher's valid answer, which depends on the request only."""
    words = len(json.dumps(body["messages"][1]["content"]))
    return json.dumps({**{key: (words + i) % 6 for i, key in enumerate(CAPABILITY_KEYS)}, "styles": ["word"]})


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """A project in which the stage `pool` is finished; every fourth sample is text only."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    records = []
    for i in range(SIZE):
        text = i % 4 == 3
        turns = [
            {"from": "human", "value": f"{'' if text else '<image> '}what is at b{i % 5} ?"},
            {"from": "gpt", "value": "a dog " * (1 + i % 3)},
        ]
        if not text:
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(root / f"{i}.png")
        records.append(
            {"id": f"s{i}", "source": f"src{i % 3}", "conversations": turns}
            | ({} if text else {"image": f"{i}.png"})
        )
    (root / "data.json").write_text(json.dumps(records))
    (root / "own.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["own.yaml", "--until", "pool"]) == 0
    return root


@pytest.fixture
def own(ingested, tmp_path, monkeypatch):
    """A copy of that project as the current directory.

    Returns a function that runs the recipe up to a stage and returns the directory of that stage.
    """
    shutil.copytree(ingested, tmp_path / "own", symlinks=True)
    monkeypatch.chdir(tmp_path / "own")

    def run(stage, *overrides, status=0):
        assert main(["own.yaml", "--until", stage, *overrides]) == status
        return Path("runs/own/stages") / stage

    return run


def summary(stage):
    return json.loads((stage / "stage.json").read_text())["summary"]


def distinct(requests):
    return {json.dumps(body["messages"], sort_keys=True) for body in requests}


# ----------------------------------------------------------------------------------------------- the teacher


def test_labels_come_with_their_cost(own, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    settings = [
        "teacher.server.input_price=1.0",
        "teacher.server.output_price=2.0",
        "teacher.server.key_env=MY_KEY",
        "teacher.repeats=1",
        "teacher.server.max_failed=0.5",
    ]
    with serve(answer=lambda body: "no label" if "b1 ?" in json.dumps(body) else valid(body)) as server:
        labels = own("labels_api", f"teacher.server.url={server.url}", *settings)
    bad = len({message for message in distinct(server.requests) if "b1 ?" in message}) // 2
    assert set(server.keys) == {"Bearer secret-key"} and {body["model"] for body in server.requests} == {
        "teacher"
    }
    out, counts = capsys.readouterr().out, summary(labels)
    cost = counts["cost"]
    assert 0 < bad < LABELLED and counts["n"] == LABELLED and counts["missing"] == {"invalid_answer": bad}
    assert cost["requests"] == len(server.requests) == LABELLED + bad
    assert cost["usd"] == pytest.approx((cost["input_tokens"] + 2 * cost["output_tokens"]) / 1e6)
    assert f"{LABELLED} samples labelled (50.0% of the pool); missing: invalid_answer {bad}" in out
    assert f"teacher: {cost['requests']} requests (0 retries), {cost['input_tokens']:,} input tokens" in out
    assert json.loads((labels / "labels.json").read_text())["cost"] == cost
    assert "secret-key" not in "".join(path.read_text(errors="replace") for path in Path().rglob("*.json"))


def test_no_answer_is_paid_for_twice(own, capsys):
    """Another address, a larger share and a rerun reuse answers; another model or prompt does not."""
    with serve(answer=valid) as first:
        own("labels_api", f"teacher.server.url={first.url}", "teacher.share=0.25")
    with serve(answer=valid) as second:
        url = f"teacher.server.url={second.url}"
        own(
            "labels_api",
            url,
            "teacher.share=0.25",
            "teacher.server.concurrency=3",
            "teacher.server.timeout=9",
        )
        assert not second.requests
        larger = summary(own("labels_api", url))["cost"]
        assert (
            len(second.requests) == LABELLED - len(first.requests) == larger["requests"]
            and larger["kept"] == len(first.requests) > 0
        )
        assert not distinct(first.requests) & distinct(second.requests) and larger["kept_input_tokens"] > 0
        capsys.readouterr()
        own("labels_api", url, "--force", "labels_api")
        assert (
            len(second.requests) == larger["requests"]
            and f"{LABELLED} answers of earlier runs" in capsys.readouterr().out
        )
        own("labels_api", url, "teacher.model=another")
        assert len(second.requests) == larger["requests"] + LABELLED
        Path("told.txt").write_text("Rate these samples strictly.")
        own("labels_api", url, "teacher.prompt=told.txt")
    last = second.requests[-1]["messages"][0]["content"]
    assert (
        len(second.requests) == larger["requests"] + 2 * LABELLED
        and last.startswith("Rate these samples strictly.\n\n")
        and "multi_choice:" in last
    )


def test_a_resumed_run_requests_no_answer_again(own):
    """SIGKILL during a request; invalid answers are kept too."""
    child = None

    def fault(number, body):
        if child and number == 7:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()

    def answer(body):
        return "no label" if "b2 ?" in json.dumps(body) and len(body["messages"]) == 2 else valid(body)

    with serve(fault=fault, answer=answer) as server:
        command = ["own.yaml", "--until", "labels_api", f"teacher.server.url={server.url}"]
        child = subprocess.Popen(
            [sys.executable, "-m", "recipes.run", *command],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert child.wait(60) == -signal.SIGKILL and len(server.requests) == 8
        child = None
        labels = own("labels_api", *command[3:])
    times = Counter(json.dumps(body["messages"], sort_keys=True) for body in server.requests)
    assert times.pop(json.dumps(server.requests[7]["messages"], sort_keys=True)) == 2, (
        "the request during which the run was killed"
    )
    assert set(times.values()) == {1}
    cost = summary(labels)["cost"]
    assert (cost["kept"], cost["requests"]) == (7, len(server.requests) - 8) and summary(labels)[
        "missing"
    ] == {}


def test_missing_labels_are_asked_for_again_when_the_server_is_reached_otherwise(own, capsys):
    """Neither the time limit nor the address identifies a label, but they decide which are missing."""
    settings = ["teacher.server.max_failed=1.0"]

    def fault(number, body):
        return 500 if "b1 ?" in json.dumps(body) else None

    with serve(answer=valid, fault=fault) as server:
        url = f"teacher.server.url={server.url}"
        first = own("labels_api", url, *settings)
        lost = summary(first)["missing"]["server_error"]
        assert 0 < lost < LABELLED == len(server.requests)
        own("labels_api", url, *settings, "teacher.server.concurrency=3")
        assert len(server.requests) == LABELLED, "that is no other way"
        server.fault = lambda number, body: None
        capsys.readouterr()
        again = own("labels_api", url, *settings, "teacher.server.timeout=90")
        out = capsys.readouterr().out
    assert again.resolve() == first.resolve() and summary(again)["missing"] == {}
    assert len(server.requests) == LABELLED + lost and summary(again)["cost"]["kept"] == LABELLED - lost
    assert f"incomplete: missing: server_error {lost}; timeout changed" in out


def test_what_labels_may_cost_is_said_before_and_measured_after_the_first(own, capsys):
    prices = ["teacher.server.input_price=1000", "teacher.server.output_price=1000"]
    priced = [*prices, "teacher.agreement=0.25"]
    main(["own.yaml", "--until", "labels_api", "--dry-run", *priced])
    assert "what its labels may cost is known once the pool is built" in capsys.readouterr().out
    with serve() as nobody:
        pass
    own("labels_api", f"teacher.server.url={nobody.url}", status=1)  # the pool is built, the labels are not
    capsys.readouterr()
    main(["own.yaml", "--until", "labels_api", "--dry-run", *priced])
    before = capsys.readouterr().out
    found = re.search(r"teacher: estimate: 15 labels of about ([\d,]+) input and .*: \$([\d.]+) each", before)
    assert found and float(found[2]) > 1
    main(["own.yaml", "--until", "labels_api", "--dry-run", *priced, "teacher.mode=batch"])
    half = re.search(r"\$([\d.]+) each", capsys.readouterr().out)
    assert float(half[1]) == pytest.approx(float(found[2]) / 2, abs=1e-4)
    with serve(answer=valid) as server:
        labels = own("labels_api", f"teacher.server.url={server.url}", *priced)
        out = capsys.readouterr().out
        main(["own.yaml", "--until", "labels_api", "--dry-run", f"teacher.server.url={server.url}", *priced])
    assert "estimate: 15 labels" in out and "measured: $" in out
    assert "labels may cost" not in (after := capsys.readouterr().out) and "estimate:" not in after
    twice = json.loads((labels / "labels.json").read_text())["agreement"]
    assert twice["n"] == 3 == len(pq.read_table(labels / "second.parquet"))
    from recipes.stages.report_context import _labelled_twice

    (note,) = _labelled_twice({"labels": labels, "others": [labels.parent / "none"]})
    assert note.startswith("Teacher: 3 samples labelled twice: ") and "kappa by capability" in note
    assert summary(labels)["agreement"] == twice and "3 samples labelled twice: " in out


def test_a_batch_gives_the_same_labels_and_is_the_same_stage(own, capsys):
    with serve(BatchServer, answer=valid) as server:
        url = f"teacher.server.url={server.url}"
        batch = ["teacher.mode=batch", "teacher.batch.poll=0.02"]
        labels = own("labels_api", url, *batch)
        table = pq.read_table(labels / "labels.parquet")
        assert not server.requests and len(server.jobs) == 1
        assert f"batch_0 completed: {LABELLED} of {LABELLED} requests answered" in capsys.readouterr().out
        assert own("labels_api", url).resolve() == labels.resolve() and not server.requests
        shutil.rmtree("store/labels_api")
        assert pq.read_table(own("labels_api", url) / "labels.parquet") == table
    assert len(server.requests) == LABELLED


@pytest.mark.parametrize(
    "overrides, fault, message",
    [
        (
            ["teacher.server.key_env=NO_SUCH_KEY"],
            None,
            "teacher.server.key_env: the environment variable NO_SUCH_KEY holds no key",
        ),
        (
            ["teacher.server.url=null"],
            None,
            "teacher.server.key_env: the environment variable OPENAI_API_KEY holds no key",
        ),
        (
            ["teacher.server.url=http://127.0.0.1:9/v1"],
            None,
            "teacher.server.url: no connection to http://127.0.0.1:9/v1/",
        ),
        (["teacher.model=nobody"], 404, "teacher.model: http://127.0.0.1:"),
        ([], 401, "teacher.server.key_env: http://127.0.0.1:"),
        (
            [],
            500,
            "teacher.server.max_failed: teacher gave no label for 12 of 12 samples "
            "({'server_error': 12}), more than 5.0%",
        ),
        (
            ["teacher.server.input_price=10.0", "teacher.server.max_cost_usd=0.0001"],
            None,
            "teacher.server.max_cost_usd: $0.0000 of $0.0001 are spent",
        ),
    ],
)
def test_an_error_of_the_teacher_names_the_key(own, monkeypatch, capsys, overrides, fault, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve(fault=lambda number, body: fault, answer=valid) as server:
        own("labels_api", f"teacher.server.url={server.url}", *overrides, status=1)
    assert f"error: stage labels_api failed: RecipeError: {message}" in capsys.readouterr().err
    assert not list(Path("store/labels_api").glob("*/done.json"))


def test_a_teacher_that_fails_for_many_samples_is_stopped_early(ingested):
    from curation.pool.sample import Sample, Turn
    from curation.teacher.api import EARLY, ApiTeacher
    from curation.teacher.chat import ChatClient, TooManyFailures

    samples = [Sample(i, f"s{i}", "t", (), (Turn(f"q{i}", "a"),)) for i in range(200)]
    with serve(fault=lambda number, body: 400, answer=valid) as server:
        teacher = ApiTeacher(ChatClient(server.url, "m", retries=0), concurrency=1, max_failed=0.05)
        with pytest.raises(TooManyFailures, match=f"{EARLY} of {EARLY} samples.*bad_request"):
            list(teacher.label(samples))
        assert len(server.requests) < EARLY + 4


def test_mmssr_on_a_user_pool(own):
    """Labels, training of the scorer, its signal, and selection; only the base is the mini world's."""
    with serve(answer=valid) as server:
        own("select", f"teacher.server.url={server.url}", "arms.mmssr.params.bins=source")
    subset = Path("runs/own/stages/select[mmssr,0]")
    assert pq.read_metadata(subset / "subset.parquet").num_rows == 8
    split = json.loads((subset.parent / "fit_rater[scorer]" / "split.json").read_text())
    assert len(split["train"]) + len(split["held_out"]) == LABELLED


# ----------------------------------------------------------------------------------------------- engines

SERVED = [
    "scoring.engine=server",
    "scorer={train: null, served: rater}",
    "styler={train: null, served: namer}",
    "teacher=null",
]


def test_scorer_and_styler_by_a_server(own, capsys):
    with serve() as server:
        url = f"scoring.server.url={server.url}"
        own("select", *SERVED, url)
        requests = Counter(body["model"] for body in server.requests)
        out = capsys.readouterr().out
        stages = Path("runs/own/stages")
        assert {path.name for path in stages.iterdir()} == {
            "pool",
            "clean",
            "signal[capability]",
            "signal[style]",
            "select[mmssr,0]",
        }
        assert requests == {"rater": 4 + len(CAPABILITY_KEYS) * SIZE, "namer": 4 + SIZE}, (
            "four probes of the server, then every query of every sample"
        )
        assert f"rater: {requests['rater']} requests (0 retries)" in out
        counts = summary(stages / "signal[capability]")
        assert (
            counts["rows"] == SIZE
            and counts["missing"] == {}
            and counts["mean_digit_mass"] > 0
            and "seconds" not in counts
        )
        assert pq.read_table(stages / "signal[style]" / "part-00000.parquet")["styles"].null_count == 0
        own("select", *SERVED, "scoring.server.url=http://127.0.0.1:9/v1", "scoring.server.concurrency=2")
        own("select", *SERVED, url, "styler.served=other")
        assert Counter(body["model"] for body in server.requests) == requests + Counter(other=4 + SIZE)


def test_a_server_that_ignores_images_or_is_unreachable_is_an_error(own, capsys):
    with serve(blind=True) as server:
        own("select", *SERVED, f"scoring.server.url={server.url}", status=1)
    assert "two different images change log-probabilities by 0" in capsys.readouterr().err
    own("select", *SERVED, "scoring.server.url=http://127.0.0.1:9/v1", status=1)
    assert "failed: RecipeError: scoring.server.url: no connection" in capsys.readouterr().err
    with serve(fault=lambda number, body: 404) as server:
        own("signal[style]", *SERVED, f"scoring.server.url={server.url}", status=1)
    assert "failed: RecipeError: styler.served: http" in capsys.readouterr().err


def test_scorer_and_styler_by_vllm(own, monkeypatch):
    from training.models import load_processor

    base = REPOSITORY / "curation" / "mini" / "base"
    stub = StubVllm()
    stub.digit_ids = load_processor(base)[0].tokenizer.convert_tokens_to_ids(
        [str(digit) for digit in range(6)]
    )
    monkeypatch.setitem(sys.modules, "vllm", stub)
    raters = [f"{rater}={{path: {base}, train: null}}" for rater in ("scorer", "styler")]
    own(
        "select",
        "scoring.engine=vllm",
        "scoring.vllm={allow_anyres: true, block: 10, llm: {max_model_len: 512}}",
        *raters,
    )
    stages = Path("runs/own/stages")
    assert stub.arguments["max_model_len"] == 512
    # The base has transformers' own names of weights, so that vLLM gets a copy with those of the Hub.
    assert Path(stub.arguments["model"]).name.startswith("winnow-vllm-")
    assert summary(stages / "signal[capability]")["rows"] == SIZE
    assert pq.read_metadata(stages / "select[mmssr,0]" / "subset.parquet").num_rows == 8
