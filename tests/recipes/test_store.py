"""The store: finished artefacts are complete, damage is detected, disk errors and locks."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes import store
from recipes.errors import StoreError

DIGEST = "0123456789abcdef" * 4


RECORD = {"kind": "kind", "name": "kind", "seconds": 1.0, "work": 1.0, "summary": {"n": 3}}


@pytest.fixture
def artefact(tmp_path):
    """A finished artefact with a small, a nested, an empty and a large file."""
    path = tmp_path / "store" / "kind" / DIGEST[:12]
    store.begin(path, keep=False)
    (path / "small.txt").write_text("content")
    (path / "empty").write_text("")
    (path / "sub").mkdir()
    (path / "sub" / "nested.txt").write_text("more")
    (path / "large.bin").write_bytes(b"x" * (1 << 21))
    store.finish(path, DIGEST, RECORD)
    return path


def test_a_finished_artefact_is_done(artefact):
    assert store.check(artefact, DIGEST) == "done"
    assert store.read_record(artefact)["summary"] == {"n": 3}
    done = store.read_done(artefact)
    assert list(done.files) == ["empty", "large.bin", "small.txt", "sub/nested.txt"]
    assert done.files["small.txt"] == (hashlib.sha256(b"content").hexdigest(), 7)


def test_absent_and_unfinished(artefact):
    assert store.check(artefact.with_name("other"), DIGEST) == "absent"
    (artefact / "done.json").unlink()
    assert store.check(artefact, DIGEST) == "unfinished"


def zero(path):
    """Replace the content by zeros of the same size, as after a disk error."""
    size = path.stat().st_size
    path.write_bytes(bytes(size))


def replaced_by_folder(path):
    path.unlink()
    path.mkdir()


def link_loop(path):
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("small.txt", lambda p: os.truncate(p, 3), "small.txt has 3 bytes instead of 7"),
        ("small.txt", lambda p: p.write_text("CONTENT"), "the content of small.txt has changed"),
        ("sub/nested.txt", lambda p: p.unlink(), "sub/nested.txt is missing"),
        ("large.bin", lambda p: os.truncate(p, 10), f"large.bin has 10 bytes instead of {1 << 21}"),
        ("large.bin", zero, "the content of large.bin has changed"),
        ("small.txt", replaced_by_folder, "small.txt has "),
        ("small.txt", link_loop, "small.txt cannot be read: Too many levels of symbolic links"),
        ("done.json", lambda p: os.truncate(p, 10), "done.json is not readable"),
        ("stage.json", lambda p: os.truncate(p, 10), "the content of stage.json has changed"),
        ("stage.json", lambda p: p.unlink(), "stage.json is missing"),
    ],
)
def test_damage_is_detected(artefact, name, damage, message):
    damage(artefact / name)
    assert store.check(artefact, DIGEST).startswith(f"damaged: {message}")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "3", "[" * 100_000, f'{{"hash": "{DIGEST}"}}'])
def test_an_invalid_done_json_is_damage(artefact, text):
    (artefact / "done.json").write_text(text)
    assert store.check(artefact, DIGEST).startswith("damaged: done.json ")


@pytest.mark.parametrize("files", [[], None, "x", {"small.txt": None}, {"small.txt": {"size": "x"}}])
def test_an_invalid_list_of_files_is_damage(artefact, files):
    done = json.loads((artefact / "done.json").read_text())
    (artefact / "done.json").write_text(json.dumps({**done, "files": files}))
    assert store.check(artefact, DIGEST).startswith("damaged: done.json does not have the form")


@pytest.mark.parametrize("record", [{}, {**RECORD, "seconds": None}, {**RECORD, "summary": []}])
def test_an_invalid_stage_json_is_damage(artefact, record):
    store.finish(artefact, DIGEST, record)
    assert store.check(artefact, DIGEST).startswith("damaged: stage.json lacks a valid `")


def test_a_file_in_place_of_an_artefact_is_damage_that_begin_removes(artefact):
    shutil.rmtree(artefact)
    artefact.write_text("not a directory")
    assert store.check(artefact, DIGEST) == "damaged: it is not a directory"
    store.begin(artefact, keep=True)
    assert store.check(artefact, DIGEST) == "unfinished"


def test_an_artefact_of_another_stage_is_damage(artefact):
    assert store.check(artefact, DIGEST[:12] + "0" * 52) == "damaged: done.json belongs to another stage"


def test_a_second_check_reads_no_content(artefact, monkeypatch):
    monkeypatch.setattr(store, "_sha256", lambda file: pytest.fail(f"{file} was read"))
    assert store.check(artefact, DIGEST) == "done"


def test_a_touched_file_is_read_again_once(artefact, monkeypatch):
    os.utime(artefact / "large.bin", (1, 1))
    read = []
    plain = store._sha256
    monkeypatch.setattr(store, "_sha256", lambda file: read.append(file.name) or plain(file))
    assert [store.check(artefact, DIGEST), store.check(artefact, DIGEST)] == ["done", "done"]
    assert read == ["large.bin"]


def test_a_full_check_detects_changes_that_keep_size_and_time(artefact):
    stat = (artefact / "large.bin").stat()
    zero(artefact / "large.bin")
    os.utime(artefact / "large.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.check(artefact, DIGEST) == "done"
    assert store.check(artefact, DIGEST, full=True).startswith(
        "damaged: the content of large.bin has changed"
    )


@pytest.mark.parametrize("text", ["", "[]", '{"small.txt": 3}', '{"small.txt": [7, 0, 0]}'])
def test_a_damaged_seen_file_is_ignored(artefact, text):
    artefact.with_name(f"{artefact.name}.seen").write_text(text)
    assert store.check(artefact, DIGEST) == "done"


def test_the_root_hash_covers_names_and_contents_but_no_logs_of_times(artefact, tmp_path):
    root = store.read_done(artefact).root
    again = tmp_path / "again"
    shutil.copytree(artefact, again)
    (again / "fit.log.jsonl").write_text("3.2 seconds")
    store.finish(again, DIGEST, RECORD)
    assert store.read_done(again).root == root and "fit.log.jsonl" in store.read_done(again).files
    (again / "empty").rename(again / "void")
    store.finish(again, DIGEST, RECORD)
    assert store.read_done(again).root != root


def test_files_get_the_mode_that_umask_grants(tmp_path):
    path = tmp_path / "kind" / "abc"
    store.begin(path, keep=False)
    (path / "weights").write_bytes(b"w")
    (path / "weights").chmod(0o600)
    before = os.umask(0o027)
    try:
        store.finish(path, DIGEST, RECORD)
    finally:
        os.umask(before)
    assert (path / "weights").stat().st_mode & 0o777 == 0o640


def test_begin_removes_the_mark_first(artefact, monkeypatch):
    monkeypatch.setattr(
        store.shutil,
        "rmtree",
        lambda path: (
            pytest.fail("done.json still exists")
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
    store.write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


# ------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize(
    "code, message",
    [
        (
            errno.ENOSPC,
            "No space left on device; free some space there, or keep store/ and runs/ on another disk with",
        ),
        (
            errno.EROFS,
            "Read-only file system; choose a writable place with root=DIR",
        ),
        (errno.EACCES, "Permission denied; choose a writable place with root=DIR"),
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
def test_disk_problems_name_the_path_and_what_to_do(tmp_path, monkeypatch, code, message, act):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(StoreError) as caught:
        act(tmp_path)
    assert message in str(caught.value)
    assert f"cannot write {tmp_path}" in str(caught.value)


def test_a_really_full_disk():
    full = Path("/dev/full")
    with (
        pytest.raises(StoreError, match=r"cannot write .*No space left on device; free some"),
        store.explained(full),
    ):
        full.write_text("x")


def test_root_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory; a part of the path is a file"):
        store.begin(tmp_path / "file" / "store", keep=False)


def test_other_errors_are_not_translated(tmp_path):
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


def test_a_lock_waits_and_a_killed_holder_releases_it(tmp_path):
    path = tmp_path / "kind" / "abc"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, cwd=Path(store.__file__).parents[2]
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
    with store.lock(path, lambda: pytest.fail("no process holds the lock")):
        pass


def test_a_saved_state_of_a_training_outlives_changed_inputs(tmp_path):
    """The training goes on with it or says what differs; everything else is begun anew."""
    from recipes.store import write_json
    from recipes.task import keeps

    write_json(tmp_path / "begun.json", {"subset": "a"})
    state = tmp_path / "checkpoints" / "checkpoint-40"
    state.mkdir(parents=True)
    assert keeps(tmp_path, {"subset": "a"}) and not keeps(tmp_path, {"subset": "b"})
    (state / "COMPLETE").touch()
    assert keeps(tmp_path, {"subset": "b"})
