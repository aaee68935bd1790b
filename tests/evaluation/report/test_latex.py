"""Tables as LaTeX: texts of others are text alone, and the document compiles where there is a pdflatex."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from comparisons import comparison, context

from evaluation.comparison import Comparison
from evaluation.report.latex import MAX_ROWS, SIDEWAYS, as_latex, document, escape
from evaluation.report.table import Cell, Column, Row, Table, text_cell
from evaluation.report.write import write_tables

HOSTILE = (
    r"a_b 50% & #1 {x} \input{/etc/passwd} $\alpha$ ~^ <b> |c| [d] --e ,,f ''g \\ é Ł ñ \u03b1 中文 ± 😀"
    + "\n\t"
)


def table(*texts: str, columns: int = 2) -> Table:
    named = tuple(Column(f"c{k} & {HOSTILE}", (f"c{k}",), left=not k, foreign=True) for k in range(columns))
    rows = tuple(Row((text_cell(text),) * columns) for text in texts)
    return Table("t", HOSTILE, named, rows, f"notes {HOSTILE}")


def environments(text: str) -> list[str]:
    """The names of the environments in the order of their ends; fails where they do not nest."""
    ended, open_ones = [], []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
            ended.append(name)
    assert not open_ones
    return ended


def unescaped(character: str, text: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text))


def body(text: str) -> list[str]:
    """The lines that are rows of the table."""
    return [line for line in text.splitlines() if line.endswith(r" \\") and " & " in line]


@pytest.mark.parametrize("rows", [1, 3, MAX_ROWS, MAX_ROWS + 1])
def test_a_hostile_text_is_no_markup(rows):
    text = as_latex(table(*[HOSTILE] * rows))
    assert text.isascii() and r"\input" not in text and "\t" not in text
    inner = "\n".join(text.splitlines()[1:])
    for special in "#~^":
        assert special not in inner.replace(rf"\{special}", "").replace(rf"\{special}{{n}}", "")
    assert unescaped("%", inner) == ("tabular" in inner), "the one after resizebox's brace"
    assert unescaped("{", inner) == unescaped("}", inner)
    assert {"tabular"} <= set(environments(text)) or {"longtable"} <= set(environments(text))
    lines = body(text)
    headers = 1 if rows <= MAX_ROWS else 2  # a long table repeats it on every page
    assert len(lines) == rows + headers
    assert all(unescaped("&", line) == 1 for line in lines)


def test_what_each_character_becomes():
    assert escape("a_b%&#$") == r"a\_b\%\&\#\$"
    assert escape("--") == "-{}-" and escape(",,") == ",{}," and escape("a-b") == "a-b"
    assert escape("é") == r"\'{e}" and escape("Å") == r"\r{A}" and escape("ł") == r"\l{}"
    assert escape("e\u0301") == escape("é"), "composed or not"
    assert escape("中") == "U+4E2D" and escape("\u03b1−1") == r"$\alpha$$-$1"
    assert escape("[x]") == "{[}x{]}" and escape("\x00") == escape(r"\x00")


def test_numbers_have_a_minus_sign_and_names_keep_their_hyphen():
    columns = (Column("arm", ("arm",), left=True, foreign=True), Column("d", ("d",)))
    rows = (Row((text_cell("top-5 -3"), Cell("-0.30 [-1.2, +0.6] 1e-05", (-0.3,)))),)
    [line] = body(as_latex(Table("t", "T", columns, rows)))[1:]
    assert line == r"top-5 -3 & $-$0.30 {[}$-$1.2, $+$0.6{]} 1e-05 \\"


def test_best_is_bold_and_second_underlined():
    columns = (Column("a", ("a",)),)
    rows = tuple(
        Row((Cell(text, (1,), mark),)) for text, mark in (("3_", "best"), ("2", "second"), ("1", ""))
    )
    text = as_latex(Table("t", "T", columns, rows))
    assert r"\textbf{3\_} \\" in text and r"\underline{2} \\" in text and "\n1 \\\\" in text


def test_a_wide_table_lies_on_its_side_and_a_wider_one_comes_in_parts():
    assert "landscape" not in as_latex(table("x", columns=1).only([0]))
    wide = Table(
        "t",
        "T",
        (Column("arm", ("arm",), left=True), *(Column(f"b{k}", (f"b{k}",)) for k in range(40))),
        (Row((text_cell("mmssr"), *[Cell(f"{k} 34.5 ± 1.2", (1.0,)) for k in range(40)])),),
    )
    parts = as_latex(wide)
    assert environments(parts).count("tabular") == 3 and "(part 3 of 3)" in parts
    assert all(f"\n{name}" in parts for name in (r"\begin{landscape}", r"\end{landscape}"))
    assert [line.split(" & ")[0] for line in body(parts)] == ["arm", "mmssr"] * 3
    assert all(parts.count(f" {k} 34.5") == 1 for k in range(40)), "each column is in one part"
    assert max(map(len, body(parts))) < 2 * SIDEWAYS
    assert len(set(re.findall(r"\\label\{(\S+)\}", parts))) == 3


def hostile(arms: int) -> Comparison:
    """Names of arms and benchmarks that LaTeX would not take as they are."""
    found = comparison(arms, pools=3, seeds=2)
    renamed = tuple(
        replace(arm, arm=f"{arm.arm} {HOSTILE}") if arm.arm not in ("full", "random") else arm
        for arm in found.arms
    )
    suite = found.suite.model_copy(
        update={
            "benchmarks": tuple(
                b.model_copy(update={"label": f"{b.label} & _%"}) if k < 2 else b
                for k, b in enumerate(found.suite)
            )
        }
    )
    return replace(found, arms=renamed, suite=suite)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs a pdflatex")
@pytest.mark.parametrize(
    "arms", [3, pytest.param(25, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.slow)]
)
def test_the_document_of_all_tables_compiles(arms, tmp_path):
    found = hostile(arms)
    names = write_tables(found, context(found), tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000 and "results" in names
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)]
    assert not wide, f"lines that leave the page by points: {wide}"


@pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("pdftotext")), reason="needs a pdflatex and a pdftotext"
)
def test_what_is_read_in_the_pdf_is_what_was_written(tmp_path):
    text = r"a_b 50% & #1 {x} \in $y$ ~^ <b> |c| [d] --e ,,f é Ł ñ - +1 ?`!`"
    (tmp_path / "t.tex").write_text(as_latex(table(text)))
    (tmp_path / "all.tex").write_text(document("title", ["t"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    read = subprocess.run(
        ["pdftotext", "-layout", "all.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    )
    found = re.sub(r"\s+", "", read.stdout).translate({0x2018: "`", 0x223C: "~", 0x2C6: "^"})
    assert re.sub(r"\s+", "", text) in found


def test_the_files_of_a_report(tmp_path):
    found = comparison(3)
    names = write_tables(found, context(found), Path(tmp_path))
    assert {"results", "benchmarks", "differences", "robustness", "power", "costs"} <= set(names)
    assert {path.name for path in tmp_path.iterdir()} == {
        "all.tex", *(f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex"))
    }  # fmt: skip
    text = (tmp_path / "all.tex").read_text()
    assert [name for name in names if rf"\input{{{name}}}" in text] == names
