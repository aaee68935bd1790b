"""The data set card: what the Hub parses, what it says of the subset, what it admits, and what it escapes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_world import CHOSEN, RECORDS, choose
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from curation.dedup.__main__ import main as dedup
from curation.pool.derive import derive
from curation.pool.ingest import Options, build_pool
from curation.pool.read import Pool
from curation.selectors.random import select as select_random

HOSTILE = "a|b\n# <img src=x onerror=alert(1)> [x](http://x) `c` ![y](z)"


def section(card, title):
    """The lines of a section."""
    body = card.text.split(f"\n## {title}\n", 1)[1]
    return body.split("\n## ")[0].strip().splitlines()


@pytest.fixture
def card(export):
    """Exports with a card, and loads it with the Hub's own class."""

    def call(*arguments, form="parquet", name="out", **more):
        out = export(name, "--format", form, *arguments, **more)
        path = out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.card.md")
        return DatasetCard.load(path)

    return call


def test_the_front_matter_is_what_the_hub_reads(card):
    data = card("--name", "My set").data
    assert data.license == "unknown" and data.size_categories == ["n<1K"]
    assert data.task_categories == ["image-text-to-text"] and data.pretty_name == "My_set"
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    assert data.to_dict()["configs"] == [{"config_name": "default", "data_files": files}]


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("llamafactory", "out.json"),
        ("datasets", "data-*.arrow"),
        ("webdataset", "out-*.tar"),
        ("swift", "out"),
        ("jsonl", "out"),
    ],
)
def test_the_data_files_of_each_format_are_named(card, world, form, path):
    assert card("--card", form=form).data.to_dict()["configs"][0]["data_files"][0]["path"] == path
    assert list((world / "out").glob(path)) if (world / "out").is_dir() else (world / path).is_file()


def test_a_file_has_a_card_on_request_and_a_folder_may_have_none(world, export):
    export("a.json")
    assert not (world / "a.json.card.md").exists()
    assert not (export("b", "--format", "webdataset", "--no-card") / "README.md").exists()


def test_it_says_how_the_subset_was_chosen(world, card):
    more = {"selector": "top_k", "params": {"column": "reward", "order": "high"}, "seed": 3}
    extra = {"budget_asked": "75%"}
    manifest = choose(world / "pool", CHOSEN, world / "subset", **more, extra=extra)
    page = card()
    chosen = "\n".join(section(page, "How it was chosen"))
    for said in ("`top_k`", "column reward, order high", "seed: 3", "asked for: 75%", "samples: 6"):
        assert said in chosen
    assert f"text tokens: {manifest['budget']['text_tokens']}" in chosen
    assert "image tokens: unknown" in chosen
    hashes = "\n".join(section(page, "Hashes"))
    assert manifest["ids_sha256"] in hashes and Pool.open(world / "pool").hash in hashes
    command = next(line for line in section(page, "How to reproduce it") if "curation.select" in line)
    assert "top_k" in command and "--budget 75% --seed 3" in command and "'column=\"reward\"'" in command
    assert str(world) not in page.content


def test_the_overlap_with_a_random_subset_is_measured(world, card):
    """The random subset is of another seed: one of the selection's own would not be independent of it."""
    pool = Pool.open(world / "pool")
    chosen, drawn = (select_random(pool.table, 6, seed).rows.tolist() for seed in (0, 1000))
    choose(world / "pool", chosen, world / "subset")
    common = len(set(chosen) & set(drawn))
    assert common < 6
    expected, actual = section(card(), "Overlap with a random subset of the same size")
    spread = np.sqrt(6 * 0.75 * 0.25 * 2 / 7)  # hypergeometric
    assert "4.5 samples" in expected and f"standard deviation {spread:.1f}" in expected
    assert f"{common} samples, {common / 6:.1%} of the subset" in actual


