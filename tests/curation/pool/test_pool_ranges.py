"""A pool that is built by ranges, in processes, or after a kill, is the pool that is built at once."""

import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from curation.pool import parts
from curation.pool.errors import BrokenJson
from curation.pool.ingest import Options, build_pool
from curation.pool.layout import PARTS
from curation.pool.read import Pool

SMALL = 700
"""Bytes of a range: one to three records."""
FILES = ("pool.parquet", "quarantine.parquet", "images.parquet", "pool.json")


def records(count=60):
    """Records of every kind: repeated ids, objects that look like records, broken texts, images or none."""
    made = []
    for i in range(count):
        image = {"image": f"{'a' if i % 2 else 'b'}/{i % 7}.ppm"} if i % 3 else {}
        text = "<image>\n" * bool(image) + f'what {"}, {" * (i % 4)} is "it" ☃ ?'
        talk = [{"from": "human", "value": text}, {"from": "gpt", "value": f"number {i // 2}" * (i % 13)}]
        extra = {"parts": [{"id": 1}, {"id": 2}]} if i % 5 == 0 else {}
        made.append({"id": f"s{i if i % 6 else 0}", **image, "conversations": talk, **extra})
    return made


def write(folder, layout, made):
    for name in "ab":
        (folder / name).mkdir(exist_ok=True)
        for k in range(6):  # the seventh is missing
            (folder / name / f"{k}.ppm").write_bytes(b"P6 1 1 255 " + bytes([k, 0, 0]))
    texts = [json.dumps(record, ensure_ascii=bool(i % 2)) for i, record in enumerate(made)]
    texts[11] = texts[11].replace('"id"', '"id" 3', 1)
    texts[23] = texts[23].replace("number", "n\x01umber", 1)
    texts[35] = texts[35][:-1].replace("☃", "☃" + "x" * 900) + ', "id": 7}'
    text = {
        "list": "[" + ", ".join(texts) + "]",
        "indented": "\ufeff[\n  " + "\n,\r\n  ".join(texts) + "\n]\n",
        "lines": "\n".join(texts) + "\n",
        "windows": "\ufeff" + "\r\n\r\n".join(texts),
    }[layout]
    (folder / "data.json").write_text(text, encoding="utf-8")
    return folder / "data.json"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def build(file, out, **options):
    return build_pool(file, file.parent, out, **{"max_bad_fraction": 0.9, "workers": 0} | options)


@pytest.mark.parametrize("layout", ["list", "indented", "lines", "windows"])
def test_any_range_size_gives_the_same_pool(tmp_path, layout):
    file = write(tmp_path, layout, records())
    info = build(file, tmp_path / "one")
    assert {"broken_json", "repeated_key", "image_missing", "empty_answer"} <= info["quarantined"].keys()
    for size in (150, SMALL, 5000):
        build(file, tmp_path / "other", range_bytes=size)
        assert contents(tmp_path / "other") == contents(tmp_path / "one"), size
    assert [json.loads(Pool.open(tmp_path / "one").raw(row))["conversations"] for row in range(3)]
    assert not (tmp_path / "other" / PARTS).exists()


def test_a_wrong_guess_is_seen_and_scanned_again(tmp_path, monkeypatch):
    file = write(tmp_path, "list", records())
    build(file, tmp_path / "one")
    import curation.pool.scan as scan

    guesses = []

    def wrong(layout, at):
        guesses.append(file.read_bytes().find(b'{"id": ', at))  # also objects inside a record
        return guesses[-1] if guesses[-1] >= 0 else None

    monkeypatch.setattr(scan, "guess_start", wrong)
    again = []
    real = parts.replace
    monkeypatch.setattr(parts, "replace", lambda one, **new: again.append(new) or real(one, **new))
    build(file, tmp_path / "other", range_bytes=150)
    assert contents(tmp_path / "other") == contents(tmp_path / "one")
    assert sum("start" in new for new in again) > 3 and len(guesses) > 20


@pytest.mark.parametrize("limit", [2, 3, 7, 30, 59, 60, 99])
def test_a_limit_cuts_inside_a_range(tmp_path, limit):
    file = write(tmp_path, "list", records())
    info = build(file, tmp_path / "one", limit=limit, max_bad_fraction=1.0)
    assert info["records"] == min(limit, 60)
    build(file, tmp_path / "other", limit=limit, range_bytes=SMALL, max_bad_fraction=1.0)
    assert contents(tmp_path / "other") == contents(tmp_path / "one")


