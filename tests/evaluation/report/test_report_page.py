"""The page: every text is escaped, its policy allows its own style and script alone, drawings are inside."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest
from comparisons import comparison, difference

from evaluation.comparison import ArmResult
from evaluation.report.page import page
from evaluation.report.page_bars import Axis, bar, scale
from evaluation.report.page_parts import MAX_SVG_BYTES, figure, lines, table, text, with_drawings
from evaluation.report.page_sections import Section
from evaluation.report.table import Cell, Column, Row, Table, number_cell, text_cell

HOSTILE = (
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "\"'><svg onload=document.title='run'>",
    "{{ 7 * 7 }}{% raw %}",
    "a & b &lt; c",
    "back\u202ewards\x00",
)


class Elements(HTMLParser):
    """Names and attributes of all elements, and the texts between them."""

    def __init__(self, source):
        super().__init__()
        self.names, self.attributes, self.texts = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def small(names=("a", "b"), group="arms", title="Claims"):
    columns = (Column("arm", ("arm",), left=True, foreign=True), Column("gain", ("gain",)))
    rows = tuple(
        Row((text_cell(name), number_cell(float(k), lambda value: f"{value:+.1f}")), group)
        for k, name in enumerate(names)
    )
    return Table("claims", title, columns, rows)


def of(*parts):
    return page("study", [Section("one", "One", list(parts))])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_are_escaped_wherever_they_stand(hostile):
    plain = Elements(page("x", [Section("one", "y", [text("z"), lines(["l"]), table(small("n"), {})])]))
    parts = [text(hostile), lines([hostile]), table(small([hostile], title=hostile), {hostile: hostile})]
    found = Elements(page(hostile, [Section("one", hostile, parts)]))
    assert found.names == plain.names
    assert {name for name, _ in found.attributes} == {name for name, _ in plain.attributes}
    shown = hostile.replace("\u202e", "\\u202e").replace("\x00", "\\x00")
    assert sum(shown in part for part in found.texts) >= 6
    assert dict(found.attributes)["data-arm"] == dict(found.attributes)["data-word"] == shown


def test_the_policy_allows_this_style_and_script_only():
    source = of(text("x"))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', source)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for name, rule in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{name}>(.*?)</{name}>", source, re.DOTALL)
        assert (
            rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        )
    assert source.index("Content-Security-Policy") < source.index("<title") < source.index("<style")


def test_nothing_points_outside_and_no_element_has_a_style_or_handler():
    source = of(text("x"), table(small(), {}))
    assert "http" not in source.replace("http-equiv", "")
    assert not re.search(r"<[^>]*\s(style|on\w+)=", source)
    assert all(
        value.startswith(("#", "data:"))
        for name, value in Elements(source).attributes
        if name in ("href", "src")
    )


def test_the_script_makes_no_markup_and_no_request():
    script = re.findall(r"<script>(.*?)</script>", of(text("x")), re.DOTALL)[0]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
    ):
        assert word not in script
    for word in ("XMLHttpRequest", "import(", ".href", "srcdoc", "Storage"):
        assert word not in script


def test_rows_of_arms_can_be_filtered_and_levels_stay():
    own = small()
    levels = tuple(Row((text_cell("chance"), number_cell(25.0, "{:.1f}".format)), "levels") for _ in range(1))
    part = table(Table("t", "T", own.columns, own.rows + levels), {"a": "beats", "b": "undecided"})
    assert [group["tag"] for group in part["groups"]] == ["tbody", "tfoot"]
    assert [(row["arm"], row["word"]) for group in part["groups"] for row in group["rows"]] == [
        ("a", "beats"),
        ("b", "undecided"),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ((1.5,), "1.5"),
        ((0, 2, 3, 4), "0 2 3"),
        ((1, None, 3), "1"),
        ((-2.0, math.nan), "-2"),
        ((None, 1), ""),
        ((math.nan,), ""),
        ((math.inf,), ""),
        (("word", 1), None),
        (("",), ""),
    ],
)
def test_cells_are_sorted_by_their_values(values, key):
    columns = (Column("what", ("what",)), Column("x", tuple(map(str, values))))
    part = table(Table("t", "T", columns, (Row((text_cell("a"), Cell("shown", values))),)), {})
    assert part["groups"][0]["rows"][0]["cells"][1]["key"] == key
    assert part["groups"][0]["rows"][0]["arm"] is None


def test_a_drawing_is_its_svg_a_large_one_its_png(tmp_path):
    assert figure(tmp_path / "forest", "x") is None
    (tmp_path / "forest.svg").write_bytes(b"<svg/>")
    small_one = figure(tmp_path / "forest", "x")
    assert small_one["source"] == f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}"
    (tmp_path / "forest.svg").write_bytes(b" " * (MAX_SVG_BYTES + 1))
    assert figure(tmp_path / "forest", "x")["source"].startswith("data:image/svg+xml")
    (tmp_path / "forest.png").write_bytes(b"png")
    assert (
        figure(tmp_path / "forest", "x")["source"]
        == f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
    )
    (tmp_path / "map_v1.5.png").write_bytes(b"png")
    assert figure(tmp_path / "map_v1.5", "x")["source"].startswith("data:image/png")


def places(drawn, kind):
    """x1 and x2 (or cx) of the mark of this class, in pixels."""
    (mark,) = re.findall(rf'<\w+ class="{kind}"[^>]*>', drawn)
    return [float(x) for x in re.findall(r'\b(?:x1|x2|cx)="([^"]*)"', mark)]


def test_bars_are_to_scale():
    arm: ArmResult = comparison(3).arms[2]
    d = arm.difference
    axis = Axis.of([arm])
    assert axis.reach == pytest.approx(1.05 * max(abs(d.corrected_low), abs(d.corrected_high)))
    drawn = bar(arm, axis)
    for kind, ends in (
        ("wide", (d.corrected_low, d.corrected_high)),
        ("own", (d.low, d.high)),
        ("dot", (d.value,)),
    ):
        expected = [180 * (end + axis.reach) / (2 * axis.reach) for end in ends]
        assert places(drawn, kind) == pytest.approx(expected, abs=0.06)
    assert places(drawn, "zero") == [90, 90] and 'class="beats"' in drawn
    assert "+" in scale(axis) and bar(comparison(3).arms[1], axis) == ""


def test_what_is_not_known_is_not_drawn():
    from dataclasses import replace

    arm = comparison(3).arms[2]
    unknown = replace(difference(2.0, 1.0), low=math.nan, high=math.nan, corrected_low=math.nan)
    single = replace(arm, difference=unknown, claim=replace(arm.claim, verdict=None))
    drawn = bar(single, Axis.of([single]))
    assert 'class="none"' in drawn and 'class="dot"' in drawn and 'class="own"' not in drawn
    assert 'class="wide"' not in drawn and "nan" not in drawn


def test_a_column_of_drawings_stands_where_it_is_put():
    part = with_drawings(table(small(), {}), 1, "interval", "scale", {"a": "drawn"})
    assert [column["text"] for column in part["columns"]] == ["arm", "interval", "gain"]
    assert [row["cells"][1]["text"] for row in part["groups"][0]["rows"]] == ["drawn", ""]