def test_sources_and_licences_of_pool_and_subset_stand_side_by_side(world, card, capsys):
    (world / "licences.yaml").write_text(yaml.safe_dump({"src1": "CC-BY-4.0", "gone": "mit"}))
    page = card("--licenses", world / "licences.yaml")
    lines = section(page, "Sources and licences")
    assert lines[2:4] == [
        "| src0 | 4 | 50.0% | 2 | 33.3% | unknown |",
        "| src1 | 4 | 50.0% | 4 | 66.7% | CC-BY-4.0 |",
    ]
    assert "The licence of 1 of the subset's 2 sources is unknown" in lines[-1]
    assert page.data.license == ["cc-by-4.0", "unknown"]
    assert "names 1 sources that the pool does not have" in capsys.readouterr().out


def test_a_licence_that_is_no_identifier_is_other(world, card):
    (world / "licences.yaml").write_text("src0: ask the authors\nsrc1: ask the authors")
    assert card("--licenses", world / "licences.yaml").data.license == "other"


def test_what_was_not_done_is_said(card):
    page = card()
    lines = "\n".join(section(page, "Duplicates and leaks"))
    assert "**Duplicates**: not done, as far as" in lines and "**Leaks of benchmarks**: not done" in lines
    assert section(page, "Signals") == ["None: the selection reads the pool alone."]


def test_what_was_done_is_reported(world, card, refused):
    of_pool = {"pool_hash": Pool.open(world / "pool").hash}
    told = {"dup": {"groups": 3, "by_kind": {"exact": 2}}, "leaks": {"benchmarks": {"x": {"rows": 1}}}}
    for name, info in told.items():
        (world / name).mkdir()
        (world / name / f"{name}.json").write_text(json.dumps(info | of_pool))
    pq.write_table(pa.table({"row": [0, 4, 4], "id": ["s0", "s4", "s4"]}), world / "leaks" / "leaks.parquet")
    found = ("--dups", world / "dup", "--leaks", world / "leaks")
    lines = "\n".join(section(card(*found), "Duplicates and leaks"))
    assert "**Duplicates**: searched for.\n" in lines and "groups: 3" in lines and "by_kind: exact 2" in lines
    assert "benchmarks, x: rows 1" in lines
    assert "Of the samples of this subset, 1 are in the list of leaks" in lines  # row 4 was not chosen
    other = json.dumps({"groups": 0, "pool_hash": "of another"})
    (world / "dup" / "dup.json").write_text(other)
    assert "is of pool of another" in refused("b", *found)
    (world / "dup" / "dup.json").unlink()
    assert "dup.json does not exist" in refused("b", *found)


def test_signals_are_named_with_the_models_that_made_them(world, card):
    (world / "signals" / "nec").mkdir(parents=True)
    info = {"identity": "abc", "producer": "losses", "model_hash": "f00d", "parts": [], "pool_hash": "x"}
    (world / "signals" / "nec" / "signal.json").write_text(json.dumps(info))
    nested = {"identity": "def", "model": {"path": "/home/me/base"}, "pool_hash": "x"}
    (world / "signals" / "more").mkdir()
    (world / "signals" / "more" / "signal.json").write_text(json.dumps(nested))
    choose(
        world / "pool",
        CHOSEN,
        world / "subset",
        signal_hashes={"nec": "abc", "nested": "def", "other": "xyz"},
    )
    lines = section(card("--signals", world / "signals"), "Signals")
    assert lines[2] == "| nec | `abc` | producer losses, model_hash f00d |"
    assert lines[3] == '| nested | `def` | `{"model": {"path": "base"}}` |'
    assert lines[4] == "| other | `xyz` | not given to this card (`--signals`) |"


