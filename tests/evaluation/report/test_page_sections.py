"""The page holds all of the report: every arm, every cell of every table, every sentence of report.md."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from comparisons import comparison, context

from evaluation.comparison import Against
from evaluation.report.markdown import render
from evaluation.report.page import page, write_page
from evaluation.report.page_markdown import parts
from evaluation.report.page_sections import MAX_COLUMNS, MAX_ROWS, PLACES, sections
from evaluation.report.table import Table
from evaluation.report.tables import all_tables


class Texts(HTMLParser):
    """The text of every element that has one, markup of words inside it left out."""

    def __init__(self, source):
        super().__init__()
        self.found, self._words = set(), ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in ("strong", "em", "code"):
            self.found.add(self._words.strip())
            self._words = ""

    def handle_data(self, data):
        self._words += data


def whole(arms, pools=1):
    """A comparison with everything that a report can have: leaks, targeted arms, shuffled images, caveats."""
    made = comparison(arms, pools=pools)
    results = list(made.arms)
    results[2] = replace(
        results[2],
        targeted=True,
        shuffled={b.name: 0.3 for b in made.suite},
        grounded={b.name: None if b is made.suite.benchmarks[0] else 0.1 for b in made.suite},
        own_controls={"random": Against(results[2].difference, results[2].claim)},
    )
    made = replace(made, arms=tuple(results))
    found = {"state": "flag", "rows": 40, "of": 3600, "items": {"mini_ocr": 3}}
    leaked = replace(made, without_leaks=comparison(arms, pools=pools, seed=1), decontamination=found)
    return leaked, replace(context(leaked), modified=["sft.lr: 1 -> 2"])


def texts(made, what, figures=()):
    return Texts(page(what.title, sections(made, what, figures))).found


@pytest.mark.parametrize(("arms", "pools"), [(3, 1), (25, 3)])
def test_every_cell_of_every_table_is_on_the_page(arms, pools):
    made, what = whole(arms, pools)
    shown = texts(made, what)
    tables = all_tables(made, what)
    assert {table.name for table in tables} >= {name for place in PLACES for name in place.tables} - {"pools"}
    for table in tables:
        for text in [table.title, *(column.title for column in table.columns)]:
            assert any(text in one for one in shown), (table.name, text)
        cells = {cell.text for row in table.rows for cell in row.cells[table.name == "mix" :]}
        assert cells <= shown, table.name


@pytest.mark.parametrize(("arms", "pools"), [(3, 1), (10, 2)])
def test_every_sentence_of_the_markdown_is_on_the_page(arms, pools):
    made, what = whole(arms, pools)
    shown = " ".join(texts(made, what))
    about_files = r"^(#.*|!\[.*|Everything was repeated.*|Shares of capability x style.*)$"
    written = re.sub(about_files, "", render(made, what), flags=re.MULTILINE)
    missing = []
    for part in parts(written):
        own = [part["text"]] if part["kind"] == "text" else []
        own += [line["text"] for line in part.get("lines", ())]
        missing += [words for words in own if words.striptags() not in shown]
    assert missing == []


@pytest.mark.parametrize("arms", [3, 25, 200])
def test_every_arm_is_in_every_table_of_arms(arms):
    made = comparison(arms)
    found = sections(made, context(made), ())
    claims = next(section for section in found if section.id == "claims")
    (table,) = [part for part in claims.parts if part["kind"] == "table"]
    rows = [row for group in table["groups"] for row in group["rows"]]
    assert {row["arm"] for row in rows} == {arm.arm for arm in made.arms} and len(rows) == arms
    compared = {arm.arm for arm in made.arms if arm.claim}
    assert {row["arm"] for row in rows if row["word"]} == compared
    column = [c["text"] for c in table["columns"]].index("intervals")
    assert {row["arm"] for row in rows if "<svg" in row["cells"][column]["text"]} == compared


def test_what_is_cut_says_where_all_is():
    made = comparison(MAX_COLUMNS + 5)
    sources = {f"source {k}": 1 / 700 for k in range(700)}
    plain = context(made)
    subsets = [replace(subset, mix={"source": sources}) for subset in plain.subsets]
    found = sections(made, replace(plain, subsets=subsets, pool_mix={}), ())
    tables = {part["text"]: part for section in found for part in section.parts if part["kind"] == "table"}
    mix = tables["Mixes of the subsets: source"]
    assert len(mix["groups"][0]["rows"]) == MAX_ROWS and len(mix["columns"]) == MAX_COLUMNS
    assert f"The first {MAX_ROWS} of 700 rows and {MAX_COLUMNS} of {MAX_COLUMNS + 5} columns" in mix["notes"]
    assert "tables/mix.csv" in mix["notes"] and "first" not in tables["Subsets"]["notes"]


def test_tables_and_drawings_without_a_place_are_shown_all_the_same(monkeypatch, tmp_path):
    made = comparison(3)
    table = all_tables(made, context(made))[0]
    other = Table("new", "A new table", table.columns, table.rows)
    monkeypatch.setattr("evaluation.report.page_sections.all_tables", lambda *_: [table, other])
    (tmp_path / "new_kind.svg").write_text("<svg/>")
    (more,) = [one for one in sections(made, context(made), [tmp_path / "new_kind"]) if one.id == "more"]
    assert [part["text"] for part in more.parts] == ["new kind", "A new table"]


def test_the_same_bytes_every_time(tmp_path):
    made, what = whole(3)
    for name in ("one", "two"):
        (tmp_path / name / "figures").mkdir(parents=True)
        (tmp_path / name / "figures" / "forest.svg").write_text("<svg/>")
        write_page(made, what, tmp_path / name, [tmp_path / name / "figures" / "forest"])
    first, second = ((tmp_path / name / "report.html").read_bytes() for name in ("one", "two"))
    assert first == second and str(tmp_path).encode() not in first


def test_one_repetition_has_no_verdict_on_the_page():
    made = comparison(3, seeds=1)
    single = made.arms[2]
    claim = replace(single.claim, verdict=None, reason="one repetition", needs=None, components=None)
    made = replace(made, arms=(*made.arms[:2], replace(single, claim=claim)))
    source = page("x", sections(made, context(made), ()))
    assert 'data-word="no verdict"' in source and 'svg class="none"' in source
    assert "<strong>mmssr</strong>" not in source
