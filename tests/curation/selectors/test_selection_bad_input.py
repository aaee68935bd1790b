"""Bad input of every kind, to selections from files and to selectors: one clear message, or a count."""

import importlib
import inspect
import json
import math
import re
import shutil
import sys
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_world import FileWorld
from selector_tables import random_table, shuffled
from test_select_command import failure, run
from test_token_budget import spent, tokened

from curation.compare import main as compare
from curation.imports.load import main as import_once
from curation.select import main as select
from curation.selectors import BudgetError, Selection, SelectorError, SizeError, resolve_budget
from curation.selectors.budget import choose, select_within_tokens
from curation.selectors.formulas import irs, visual_necessity
from curation.selectors.primitives import cosine as cosine_module
from curation.selectors.primitives import farthest as farthest_module
from curation.selectors.primitives import pick as pick_module
from curation.selectors.primitives.pick import COMPARED
from curation.selectors.registry import SELECTORS, check_params, get_selector
from curation.signals.custom import ProducerError, get_producer
from curation.subset import read_manifest


@pytest.fixture
def world(tmp_path):
    return FileWorld(tmp_path)


# --- parameters


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "mmssr",
            {"capabilities": "ocr"},
            r"capabilities must be a list of texts or null, got 'ocr', such as \[ocr\]",
        ),
        ("mmssr", {"capabilities": {"ocr": 1}}, r"must be a list of texts or null, got \{'ocr': 1\}$"),
        ("mmssr", {"threshold": "1e-3"}, r"threshold must be a number, got '1e-3', such as 0.001$"),
        ("mmssr", {"threshold": "high"}, "must be a number, got 'high'$"),
        ("mllm_selector", {"strata": 2.5}, "strata must be a whole number, got 2.5"),
        ("mllm_selector", {"tau": None}, "tau must be a number, got None"),
        ("mllm_selector", {"tau": True}, "tau must be a number, got True"),
        ("mllm_selector", {"exclude_seed": "yes"}, "must be true or false"),
        ("top_k", {"column": ["nll"]}, "must be a text"),
        ("matched_random", {"match": 3}, "must be a text or a list of texts"),
        ("quota_by_group", {"shares": {"a": "x"}}, "must be a mapping of numbers or null"),
        ("icons", {"tasks": "vqa"}, "must be a list of texts"),
    ],
)
def test_parameters_of_another_type_are_refused(name, params, message):
    with pytest.raises(SelectorError, match=message):
        check_params(name, params)


def test_parameters_of_the_right_type_pass():
    check_params("mmssr", {"capabilities": ("ocr", "stem"), "threshold": 2})
    check_params(
        "mllm_selector", {"tau": math.inf, "strata": np.int64(3), "vectors": ["a", "b"], "column": None}
    )
    check_params("quota_by_group", {"shares": {"a": 1, "b": 0.5}, "group": "source"})


def test_every_default_is_of_the_type_that_the_signature_names():
    for name in SELECTORS:
        taken = list(inspect.signature(get_selector(name)).parameters.values())[3:]
        check_params(
            name,
            {"column": "nll"} | {p.name: p.default for p in taken if p.default is not p.empty}
            if name in ("top_k", "band")
            else {p.name: p.default for p in taken},
        )


def test_a_parameter_of_another_type_on_the_command_line(world, capsys):
    message = failure(
        world,
        capsys,
        "mllm_selector",
        "--budget",
        "5",
        "--param",
        "tau=hot",
        "--pool",
        world.pool(),
        "--signals",
        world.signals(),
    )
    assert "tau must be a number, got 'hot'" in message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("open('absent/file')", r"FileNotFoundError: .*absent/file.*broken_module.py, line 1\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*broken_module.py, line 2\)"),
        ("def select(:", "SyntaxError: "),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
    ],
)
def test_a_module_that_fails_while_it_is_imported_is_one_line(tmp_path, monkeypatch, code, message):
    (tmp_path / "broken_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for get, error in ((get_selector, SelectorError), (get_producer, ProducerError)):
        monkeypatch.delitem(sys.modules, "broken_module", raising=False)
        with pytest.raises(error, match=f"cannot be imported: {message}") as caught:
            get("broken_module:select")
        assert "\n" not in str(caught.value)


def test_an_own_selector_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "own_broken_module.py").write_text("from math import no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SelectorError, match="cannot be imported: cannot import name 'no_such_name'"):
        get_selector("own_broken_module:pick")


def test_a_missing_column_names_the_nearest_existing_one(world, capsys):
    message = failure(
        world,
        capsys,
        "top_k",
        "--param",
        "column=cap_orc",
        "--budget",
        "5",
        "--pool",
        world.pool(),
        "--signals",
        world.signals(),
    )
    assert "did you mean 'cap_ocr'?" in message
    assert "did you mean" not in failure(
        world,
        capsys,
        "top_k",
        "--param",
        "column=clip_score",
        "--budget",
        "5",
        "--pool",
        world.folder / "pool",
    )


# --- pools and tables


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("text_tokens", ["12"] * 40),
        ("image_tokens", [1.5] * 40),
        ("n_images", [-1] * 40),
        ("text_tokens", [float("inf")] * 40),
        ("n_images", [True] * 40),
    ],
    ids=["text", "fraction", "negative", "infinite", "bool"],
)
def test_counts_of_a_plain_pool_that_are_not_counts(world, capsys, column, values):
    pq.write_table(
        pa.table({"id": world.ids, "source": world.sources, column: values}), world.folder / "p.parquet"
    )
    message = failure(world, capsys, "random", "--budget", "5", "--pool", world.folder / "p.parquet")
    assert f"column {column!r}" in message and "whole numbers of at least 0" in message


