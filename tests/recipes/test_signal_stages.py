"""A small recipe with the signals that only some selectors need: from the pool to each subset."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import REPOSITORY

from curation.signals.core.table import read_metadata
from curation.signals.gradients.per_sample import adapter_hash
from curation.subset import read_manifest, read_subset
from curation.taxonomy import CAPABILITY_KEYS
from training.adapters import kept_adapters
from training.models import checkpoint_hash

pytest.importorskip("sklearn", reason="pip install 'winnow[cluster]'")

pytestmark = pytest.mark.slow

SIZE, BUDGET = 150, 24
RECIPE = f"""\
name: small
scale: smoke
pool: {{size: {SIZE}}}
bench: {{items: 2}}
scorer: {{path: raters/scorer}}
styler: {{path: raters/scorer, mode: likelihood}}
clusters: {{coincide: {{k: 4}}, presel: {{k: 5%}}, visnec: {{k: 4}}, instructiongpt4: {{k: 3}}}}
gradient: {{warmup: {{share: 0.2}}, dim: 16, validation: {{items: 1}}}}
one_step: {{anchors: 3}}
probe: {{subsets: 3, size: 12, bench: {{items: 1}}, train: {{max_steps: 1, batch_size: 8, lr: 0.001}}}}
seed_model: {{train: {{max_steps: 3}}}}
signals: {{words: {{producer: "word_signal:compute", params: {{power: 2}}}}}}
track: {{mode: disabled}}
resources: {{executor: inline}}
arms:
  mmssr: {{selector: mmssr, budget: {BUDGET}}}
  matched: {{selector: matched_random, budget: {BUDGET}, reference: mmssr, params: {{match: source}}}}
  twice: {{selector: mllm_selector, budget: {BUDGET}, rounds: 2, params: {{noise_tail: 0}}}}
  presel: {{selector: presel, budget: {BUDGET}}}
  visnec: {{selector: visnec, budget: {BUDGET}}}
  coincide: {{selector: coincide, budget: {BUDGET}}}
  deita: {{selector: deita, budget: {BUDGET}, params: {{fill: score}}}}
  icons: {{selector: icons, budget: {BUDGET}}}
  less: {{selector: less, budget: {BUDGET}}}
  tive: {{selector: tive, budget: {BUDGET}}}
  rds: {{selector: rds, budget: {BUDGET}}}
  seed: {{selector: seed, budget: {BUDGET}}}
  ost: {{selector: ost, budget: {BUDGET}}}
  instructiongpt4: {{selector: instructiongpt4, budget: {BUDGET}}}
  own: {{selector: "word_signal:select", budget: "tokens:900"}}
"""
WORDS = """\
import numpy as np
import pyarrow as pa
from curation.selectors.top_k import select as top_k

NEEDS = ("words",)


def compute(pool, rows, power=1):
    samples = pool.samples(rows)
    counts = [sum(len(turn.answer.split()) for turn in sample.turns) ** power for sample in samples]
    return pa.table({"row": pa.array(rows, pa.int32()), "words": pa.array(np.array(counts, np.float32))})


