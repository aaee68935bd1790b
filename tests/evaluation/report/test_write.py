"""All files of a report: complete, the same bytes every time, and every picture of the text is there."""

import json
import re

import pytest
from comparisons import comparison, context

from evaluation.report.write import MAX_PRINTED, write_report, write_tables


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    found = comparison(4, pools=3, seeds=2)
    for folder in folders:
        assert write_report(found, context(found), folder) == folder / "report.md"
    return folders


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_comparison_gives_the_same_bytes(written):
    one, two = map(files, written)
    assert list(one) == list(two) and not [name for name in one if one[name] != two[name]]
    assert not [name for name in one if name.endswith(".tmp")]


def test_every_form_of_a_report_is_there(written):
    names = set(files(written[0]))
    assert {"report.md", "report.html", "comparison.json", "tables/all.tex"} <= names
    for form in ("svg", "pdf", "png"):
        assert f"figures/forest.{form}" in names
    for form in ("md", "csv", "tex"):
        assert {f"tables/{name}.{form}" for name in ("results", "benchmarks", "differences")} <= names
    assert json.loads((written[0] / "comparison.json").read_text())["baseline"] == "random"


def test_every_picture_of_the_text_exists_and_the_forest_is_the_first(written):
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (written[0] / "report.md").read_text())
    assert pictures[0] == "figures/forest.png" and all((written[0] / name).is_file() for name in pictures)
    drawn = {path.name for path in (written[0] / "figures").glob("*.png")}
    assert {name.removeprefix("figures/") for name in pictures} == drawn, "no picture is left out"


def test_a_table_too_wide_to_read_is_data_alone(tmp_path):
    found = comparison(MAX_PRINTED + 10)
    assert "overlap" in write_tables(found, context(found), tmp_path)
    assert (tmp_path / "overlap.csv").is_file() and not (tmp_path / "overlap.tex").exists()
    assert "overlap" not in (tmp_path / "all.tex").read_text()