def test_counts_of_a_plain_pool_may_be_unknown_as_pandas_writes_them(world):
    tokens = [7.0, float("nan")] * 20
    pq.write_table(
        pa.table(
            {"id": world.ids, "source": world.sources, "text_tokens": tokens, "image_tokens": pa.nulls(40)}
        ),
        world.folder / "p.parquet",
    )
    run(world, "length", "--budget", "20", "--pool", world.folder / "p.parquet")
    manifest = read_manifest(world.folder / "subset")
    assert manifest["notes"] == {"missing_value": 20, "out_of_range": 0}
    assert manifest["budget"] == {"samples": 20, "text_tokens": 140, "image_tokens": None}
    run(world, "random", "--budget", "30", "--pool", world.folder / "p.parquet", out="more")
    assert read_manifest(world.folder / "more")["budget"]["text_tokens"] is None


def test_nested_columns_of_a_plain_pool_are_named(world, capsys):
    records = [
        {"id": name, "source": "s", "conversations": [{"from": "human", "value": "?"}]} for name in world.ids
    ]
    run(world, "random", "--budget", "5", "--pool", world.write("p.json", records))
    assert "p.json: ignored conversations" in capsys.readouterr().out


def test_whole_numbers_far_outside_the_scale(world, capsys):
    pool = world.pool()
    pq.write_table(
        pa.table({"id": world.ids, "cap_ocr": pa.array([2**60 + 1] * 40, pa.int64())}),
        world.folder / "cap.parquet",
    )
    assert "out_of_range 40" in failure(
        world, capsys, "random", "--budget", "5", "--pool", pool, "--signals", world.folder / "cap.parquet"
    )
    pq.write_table(pa.table({"id": world.ids, "exp_ocr": [9] * 40}), world.folder / "exp.parquet")
    assert "out_of_range 40" in failure(
        world, capsys, "random", "--budget", "5", "--pool", pool, "--signals", world.folder / "exp.parquet"
    )


def test_a_table_of_columns_that_cannot_be_read_names_them(world, capsys):
    pq.write_table(
        pa.table({"id": world.ids, "price": pa.array([1] * 40, pa.decimal128(5, 2))}),
        world.folder / "d.parquet",
    )
    message = failure(
        world,
        capsys,
        "random",
        "--budget",
        "5",
        "--pool",
        world.pool(),
        "--signals",
        world.folder / "d.parquet",
    )
    assert "of a kind that cannot be read: price" in message


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_a_share_of_bad_lines_that_is_not_a_share(world, capsys, share):
    assert "is a share of the lines" in failure(
        world, capsys, "random", "--budget", "5", "--pool", world.pool(), f"--max-bad-fraction={share}"
    )


def test_a_mapping_without_a_score_folder(world, capsys):
    message = failure(
        world,
        capsys,
        "random",
        "--budget",
        "5",
        "--map",
        "ocr=stem",
        "--pool",
        world.pool(),
        "--signals",
        world.signals(),
    )
    assert "--map ocr=... is for the score folder of mmSSR, and none is given" in message


def test_files_beside_signal_folders_are_not_ignored(world, capsys):
    signals = world.signals()
    world.write("signals/more.parquet", [{"id": name, "x": 1.0} for name in world.ids])
    message = failure(world, capsys, "random", "--budget", "5", "--pool", world.pool(), "--signals", signals)
    assert "beside them, more.parquet: give each file by its own path" in message


