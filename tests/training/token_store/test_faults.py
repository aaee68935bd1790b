"""Damage, full disks, killed and concurrent writers: a store is whole, refused with reason, or continued."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_models
from processes import alive, environment, wait_for

from curation import killpoints
from curation.pool.sample import Sample, Turn
from training.token_store import ListSource, RendererOf, StoreError, StoreMismatch, TokenStore, write
from training.token_store.layout import HEADER_BYTES

WRITE = """
import sys
from pathlib import Path
from curation.pool.read import Pool
from training.token_store import PoolSource, RendererOf, write

pool, base, out, workers = sys.argv[1:]
write(PoolSource(Pool.open(Path(pool))), RendererOf(base), Path(out), workers=int(workers), shard_rows=8)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Name and bytes of every file of a store that is not a leftover."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


def writer(pool: Path, base: Path, out: Path, workers: int, kill: str | None = None) -> subprocess.Popen:
    variables = {killpoints.VARIABLE: kill} if kill else {}
    command = [sys.executable, "-c", WRITE, *map(str, (pool, base, out, workers))]
    return subprocess.Popen(command, env=environment(**variables), stderr=subprocess.PIPE, text=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "00001.shard does not exist: write the store again"),
        (cut, "00001.shard is damaged .* bytes instead of"),
        (flip, "00001.shard is damaged .*its checksum differs"),
        (overwrite, "00001.shard is damaged .*its first line is not that of a shard"),
        (lambda path: path.write_bytes(b""), "00001.shard is damaged"),
    ],
)
def test_damage_is_refused_and_only_that_shard_is_written_again(tmp_path, pool_of, stored, damage, message):
    pool = pool_of(24)
    stored(pool)
    before, shard = contents(tmp_path / "store"), tmp_path / "store" / "00001.shard"
    stamps = {p: p.stat().st_mtime_ns for p in shard.parent.glob("*.shard") if p != shard}
    damage(shard)
    with pytest.raises(StoreError, match=message):
        TokenStore.open(tmp_path / "store")
    stored(pool)
    assert contents(tmp_path / "store") == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_ranks_do_not_read_everything_again(tmp_path, pool_of, stored):
    """Only the process that writes or opens a store compares checksums; a size is always compared."""
    stored(pool_of(24))
    flip(tmp_path / "store" / "00001.shard")
    TokenStore.open(tmp_path / "store", verify=False)
    cut(tmp_path / "store" / "00001.shard")
    with pytest.raises(StoreError, match="damaged"):
        TokenStore.open(tmp_path / "store", verify=False)


def test_a_shard_of_another_store_is_refused(tmp_path, pool_of, stored):
    pool = pool_of(24)
    stored(pool)
    stored(pool_of(24, "other", seed=1), "other")
    before = contents(tmp_path / "store")
    (tmp_path / "store" / "00001.shard").write_bytes((tmp_path / "other" / "00001.shard").read_bytes())
    with pytest.raises(StoreMismatch, match="belongs to another store"):
        TokenStore.open(tmp_path / "store")
    stored(pool)
    assert contents(tmp_path / "store") == before


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"holds no token store \(store.json does not exist\)"):
        TokenStore.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is not valid JSON"):
        TokenStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": 0}')
    with pytest.raises(StoreMismatch, match="does not describe a token store of layout 1"):
        TokenStore.open(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, pool_of, stored):
    """The kernel refuses bytes beyond a limit, in the middle of the first shard, as a full disk does."""
    pool = pool_of(24)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES + 1000, hard))
    try:
        with pytest.raises(OSError, match=r"\.shard cannot be written; make room, then run the same command"):
            stored(pool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.json"]
    assert len(stored(pool).examples(range(24))) == 24


def test_an_image_that_is_there_and_refused_is_not_tried_for_ever(tmp_path, draw):
    """Qwen's processors refuse extreme aspect ratios."""
    draw(0, (3000, 4)).save(tmp_path / "line.png")
    sample = Sample(0, "line", "s", (tmp_path / "line.png",), (Turn("<image> what ?", "a line"),))
    factory, out = RendererOf(tiny_models.build("qwen", tmp_path / "model")), tmp_path / "store"
    store = write(ListSource([sample]), factory, out, workers=1)
    assert [r.reason for r in store.examples([0]).rejected] == ["broken_image"]
    stamp = (out / "00000.shard").stat().st_mtime_ns
    write(ListSource([sample]), factory, out, workers=1)
    assert (out / "00000.shard").stat().st_mtime_ns == stamp


def test_leftovers_of_killed_writers_go_when_they_are_old(tmp_path, pool_of, stored):
    pool = pool_of(8)
    stored(pool)
    old, new = (tmp_path / "store" / f".00000.shard.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    stored(pool)
    assert new.exists() and not old.exists()


@pytest.mark.slow
def test_a_killed_writer_is_continued_by_two_at_once(tmp_path, pool_of, stored, base):
    pool, out = pool_of(60), tmp_path / "killed"
    stored(pool)
    killed = writer(pool.folder, base, out, 1, kill="start/before rename/3")
    assert killed.wait(120) == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.shard")}
    assert len(finished) == 2 and len(list(out.glob(".*.tmp"))) == 1
    with pytest.raises(StoreError, match="does not exist: write the store again"):
        TokenStore.open(out)
    for process in [writer(pool.folder, base, out, 1) for _ in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert contents(out) == contents(tmp_path / "store")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())


@pytest.mark.slow
def test_killed_worker_processes_and_a_killed_parent(tmp_path, pool_of, stored, base):
    pool, out = pool_of(60), tmp_path / "killed"
    stored(pool)
    first = writer(pool.folder, base, out, 2, kill="start/before rename/2")
    _, errors = first.communicate(timeout=180)
    assert first.returncode == 1
    assert "StoreError: a process that wrote" in errors and "run the same command again" in errors
    finished = len(list(out.glob("*.shard")))
    assert 1 <= finished <= 2

    second = writer(pool.folder, base, out, 2)
    wait_for(lambda: workers_of(second.pid), 120)  # both at once may never be seen: the shards are small
    children = workers_of(second.pid)
    second.kill()
    second.communicate()
    wait_for(lambda: not any(alive(pid) for pid in children))  # none goes on writing behind a new command

    assert writer(pool.folder, base, out, 2).wait(180) == 0
    assert contents(out) == contents(tmp_path / "store")


def workers_of(pid: int) -> list[int]:
    """Process ids of the spawned processes that write for `pid`."""
    children = psutil.Process(pid).children() if psutil.pid_exists(pid) else []
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
