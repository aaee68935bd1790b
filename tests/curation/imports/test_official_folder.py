"""The score folder of the released mmSSR code: every kind of bad line is counted or refused."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from file_world import KEYS, PHRASES, FileWorld, jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.imports.load import main
from curation.imports.official_folder import OfficialFolderError, read_official_folder
from curation.imports.score_text import FAILED, ScoreError, score_code
from curation.imports.table_file import IdTypeError
from curation.signals.core.table import DuplicateRowsError, OtherPoolError, read_metadata, read_signal
from curation.taxonomy import STYLES

POOL = pa.table(
    {"row": pa.array(range(6), pa.int32()), "id": [f"s{i}" for i in range(6)], "source": ["a"] * 6}
)


def lines(texts, names=None):
    return [
        {"idx": name, "text": text} for name, text in zip(names or POOL["id"].to_pylist(), texts, strict=True)
    ]


def folder_of(tmp_path, **files):
    folder = tmp_path / "results"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.jsonl").write_bytes(content if isinstance(content, bytes) else jsonl(content))
    return folder


def read(tmp_path, folder, **options):
    counts = read_official_folder(folder, POOL, tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == counts
    return read_signal(tmp_path / "out"), counts


def test_the_whole_folder(tmp_path):
    world = FileWorld(tmp_path)
    counts = read_official_folder(world.official(), world.pool_table(), tmp_path / "out", pool_hash="p" * 64)
    signal = read_signal(tmp_path / "out", "p" * 64)
    assert signal.column_names == ["row", *(f"cap_{key}" for key in KEYS), "styles"]
    for key in KEYS:
        assert (
            signal[f"cap_{key}"].to_pylist() == world.scores[key] and signal[f"cap_{key}"].type == pa.int8()
        )
    assert [sorted(s) for s in signal["styles"].to_pylist()] == [sorted(s) for s in world.styles]
    assert counts["absent"] == [] and counts["unknown_styles"] == {} and counts["rows"] == 40
    assert counts["files"]["stem_knowledge.jsonl"] == {"column": "cap_stem", "lines": 40}


def test_files_that_disagree_are_joined_by_id(tmp_path):
    folder = folder_of(
        tmp_path,
        ocr=lines(["1", "2", "3"], ["s5", "s0", "s3"]),
        stem=lines(["4", "5"], ["s1", "elsewhere"]),
        style=lines(["yes/no"] * 2, ["s0", "s4"]),
    )
    signal, counts = read(tmp_path, folder)
    assert signal["cap_ocr"].to_pylist() == [2, None, None, 3, None, 1]
    assert signal["cap_stem"].to_pylist() == [None, 4, None, None, None, None]
    assert signal["styles"].to_pylist() == [["yes_no"], None, None, None, ["yes_no"], None]
    assert counts["files"]["ocr.jsonl"] == {"column": "cap_ocr", "lines": 3, "no_line": 3}
    assert counts["files"]["stem.jsonl"] == {"column": "cap_stem", "lines": 2, "not_in_pool": 1, "no_line": 5}
    assert len(counts["absent"]) == 12 and "spatial" in counts["absent"]


@pytest.mark.parametrize(
    "content",
    [
        jsonl(lines("012345"), bom=True),
        jsonl(lines("012345"), end="\r\n"),
        jsonl(lines("012345"), end="\n\n"),
        jsonl(lines("012345"), bom=True, end="\r\n"),
        jsonl(lines("012345")).rstrip(b"\n"),
        jsonl(lines([f"\n {i}\t" for i in range(6)])),
        jsonl(lines(range(6))),
        jsonl(
            [
                {"text": record["text"], "more": {"a": [1]}, "idx": f" {record['idx']} "}
                for record in lines("012345")
            ]
        ),
    ],
    ids=[
        "bom",
        "crlf",
        "blank lines",
        "bom and crlf",
        "no last newline",
        "white space",
        "numbers",
        "other fields",
    ],
)
def test_forms_that_mean_the_same(tmp_path, content):
    signal, counts = read(tmp_path, folder_of(tmp_path, ocr=content))
    assert signal["cap_ocr"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert counts["files"]["ocr.jsonl"] == {"column": "cap_ocr", "lines": 6}


def test_ids_as_numbers_and_as_texts(tmp_path):
    pool = pa.table({"row": pa.array([0, 1], pa.int32()), "id": ["7", "é8"], "source": ["a", "a"]})
    folder = folder_of(
        tmp_path,
        ocr=jsonl([{"idx": 7, "text": "1"}, {"idx": "é8", "text": "2"}], ascii_only=True),
        stem=jsonl([{"idx": "7", "text": "3"}, {"idx": "é8", "text": "4"}]),
    )
    read_official_folder(folder, pool, tmp_path / "out")
    signal = read_signal(tmp_path / "out")
    assert signal["cap_ocr"].to_pylist() == [1, 2] and signal["cap_stem"].to_pylist() == [3, 4]


@pytest.mark.parametrize("idx", [1.0, True, ["s1"], {"a": 1}])
def test_ids_of_other_types_are_refused(tmp_path, idx):
    with pytest.raises(IdTypeError, match="`idx` of the JSON type"):
        read(tmp_path, folder_of(tmp_path, ocr=[*lines("012345"), {"idx": idx, "text": "1"}]))


def test_a_truncated_last_line_is_counted_and_its_sample_missing(tmp_path):
    folder = folder_of(tmp_path, ocr=jsonl(lines("012345"))[:-9])
    with pytest.raises(ScoreError, match=r"1 of 6 lines cannot be used \(broken_line 1\), more than 1.0%"):
        read(tmp_path, folder)
    assert not (tmp_path / "out").exists()
    signal, counts = read(tmp_path, folder, max_bad_fraction=0.2)
    assert signal["cap_ocr"].to_pylist() == [0, 1, 2, 3, 4, None]
    assert counts["files"]["ocr.jsonl"] == {"column": "cap_ocr", "lines": 6, "broken_line": 1, "no_line": 1}


def test_texts_that_are_not_scores_are_counted_by_reason(tmp_path):
    said = ["4.0", "4/5", None, "6", " 5", ""]
    signal, counts = read(
        tmp_path, folder_of(tmp_path, ocr=[*lines(said), {"text": "1"}]), max_bad_fraction=1.0
    )
    assert signal["cap_ocr"].to_pylist() == [None] * 4 + [5, None]
    assert counts["files"]["ocr.jsonl"] == {
        "column": "cap_ocr",
        "lines": 7,
        "no_idx": 1,
        "no_value": 1,
        "not_an_integer": 3,
        "out_of_range": 1,
    }


def test_official_mode_accepts_what_int_accepts(tmp_path):
    said = ["+3", "1_0", "٤", "-1", "4.0", "99999"]
    style = lines(["a, b ,a", "", "yes/no", "x", "y", "z"])
    signal, counts = read(
        tmp_path, folder_of(tmp_path, ocr=lines(said), style=style), mode="official", max_bad_fraction=1.0
    )
    assert signal["cap_ocr"].to_pylist() == [3, 10, 4, -1, None, None]
    assert (
        signal["styles"].to_pylist()[:3] == [["a", "b"], [""], ["yes/no"]] and counts["unknown_styles"] == {}
    )


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(alphabet="0123456789+-._ \t٤a", max_size=6), st.integers(-20, 20), st.none(), st.booleans()
    )
)
def test_clean_scores_are_whole_numbers_of_the_scale_and_official_ones_are_int(value):
    clean, official = score_code(value), score_code(value, "official")
    if clean >= 0:
        assert clean in range(6) and re.fullmatch(r"-?0+|0*[1-5]", str(value).strip()) and clean == official
    try:
        number = int(value) if isinstance(value, str) or type(value) is int else None
    except ValueError:
        number = None
    assert official == number if number is not None and abs(number) < 10_000 else official < FAILED + 9


def test_repeated_lines(tmp_path):
    _, counts = read(tmp_path, folder_of(tmp_path, ocr=[*lines("012345"), *lines("01", ["s0", "s1"])]))
    assert counts["files"]["ocr.jsonl"] == {"column": "cap_ocr", "lines": 8, "repeated": 2}
    with pytest.raises(DuplicateRowsError, match="idx 's1' has two different values"):
        read(tmp_path, folder_of(tmp_path, ocr=[*lines("012345"), *lines("4", ["s1"])]))
    with pytest.raises(DuplicateRowsError):
        read(tmp_path, folder_of(tmp_path, ocr=[*lines("012345"), *lines(["broken"], ["s1"])]))


def test_styles(tmp_path):
    said = ["Yes / No, multi-choice,", "chain-of-thought", "haiku, word/short-phrase", None, "other", ""]
    signal, counts = read(tmp_path, folder_of(tmp_path, ocr=lines("012345"), styles=lines(said)))
    assert signal["styles"].to_pylist() == [
        ["yes_no", "multi_choice"],
        ["chain_of_thought"],
        ["other", "word"],
        None,
        ["other"],
        ["other"],
    ]
    assert counts["unknown_styles"] == {"": 1, "haiku": 1}
    assert counts["files"]["styles.jsonl"]["no_value"] == 1


@pytest.mark.parametrize(
    "name", [PHRASES["ocr"], "OCR", "optical-character-recognition", "optical_character_recognition"]
)
def test_names_of_files(tmp_path, name):
    signal, _ = read(tmp_path, folder_of(tmp_path, **{name: lines("012345")}))
    assert signal.column_names == ["row", "cap_ocr"]


def test_names_can_be_mapped(tmp_path):
    folder = folder_of(tmp_path, task_7=lines("012345"), log=[{"a": 1}], style=lines(["word"] * 6))
    with pytest.raises(OfficialFolderError, match=r"log.jsonl is not the name of a capability.*--map log="):
        read(tmp_path, folder)
    signal, _ = read(tmp_path, folder, mapping={"task_7": "stem", "log": "ignore"})
    assert signal.column_names == ["row", "cap_stem", "styles"]
    for mapping, said in (
        ({"task_7": "steam", "log": "ignore"}, "must be one of spatial"),
        ({"task_8": "stem"}, "no file task_8.jsonl"),
        ({"task_7": "styles", "log": "ignore"}, "both hold 'styles'"),
    ):
        with pytest.raises(OfficialFolderError, match=said):
            read(tmp_path, folder, mapping=mapping)
    (folder / "ocrr.jsonl").write_bytes(b"{}")
    with pytest.raises(OfficialFolderError, match="did you mean 'ocr'"):
        read(tmp_path, folder, mapping={"task_7": "stem", "log": "ignore"})


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(
        OtherPoolError, match="none of its 6 lines has an `idx` of the pool, whose first id is 's0'"
    ):
        read(tmp_path, folder_of(tmp_path, ocr=lines("012345", [f"t{i}" for i in range(6)])))
    with pytest.raises(OfficialFolderError, match=r"ocr.jsonl is empty"):
        read(tmp_path, folder_of(tmp_path, ocr=b""))
    (tmp_path / "results" / "ocr.jsonl").unlink()
    with pytest.raises(OfficialFolderError, match="no JSONL file with the scores of a capability"):
        read(tmp_path, folder_of(tmp_path, style=lines(["word"] * 6)))
    with pytest.raises(ScoreError, match=r"unknown style 'mutli choice' \(did you mean 'multi_choice'"):
        read(tmp_path, folder_of(tmp_path, ocr=lines("012345"), style=lines(["mutli choice"] * 6)))
    with pytest.raises(OfficialFolderError, match="must count from 0"):
        read_official_folder(tmp_path / "results", POOL.slice(1), tmp_path / "out")


def test_many_lines_in_batches(tmp_path):
    n = 150_000
    names = [f"s{i}" for i in range(n)]
    pool = pa.table({"row": pa.array(range(n), pa.int32()), "id": names, "source": ["a"] * n})
    order = np.random.default_rng(0).permutation(n).tolist()
    text = "".join(f'{{"idx": "s{i}", "text": "{i % 6}"}}\n' for i in order + order[:10])
    counts = read_official_folder(folder_of(tmp_path, ocr=text.encode()), pool, tmp_path / "out")
    assert read_signal(tmp_path / "out")["cap_ocr"].to_pylist() == [i % 6 for i in range(n)]
    assert counts["files"]["ocr.jsonl"] == {"column": "cap_ocr", "lines": n + 10, "repeated": 10}


def test_the_command_imports_folders_and_files_once(tmp_path, capsys):
    world = FileWorld(tmp_path)
    pool = world.pool()
    for path in (world.official(), world.write("scores.parquet", world.records())):
        out = tmp_path / f"of-{path.name}"
        assert main([str(path), "--pool", str(pool), "--out", str(out)]) == 0
        signal = read_signal(out, "p" * 64)
        assert signal["cap_ocr"].to_pylist() == world.scores["ocr"]
        assert len(read_metadata(out)["pool_hash"]) == 64 and (out / "import.json").is_file()
    assert "40 samples" in capsys.readouterr().out
    assert main([str(tmp_path), "--pool", str(pool), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_every_wording_of_the_paper_is_known():
    from curation.imports.score_text import StyleTexts

    styles = StyleTexts()
    for key, phrase in STYLES.items():
        assert styles.lists[styles.code(phrase)] == (key,) == styles.lists[styles.code(key)]