# --- damaged folders

DAMAGE = {"cut": '{"hash": "p', "another kind": "[]", "empty": "{}"}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_signal_json(world, capsys, content):
    signals = world.signals()
    (signals / "losses" / "signal.json").write_text(content)
    message = failure(world, capsys, "random", "--budget", "5", "--pool", world.pool(), "--signals", signals)
    assert "losses/signal.json" in message and "run its producer again" in message


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_pool_json(world, capsys, content):
    pool = world.pool()
    (pool / "pool.json").write_text(content)
    message = failure(world, capsys, "random", "--budget", "5", "--pool", pool)
    assert "pool.json" in message and "build the pool again" in message


def damaged_subsets(world):
    """A whole subset, and folders with one file of it damaged."""
    run(world, "random", "--budget", "5", "--pool", world.pool(), out="whole")
    whole = world.folder / "whole"
    for name, content in DAMAGE.items():
        shutil.copytree(whole, world.folder / name)
        (world.folder / name / "manifest.json").write_text(content)
        yield world.folder / name, "manifest.json"
    shutil.copytree(whole, world.folder / "torn")
    (world.folder / "torn" / "subset.parquet").write_bytes((whole / "subset.parquet").read_bytes()[:100])
    yield world.folder / "torn", "subset.parquet cannot be read"
    shutil.copytree(whole, world.folder / "half")
    (world.folder / "half" / "subset.parquet").unlink()
    yield world.folder / "half", "subset.parquet cannot be read"


def test_damaged_subsets(world, capsys):
    for folder, message in damaged_subsets(world):
        assert compare([str(world.folder / "whole"), str(folder)]) == 2
        error = capsys.readouterr().err
        assert (
            error.startswith("error: ")
            and error.count("\n") == 1
            and message in error
            and "select again" in error
        )
        assert message in failure(
            world,
            capsys,
            "matched_random",
            "--budget",
            "3",
            "--pool",
            world.folder / "pool",
            "--reference",
            folder,
        )


def test_an_import_to_an_existing_file(world, capsys):
    scores = world.write("s.parquet", world.records())
    assert import_once([str(scores), "--pool", str(world.pool()), "--out", str(scores)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# --- selectors


@pytest.mark.parametrize(
    ("name", "params"), [("random", {}), ("random_balanced", {}), ("top_k", {"column": "cap_ocr"})]
)
def test_repeated_ids_are_distinguished_by_row(name, params):
    table = random_table(3, 40, missing=0.0)
    table = table.set_column(table.column_names.index("id"), "id", pa.array(["a", "b"] * 20))
    picks = {
        tuple(get_selector(name)(shuffled(table, order), 13, 0, **params).rows.tolist()) for order in range(6)
    }
    assert len(picks) == 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_kept_text_only_rows_under_a_budget_of_tokens(share):
    clip, kept = get_selector("clip_score"), {"text_only": "keep"}
    for seed in range(6):
        table = tokened(seed, 40)
        budget = int((spent(table, clip(table, 40, 0, **kept))) * share)
        selection = select_within_tokens(clip, table, budget, 0, kept)
        more = clip(table, len(selection.rows) + 1, 0, **kept)
        assert spent(table, selection) <= budget < spent(table, more)


def test_a_huge_budget_of_tokens_is_refused_like_any_other():
    with pytest.raises(SelectorError, match="whole pool has no more"):
        choose(get_selector("random"), tokened(0, 20), "tokens:1e40", 0)


def test_noise_tail_is_the_floor_of_the_share_in_decimals():
    table = pa.table(
        {
            "row": np.arange(100),
            "id": [f"{i}" for i in range(100)],
            "source": ["s"] * 100,
            "nll": np.arange(100.0),
        }
    )
    for percent in range(100):
        assert (
            get_selector("mllm_selector")(table, 1, 0, noise_tail=percent / 100).notes["noise_tail"]
            == percent
        )


def test_presel_with_a_loss_near_zero_without_the_question():
    n = 40
    table = random_table(1, n, missing=0.0)
    sources = pa.array(["a"] * 20 + ["b"] * 20)
    images = pa.array([1] * n, pa.int32())
    for name, column in {
        "source": sources,
        "n_images": images,
        "nll": pa.array([5.0] * n),
        "nll_noq": pa.array([1e-10] + [10.0] * (n - 1)),
    }.items():
        table = table.set_column(table.column_names.index(name), name, column)
    found = get_selector("presel")(table, 10, 0, reference=None, cluster="spectral", vectors="emb_text")
    assert found.reason["source"].to_pylist() == ["b"] * 10, "the mean of a is 2.5e9"
    with pytest.raises(SelectorError, match=r"temperature must be positive .inf = equal., got 0"):
        get_selector("presel")(table, 10, 0, reference=None, temperature=0)


def test_infinite_losses_are_missing_without_a_warning(recwarn):
    infinite = np.array([math.inf, math.inf, 1.0])
    assert np.isnan(irs(infinite, infinite)).tolist() == [True, True, False]
    assert math.isnan(irs(np.array([1.0]), np.array([math.inf]))[0])
    assert np.isnan(visual_necessity(infinite, infinite)).tolist() == [True, True, False]
    assert not recwarn.list


def test_deita_reports_why_rows_are_missing():
    columns = {"deita_score": [1.0, 2.0, 3.0, None]}
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], pa.list_(pa.float16(), 2))
    table = pa.table(
        {
            "row": np.arange(4),
            "id": list("abcd"),
            "source": ["s"] * 4,
            "n_images": [1] * 4,
            "emb_last_token": vectors,
            **columns,
        }
    )
    with pytest.raises(BudgetError) as error:
        get_selector("deita")(table, 4, 0)
    assert str(error.value).endswith("only 3 available: 1 rows are missing_value")
    with pytest.raises(
        BudgetError, match=r"available: 1 rows are missing_value, 1 exceed cosine -0.5 to a taken row"
    ):
        get_selector("deita")(table, 4, 0, threshold=-0.5)


