"""`python -m curation.compare`: overlap, nestedness, order and composition, against plain sets and lists."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest
from file_world import FileWorld
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from curation.compare import Sheet, Subset, compare, main, open_subsets, sheets
from curation.select import main as select
from curation.selectors.contract import Selection
from curation.subset import SubsetError, write_subset


@pytest.fixture
def world(tmp_path):
    return FileWorld(tmp_path)


def subset(name, rows, pool_hash="p"):
    table = pa.table({"row": pa.array(rows, pa.int32()), "source": [f"src{row % 3}" for row in rows]})
    budget = {"samples": len(rows), "text_tokens": 5 * len(rows), "image_tokens": None}
    manifest = {
        "pool_hash": pool_hash,
        "pool_samples": 50,
        "selector": "x",
        "params": {},
        "seed": 0,
        "budget": budget,
        "ids_sha256": "h",
    }
    return Subset(name, np.array(rows, np.int64), table, manifest)


rows_of = st.lists(st.integers(0, 49), min_size=1, max_size=40, unique=True)


@settings(max_examples=100, deadline=None)
@given(rows_of, rows_of)
def test_pairs_are_those_of_plain_sets(a, b):
    result = compare([subset("a", a), subset("b", b)])
    pair = result["overlap"]["a"]["b"]
    assert pair["common"] == len(set(a) & set(b)) and pair["contained"] == len(set(a) & set(b)) / len(a)
    assert pair["jaccard"] == len(set(a) & set(b)) / len(set(a) | set(b))
    assert result["overlap"]["a"]["a"] == {"common": len(a), "jaccard": 1, "contained": 1}
    nested = {(n["inner"], n["outer"]): n["prefix"] for n in result["nested"]}
    assert (("a", "b") in nested) == (set(a) <= set(b)) and (("b", "a") in nested) == (set(b) <= set(a))
    if ("a", "b") in nested:
        assert nested["a", "b"] == (b[: len(a)] == a)


@settings(max_examples=100, deadline=None)
@given(rows_of, rows_of)
def test_order_is_compared_where_both_have_one(a, b):
    correlations = compare([subset("a", a), subset("b", b)])["rank_correlation"]
    common = sorted(set(a) & set(b))
    if len(common) < 3 or a == sorted(a) or b == sorted(b):
        assert correlations == []
    else:
        assert correlations[0]["common"] == len(common)
        assert correlations[0]["spearman"] == pytest.approx(
            spearmanr([a.index(r) for r in common], [b.index(r) for r in common]).statistic
        )


def choose(world, name, out, *arguments):
    assert (
        select(
            [
                name,
                *map(str, arguments),
                "--pool",
                str(world.folder / "pool"),
                "--out",
                str(world.folder / out),
            ]
        )
        == 0
    )
    return world.folder / out


def three(world):
    pool, signals = world.pool(), world.signals()
    return (
        pool,
        signals,
        [
            choose(world, "random", "small", "--budget", 8, "--seed", 4),
            choose(world, "random", "large", "--budget", 20, "--seed", 4),
            choose(world, "mmssr", "mmssr", "--budget", 10, "--signals", signals),
        ],
    )


def test_subsets_on_disk(world, capsys):
    _, _, paths = three(world)
    report, notes = world.folder / "c.json", world.folder / "c.md"
    assert main([*map(str, paths), "--json", str(report), "--markdown", str(notes)]) == 0
    printed, result = capsys.readouterr().out, json.loads(report.read_text())
    assert result["nested"] == [{"inner": "small", "outer": "large", "prefix": True}]
    assert result["rank_correlation"][0] == {
        "a": "small",
        "b": "large",
        "common": 8,
        "spearman": pytest.approx(1.0),
    }
    assert result["subsets"]["mmssr"]["budget"]["image_tokens"] == 90
    source = dict(zip(world.ids, world.sources, strict=True))
    chosen = open_subsets(paths)[0].table["id"].to_pylist()
    for name in set(world.sources):
        share = sum(source[i] == name for i in chosen) / 8
        assert result["mix"]["source"].get(name, {}).get("small", 0) == share
    for column in ("capability", "style"):
        assert {name for shares in result["mix"][column].values() for name in shares} == {"mmssr"}
        assert sum(shares["mmssr"] for shares in result["mix"][column].values()) == pytest.approx(1)
    for text in (printed, notes.read_text()):
        assert "its first picks" in text and "8 · 100.0% · 0.400" in text and "Composition by source" in text
    assert "| small | random | 4 | 8 |" in notes.read_text()


def test_composition_of_the_samples_next_to_the_pool(world):
    pool, signals, paths = three(world)
    report = world.folder / "c.json"
    assert (
        main([*map(str, paths), "--pool", str(pool), "--signals", str(signals), "--json", str(report)]) == 0
    )
    mix = json.loads(report.read_text())["mix"]
    assert mix["capability (mean score)"]["ocr"]["pool"] == pytest.approx(np.mean(world.scores["ocr"]))
    rows = open_subsets(paths)[0].rows
    assert mix["capability (mean score)"]["stem"]["small"] == pytest.approx(
        np.mean([world.scores["stem"][r] for r in rows])
    )
    assert mix["style"]["word"]["pool"] == np.mean(["word" in styles for styles in world.styles])
    assert mix["source"]["src1"]["pool"] == world.sources.count("src1") / 40


def test_a_run_stands_for_its_subsets(world):
    _, _, paths = three(world)
    stages = world.folder / "runs" / "mine" / "stages"
    stages.mkdir(parents=True)
    for path in paths[:2]:
        os.symlink(os.path.relpath(path, stages), stages / f"select_{path.name}")
    (stages / "train_small").mkdir()
    assert [s.name for s in open_subsets([stages.parent, paths[2]])] == [
        "select_large",
        "select_small",
        "mmssr",
    ]


def test_names_of_subsets_are_unambiguous(world):
    three(world)
    other = world.folder / "other" / "small"
    other.parent.mkdir()
    os.rename(world.folder / "large", other)
    assert [s.name for s in open_subsets([other, world.folder / "small"])] == [
        "other/small",
        f"{world.folder.name}/small",
    ]
    with pytest.raises(SubsetError, match="given twice"):
        open_subsets([other, other])


def test_what_cannot_be_compared_is_one_line_and_status_2(world, capsys):
    _, signals, paths = three(world)
    elsewhere = world.folder / "elsewhere"
    write_subset(
        elsewhere,
        world.pool_table(),
        "q" * 64,
        Selection(np.arange(3), pa.table({"x": [1, 2, 3]})),
        selector="all",
        params={},
        seed=0,
    )
    cases = {
        "subsets of different pools": [paths[0], elsewhere],
        "needs at least two subsets": [paths[0]],
        "holds no finished subset": [paths[0], world.folder / "pool"],
        "--signals needs --pool": [*paths, "--signals", signals],
        "the subsets were chosen from pool": [*paths, "--pool", world.plain_pool(".parquet")],
        "No such file or directory": [*paths, "--json", world.folder / "no" / "c.json"],
    }
    fifo = world.folder / "pipe"
    os.mkfifo(fifo)
    cases |= {
        "lies in a subset folder": [*paths, "--json", paths[0] / "manifest.json"],
        "lies in a subset folder; write": [*paths, "--markdown", paths[1] / "notes.md"],
        "Is a directory": [*paths, "--json", world.folder],
        "is not a regular file": [*paths, "--pool", fifo],
        "neither a file nor a folder": [*paths, "--pool", world.folder / "pool", "--signals", fifo],
        "/dev/null holds no finished subset": [*paths, "/dev/null"],
        "from 0 to 1": [*paths, "--max-bad-fraction", "nan"],
        "path is empty": [*paths, ""],
        "NUL byte": [*paths, "a\0b"],
        "longer than 255 bytes": [*paths, "x" * 300],
        "not valid UTF-8": [*paths, "a\udcff"],
        "is not FILE=KEY": [*paths, "--pool", world.folder / "pool", "--map", "ocr"],
        "required": [],
    }
    for message, arguments in cases.items():
        capsys.readouterr()
        try:
            status = main([*map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        error = capsys.readouterr().err
        assert status == 2 and message in error, error
        assert error.startswith("error: ") and error.count("\n") == 1


def test_an_empty_subset_is_refused(world):
    _, _, paths = three(world)
    write_subset(
        world.folder / "empty",
        world.pool_table(),
        "p" * 64,
        Selection(np.arange(0), pa.table({"x": pa.array([], pa.int8())})),
        selector="all",
        params={},
        seed=0,
    )
    with pytest.raises(SubsetError, match="is an empty subset"):
        open_subsets([paths[0], world.folder / "empty"])


def test_sheets_hold_unknown_tokens_and_bars():
    made = sheets(compare([subset("a", [3, 1]), subset("b", [5, 2])]))
    assert made[0].rows[0] == ["a", "x", "0", "2", "10", "unknown"]
    assert "| a\\|b |" in Sheet("t", ["k"], [["a|b"]]).markdown()
    shown = Sheet("t", ["", "k"], [["<img src=x> [a](b)\nc", "1"]]).markdown()
    assert "|  | k |" in shown and r"| &lt;img src=x&gt; \[a\](b)\\nc | 1 |" in shown
