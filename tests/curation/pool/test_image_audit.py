"""The gate: one row for each name, in order, whoever checks it; a hostile image costs itself only."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation.pool import image_audit
from curation.pool.errors import PoolError
from curation.pool.image_audit import IMAGE_SCHEMA, gate
from curation.pool.image_check import Check


def picture(path, seed, size=(24, 16)):
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 255, (*size[::-1], 3), np.uint8)).save(path)


@pytest.fixture
def images(tmp_path):
    """40 pictures in two formats, one broken, one copy, one that is not there."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{n}.{'jpg' if n % 2 else 'png'}" for n in range(40)]
    for n, name in enumerate(names):
        picture(folder / name, n)
    (folder / "cut.png").write_bytes((folder / names[0]).read_bytes()[:-400])
    (folder / "copy.png").write_bytes((folder / names[0]).read_bytes())
    return folder, [*names[:20], "cut.png", *names[20:], "absent.png", "copy.png"]


@pytest.mark.parametrize("level", ["header", "full"])
def test_workers_give_what_this_process_gives(images, level, monkeypatch):
    monkeypatch.setattr(image_audit, "_FEW", 0)
    folder, names = images
    alone = gate(names, folder, level=level, workers=0)
    assert gate(names, folder, level=level, workers=2).equals(alone)
    assert alone.schema == IMAGE_SCHEMA and alone["path"].to_pylist() == names
    assert alone["image"].to_pylist() == list(range(len(names)))
    reasons = {row["path"]: row["reason"] for row in alone.to_pylist() if row["reason"]}
    assert reasons == {"cut.png": "image_truncated", "absent.png": "image_missing"}
    hashed = alone["bytes_hash"].to_pylist()
    if level == "full":
        assert (
            hashed[0] == hashed[-1] and len(set(hashed)) == 41 + 1
        )  # 40, the cut one, none for the absent one
    else:
        assert set(hashed) == {None} == set(alone["phash"].to_pylist())


def test_no_names_give_an_empty_table(tmp_path):
    for known in (None, IMAGE_SCHEMA.empty_table()):
        table = gate([], tmp_path, level="full", workers=2, known=known)
        assert len(table) == 0 and table.schema == IMAGE_SCHEMA


def test_an_unknown_level_is_named(tmp_path):
    with pytest.raises(ValueError, match="level must be one of header, full, got 'deep'"):
        gate(["a"], tmp_path, level="deep")


class Hostile(Check):
    """A check that a file of a certain name kills, as a flaw in a decoder would."""

    def __call__(self, name):
        if name.startswith("hostile"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__call__(name)


def test_an_image_that_kills_its_worker_has_a_reason_and_the_others_have_their_facts(images, monkeypatch):
    folder, names = images[0], images[1][:8]
    expected = gate(names, folder, level="full", workers=0).drop_columns(["image"])
    monkeypatch.setattr(image_audit, "Check", Hostile)
    hostile = [*names[:5], "hostile.png", *names[5:], "hostile2.png"]
    table = gate(hostile, folder, level="full", workers=1)
    crashed = table.filter(pa.compute.equal(table["reason"], "image_crash"))
    assert crashed["path"].to_pylist() == ["hostile.png", "hostile2.png"]
    assert crashed["detail"].to_pylist()[0] == "the process that decoded it was ended by SIGSEGV: hostile.png"
    others = table.filter(pa.array([not name.startswith("hostile") for name in hostile]))
    assert others.drop_columns(["image"]).equals(expected)


def test_workers_that_cannot_start_are_an_error_of_one_line(images, monkeypatch):
    from curation.pool.isolated import WorkersFail

    def fail(*_, **__):
        raise WorkersFail("a worker process died")

    monkeypatch.setattr(image_audit, "run", fail)
    with pytest.raises(PoolError, match=r"the images cannot be checked: .* try --workers 0"):
        gate(images[1], images[0], level="full", workers=2)


def test_progress_reaches_the_number_of_images(images):
    folder, names = images
    calls = []
    gate(names, folder, level="full", workers=0, on_progress=lambda *call: calls.append(call))
    assert calls[-1] == (len(names), len(names)) and [done for done, _ in calls] == sorted(
        d for d, _ in calls
    )


@pytest.fixture
def counted(monkeypatch):
    """Names that are checked, in a list."""
    seen = []

    class Counting(Check):
        def __call__(self, name):
            seen.append(name)
            return super().__call__(name)

    monkeypatch.setattr(image_audit, "Check", Counting)
    return seen


def test_what_is_known_of_unchanged_files_is_not_found_out_again(images, counted):
    folder, names = images
    first = gate(names, folder, level="full")
    counted.clear()
    again = gate(list(reversed(names)), folder, level="full", known=first)
    assert sorted(counted) == ["absent.png", "cut.png"]  # what was bad may have been mended
    assert again.drop_columns(["image"]).equals(
        first.drop_columns(["image"]).take(np.arange(len(names))[::-1])
    )
    counted.clear()
    picture(folder / names[1], 99)
    os.utime(folder / names[2], ns=(1, 1))
    gate([*names, "new.png"], folder, level="full", known=first, max_pixels=24 * 16)
    assert sorted(counted) == sorted(["absent.png", "cut.png", names[1], names[2], "new.png"])
    counted.clear()
    gate(names, folder, level="full", known=first, max_pixels=10)
    assert len(counted) == len(names)


def test_a_header_that_is_known_is_no_full_check(images, counted):
    folder, names = images
    headers = gate(names, folder, level="header")
    counted.clear()
    full = gate(names, folder, level="full", known=headers)
    assert len(counted) == len(names) and full["phash"].null_count == 2
    counted.clear()
    assert gate(names, folder, level="header", known=full)["phash"].null_count == 2
    assert sorted(counted) == ["absent.png", "cut.png"]


def test_a_known_image_that_moved_out_of_the_folder_is_not_kept(images, tmp_path):
    folder, names = images
    first = gate(names, folder, level="header")
    os.rename(folder / names[3], tmp_path / "outside.jpg")
    (folder / names[3]).symlink_to(tmp_path / "outside.jpg")
    assert gate(names, folder, level="header", known=first)["reason"][3].as_py() == "image_outside"
    assert gate(names, folder, level="header", known=first, allow_outside=True)["reason"][3].as_py() is None
