"""A recipe with quality by a reward model, Deita's scorers and a judge on a server, up to the subsets."""

import json

import numpy as np
import pytest
from chat_server import serve
from tiny_models import build_text_models

from curation.pool.read import Pool
from curation.signals.core.table import read_signal
from curation.signals.quality.judge import transcript
from curation.signals.quality.producer import score_quality
from curation.subset import read_subset

pytest.importorskip("httpx", reason="pip install 'winnow[api]'")

pytestmark = pytest.mark.slow

SIZE, BUDGET = 80, 12
RECIPE = """\
name: graded
scale: smoke
pool: {{size: {size}}}
bench: {{items: 1}}
quality:
  kind: models
  reward: {{path: models/reward}}
  complexity: {{path: models/scorer}}
  quality: {{path: models/scorer}}
  judge: {{model: j, server: {{url: "{url}", concurrency: 2, max_failed: 0.5}}}}
track: {{mode: disabled}}
resources: {{executor: inline}}
arms:
  deita: {{selector: deita, budget: {budget}, params: {{threshold: 1.0}}}}
  liked: {{selector: top_k, budget: {budget}, params: {{column: judge}}}}
"""


def grade_of(body: dict) -> str:
    """The answer of the stub judge: a grade derived from the conversation's length, and sometimes prose."""
    text = body["messages"][0]["content"].split("\n\n", 1)[1]
    return "good, I think" if len(text) % 7 == 0 else str(len(text) % 101)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """(stage directories, number of requests to the judge) of a run up to the two subsets."""
    from recipes.run import main

    root = tmp_path_factory.mktemp("graded")
    build_text_models(root / "models", positions=512)
    with pytest.MonkeyPatch.context() as patch, serve(answer=grade_of) as server:
        patch.chdir(root)
        (root / "graded.yaml").write_text(RECIPE.format(size=SIZE, budget=BUDGET, url=server.url))
        assert main(["graded.yaml", "--until", "select"]) == 0
        requests = len(server.requests)
    return root / "runs" / "graded" / "stages", requests


def test_every_column_holds_the_grades_of_its_model(stages, tmp_path):
    folder, requests = stages
    pool = Pool.open(folder / "pool")
    signal = read_signal(folder / "signal[quality]", pool.hash)
    models = folder.parents[2] / "models"
    score_quality(
        pool,
        tmp_path,
        kind="models",
        reward_model=models / "reward",
        complexity_model=models / "scorer",
        quality_model=models / "scorer",
        max_tokens=8192,
    )
    expected = read_signal(tmp_path, pool.hash)
    for column in ("reward", "complexity", "quality", "deita_score"):
        np.testing.assert_allclose(signal[column].to_numpy(), expected[column].to_numpy(), atol=1e-5)
    lengths = [len(transcript(sample)) for sample in pool.samples()]
    assert signal["judge"].to_pylist() == [None if n % 7 == 0 else float(n % 101) for n in lengths]
    assert signal["judge"].null_count > 0
    assert requests == len(pool), "one request for each sample"


def test_the_selectors_rank_by_these_columns(stages):
    folder, _ = stages
    signal = read_signal(folder / "signal[quality]")
    judge = np.array([-1.0 if grade is None else grade for grade in signal["judge"].to_pylist()])
    liked = read_subset(folder / "select[liked,0]")["row"].to_numpy()
    assert judge[liked].min() >= np.sort(judge)[-BUDGET]
    score = signal["deita_score"].to_numpy()
    deita = read_subset(folder / "select[deita,0]")["row"].to_numpy()
    assert score[deita].min() >= np.sort(score)[-BUDGET]


def test_failures_are_counted_in_the_stages_record(stages):
    folder, requests = stages
    summary = json.loads((folder / "signal[quality]" / "stage.json").read_text())["summary"]
    judge = summary["columns"]["judge"]
    assert judge["requests"] == requests and judge["missing"] == {"unreadable": judge["nulls"]}
    assert set(summary["columns"]) == {"reward", "judge", "complexity", "quality", "deita_score"}
