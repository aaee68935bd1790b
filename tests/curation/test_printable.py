"""Names from foreign data cannot write to the terminal, or HTML, links and rows into a report."""

import re

import pytest

from curation.printable import MAX_CHARS, inert_markdown, printable
from evaluation.context import Context, Subset
from evaluation.report.markdown import _mix


@pytest.mark.parametrize(
    ("text", "screen", "page"),
    [
        ("sharegpt_4v", "sharegpt_4v", "sharegpt_4v"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("![x](http://e/p.png)", "![x](http://e/p.png)", r"!\[x\](http://e/p.png)"),
        ("\x1b[31mRED\x07", r"\x1b[31mRED\x07", r"\\x1b\[31mRED\\x07"),
        ("a\nb", r"a\nb", r"a\\nb"),
        ("\u202eabc", r"\u202eabc", r"\\u202eabc"),
        ("", "(empty)", "(empty)"),
        (" ", "(empty)", "(empty)"),
        ("s" * 999, "s" * (MAX_CHARS - 1) + "…", "s" * (MAX_CHARS - 1) + "…"),
    ],
)
def test_text(text, screen, page):
    assert (printable(text), inert_markdown(text)) == (screen, page)


def test_the_table_of_a_mix_holds_no_foreign_markup():
    names = [
        "| a | b |",
        "<script>alert(1)</script>",
        "![x](http://e/p.png)",
        "\x1b[31mRED",
        "a\nb",
        "",
        "ok",
    ]
    subset = Subset("random", 0, 10, mix={"source": dict.fromkeys(names, 0.1)})
    page = next(_mix(Context("study", subsets=[subset]), "source", ["random"]))
    assert page.count("\n") == len(names) + 2
    assert all(text not in page for text in ("<script", "![", "\x1b")) and not re.search(r"(?<!\\)]\(", page)
    assert all(line.count("|") - line.count("\\|") == 3 for line in page.splitlines())