def test_one_source_and_no_image_from_files(world, capsys):
    """A pool of one source without images: capability works, a signal of images says why it does not."""
    pool = [
        {"id": name, "source": "only", "n_images": 0, "text_tokens": 4, "image_tokens": 0}
        for name in world.ids
    ]
    scores = world.write("s.jsonl", [record | {"clip_score": None} for record in world.records()])
    given = ("--pool", world.write("one.jsonl", pool), "--signals", scores, "--budget", "30%")
    assert set(run(world, "mmssr", *given)["source"].to_pylist()) == {"only"}
    message = failure(world, capsys, "clip_score", *given)
    assert "only 0 available: 40 rows are text_only" in message
    run(world, "clip_score", *given, "--param", "text_only=keep", out="kept")
    assert read_manifest(world.folder / "kept")["notes"]["text_only_kept"] == 12


def test_equal_scores_from_files_are_ordered_by_the_hash(world):
    """Rows without an order of their own are ordered by the hash of seed and id."""
    pool = world.pool()
    flat = world.write(
        "f.jsonl", [{"id": name, "cap_ocr": 3, "styles": "word", "nll": 1.0} for name in world.ids]
    )
    expected = run(world, "random", "--budget", "12", "--pool", pool, "--seed", "9")["id"].to_pylist()
    for name, options in (("mmssr", ["--param", "bins=none"]), ("top_k", ["--param", "column=nll"])):
        found = run(
            world,
            name,
            "--budget",
            "12",
            "--pool",
            pool,
            "--seed",
            "9",
            "--signals",
            flat,
            *options,
            out=name,
        )
        assert found["id"].to_pylist() == expected


def test_the_manifest_of_a_subset_is_json_that_others_can_read(world):
    assert (
        select(["random", "--budget", "5", "--pool", str(world.pool()), "--out", str(world.folder / "s")])
        == 0
    )
    held = json.loads((world.folder / "s" / "manifest.json").read_text())
    assert {"ids_sha256", "pool_hash", "selector", "seed", "budget"} <= held.keys()


@pytest.mark.parametrize("name", ["n.parquet", "n.jsonl"])
def test_columns_without_any_value(world, capsys, name):
    given = (
        "--pool",
        world.pool(),
        "--signals",
        world.write(name, [{"id": i, "styles": None, "cap_ocr": 3, "nll": None} for i in world.ids]),
        "--budget",
        "5",
    )
    run(world, "mmssr", *given)
    assert (
        "styles: no_value 40" in capsys.readouterr().out
        and read_manifest(world.folder / "subset")["notes"]["without_style"] == 40
    )
    assert "only 0 available: 40 rows have no nll" in failure(
        world, capsys, "top_k", "--param", "column=nll", *given
    )


def too_few(columns, budget, seed):
    rows = np.arange(budget - 1)
    return Selection(rows, columns.select(["source"]).take(rows))


def a_list(columns, budget, seed):
    return list(range(budget))