@pytest.mark.parametrize("layout", ["list", "lines"])
def test_a_truncated_file_names_the_record_of_the_whole_file(tmp_path, layout):
    file = write(tmp_path, layout, records())
    data = file.read_bytes()
    cut = data.rindex(b'{"id": "s50"') + 30
    file.write_bytes(data[:cut])
    messages = []
    for size in (150, SMALL, 1 << 20):
        with pytest.raises(BrokenJson) as error:
            build(file, tmp_path / "pool", range_bytes=size)
        messages.append((str(error.value), error.value.byte_offset))
    assert len(set(messages)) == 1 and messages[0][1] == cut - 30
    assert "record 50 (counted from 0)" in messages[0][0] and "--limit 50" in messages[0][0]
    assert build(file, tmp_path / "pool", limit=50, range_bytes=SMALL)["records"] == 50


def command(file, out, *more):
    code = (
        "import sys; from pathlib import Path; from curation.pool.ingest import build_pool\n"
        "if __name__ == '__main__':\n"
        "    build_pool(Path(sys.argv[1]), Path(sys.argv[1]).parent, Path(sys.argv[2]), max_bad_fraction=0.9,"
        f" range_bytes={SMALL}, workers=int(sys.argv[3]))\n"
    )
    script = out.parent / "build.py"
    script.write_text(code)
    return [sys.executable, str(script), str(file), str(out), *more]


@pytest.mark.slow
def test_worker_processes_give_the_same_pool(tmp_path):
    file = write(tmp_path, "list", records())
    build(file, tmp_path / "one")
    subprocess.run(command(file, tmp_path / "other", "2"), check=True, cwd=os.getcwd(), env=_path())
    assert contents(tmp_path / "other") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before rename/3", "after rename/9", "after rename/20"])
def test_a_killed_build_goes_on(tmp_path, point):
    file = write(tmp_path, "list", records())
    build(file, tmp_path / "one")
    out = tmp_path / "other"
    killed = subprocess.run(
        command(file, out, "0"), cwd=os.getcwd(), env=_path() | {"WINNOW_KILL": f"start/{point}"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL and not (out / "pool.json").exists()
    (folder,) = (out / PARTS).iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("0*.arrow")}
    assert kept
    scanned = []
    import curation.pool.scan as scan

    real = scan.write_part
    scan.write_part = lambda path, *rest: scanned.append(path.name) or real(path, *rest)
    try:
        build(file, out, range_bytes=SMALL)
    finally:
        scan.write_part = real
    assert not kept.keys() & set(scanned)
    assert contents(out) == contents(tmp_path / "one")


def _path():
    return os.environ | {"PYTHONPATH": os.getcwd()}


def test_parts_of_another_file_or_of_other_options_are_not_used(tmp_path):
    file = write(tmp_path, "list", records())
    first = build(file, tmp_path / "one")["hash"]
    for change in ("options", "file"):
        out = tmp_path / change
        with pytest.raises(BrokenJson):  # stops after the parts are written
            cut = tmp_path / "data.json"
            whole = cut.read_bytes()
            cut.write_bytes(whole[:-40])
            build(cut, out, range_bytes=SMALL)
        assert list((out / PARTS).iterdir())
        file.write_bytes(whole)
        options = Options(source_key="id") if change == "options" else Options()
        info = build(file, out, range_bytes=SMALL, options=options)
        assert (info["hash"] == first) == (change == "file")


def test_several_files(tmp_path):
    made = records()
    file = write(tmp_path, "list", made)
    info = build_pool(file, tmp_path, tmp_path / "whole", max_bad_fraction=0.9)
    lines = [json.dumps(record) for record in made]
    (tmp_path / "first.jsonl").write_text("\n".join(lines[:25]))
    (tmp_path / "second.json").write_text("[" + ",\n".join(lines[25:]) + "]")
    given = [tmp_path / "first.jsonl", tmp_path / "second.json"]
    both = build_pool(given, tmp_path, tmp_path / "pool", max_bad_fraction=0.9, workers=0, range_bytes=SMALL)
    pool = Pool.open(tmp_path / "pool")
    assert [entry["relative"] for entry in both["files"]] == ["../first.jsonl", "../second.json"]
    assert pool.table["file"].to_pylist() == sorted(pool.table["file"].to_pylist())
    assert both["sources"].keys() == {"first", "second"} and both["records"] == info["records"]
    for row in range(len(pool)):
        number, index = pool.table["file"][row].as_py(), pool.table["index"][row].as_py()
        assert json.loads(pool.raw(row)) == made[25 * number + index]
        assert pool.table["original_id"][row].as_py() == made[25 * number + index]["id"]
    quarantine = pq.read_table(tmp_path / "pool" / "quarantine.parquet").to_pylist()
    assert [(row["file"], row["index"]) for row in quarantine] == sorted(
        (row["file"], row["index"]) for row in quarantine
    )
    assert [made[25 * row["file"] + row["index"]]["id"] for row in quarantine] == [
        row["id"] for row in quarantine
    ]
