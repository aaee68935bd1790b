"""The store: finished means whole, and a disk that cannot be written is explained."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes import store
from recipes.errors import StoreError

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def artefact(tmp_path):
    """A finished artefact with a small, a nested, an empty and a large file."""
    path = tmp_path / "store" / "kind" / DIGEST[:12]
    store.begin(path, keep=False)
    (path / "small.txt").write_text("content")
    (path / "empty").write_text("")
    (path / "sub").mkdir()
    (path / "sub" / "nested.txt").write_text("more")
    (path / "large.bin").write_bytes(b"x" * (store.SMALL_FILE + 1))
    store.finish(path, DIGEST, {"seconds": 1.0, "summary": {"n": 3}})
    return path


def test_finished_is_done(artefact):
    assert store.check(artefact, DIGEST) == "done"
    assert store.read_record(artefact)["summary"] == {"n": 3}
    done = json.loads((artefact / "done.json").read_text())
    assert list(done["files"]) == ["empty", "large.bin", "small.txt", "sub/nested.txt"]
    assert "sha256" not in done["files"]["large.bin"]


def test_absent_and_unfinished(artefact):
    assert store.check(artefact.with_name("other"), DIGEST) == "absent"
    (artefact / "done.json").unlink()
    assert store.check(artefact, DIGEST) == "unfinished"


@pytest.mark.parametrize(
    "name, damage, said",
    [
        ("small.txt", lambda p: os.truncate(p, 3), "small.txt has 3 bytes instead of 7"),
        ("small.txt", lambda p: p.write_text("CONTENT"), "small.txt has other content"),
        ("sub/nested.txt", lambda p: p.unlink(), "sub/nested.txt is missing"),
        (
            "large.bin",
            lambda p: os.truncate(p, 10),
            f"large.bin has 10 bytes instead of {store.SMALL_FILE + 1}",
        ),
        ("done.json", lambda p: os.truncate(p, 10), "done.json is not readable"),
        ("stage.json", lambda p: os.truncate(p, 10), "stage.json is not readable"),
        ("stage.json", lambda p: p.unlink(), "stage.json is not readable"),
    ],
)
def test_damage_is_found(artefact, name, damage, said):
    damage(artefact / name)
    assert store.check(artefact, DIGEST).startswith(f"damaged: {said}")


def test_artefact_of_another_stage(artefact):
    assert store.check(artefact, DIGEST[:12] + "0" * 52) == "damaged: done.json is of another stage"


def test_many_files_are_checked_by_size(artefact, monkeypatch):
    monkeypatch.setattr(store, "MANY_FILES", 3)
    assert all("sha256" not in entry for entry in store.manifest(artefact).values())


def test_begin_takes_the_mark_away_first(artefact, monkeypatch):
    monkeypatch.setattr(
        store.shutil,
        "rmtree",
        lambda path: (
            pytest.fail("the mark is still there")
            if (path / "done.json").exists()
            else (_ for _ in ()).throw(KeyboardInterrupt)
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        store.begin(artefact, keep=False)
    assert store.check(artefact, DIGEST) == "unfinished"


def test_begin_keeps_or_clears(artefact):
    store.begin(artefact, keep=True)
    assert (artefact / "small.txt").exists() and not (artefact / "done.json").exists()
    store.begin(artefact, keep=False)
    assert list(artefact.iterdir()) == []


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path, monkeypatch):
    store.write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


# ------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize(
    "code, said",
    [
        (
            errno.ENOSPC,
            "No space left on device; free some space there, or keep store/ and runs/ on another disk with",
        ),
        (
            errno.EROFS,
            "Read-only file system; the file system is read-only: choose a writable place with root=DIR",
        ),
        (errno.EACCES, "Permission denied; you may not write there: choose a writable place with root=DIR"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        lambda path: store.write_json(path / "x.json", {}),
        lambda path: store.begin(path / "new", keep=False),
        lambda path: store.lock(path / "new" / "x", lambda: None).__enter__(),
    ],
    ids=["write", "begin", "lock"],
)
def test_disk_problems_name_the_path_and_what_to_do(tmp_path, monkeypatch, code, said, act):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(StoreError) as caught:
        act(tmp_path)
    assert said in str(caught.value)
    assert f"cannot write {tmp_path}" in str(caught.value)


def test_a_really_full_disk():
    full = Path("/dev/full")
    with (
        pytest.raises(StoreError, match="cannot write .*No space left on device; free some"),
        store.explained(full),
    ):
        full.write_text("x")


def test_root_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory; a part of the path is a file"):
        store.begin(tmp_path / "file" / "store", keep=False)


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        store.write_json(tmp_path / "gone" / "x.json", {})


# ------------------------------------------------------------------------------------------ locks


HOLDER = """
import sys, time
from pathlib import Path
from recipes import store
with store.lock(Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_waits_and_a_killed_holder_gives_it_back(tmp_path):
    path = tmp_path / "kind" / "abc"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, cwd=Path(store.__file__).parents[1]
    )
    assert holder.stdout.readline() == b"held\n"
    waited = []

    def on_wait():
        waited.append(time.monotonic())
        holder.kill()

    with store.lock(path, on_wait):
        assert len(waited) == 1
    holder.wait()
    holder.stdout.close()
    with store.lock(path, lambda: pytest.fail("nobody holds it")):
        pass
