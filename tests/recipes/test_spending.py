"""Stage `select` under a budget in compute: costs of real token stores and of the records of stages."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.pool.sample import Sample, Turn
from curation.selectors.budget import SpendError
from curation.selectors.random import select as random_select
from recipes.errors import RecipeError
from recipes.spending import row_flops, select_in_compute
from training.estimate.cost import estimate, flops
from training.estimate.lengths import of_store
from training.estimate.shapes import Shape
from training.spec import FitSpec

MINI = Path(__file__).resolve().parents[2] / "curation" / "mini" / "base"
ROWS = 40


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Folders `tokens` and `pool` of a pool with texts of several lengths; the first has no answer."""
    from training.token_store import ListSource, RendererOf, write

    folder = tmp_path_factory.mktemp("spending")
    samples = [Sample(n, str(n), "made", (), (Turn("why", "so " * n),)) for n in range(ROWS)]
    write(ListSource(samples), RendererOf(MINI), folder / "tokens" / "store", workers=1)
    (folder / "pool").mkdir()
    pq.write_table(pa.table({"n_turns": pa.array([1] * ROWS, pa.int32())}), folder / "pool" / "pool.parquet")
    return {"tokens": folder / "tokens", "pool": folder / "pool"}


def table():
    ids = [f"id{n}" for n in range(ROWS)]
    return pa.table({"row": pa.array(range(ROWS), pa.int32()), "id": ids, "source": ["made"] * ROWS})


def config(budget, **train):
    spec = FitSpec(**{"epochs": 2, "batch_size": 4, **train}).model_dump(mode="json")
    costs = {"train": spec, "base": "b", "model_paths": {"b": str(MINI), "e": "nobody/knows"}}
    return {"budget": budget, "seed": 3, "params": {}, "costs": costs}


def record(folder, name, **own):
    """The record of a finished stage, in a folder of its own."""
    place = folder / name
    place.mkdir()
    content = {
        "kind": "signal",
        "name": name,
        "hash": name,
        "config": {},
        "parents": {"pool": "p"},
        "work": 1.0,
        "seconds": 1.0,
        "summary": {},
        **own,
    }
    (place / "stage.json").write_text(json.dumps(content))
    return place


LOSSES = {"producer": "curation.signals.losses:score_losses", "arguments": {"terms": ["full"]}}


def test_a_row_costs_what_the_estimate_says(given):
    spec = FitSpec(epochs=2, batch_size=4)
    shape = Shape.of_checkpoint(MINI)
    each = row_flops(shape, spec, given["tokens"])
    assert each[0] == 0, "a rejected row is not trained on"
    cost = estimate(shape, spec, of_store(given["tokens"] / "store"))
    assert each.sum() == pytest.approx(cost.flops)
    short = row_flops(shape, FitSpec(epochs=2, max_length=20, too_long="drop"), given["tokens"])
    assert (short > 0).sum() < (each > 0).sum()


def test_a_signal_is_paid_before_the_training(given, tmp_path):
    shape = Shape.of_checkpoint(MINI)
    each = row_flops(shape, FitSpec(epochs=2), given["tokens"])
    step = record(tmp_path, "losses", config=LOSSES, parents={"pool": "p", "model_dir": "b"})
    budget = f"flops:{each.sum():.12g}"
    inputs = {**given, "costed": [step]}
    chosen = select_in_compute(random_select, table(), config(budget), inputs)
    lengths = of_store(given["tokens"] / "store")
    scored = chosen.notes["flops_selection"]
    assert 0 < scored < flops(shape, FitSpec(), lengths)
    assert chosen.notes["flops_training"] <= each.sum() - scored
    assert len(chosen.rows) < ROWS
    with pytest.raises(SpendError, match="selecting costs"):
        select_in_compute(random_select, table(), config(f"flops:{scored // 2}"), inputs)


def test_as_much_as_another_arm(given, tmp_path, monkeypatch):
    spent = np.arange(5, 15)
    monkeypatch.setattr("recipes.spending._rows", lambda folder: spent)
    each = row_flops(Shape.of_checkpoint(MINI), FitSpec(epochs=2), given["tokens"])
    step = record(tmp_path, "losses", config=LOSSES, parents={"pool": "p", "model_dir": "b"})
    inputs = {**given, "spender": tmp_path}
    free = select_in_compute(random_select, table(), config("as:spender"), inputs)
    assert each[free.rows].sum() <= each[spent].sum() < each[free.rows].sum() + each.max()
    more = select_in_compute(random_select, table(), config("as:spender"), {**inputs, "costed": [step]})
    assert len(more.rows) > len(free.rows) and more.notes["flops_selection"] == 0
    monkeypatch.setattr("recipes.spending._rows", lambda folder: np.arange(ROWS))
    whole = select_in_compute(random_select, table(), config("as:spender"), {**inputs, "costed": [step]})
    assert len(whole.rows) == ROWS and whole.notes["budget_above_pool"] == 1


def test_what_cannot_be_counted_is_refused_or_said(given, tmp_path, monkeypatch):
    own = record(tmp_path, "mine", config={"producer": "mine:score", "arguments": {}})
    inputs = {**given, "costed": [own], "spender": tmp_path}
    with pytest.raises(RecipeError, match=r"FLOPs of mine are not counted: .*code of your own"):
        select_in_compute(random_select, table(), config("flops:1e15"), inputs)
    monkeypatch.setattr("recipes.spending._rows", lambda folder: np.arange(7))
    chosen = select_in_compute(random_select, table(), config("as:spender"), inputs)
    assert len(chosen.rows) == 7 and chosen.notes["cost_unknown"] == 1
    unknown = config("flops:1e15")
    unknown["costs"]["base"] = "e"
    with pytest.raises(RecipeError, match="nobody/knows is not on this machine"):
        select_in_compute(random_select, table(), unknown, given)
