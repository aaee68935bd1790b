"""`python -m curation.select`: the same subset from every kind of file; errors are one line and status 2."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_world import KEYS, FileWorld

from curation.select import main
from curation.subset import read_manifest, read_subset


@pytest.fixture
def world(tmp_path):
    return FileWorld(tmp_path)


def run(world, *arguments, out="subset", status=0):
    assert main([*map(str, arguments), "--out", str(world.folder / out)]) == status
    return read_subset(world.folder / out) if not status else None


def ids(table):
    return table["id"].to_pylist()


def failure(world, capsys, *arguments):
    """The one line of a command that must fail; nothing is written."""
    capsys.readouterr()
    run(world, *arguments, out="failed", status=2)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert not (world.folder / "failed").exists()
    return said.err


MMSSR = ("mmssr", "--budget", "30%", "--seed", "3")


def test_one_selection_from_every_kind_of_file(world):
    pool, signals = world.pool(), world.signals()
    expected = ids(run(world, *MMSSR, "--pool", pool, "--signals", signals))
    assert len(expected) == 12
    forms = {
        "each signal folder": [pool, signals / "scores", signals / "losses"],
        "parquet": [pool, world.write("scores.parquet", world.records())],
        "jsonl": [pool, world.write("scores.jsonl", world.records())],
        "json": [pool, world.write("scores.json", world.records())],
        "official": [pool, world.official()],
        "pool.parquet": [pool / "pool.parquet", signals],
        "plain parquet": [world.plain_pool(".parquet"), world.folder / "scores.parquet"],
        "plain jsonl": [world.plain_pool(".jsonl"), world.folder / "scores.jsonl"],
        "plain json": [world.plain_pool(".json"), world.folder / "official"],
    }
    for name, (place, *given) in forms.items():
        flags = [word for path in given for word in ("--signals", path)]
        assert ids(run(world, *MMSSR, "--pool", place, *flags, out=name)) == expected, name


def test_one_table_may_be_pool_and_signals(world):
    expected = ids(run(world, *MMSSR, "--pool", world.pool(), "--signals", world.signals()))
    by_id = {record["id"]: record for record in world.records()}
    whole = [row | by_id[row["id"]] for row in world.pool_table().drop_columns(["row"]).to_pylist()]
    assert ids(run(world, *MMSSR, "--pool", world.write("all.parquet", whole), out="b")) == expected


def test_a_file_keyed_by_row(world):
    pool = world.pool()
    expected = ids(run(world, *MMSSR, "--pool", pool, "--signals", world.signals()))
    rows = [{"row": at, **values} for at, values in enumerate(world.columns().to_pylist())][::-1]
    assert (
        ids(run(world, *MMSSR, "--pool", pool, "--signals", world.write("rows.jsonl", rows), out="b"))
        == expected
    )


def test_columns_of_a_file_may_stand_in_any_order(world):
    records = world.records()
    turned = [dict(reversed(record.items())) for record in records]
    pool = world.pool()
    tables = [
        run(world, *MMSSR, "--pool", pool, "--signals", world.write(f"{at}.parquet", given), out=f"{at}")
        for at, given in enumerate((records, turned))
    ]
    assert tables[0].equals(tables[1])


def test_files_of_one_name_are_told_apart(world):
    (world.folder / "more").mkdir()
    first = world.write("s.jsonl", [{"id": name, "a": 1} for name in world.ids])
    second = world.write("more/s.jsonl", [{"id": name, "b": 1} for name in world.ids[:9]])
    run(world, "random", "--budget", 5, "--pool", world.pool(), "--signals", first, "--signals", second)
    manifest = read_manifest(world.folder / "subset")
    assert set(manifest["signals"]) == {"s.jsonl-1", "s.jsonl-2"}
    assert manifest["imported"]["s.jsonl-2"]["rows_missing"] == 31


def test_what_is_written_and_printed(world, capsys):
    run(
        world,
        *MMSSR,
        "--pool",
        world.pool(),
        "--signals",
        world.signals(),
        "--param",
        "bins=style",
        "--param",
        f"capabilities=[{KEYS[0]},{KEYS[3]}]",
    )
    printed, manifest = capsys.readouterr().out, read_manifest(world.folder / "subset")
    assert manifest["selector"] == "mmssr" and manifest["seed"] == 3 and manifest["budget_asked"] == "30%"
    assert manifest["params"] == {"bins": "style", "capabilities": [KEYS[0], KEYS[3]]}
    assert set(manifest["signals"]) == {"scores", "losses"} and manifest["pool_hash"] == "p" * 64
    table = read_subset(world.folder / "subset")
    tokens = dict(zip(world.ids, world.tokens, strict=True))
    assert manifest["budget"] == {
        "samples": 12,
        "text_tokens": sum(tokens[i] for i in ids(table)),
        "image_tokens": 108,
    }
    assert manifest["text_token_unit"] == "words"
    source = dict(zip(world.ids, world.sources, strict=True))
    for name in set(world.sources):
        count = sum(source[i] == name for i in ids(table))
        assert (f"  {name}  {count:>9,}" in printed) == (count > 0)
    assert "12 of 40 samples" in printed and "filled" in printed


def test_the_same_command_writes_the_same_bytes(world):
    pool, scores = world.pool(), world.write("scores.jsonl", world.records())
    for out in ("a", "b"):
        run(world, *MMSSR, "--pool", pool, "--signals", scores, out=out)
    for name in ("subset.parquet", "manifest.json"):
        assert (world.folder / "a" / name).read_bytes() == (world.folder / "b" / name).read_bytes()


def test_missing_and_foreign_rows_are_counted(world, capsys):
    records = [*world.records()[:-4], {"id": "stranger", "cap_ocr": 5, "nll": 9.0}]
    run(
        world,
        "top_k",
        "--param",
        "column=nll",
        "--budget",
        36,
        "--pool",
        world.pool(),
        "--signals",
        world.write("s.jsonl", records),
    )
    manifest = read_manifest(world.folder / "subset")
    assert manifest["imported"]["s.jsonl"] == {"lines": 37, "not_in_pool": 1, "rows_missing": 4}
    assert manifest["notes"]["missing_value"] == 4
    assert "s.jsonl: not_in_pool 1; rows_missing 4" in capsys.readouterr().out


def test_more_than_is_scored_cannot_be_had(world, capsys):
    scores = world.write("s.jsonl", world.records()[:-4])
    said = failure(
        world,
        capsys,
        "top_k",
        "--param",
        "column=nll",
        "--budget",
        37,
        "--pool",
        world.pool(),
        "--signals",
        scores,
    )
    assert "requested 37 rows, only 36 available" in said


def test_nan_is_missing_and_counted(world):
    records = [
        record | ({"nll": float("nan")} if at < 3 else {}) for at, record in enumerate(world.records())
    ]
    for name in ("s.parquet", "s.jsonl"):
        run(
            world,
            "top_k",
            "--param",
            "column=nll",
            "--budget",
            37,
            "--pool",
            world.plain_pool(".parquet"),
            "--signals",
            world.write(name, records),
            out=f"of-{name}",
        )
        manifest = read_manifest(world.folder / f"of-{name}")
        assert (
            manifest["imported"][name]["columns"] == {"nll": {"nan": 3}}
            and manifest["notes"]["missing_value"] == 3
        )


def test_text_scores_are_read_strictly_and_counted(world, capsys):
    odd = {0: "4.0", 1: "4/5", 2: "", 3: "7", 4: "-1", 5: None, 6: "+3"}
    records = [
        record | {"cap_ocr": odd.get(at, f" {record['cap_ocr']} ")}
        for at, record in enumerate(world.records())
    ]
    scores, pool = world.write("s.jsonl", records), world.pool()
    said = failure(world, capsys, *MMSSR, "--pool", pool, "--signals", scores)
    assert (
        "column 'cap_ocr': 6 of 40 lines cannot be used (not_an_integer 4, out_of_range 2), more than 1.0%"
        in said
    )
    run(
        world,
        *MMSSR,
        "--pool",
        pool,
        "--signals",
        scores,
        "--max-bad-fraction",
        "0.2",
        "--param",
        "capabilities=[ocr]",
    )
    assert "s.jsonl, cap_ocr: no_value 1; not_an_integer 4; out_of_range 2" in capsys.readouterr().out
    assert read_manifest(world.folder / "subset")["notes"]["missing_score"] == 7


def test_scores_beyond_the_scale(world, capsys):
    records = [record | {"cap_ocr": 50 + record["cap_ocr"]} for record in world.records()]
    said = failure(
        world, capsys, *MMSSR, "--pool", world.pool(), "--signals", world.write("s.parquet", records)
    )
    assert "out_of_range 40" in said
    expected = [{"id": name, "exp_ocr": 5.5} for name in world.ids]
    assert "'exp_ocr': 40 of 40" in failure(
        world,
        capsys,
        *MMSSR,
        "--pool",
        world.folder / "pool",
        "--signals",
        world.write("e.parquet", expected),
    )


def test_unknown_styles_become_other_and_name_the_nearest(world, capsys):
    records = [
        record | {"styles": "mutli-choice, yes/no" if at < 2 else "Yes/No"}
        for at, record in enumerate(world.records())
    ]
    run(world, *MMSSR, "--pool", world.pool(), "--signals", world.write("s.jsonl", records))
    assert (
        "unknown styles, counted as `other`: 'mutli-choice' 2 (nearest: multi_choice)"
        in capsys.readouterr().out
    )
    assert set(read_subset(world.folder / "subset")["style"].to_pylist()) <= {"yes_no", "other", None}
    nothing = [record | {"styles": "haiku"} for record in records]
    assert "every row has the unknown style 'haiku'" in failure(
        world, capsys, *MMSSR, "--pool", world.folder / "pool", "--signals", world.write("n.jsonl", nothing)
    )


def test_official_mode_keeps_texts_as_the_released_code_does(world):
    records = [record | {"styles": "haiku, haiku", "cap_ocr": "1_0"} for record in world.records()]
    run(
        world,
        *MMSSR,
        "--mode",
        "official",
        "--pool",
        world.pool(),
        "--signals",
        world.write("s.jsonl", records),
        "--param",
        "capabilities=[ocr]",
    )
    table = read_subset(world.folder / "subset")
    assert set(table["style"].to_pylist()) == {"haiku"} and set(table["score"].to_pylist()) == {10.0}


def test_a_reference_is_matched(world, capsys):
    pool = world.pool()
    given = run(world, "random", "--budget", 10, "--seed", 1, "--pool", pool, out="given")
    matched = run(
        world,
        "matched_random",
        "--budget",
        10,
        "--seed",
        2,
        "--pool",
        pool,
        "--reference",
        world.folder / "given",
    )
    source = dict(zip(world.ids, world.sources, strict=True))
    assert sorted(source[i] for i in ids(given)) == sorted(source[i] for i in ids(matched)) and ids(
        given
    ) != ids(matched)
    assert (
        read_manifest(world.folder / "subset")["reference"]
        == read_manifest(world.folder / "given")["ids_sha256"]
    )
    said = failure(world, capsys, "matched_random", "--budget", 10, "--pool", pool)
    assert "'in_reference' is missing" in said and "give the subset by --reference" in said
    other = failure(
        world,
        capsys,
        "matched_random",
        "--budget",
        10,
        "--pool",
        world.plain_pool(".parquet"),
        "--reference",
        world.folder / "given",
    )
    assert "was chosen from pool" in other


def test_budgets_of_tokens(world, capsys):
    pool = world.pool()
    run(world, "random", "--budget", "tokens:400", "--pool", pool)
    manifest = read_manifest(world.folder / "subset")
    spent = manifest["budget"]["text_tokens"] + manifest["budget"]["image_tokens"]
    assert (
        manifest["notes"] == {"token_budget": 400, "tokens": spent, "tokens_left": 400 - spent}
        and 0 <= 400 - spent < 60
    )
    plain = [{"id": name, "source": "s"} for name in world.ids]
    said = failure(
        world, capsys, "random", "--budget", "tokens:400", "--pool", world.write("bare.json", plain)
    )
    assert "'text_tokens' is missing" in said and "pool build" in said


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("0", "at least 1 row, got 0"),
        ("0%", "at least 1 row, got 0"),
        ("41", "requested 41 rows, only 40 available"),
        ("101%", "more than the pool"),
        ("-3", "at least 1 row, got -3"),
        ("some", "must be a share"),
        ("1.5", "must be a share"),
        ("tokens:1e9", "whole pool has no more"),
        ("tokens:0", "at least 1"),
        ("tokens:x", "number of tokens"),
    ],
)
def test_budgets_that_cannot_be_met(world, capsys, budget, said):
    assert said in failure(world, capsys, "random", f"--budget={budget}", "--pool", world.pool())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mmsr"], "did you mean 'mmssr'"),
        (["no_such_module:select"], "cannot be imported"),
        (["mmssr", "--param", "bin=style"], "did you mean 'bins'"),
        (["mmssr", "--param", "bins=stile"], "must be one of none, source"),
        (["mmssr", "--param", "bins"], "expected key=value"),
        (["top_k"], "needs the parameter 'column'"),
        (
            ["mmssr"],
            "belongs to the signal `capability`, which is computed by python -m curation.signals capability",
        ),
        (
            ["top_k", "--param", "column=base_nll"],
            "python -m curation.signals losses --model BASE_MODEL --param prefix=base_",
        ),
        (["top_k", "--param", "column=clip_score"], "it belongs to the signal `clip`"),
        (["top_k", "--param", "column=my_own"], "give a file with id and my_own by --signals"),
        (["random", "--map", "ocr"], "is not FILE=KEY"),
    ],
)
def test_wrong_words_are_told_with_the_nearest_right_one(world, capsys, arguments, said):
    assert said in failure(world, capsys, *arguments, "--budget", "5", "--pool", world.pool())


def test_a_selector_of_the_users_own(world, tmp_path, monkeypatch):
    (tmp_path / "my_picks.py").write_text(
        "import numpy as np\nfrom curation.selectors import Selection\n"
        "def last(columns, budget, seed, *, step=1):\n"
        "    rows = np.sort(columns['row'].to_numpy().astype(np.int64))[::-1]\n"
        "    rows = rows[: budget * step : step].copy()\n"
        "    return Selection(rows, columns.select(['source']).take(rows))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = run(world, "my_picks:last", "--budget", 3, "--param", "step=2", "--pool", world.pool())
    assert table["row"].to_pylist() == [39, 37, 35]


def bad_files(world):
    """Name -> (signals, part of the message)."""
    records, write = world.records(), world.write
    rows = [{"row": at, "nll": 0.5} for at in range(world.n)]
    empty, stray = world.folder / "empty", world.folder / "stray"
    empty.mkdir(), stray.mkdir()
    (stray / "notes.txt").write_text("x")
    torn = world.folder / "torn.parquet"
    torn.write_bytes(write("whole.parquet", records).read_bytes()[:-20])
    tornjson = world.folder / "torn.json"
    tornjson.write_bytes(write("whole.json", records).read_bytes()[:-20])
    return {
        "duplicate ids": (write("d.jsonl", records + records[:2]), "2 lines repeat a sample, the first is"),
        "text and number ids that clash": (
            write("c.jsonl", [{"id": "7", "nll": 1.0}, {"id": 7, "nll": 2.0}]),
            "none of its ids is in the pool",
        ),
        "ids that are floats": (
            write("f.parquet", [{"id": 1.0, "nll": 1.0}]),
            "ids must be texts or whole numbers: whole numbers with missing values",
        ),
        "ids of several kinds": (
            write("m.jsonl", [*records[:3], {"id": 1.5, "nll": 1.0}, {"id": [2], "nll": 1.0}]),
            "ids of the JSON type ARRAY, DOUBLE",
        ),
        "ids of another pool": (
            write("o.jsonl", [{"id": f"x{i}", "nll": 1.0} for i in range(40)]),
            "none of its ids is in the pool, whose first is",
        ),
        "rows of another pool": (
            write("r.jsonl", [*rows, {"row": 40, "nll": 1.0}]),
            "has row 40, the pool has rows 0..39",
        ),
        "negative rows": (write("n.jsonl", [*rows, {"row": -1, "nll": 1.0}]), "has row -1"),
        "rows and ids that disagree": (
            write(
                "i.jsonl",
                [{"row": 39 - at, **record} for at, record in enumerate(records[:-1])]
                + [{"row": 5, **records[-1]}],
            ),
            "name different samples",
        ),
        "rows that are texts": (
            write("t.jsonl", [{"row": "0", "nll": 1.0}]),
            "column 'row' is string, but must be whole numbers",
        ),
        "duplicate rows": (write("e.jsonl", [*rows, rows[0]]), "1 lines repeat a sample"),
        "no key": (write("k.jsonl", [{"name": "a", "nll": 1.0}]), "has neither 'id' nor 'row'"),
        "no column": (
            write("q.jsonl", [{"id": name} for name in world.ids]),
            "has only columns of the pool",
        ),
        "a truncated parquet": (torn, "cannot be read"),
        "a truncated json": (tornjson, "cannot be read as JSON"),
        "an empty file": (write("z.jsonl", []), "holds no records"),
        "another kind of file": (stray / "notes.txt", "must be one of .parquet"),
        "an empty folder": (empty, "holds no signal"),
        "a folder without signals": (stray, "holds no signal"),
        "a missing path": (world.folder / "nowhere", "does not exist"),
        "scores that are lists": (
            write("l.jsonl", [{"id": name, "cap_ocr": [1]} for name in world.ids]),
            "column 'cap_ocr' is list",
        ),
        "styles that are numbers": (
            write("y.jsonl", [{"id": name, "styles": 1} for name in world.ids]),
            "column 'styles' is int64",
        ),
    }


def test_bad_signal_files(world, capsys):
    pool = world.pool()
    for name, (path, said) in bad_files(world).items():
        assert said in failure(world, capsys, "random", "--budget", "5", "--pool", pool, "--signals", path), (
            name
        )


def test_too_many_broken_lines(world, capsys):
    path = world.write("s.jsonl", world.records())
    path.write_bytes(path.read_bytes()[:-30])
    arguments = ("random", "--budget", "5", "--pool", world.pool(), "--signals", path)
    assert "1 of 40 lines cannot be used (broken_line 1)" in failure(world, capsys, *arguments)
    run(world, *arguments, "--max-bad-fraction", "0.05")
    assert read_manifest(world.folder / "subset")["imported"]["s.jsonl"] == {
        "broken_line": 1,
        "lines": 40,
        "rows_missing": 1,
    }


def test_signal_folders_that_do_not_fit(world, capsys):
    pool, signals = world.pool(), world.signals()
    other = world.signals("other", pool_hash="q" * 64)
    arguments = ("random", "--budget", "5", "--signals")
    assert "belongs to pool qqq" in failure(world, capsys, *arguments, other, "--pool", pool)
    assert "is a plain table" in failure(
        world, capsys, *arguments, signals, "--pool", world.plain_pool(".parquet")
    )
    twice = failure(
        world,
        capsys,
        *arguments,
        signals,
        "--signals",
        world.write("s.parquet", [{"id": record["id"], "nll": 1.0} for record in world.records()]),
        "--pool",
        pool,
    )
    assert "column 'nll' comes from losses and from s.parquet" in twice
    (signals / "losses" / "part-00001.parquet").write_bytes(b"PAR1 cut")
    assert "part-00001.parquet cannot be read" in failure(world, capsys, *arguments, signals, "--pool", pool)
    (signals / "losses" / "part-00001.parquet").unlink()
    assert "part-00001.parquet does not exist" in failure(world, capsys, *arguments, signals, "--pool", pool)
    (signals / "losses" / "signal.json").unlink()
    assert "holds no finished signal" in failure(world, capsys, *arguments, signals, "--pool", pool)


def test_pools_that_cannot_be_used(world, capsys):
    records = world.pool_table().drop_columns(["row"]).to_pylist()
    table = {
        "duplicate": (world.write("d.jsonl", [*records, records[0]]), "1 rows repeat an id"),
        "no id": (world.write("n.jsonl", [*records, {"source": "x"}]), "1 of 41 rows have no id"),
        "no source": (world.write("s.jsonl", [{"id": "a"}]), "it needs the columns id and source"),
        "null source": (world.write("m.jsonl", [*records, {"id": "x"}]), "1 rows have no source"),
        "row": (world.write("r.jsonl", [{"row": 5, **record} for record in records]), "count from 0"),
        "torn": (world.write("t.jsonl", records), "cannot be read as JSON"),
        "folder": (world.folder, "holds no finished pool"),
        "absent": (world.folder / "nowhere.parquet", "does not exist"),
    }
    path = table["torn"][0]
    path.write_bytes(path.read_bytes()[:-8])
    for name, (place, said) in table.items():
        assert said in failure(world, capsys, "random", "--budget", "5", "--pool", place), name


def test_sources_are_named_as_in_pools():
    from curation.imports import pool_index
    from curation.pool import record

    assert pool_index.SOURCE_KEYS == record.SOURCE_KEYS


def test_vectors_from_elsewhere(world):
    records = [{"id": name, "emb": [float(at), 1.0]} for at, name in enumerate(world.ids)]
    from curation.imports.pool_index import open_index
    from curation.imports.table import Reading, import_file
    from curation.selectors.contract import vectors

    for name in ("v.parquet", "v.jsonl"):
        signal = import_file(
            world.write(name, records[1:]), open_index(world.pool(f"pool-{name}")), Reading()
        )
        values, known = vectors(signal.table, "emb")
        assert values.dtype == np.float32 and not known[0] and known[1:].all()
        assert values[1:, 0].tolist() == [float(at) for at in range(1, world.n)]


def test_the_list_of_selectors(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "mmssr_official" in said and "targeted" in said and "C5" in said


def test_a_place_that_cannot_be_written(world, capsys):
    (world.folder / "taken").write_text("x")
    assert (
        main(["random", "--budget", "5", "--pool", str(world.pool()), "--out", str(world.folder / "taken")])
        == 2
    )
    assert "File exists" in capsys.readouterr().err and (world.folder / "taken").read_text() == "x"


def test_what_is_left_out_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["mmssr", "--pool", "p"])
    assert stop.value.code == 2 and "give --budget, --out" in capsys.readouterr().err


@pytest.mark.slow
def test_no_model_library_is_loaded(world):
    pool, scores = world.pool(), world.write("scores.parquet", world.records())
    code = (
        "import sys\nfrom curation.select import main\n"
        f"assert main(['mmssr', '--budget', '30%', '--pool', {str(pool)!r}, '--signals', {str(scores)!r}, "
        f"'--out', {str(world.folder / 'o')!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'duckdb', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_without_duckdb_json_says_what_to_install(world, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    said = failure(world, capsys, "random", "--budget", "5", "--pool", world.plain_pool(".jsonl"))
    assert "pip install winnow[io]" in said
    assert len(run(world, "random", "--budget", "5", "--pool", world.plain_pool(".parquet"))) == 5


def test_a_manifest_is_plain_json(world):
    run(
        world,
        "mllm_selector",
        "--budget",
        5,
        "--param",
        "tau=.inf",
        "--pool",
        world.pool(),
        "--signals",
        world.signals(),
    )
    text = (world.folder / "subset" / "manifest.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["params"] == {"tau": "inf"}


def test_large_ids_and_wide_types(world):
    table = pa.table(
        {
            "id": pa.array(range(40), pa.int64()),
            "source": pa.array(["a"] * 40).dictionary_encode(),
            "nll": world.nll,
        }
    )
    pq.write_table(table, world.folder / "wide.parquet")
    assert ids(
        run(world, "top_k", "--param", "column=nll", "--budget", 1, "--pool", world.folder / "wide.parquet")
    ) == [str(int(world.nll.argmax()))]
