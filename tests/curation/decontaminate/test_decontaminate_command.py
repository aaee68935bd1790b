"""The command line: what it writes, says and refuses."""

import json
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from planted_leaks import BENCHMARKS, full_pool

from curation.decontaminate.__main__ import main
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.reasons import REASONS


@pytest.fixture
def command(world, tmp_path):
    """Arguments of a run over the planted pool, and more of them."""

    def arguments(*more, pool=world.pool.folder, suite="mm14", mirror=world.mirror):
        given = [pool, "--suite", suite, "--mirror", mirror, "--out", tmp_path / "out", *more]
        return [str(argument) for argument in given]

    return arguments


ONLY = ("--benchmarks", ",".join(BENCHMARKS))


def test_writes_what_was_found(world, command, tmp_path, capsys):
    assert main(command(*ONLY, "--workers", "1")) == 0
    table = pq.read_table(tmp_path / "out" / "leaks.parquet")
    assert table.equals(world.leaks.table.drop_columns(["place"]))
    assert json.loads((tmp_path / "out" / "leaks.json").read_text())["leaks"] == len(table)
    said = capsys.readouterr().out
    assert f"{world.leaks.summary['leaked_samples']:,} of {len(world.pool):,} samples" in said
    assert "chartqa" in said and "leaks.html" in said
    sources = json.loads((tmp_path / "out" / "leaks.json").read_text())["by_source"]
    lines = [f"  from {name}: {own['samples']:,} samples" for name, own in sources.items()]
    assert lines and all(line in said for line in lines)


def test_drop_writes_a_pool(world, command, tmp_path, capsys):
    target = tmp_path / "clean"
    assert main(command(*ONLY, "--drop", target, "--kinds", "image_exact")) == 0
    assert len(Pool.open(target)) == len(world.pool) - len(world.leaks.rows(("image_exact",)))
    assert f"{len(Pool.open(target)):,} samples are left" in capsys.readouterr().out
    info = json.loads((target / "pool.json").read_text())
    note = info["decontaminate"]
    assert info["quarantined"] == note["dropped"] == {"leak": sum(note["sources"].values())}
    assert note["dropped"].keys() <= REASONS.keys()
    assert note["suite"] == "mm14" and note["kinds"] == ["image_exact"]


def test_what_cannot_be_written_is_refused_before_the_search(world, command, tmp_path, capsys):
    source = world.pool.files[0]
    build_pool(source, source.parent, tmp_path / "other", workers=0)
    before = (tmp_path / "other" / "pool.json").read_bytes()
    for target, says in ((world.pool.folder, "the pool itself"), (tmp_path / "other", "holds another pool")):
        assert main(command(*ONLY, "--drop", target, mirror=tmp_path / "not read")) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert (tmp_path / "other" / "pool.json").read_bytes() == before


def test_ctrl_c_is_one_line(command, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("curation.decontaminate.targets.read_targets", stop)
    assert main(command(*ONLY)) == 130
    error = capsys.readouterr().err
    assert error.startswith("stopped") and error.count("\n") == 1


def test_missing_benchmarks_are_an_error_or_said(command, tmp_path, capsys):
    asked = ("--benchmarks", "chartqa,mmvet,mathvista")
    assert main(command(*asked)) == 1
    error = capsys.readouterr().err
    assert "2 of 3 benchmarks" in error and "mmvet" in error and "mathvista" in error
    assert "--allow-missing" in error and not (tmp_path / "out").exists()
    assert main(command(*asked, "--allow-missing")) == 0
    assert capsys.readouterr().out.count("NOT COMPARED") == 2
    assert len(json.loads((tmp_path / "out" / "leaks.json").read_text())["missing"]) == 2
    assert "mmvet was not compared" in text_of(tmp_path / "out" / "leaks.html")


def test_a_mirror_with_none_of_them_is_an_error(command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(command("--allow-missing", mirror=tmp_path / "empty")) == 1
    assert "14 of 14 benchmarks cannot be read" in capsys.readouterr().err


def test_pool_without_hashes_says_what_to_run(world, command, tmp_path, capsys):
    source = world.pool.files[0]
    build_pool(source, source.parent, tmp_path / "pool", workers=0)
    assert main(command(*ONLY, pool=tmp_path / "pool")) == 1
    error = capsys.readouterr().err
    assert f"python -m curation.pool audit {tmp_path / 'pool'}" in error and error.count("\n") == 1
    assert main(command(*ONLY, "--only", "questions", pool=tmp_path / "pool")) == 0


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"mirror": "nowhere"}, 1, "mirror nowhere does not exist"),
        ({"pool": "nowhere"}, 2, "nowhere holds no finished pool"),
        ({"suite": "nowhere"}, 2, "nowhere"),
    ],
)
def test_missing_inputs(command, change, status, says, capsys):
    assert main(command(**change)) == status
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--kinds", "image"), "--kinds"),
        (("--ngram", "14"), "--ngram"),
        (("--share", "1"), "--share"),
        (("--radius", "30"), "--radius"),
        (("--benchmarks", "nothing"), "no benchmark nothing"),
    ],
)
def test_bad_arguments(command, more, says, capsys):
    assert main(command(*more)) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [("--ngram", "7"), ("--share", "2"), ("--only", "texts"), ("--workers", "0")]
)
def test_arguments_that_the_parser_refuses(command, more, capsys):
    with pytest.raises(SystemExit) as exit:
        main(command(*more))
    assert exit.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_empty_suite(command, tmp_path, capsys):
    suite = tmp_path / "none.yaml"
    suite.write_text("name: none\ntasks: real\nbenchmarks: []\n")
    assert main(command(suite=suite)) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_does_not_write_into_a_pool(world, command, capsys):
    arguments = command(*ONLY)
    arguments[arguments.index("--out") + 1] = str(world.pool.folder)
    assert main(arguments) == 2
    assert "is a pool" in capsys.readouterr().err


class Page(HTMLParser):
    """The text of a page, its tags, and all that it would load."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "action", "srcset")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def parsed(file):
    page = Page()
    page.feed(file.read_text())
    return page


def text_of(file):
    return "".join(parsed(file).text)


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> \u202e \x1b[2J & </p></div>"


def test_page_shows_markup_as_text_and_loads_nothing(world, command, tmp_path):
    source = world.pool.files[0]
    records = json.loads(source.read_text())
    for record in records:
        record["source"] = HOSTILE
        record["conversations"][0]["value"] += f"\n{HOSTILE}"
    (tmp_path / "images").symlink_to(source.parent / "images")
    (tmp_path / "pool.json").write_text(json.dumps(records))
    full_pool(tmp_path, tmp_path / "pool")
    assert main(command(*ONLY, pool=tmp_path / "pool")) == 0
    page = parsed(tmp_path / "out" / "leaks.html")
    assert page.tags.count("img") > 10 and "script" not in page.tags
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    text = "".join(page.text)
    assert "<script>alert(1)</script>" in text and "\x1b" not in text and "\u202e" not in text
    assert "default-src 'none'" in (tmp_path / "out" / "leaks.html").read_text()
