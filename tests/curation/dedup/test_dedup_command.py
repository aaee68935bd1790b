"""`python -m curation.dedup`: a signal that selectors read, an inert page, a pool without copies, errors."""

import json
import re

import pytest
from copies_pool import CopiesPool
from picture_kinds import jpeg, picture

from curation.dedup.__main__ import main
from curation.pool.__main__ import main as audit_pool
from curation.pool.read import Pool
from curation.pool.reasons import REASONS
from curation.select import main as select
from curation.signals.core.table import read_signal
from curation.subset import read_subset

LONG = "a man in a red coat walks a small dog along the river while two boats pass under the old bridge"
HOSTILE = "<script>alert(1)</script> | [x](javascript:y) \x1b[31m"


@pytest.fixture
def world(tmp_path):
    world = CopiesPool(tmp_path)
    for number in range(4):
        photo = picture("photo", number)
        world.image(f"{number}.png", photo)
        world.image(f"{number}.jpg", jpeg(photo, 60))
        world.add(f"a{number}", "What is it?", LONG + f" {number}", f"{number}.png", source="first")
        world.add(f"b{number}", "What is it?", LONG + f" {number}", f"{number}.jpg", source=HOSTILE)
    world.add("t1", HOSTILE, HOSTILE, source=HOSTILE)
    world.add("t2", HOSTILE, HOSTILE, source="text")
    world.build()
    return world


def run(world, *arguments, status=0):
    given = [str(world.folder / "pool"), "--out", str(world.folder / "signal"), "--workers", "0"]
    assert main([*given, *map(str, arguments)]) == status


def test_signal_counts_and_pool(world, capsys):
    run(world, "--drop", world.folder / "unique")
    said = capsys.readouterr().out
    assert "5 of 10 samples (50.0%) are copies of another, in 5 groups" in said and "\x1b" not in said
    pool = Pool.open(world.folder / "pool")
    table = read_signal(world.folder / "signal", pool.hash)
    assert table.column_names == ["row", "dup_group", "dup_kind", "dup_first"]
    told = json.loads((world.folder / "signal" / "dup.json").read_text())
    assert told["by_kind"] == {"near_image": 4, "exact": 1} and told["pool_hash"] == pool.hash
    assert sum(of["copies"] for of in told["by_source"].values()) == told["copies"] == 5
    assert sum(pair["copies"] for pair in told["between_sources"]) == 5
    assert told["pictures"]["near_another_by_hash"] == told["pictures"]["files"] == 8
    unique = Pool.open(world.folder / "unique")
    kept = [
        id
        for id, first in zip(pool.table["id"].to_pylist(), table["dup_first"].to_pylist(), strict=True)
        if first
    ]
    assert unique.table["id"].to_pylist() == kept and len(kept) == 5
    assert unique.info["quarantined"] == {"copy": 5}


def test_the_page_is_inert(world):
    run(world)
    page = (world.folder / "signal" / "dup.md").read_text()
    assert "<script>" not in page and not re.search(r"(?<!\\)\]\(", page) and "\x1b" not in page
    assert "&lt;script&gt;" in page
    rows = [line for line in page.splitlines() if "script" in line]
    assert len({line.replace("\\|", "").count("|") for line in rows if line.startswith("| exact")}) == 1


def test_a_finished_search_is_kept_and_another_rule_is_not(world, capsys):
    run(world)
    first = (world.folder / "signal" / "dup.json").stat().st_mtime_ns
    run(world)
    assert (world.folder / "signal" / "dup.json").stat().st_mtime_ns == first
    run(world, "--images", "exact")
    told = json.loads((world.folder / "signal" / "dup.json").read_text())
    assert told["by_kind"] == {"exact": 1} and "near_another_by_hash" not in told["pictures"]


def test_selectors_read_it(world):
    run(world)
    out = world.folder / "subset"
    given = ["quota_by_group", "--pool", world.folder / "pool", "--signals", world.folder / "signal"]
    given += ["--param", "group=dup_group", "--param", "allocation=equal", "--budget", "5", "--out", out]
    assert select([str(each) for each in given]) == 0
    rows = read_subset(out)["row"].to_pylist()
    pool = Pool.open(world.folder / "pool")
    groups = read_signal(world.folder / "signal", pool.hash)["dup_group"].to_pylist()
    assert len({groups[row] for row in rows}) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "2"], "threshold must be above 0"),
        (["--radius", "50"], "radius must be from 0 to 31"),
        (["--clusters", "cluster_image"], "--clusters needs --vectors"),
        (["--images", "alike", "--text", "any"], "not with text any"),
    ],
)
def test_wrong_commands(world, capsys, arguments, message):
    run(world, *arguments, status=2)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (world.folder / "signal").exists()


def test_a_pool_that_was_not_decoded(world, capsys):
    world.build("pool", audit="header")
    run(world, status=2)
    said = capsys.readouterr().err
    assert "python -m curation.pool audit" in said and said.count("\n") == 1


def test_images_that_are_gone_are_to_be_dropped_first(world, capsys):
    (world.folder / "images" / "0.png").unlink()
    audit = ["audit", str(world.folder / "pool"), "--workers", "0"]
    assert audit_pool(audit) == 0
    run(world, status=2)
    said = capsys.readouterr().err
    assert "image_missing 1" in said and f"{world.folder / 'pool'} --drop OUT" in said
    assert audit_pool([*audit, "--drop", str(world.folder / "sound")]) == 0
    assert main([str(world.folder / "sound"), "--out", str(world.folder / "signal"), "--workers", "0"]) == 0


def test_folders_that_hold_a_pool_are_not_written_to(world, capsys):
    pool = str(world.folder / "pool")
    assert main([pool, "--out", pool]) == 2
    run(world, "--drop", pool, status=2)
    assert main([str(world.folder / "none"), "--out", str(world.folder / "signal")]) == 2
    world.build("other")
    run(world, "--drop", world.folder / "other", status=2)
    run(world, "--drop", world.folder / "signal", status=2)
    assert capsys.readouterr().err.count("\n") == 5 and not (world.folder / "signal").exists()


def test_the_pool_that_is_left_notes_what_was_dropped(world):
    run(world, "--drop", world.folder / "unique")
    info = json.loads((world.folder / "unique" / "pool.json").read_text())
    assert info["quarantined"]["copy"] == info["dedup"]["dropped"]["copy"] > 0
    assert sum(info["dedup"]["sources"].values()) == info["parent"]["n"] - info["n"]
    assert info["dedup"]["rule"]["images"] == "near" and info["quarantined"].keys() <= REASONS.keys()
