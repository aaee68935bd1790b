"""The command: what it writes over, and errors in one line."""

import json
import shutil

import pytest
from explore_world import explore

from curation.explore.__main__ import main
from curation.explore.pictures import pictures
from curation.pool.image_check import Check


@pytest.fixture
def refused(world, capsys):
    """Runs the command, which must fail with this status; returns its one line."""

    def call(status, *arguments, subset="subset", pool="pool"):
        capsys.readouterr()
        given = [world / subset, "--pool", world / pool, "--workers", 1, *arguments]
        assert main([str(argument) for argument in given]) == status
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return call


def test_it_says_what_the_page_holds(world, tmp_path, capsys):
    explore(world, tmp_path / "a" / "page.html", "--samples", 10)
    assert "10 of 60 samples (5 of 7 picked) and 2 of 2 quarantined records" in capsys.readouterr().out


def test_without_signals_copies_and_leaks(world, tmp_path):
    out = tmp_path / "page.html"
    assert main([str(world / "subset"), "--pool", str(world / "pool"), "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000


def test_a_page_is_replaced_and_nothing_else(world, refused, tmp_path):
    out = tmp_path / "page.html"
    explore(world, out, "--samples", 5)
    explore(world, out, "--samples", 6)
    foreign = tmp_path / "notes.html"
    foreign.write_text("mine")
    assert "is no page" in refused(2, "--out", foreign) and foreign.read_text() == "mine"
    assert "folder" in refused(2, "--out", tmp_path)
    for place in ("pool/page.html", "subset/page.html", "source/data.json", "source/images/0.png"):
        before = (world / place).read_bytes() if (world / place).exists() else None
        assert "choose another --out" in refused(2, "--out", world / place)
        assert ((world / place).read_bytes() if (world / place).exists() else None) == before


def test_another_pool_is_refused(world, refused, tmp_path):
    other = tmp_path / "subset"
    other.mkdir()
    told = json.loads((world / "subset" / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(told | {"pool_hash": "0"}))
    assert "pool hashes differ" in refused(2, "--out", tmp_path / "page.html", subset=other)


def test_leaks_and_copies_of_another_pool_are_refused(world, refused, tmp_path):
    out = tmp_path / "page.html"
    assert "no search for leaks" in refused(2, "--leaks", tmp_path, "--out", out)
    (tmp_path / "leaks.json").write_text(json.dumps({"pool_hash": "0"}))
    (tmp_path / "leaks.parquet").write_bytes((world / "leaks" / "leaks.parquet").read_bytes())
    assert "another pool" in refused(2, "--leaks", tmp_path, "--out", out)
    assert "dup_group" in refused(2, "--dups", world / "signals" / "scores", "--out", out)
    assert "no finished signal" in refused(1, "--dups", tmp_path, "--out", out)
    assert not out.exists()


def test_groups_that_are_no_rows_are_refused(world, refused, tmp_path):
    scores = tmp_path / "groups.jsonl"
    scores.write_text("".join(json.dumps({"row": row, "dup_group": row + 7}) + "\n" for row in range(60)))
    assert "row number" in refused(2, "--signals", scores, "--out", tmp_path / "page.html")


def test_a_damaged_quarantine_is_an_error(world, refused, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(world / "pool", pool)
    (pool / "quarantine.parquet").write_bytes(b"no table")
    assert "quarantine.parquet" in refused(1, "--out", tmp_path / "page.html", pool=pool)


def test_what_is_missing_is_named(refused, tmp_path):
    assert "nowhere" in refused(1, "--out", tmp_path / "page.html", subset="nowhere")
    assert "nowhere" in refused(2, "--out", tmp_path / "page.html", pool="nowhere")


def test_pictures_stop_at_the_limit(world):
    check = Check(str(world / "source"), "header")
    names = [f"images/{number}.png" for number in (0, 1, 3)]
    all_of = list(pictures(check, names, workers=1, limit=10**9))
    size = len(all_of[0]["jpeg"])
    made = list(pictures(check, names, workers=1, limit=size))
    assert made[0] == all_of[0] and [picture["reason"] for picture in made[1:]] == ["page_full"] * 2


def test_images_outside_the_folder_are_not_read(world):
    check = Check(str(world / "source" / "images"), "header")
    (made,) = pictures(check, ["../images/../../pool/pool.json"], workers=1, limit=10**9)
    assert made["reason"] == "image_outside" and "jpeg" not in made
