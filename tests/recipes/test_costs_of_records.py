"""The costs in a report: by the records of stages that ran, and the rows that a training read."""

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.sample import Sample, Turn
from curation.selectors.random import select
from curation.subset import write_subset
from evaluation.context import Cost
from recipes.selection_costs import costs_of_records, mean_of
from training.estimate.cost import estimate, flops
from training.estimate.lengths import of_store
from training.estimate.passes import forward
from training.estimate.shapes import Shape
from training.spec import FitSpec

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
ROWS = 30
SPEC = FitSpec(epochs=2, batch_size=4, lora={"r": 4, "alpha": 8})
LOSSES = {"producer": "curation.signals.losses:score_losses", "arguments": {"terms": ["full"]}}


def record(folder, kind, config, parents, **own):
    folder.mkdir(exist_ok=True)
    about = {"kind": kind, "name": folder.name, "hash": folder.name, "config": config, "parents": parents}
    content = {**about, "work": 1.0, "seconds": 10.0, "summary": {}, "device": "cpu", **own}
    (folder / "stage.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folders of the stages of a run whose subset was chosen by a loss, and of its parts by name."""
    from training.token_store import ListSource, RendererOf, write

    root = tmp_path_factory.mktemp("records")
    pool = record(root / "pool", "pool", {}, {})
    tokens = record(root / "tokens", "tokens", {}, {"pool": "pool"})
    samples = [Sample(n, str(n), "made", (), (Turn("why", "so " * (n + 1)),)) for n in range(ROWS)]
    write(ListSource(samples), RendererOf(MINI), tokens / "store", workers=1)
    table = pa.table(
        {
            "row": pa.array(range(ROWS), pa.int32()),
            "id": [str(n) for n in range(ROWS)],
            "source": ["made"] * ROWS,
            "n_turns": pa.array([1] * ROWS, pa.int32()),
            "text_tokens": pa.array([5] * ROWS, pa.int32()),
            "image_tokens": pa.array([0] * ROWS, pa.int32()),
        }
    )
    pq.write_table(table, pool / "pool.parquet")
    paid = {"usd": 0.5}
    judged = record(root / "losses", "signal", LOSSES, {"pool": "pool", "model_dir": "base"}, summary=paid)
    gpu = {"device": "1 x NVIDIA H100", "seconds": 1800.0}
    own = record(root / "own", "signal", LOSSES, {"pool": "pool", "model_dir": "base"}, **gpu)
    subset = root / "subset"
    chosen = select(table, 12, 0)
    write_subset(subset, table, "h", chosen, selector="random", params={}, seed=0)
    record(subset, "select", {}, {"pool": "pool"}, seconds=1.0)
    train = {**SPEC.model_dump(mode="json"), "seed": 0}
    trained = record(root / "train", "train", train, {"pool": "pool", "base": "base", "subset": "subset"})
    return [pool, tokens, judged, own, subset, trained], chosen.rows


def about(**resources):
    places = {"pool": 0, "tokens": 1, "subset": 4, "train": 5}
    method = {"arm": "method", **places, "selection": [2, 3, 4]}
    random = {"arm": "random", **places, "selection": [4]}
    base = {"arm": "zero", "pool": 0, "tokens": None, "subset": None, "train": None, "selection": []}
    given = {"gpu": None, "mfu": None, "usd_per_gpu_hour": None, **resources}
    return {"runs": [method, random, base], **given, "model_paths": {"base": str(MINI)}}


def test_a_training_costs_what_its_rows_do(ran):
    folders, rows = ran
    costs = costs_of_records(about(), folders).by_arm()
    lengths = of_store(folders[1] / "store", rows)
    expected = estimate(Shape.of_checkpoint(MINI), SPEC, lengths).flops
    assert costs["method"].training_flops == pytest.approx(expected)
    assert costs["random"].training_seconds == 10.0 and costs["random"].selection_seconds == 1.0
    assert flops(Shape.of_checkpoint(MINI), SPEC, lengths) < expected, "two epochs"


def test_selection_is_counted_by_rule_and_in_the_seconds_of_its_records(ran):
    folders, _ = ran
    costs = costs_of_records(about(), folders).by_arm()
    lengths = of_store(folders[1] / "store")
    once = forward(Shape.of_checkpoint(MINI), lengths, lengths.labels)
    assert costs["method"].selection_flops == pytest.approx(2 * once)
    assert costs["method"].selection_seconds == 10 + 1800 + 1 and costs["method"].selection_money == 0.5
    assert costs["random"].selection_flops == 0 == costs["random"].selection_money
    assert costs["zero"] == Cost(**dict.fromkeys(asdict(Cost()), 0.0))


def test_hours_are_measured_on_a_gpu_and_else_by_rule(ran):
    folders, _ = ran
    unnamed = costs_of_records(about(), folders).by_arm()["method"]
    assert unnamed.selection_gpu_hours is None, "one of the stages ran on a CPU, and no GPU is named"
    made = costs_of_records(about(gpu="h100", usd_per_gpu_hour=4.0), folders)
    named = made.by_arm()["method"]
    by_rule = named.selection_flops / 2 / (989e12 * 0.4 * 3600)
    assert named.selection_gpu_hours == pytest.approx(0.5 + by_rule)
    assert named.selection_money == pytest.approx(0.5 + 4 * named.selection_gpu_hours)
    assert any("measured" in note for note in made.notes())


def test_a_mean_is_not_known_where_one_run_is_not():
    known, unknown = Cost(1.0, 2.0, 3.0, 4.0), Cost(3.0, None, 3.0, 4.0)
    assert mean_of([known, unknown]) == Cost(2.0, None, 3.0, 4.0)