def test_whatever_the_data_say_is_text(world, card):
    records = [RECORDS[0] | {"source": HOSTILE}, RECORDS[1]]
    (world / "bad.json").write_text(json.dumps(records))
    build_pool(world / "bad.json", world / "source" / "images", world / "bad")
    more = {"params": {"column": HOSTILE}, "extra": {"budget_asked": HOSTILE}}
    choose(world / "bad", [0, 1], world / "chosen", **more)
    (world / "licences.yaml").write_text(yaml.safe_dump({HOSTILE: HOSTILE}))
    page = card("--licenses", world / "licences.yaml", pool="bad", subset="chosen")
    shown = MarkdownIt("commonmark").enable("table").render(page.text)
    assert not [tag for tag in ("<img", "<a ", "<em>", "<script") if tag in shown]
    assert shown.count("<h1>") == 1 and shown.count("onerror=alert(1)&gt;") >= 4  # it is there, as text
    rows = shown.split("licence</th>")[1].split("</tbody>")[0].split("<tr>")[1:]
    assert len(rows) == 2 and all(row.count("<td") == 6 for row in rows)
    assert page.data.license == ["other", "unknown"]


@pytest.mark.parametrize("text", ["- a", "a: [1]", "{", "1: b", "a: &x [*x]"])
def test_licences_that_are_no_mapping_of_texts_are_refused(world, refused, text):
    (world / "licences.yaml").write_text(text)
    assert "licences.yaml" in refused("a", "--licenses", world / "licences.yaml")


def test_what_was_dropped_from_the_pool_is_told(world, card):
    drop = pa.table({"row": pa.array([2, 4], pa.int32()), "reason": ["leak"] * 2, "detail": [""] * 2})
    note = {"decontaminate": {"suite": "mm14", "kinds": ["image_exact"]}}
    derive(Pool.open(world / "pool"), drop, world / "clean", note=note)
    choose(world / "clean", [0, 3], world / "chosen")
    (world / "leaks").mkdir()
    found = {"pool_hash": Pool.open(world / "pool").hash, "rows": 2}  # of the parent: the ids are the same
    (world / "leaks" / "leaks.json").write_text(json.dumps(found))
    leaks = pa.table({"row": [2, 4, 5], "id": ["s2", "s4", "s5"]})  # s5, of another kind, was left in
    pq.write_table(leaks, world / "leaks" / "leaks.parquet")
    page = card("--leaks", world / "leaks", pool="clean", subset="chosen")
    lines = "\n".join(section(page, "Duplicates and leaks"))
    assert "one of 8 samples without 2 that were dropped" in lines
    assert "**Leaks of benchmarks**: searched for, and dropped from the pool" in lines
    assert "suite: mm14" in lines and "rows: 2" in lines
    assert "Of the samples of this subset, 1 are in the list of leaks" in lines


def test_sources_by_the_thousand_are_cut(world, card, monkeypatch):
    monkeypatch.setattr("curation.export.card._MAX_SOURCES", 1)
    lines = section(card(), "Sources and licences")
    assert lines[3] == "| 1 further sources |  |  |  |  |  |"


def test_a_search_for_copies_by_its_own_command_is_reported(world, card):
    records = [*RECORDS[:3], RECORDS[0] | {"id": "again"}, RECORDS[1] | {"id": "too"}]
    (world / "copies.json").write_text(json.dumps(records))
    build_pool(
        world / "copies.json", world / "source" / "images", world / "full", options=Options(audit="full")
    )
    arguments = ["full", "--out", "dup", "--drop", "clean"]
    assert dedup([str(world / word) if not word.startswith("--") else word for word in arguments]) == 0
    choose(world / "full", [0, 3], world / "with_copies")
    found = ("--dups", world / "dup")
    lines = "\n".join(section(card(*found, pool="full", subset="with_copies"), "Duplicates and leaks"))
    assert "**Duplicates**: searched for.\n" in lines and "- copies: 2" in lines
    assert "Où est" not in lines  # examples are texts of the data
    choose(world / "clean", [0, 1], world / "cleaned")
    lines = section(card(*found, pool="clean", subset="cleaned", name="b"), "Duplicates and leaks")
    assert "one of 5 samples without 2 that were dropped" in lines[0]
    assert "**Duplicates**: searched for, and dropped from the pool." in lines