@pytest.mark.parametrize(
    ("function", "message"),
    [(too_few, "too_few picked 4 rows, requested 5"), (a_list, "a_list returned list, not a")],
)
def test_an_own_selector_that_breaks_the_contract(function, message):
    with pytest.raises(SelectorError, match=message):
        choose(function, tokened(0, 20), 5, 0)
    with pytest.raises(SelectorError, match=message.split(" ")[0]):
        choose(function, tokened(0, 20), "tokens:2000", 0)


def test_a_selection_exceeds_the_budget_only_by_its_declared_surplus():
    styles = [["a", "b"], ["d"], ["d"], ["d"]]  # a and b hold the same row: b falls short, so d gives two
    table = pa.table(
        {
            "row": np.arange(4),
            "id": list("ijkl"),
            "source": ["s"] * 4,
            "styles": styles,
            "cap_ocr": [5, 5, 4, 3],
        }
    )
    function = get_selector("mmssr_official")
    assert len(choose(function, table, 2, 0, {"overshoot": "official"}).rows) == 3
    assert len(choose(function, table, 2, 0, {"overshoot": "trim"}).rows) == 2


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_documents_its_source_needs_and_cost(name):
    module = importlib.import_module(f"curation.selectors.{name}")
    record, text = module.SELECTOR, " ".join((module.__doc__ + module.select.__doc__).split())
    general = name in (
        "top_k",
        "band",
        "quota_by_group",
    )  # their cost is that of the column
    assert ("Cost class: that of the column" if general else "Cost") in text and (
        general or record.cost in text
    )
    assert ("Targeted" if record.targeted else "Blind") in text
    assert re.search("arXiv|NeurIPS 20", text) or general or name == "all"
    assert "Needs: " in text
    assert "Raises " in " ".join(module.select.__doc__.split()) or name == "all"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *(("quota_by_group", {"pick": pick, "vectors": "emb_text"}) for pick in COMPARED),
        *(("mllm_selector", {"diversity": pick, "strata": 1, "noise_tail": 0.0}) for pick in COMPARED),
        ("coincide", {"cluster": "text", "vectors": "emb_text", "text_only": None}),
        ("presel", {"reference": None, "cluster": "text", "vectors": "emb_text", "text_only": "keep"}),
    ],
    ids=str,
)
def test_groups_that_are_too_large_are_refused_before_vectors_are_read(name, params, monkeypatch):
    monkeypatch.setattr(pick_module, "GROUP_LIMIT", 3)
    monkeypatch.setattr(farthest_module, "PAIR_LIMIT", 3)
    monkeypatch.setattr(cosine_module, "unit", lambda values: pytest.fail("vectors were read"))
    with pytest.raises(SizeError, match="exceeds the limit of 3"):
        get_selector(name)(random_table(2, 60, missing=0.0), 30, 0, **params)


def test_numbers_beyond_the_exact_floats_and_columns_of_nulls_are_read():
    table = pa.table(
        {
            "row": [0, 1, 2],
            "id": ["a", "b", "c"],
            "source": ["s"] * 3,
            "size": pa.array([2**60, 2**62, 1]),
            "none": pa.nulls(3),
        }
    )
    assert get_selector("top_k")(table, 2, 0, column="size").rows.tolist() == [1, 0]
    with pytest.raises(BudgetError, match="only 0 available"):
        get_selector("top_k")(table, 2, 0, column="none")


@pytest.mark.parametrize("budget", ["1e40", "1e40%"])
def test_budgets_of_forty_digits_are_refused_as_any_other(budget):
    with pytest.raises(BudgetError, match="only 100 available"):
        resolve_budget(budget, 100)


@pytest.mark.parametrize("budget", ["1e999999999", "1e999999999%", "1e-999999999%", "9" * 500])
def test_budgets_that_would_fill_the_memory_are_refused(budget):
    with pytest.raises(SelectorError, match="is out of range"):
        resolve_budget(budget, 100)


def test_mmssr_takes_huge_and_infinite_scores_and_repeated_ids_in_any_order():
    n = 12
    table = pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k // 4}" for k in range(n)],
            "source": ["s"] * n,
            "styles": [["word"]] * n,
            "exp_ocr": pa.array([3e38, float("inf"), 1.0, -1.0, *[2.0] * 8], pa.float32()),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = get_selector("mmssr")(table, 6, 0, score="expected")
    assert found.rows.tolist()[:2] == [1, 0] and found.notes["missing_score"] == 1 and 3 not in found.rows
    shuffled = table.take(np.random.default_rng(0).permutation(n))
    assert get_selector("mmssr")(shuffled, 6, 0, score="expected").rows.tolist() == found.rows.tolist()