def select(columns, budget, seed):
    return top_k(columns, budget, seed, column="words", order="ascending")
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """The stage directories of a run up to the subsets; scorer and styler are the base, given by path."""
    from recipes.run import main

    root = tmp_path_factory.mktemp("signals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(root)
        (root / "word_signal.py").write_text(WORDS)
        (root / "small.yaml").write_text(RECIPE)
        shutil.copytree(REPOSITORY / "curation" / "mini" / "base", root / "raters" / "scorer")
        assert main(["small.yaml", "--until", "select"]) == 0
    return root / "runs" / "small" / "stages"


ARMS = [
    "mmssr",
    "matched",
    "twice",
    "presel",
    "visnec",
    "coincide",
    "deita",
    "icons",
    "less",
    "tive",
    "rds",
    "seed",
    "ost",
    "instructiongpt4",
]


@pytest.mark.parametrize("arm", ARMS)
def test_each_selector_fills_its_budget(stages, arm):
    subset = read_subset(stages / f"select[{arm},0]")
    assert len(subset) == BUDGET and len(set(subset["row"].to_pylist())) == BUDGET
    assert len(subset.column_names) > 3, "the reason for each pick has columns"


def test_a_user_signal_and_a_budget_in_tokens(stages):
    words = pq.read_table(stages / "signal[words]" / "part-00000.parquet")["words"].to_numpy()
    subset, manifest = read_subset(stages / "select[own,0]"), read_manifest(stages / "select[own,0]")
    left_out = pa.compute.invert(
        pa.compute.is_in(pa.array(range(SIZE), pa.int32()), subset["row"].combine_chunks())
    )
    assert words[subset["row"].to_numpy()].max() <= words[left_out.to_numpy(zero_copy_only=False)].min()
    assert 800 < manifest["budget"]["text_tokens"] + manifest["budget"]["image_tokens"] <= 900
    assert manifest["notes"]["token_budget"] == 900


def test_matched_random_has_the_source_mix_of_its_reference(stages):
    matched, reference = (
        sorted(read_subset(stages / f"select[{arm},0]")["source"].to_pylist()) for arm in ("matched", "mmssr")
    )
    assert matched == reference


def test_the_second_round_reads_the_losses_of_another_model(stages):
    first, second = (
        read_manifest(stages / name)["signals"]["necessity"]
        for name in ("select[twice,0,round 1]", "select[twice,0]")
    )
    assert first != second
    rows = json.loads((stages / "fit_seed[twice,0,round 1]" / "seed_rows.json").read_text())
    assert sorted(rows) == sorted(read_subset(stages / "select[twice,0,round 1]")["row"].to_pylist())


def test_less_uses_all_epochs_of_the_warm_up_and_icons_the_last(stages):
    kept = kept_adapters(stages / "fit_warmup")
    assert [one.step for one in kept] == [2, 4], "30 samples in batches of 16, twice"
    plain, adam = (read_metadata(stages / f"signal[{name}]") for name in ("gradient", "gradient_adam"))
    assert (
        adam["adapters"] == [adapter_hash(one.folder) for one in kept]
        and plain["adapters"] == adam["adapters"][1:]
    )
    assert adam["lr_weights"] == pytest.approx(
        [one.lr / sum(other.lr for other in kept) for one in kept]
    ) and plain["lr_weights"] == [1.0]
    assert (
        adam["adam"] == [hashlib.sha256(one.adam.read_bytes()).hexdigest() for one in kept]
        and plain["adam"] == []
    )
    assert adam["targeted"] is plain["targeted"] is True
    assert set(adam["tasks"]) == set(CAPABILITY_KEYS)
    assert adam["model_hash"] == checkpoint_hash(REPOSITORY / "curation" / "mini" / "base")


def test_the_targeted_signals_record_their_target(stages):
    for name in ("rds", "gradient_masked", "step_gain"):
        meta = read_metadata(stages / f"signal[{name}]")
        assert meta["targeted"] is True and set(meta["tasks"]) == set(CAPABILITY_KEYS), name
    assert read_metadata(stages / "signal[step_gain]")["anchors"] == 3


def test_the_probe_reports_its_leave_one_out_fit(stages):
    fit = json.loads((stages / "signal[value]" / "fit.json").read_text())
    assert len(fit["labels"]) == 3 and len(fit["loso_predictions"]) == 3
    labels = fit["labels"]
    spread = sum((label - sum(labels) / 3) ** 2 for label in labels)
    missed = sum((label - guess) ** 2 for label, guess in zip(labels, fit["loso_predictions"], strict=True))
    assert (
        fit["loso_r2"] is None
        if not spread
        else fit["loso_r2"] == pytest.approx(1 - missed / spread, abs=1e-6)
    )


def test_a_released_rater_is_linked(stages):
    released = stages / "fit_released[scorer]"
    assert (released / "model.safetensors").is_symlink()
    assert json.loads((released / "stage.json").read_text())["summary"] == {"converted": False}
    styles = pq.read_schema(stages / "signal[style]" / "part-00000.parquet").names
    assert "style_logp_yes_no" in styles
