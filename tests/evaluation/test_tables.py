"""Tables: every number comes from the comparison, unknown values are dashes."""

import numpy as np
import pytest
from evaluation_data import write_evaluation

from evaluation.aggregate import Run, compare
from evaluation.suite import Benchmark, Suite
from evaluation.tables import compact_table, comparison_table, markdown

TOY = Suite("toy", "toy", (Benchmark("t1", "One", "spatial"), Benchmark("t2", "Two", "ocr")))


@pytest.fixture
def comparison(tmp_path):
    values = {("random", 0): 0.4, ("random", 1): 0.5, ("mmssr", 0): 0.6, ("mmssr", 1): 0.7, ("full", 0): 0.8}
    runs = [
        Run(
            arm,
            s,
            0,
            "100%" if arm == "full" else "30%",
            write_evaluation(tmp_path / f"{arm}{s}", {"t1": np.full(10, v), "t2": np.full(10, v / 2)}),
        )
        for (arm, s), v in values.items()
    ]
    return compare(runs, TOY)


def _cells(table: str) -> dict[str, dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.splitlines()]
    return {line[0]: dict(zip(lines[0], line)) for line in lines[2:]}


def test_full_table(comparison):
    rows = _cells(comparison_table(comparison))
    assert list(rows) == ["random", "mmssr", "full", "chance"]
    assert (
        rows["mmssr"]["One"] == "65.0 ± 7.1" and rows["mmssr"]["Two"] == "32.5 ± 3.5" and rows["mmssr"]["seeds"] == "2"
    )
    assert rows["mmssr"]["/FULL"] == "81.2 ± 8.8" and rows["mmssr"][">Rand"] == "2/2"
    assert rows["mmssr"]["difference to random [95 %]"].startswith("+15.0 [")
    assert rows["full"]["One"] == "80.0" and rows["full"]["/FULL"] == "100.0"
    assert rows["random"]["difference to random [95 %]"] == "–"
    assert rows["chance"]["mean"] == "25.0"


def test_compact_table(comparison):
    rows = _cells(compact_table(comparison))
    assert rows["mmssr"]["/FULL without one benchmark"] == "81.2 to 81.2" and rows["mmssr"]["unparsed"] == "10.0 %"
    assert rows["mmssr"]["p (Welch)"] == "0.106" and rows["full"]["p (Welch)"] == "–"


def test_blind_row_only_when_measured(tmp_path, comparison):
    assert "blind" not in comparison_table(comparison)
    from dataclasses import replace

    rows = _cells(comparison_table(replace(comparison, blind={"t1": 0.3, "t2": None})))
    assert (rows["blind"]["One"], rows["blind"]["Two"], rows["blind"]["mean"]) == ("30.0", "–", "–")


def test_markdown_escapes_pipes_and_checks_widths():
    assert markdown(["a", "b"], [["x|y", 1]]).splitlines()[2] == "| x\\|y | 1 |"
    with pytest.raises(ValueError, match="needs 2 cells"):
        markdown(["a", "b"], [["x"]])
