"""Sections of report.md on the page: the same words, and no markup that a text could bring in."""

import pytest

from curation.printable import inert_markdown
from evaluation.report.page import page
from evaluation.report.page_markdown import _reader, parts
from evaluation.report.page_sections import Section
from evaluation.report.table import markdown


def test_paragraphs_lists_and_tables():
    found = list(parts("One **bold**\nline.\n\n- a `b`\n- c\n\n" + markdown(["name", "n"], [["x", "1,200"]])))
    assert [part["kind"] for part in found] == ["text", "list", "table"]
    assert found[0]["text"] == "One <strong>bold</strong> line."
    assert [line["text"] for line in found[1]["lines"]] == ["a <code>b</code>", "c"]
    assert [column["text"] for column in found[2]["columns"]] == ["name", "n"]
    assert [(cell["text"], cell["key"]) for cell in found[2]["groups"][0]["rows"][0]["cells"]] == [
        ("x", None),
        ("1,200", "1200"),
    ]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("+2.0 [1.0, 3.0]", "+2.0"),
        ("-1.5", "-1.5"),
        ("31.0 %", "31.0"),
        ("–", ""),
        ("", ""),
        ("1e+15", "1e+15"),
        ("< 0.001", "0.001"),
        ("3x", None),
        ("2.1.0", None),
        ("style", None),
        ("7 (3 runs)", "7"),
    ],
)
def test_columns_are_sorted_by_the_numbers_that_cells_begin_with(words, key):
    (part,) = parts(markdown(["a", "b"], [["x", words]]))
    assert part["groups"][0]["rows"][0]["cells"][1]["key"] == key


@pytest.mark.parametrize(
    "name",
    [
        "<script>document.title='run'</script>",
        "[x](javascript:document.title='run')",
        "![x](https://example.invalid/x.png)",
        "<https://example.invalid>",
        "caption | web & *more*",
        "_train_",
        "__init__",
        "a\\b",
        "`code`",
        "back\u202ewards",
    ],
)
def test_hostile_names_are_shown_as_they_are(name):
    (part,) = parts(markdown(["source"], [[inert_markdown(name)]]))
    shown = part["groups"][0]["rows"][0]["cells"][0]["text"]
    assert shown.striptags() == name.replace("\u202e", "\\u202e") and "<" not in shown
    source = page("x", [Section("s", "S", [part])])
    assert source.count("<script") == 1 and "<a href" in source and 'href="javascript' not in source


def test_markup_that_was_not_escaped_is_text_all_the_same():
    (part,) = parts("A <b>name</b> with <img src=x onerror=alert(1)>\n[link](https://example.invalid) here.")
    assert "<" not in part["text"] and "[link](https://example.invalid)" in part["text"]


@pytest.mark.parametrize(
    "line", ["# title", "> quoted", "    indented", "---", "===", "```", "~~~", "1. one", "* star", "| a |"]
)
def test_a_line_break_in_a_value_breaks_no_page(line):
    found = list(parts(markdown(["setting", "value"], [["prompt", f"one\n{line}\ntwo"], ["lr", "1"]])))
    shown = page("x", [Section("s", "S", found)])
    for words in ("prompt", "one", line.strip("#>*|=-`~ 1."), "two", "lr"):
        assert words in shown


def test_a_part_of_another_kind_is_an_error(monkeypatch):
    monkeypatch.setattr("evaluation.report.page_markdown.LEFT_OUT", ["link"])
    _reader.cache_clear()
    with pytest.raises(ValueError, match="heading_open"):
        list(parts("# heading"))
    _reader.cache_clear()
