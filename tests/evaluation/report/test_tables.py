"""Tables: every number comes from the comparison, unknown values are dashes."""

import numpy as np
import pytest
from evaluation_data import TOY, bench, compared, toy_suite, write_evaluation

from evaluation.report.tables import compact_table, comparison_table, grounding_table, markdown
from evaluation.results import Run


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
    return compared(runs, TOY)


def _cells(table: str) -> dict[str, dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=False)) for line in lines[2:]}


def test_full_table(comparison):
    rows = _cells(comparison_table(comparison))
    assert list(rows) == ["random", "mmssr", "full", "chance"]
    assert (
        rows["mmssr"]["One"] == "65.0 ± 7.1"
        and rows["mmssr"]["Two"] == "32.5 ± 3.5"
        and rows["mmssr"]["seeds"] == "2"
    )
    assert rows["mmssr"]["/FULL"] == "81.2 ± 8.8" and rows["mmssr"][">Rand"] == "2/2"
    assert rows["mmssr"]["difference to random [95 %]"].startswith("+15.0 [")
    assert rows["full"]["One"] == "80.0" and rows["full"]["/FULL"] == "100.0"
    assert rows["random"]["difference to random [95 %]"] == "–"
    assert rows["chance"]["mean"] == "25.0"


def test_the_rows_of_the_full_table_as_they_are_printed(comparison):
    header, _, random, mmssr, full, chance = comparison_table(comparison).splitlines()
    assert header == (
        "| arm | budget | seeds | One | Two | mean | shuffled | grounded gain | /FULL | >Rand "
        "| difference to random [95 %] |"
    )
    assert random == (
        "| random | 30% | 2 | 45.0 ± 7.1 | 22.5 ± 3.5 | 33.8 ± 5.3 | – | – | 56.2 ± 8.8 | – | – |"
    )
    assert mmssr.startswith(
        "| mmssr | 30% | 2 | 65.0 ± 7.1 | 32.5 ± 3.5 | 48.7 ± 5.3 | – | – | 81.2 ± 8.8 | 2/2 | +15.0 ["
    )
    assert full.startswith("| full | 100% | 1 | 80.0 | 40.0 | 60.0 | – | – | 100.0 | 2/2 | +26.3 [")
    assert chance == "| chance |  |  | 25.0 | 25.0 | 25.0 |  |  |  |  |  |"


def test_the_rows_of_the_compact_table_as_they_are_printed(comparison):
    header, _, random, _, full, chance = compact_table(comparison).splitlines()
    assert header == (
        "| arm | budget | seeds | mean | shuffled | grounded gain | /FULL | /FULL without one benchmark "
        "| >Rand | difference to random [95 %] | p (Welch) | unparsed |"
    )
    assert random == (
        "| random | 30% | 2 | 33.8 ± 5.3 | – | – | 56.2 ± 8.8 | 56.2 to 56.2 | – | – | – | 10.0 % |"
    )
    assert full.endswith(" | – | 10.0 % |") and "| 100.0 | 100.0 to 100.0 | 2/2 |" in full
    assert chance == "| chance |  |  | 25.0 |  |  |  |  |  |  |  |  |"


def test_seeds_that_are_not_selections_are_counted_as_runs(tmp_path):
    runs = [
        Run("a", sel, tr, "1", write_evaluation(tmp_path / f"{sel}{tr}", {b.name: np.ones(4) for b in TOY}))
        for sel in range(2)
        for tr in range(3)
    ]
    comparison = compared(runs, TOY, reference=None, baseline=None)
    assert compact_table(comparison).splitlines()[2].startswith("| a | 1 | 2 (6 runs) |")
    assert "| difference [95 %] |" in comparison_table(comparison)


def test_scores_are_in_percent_of_the_scale_and_the_range_has_two_ends(tmp_path):
    suite = toy_suite(bench("t1", "One", "ocr", scale=200.0), bench("t2", "Two", "data"))
    scores = {"full": (100.0, 0.5), "a": (50.0, 0.4), "random": (20.0, 0.2)}
    runs = [
        Run(arm, 0, 0, "1", write_evaluation(tmp_path / arm, {"t1": np.full(4, x), "t2": np.full(4, y)}))
        for arm, (x, y) in scores.items()
    ]
    comparison = compared(runs, suite)
    rows, compact = _cells(comparison_table(comparison)), _cells(compact_table(comparison))
    assert (rows["a"]["One"], rows["a"]["Two"], rows["a"]["mean"]) == ("25.0", "40.0", "32.5")
    assert rows["chance"]["One"] == "0.1"  # 0.25 of 200
    assert (compact["a"]["/FULL"], compact["a"]["/FULL without one benchmark"]) == ("65.0", "50.0 to 80.0")


def test_a_gain_of_zero_has_a_sign(tmp_path):
    scores = {"t1": np.full(4, 0.5), "t2": np.full(4, 0.5)}
    path = write_evaluation(tmp_path / "a", scores, shuffled=scores)
    comparison = compared([Run("a", 0, 0, "1", path)], TOY)
    assert _cells(compact_table(comparison))["a"]["grounded gain"] == "+0.0"


def test_compact_table(comparison):
    rows = _cells(compact_table(comparison))
    assert (
        rows["mmssr"]["/FULL without one benchmark"] == "81.2 to 81.2"
        and rows["mmssr"]["unparsed"] == "10.0 %"
    )
    assert rows["mmssr"]["p (Welch)"] == "0.106" and rows["full"]["p (Welch)"] == "–"


def test_compact_table_has_the_levels(comparison):
    from dataclasses import replace

    rows = _cells(compact_table(replace(comparison, blind={"t1": 0.3, "t2": 0.5})))
    assert list(rows) == ["random", "mmssr", "full", "chance", "blind"]
    assert (rows["chance"]["mean"], rows["blind"]["mean"]) == ("25.0", "40.0")


def test_blind_row_only_when_measured(tmp_path, comparison):
    assert "blind" not in comparison_table(comparison)
    from dataclasses import replace

    rows = _cells(comparison_table(replace(comparison, blind={"t1": 0.3, "t2": None})))
    assert (rows["blind"]["One"], rows["blind"]["Two"], rows["blind"]["mean"]) == ("30.0", "–", "–")


def _with_shuffled(tmp_path, suite=TOY):
    """Arms of two seeds; `reader` was asked with shuffled images once, `both` twice, `guesser` not at all."""
    asked = {("reader", 0): 0.3, ("both", 0): 0.5, ("both", 1): 0.4}
    runs = []
    for arm, values in {"reader": (0.9, 0.7), "both": (0.5, 0.6), "guesser": (0.2, 0.2)}.items():
        for seed, value in enumerate(values):
            other = asked.get((arm, seed))
            shuffled = None if other is None else {"t1": np.full(10, other), "t2": np.full(10, other / 2)}
            scores = {"t1": np.full(10, value), "t2": np.full(10, value / 2)}
            runs.append(
                Run(
                    arm,
                    seed,
                    0,
                    "30%",
                    write_evaluation(tmp_path / f"{arm}{seed}", scores, shuffled=shuffled),
                )
            )
    return compared(runs, suite, reference=None, baseline="guesser")


@pytest.mark.parametrize("table", [comparison_table, compact_table])
def test_shuffled_and_grounded_columns(tmp_path, table):
    rows = _cells(table(_with_shuffled(tmp_path)))
    found = {name: (row["mean"], row.get("shuffled"), row.get("grounded gain")) for name, row in rows.items()}
    assert found["reader"] == ("60.0 ± 10.6", "22.5", "+45.0"), (
        "the gain is that of the seed evaluated both ways"
    )
    assert found["both"] == ("41.2 ± 5.3", "33.8 ± 5.3", "+7.5 ± 10.6")
    assert found["guesser"] == ("15.0 ± 0.0", "–", "–")
    assert found["chance"] == ("25.0", None, None), "the empty cells at the end of a row are not read"


def test_grounding_table(tmp_path):
    table = grounding_table(_with_shuffled(tmp_path))
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    assert lines[0] == ["arm", "what", "One", "Two", "mean"]
    assert lines[2:5] == [
        ["reader", "score", "90.0", "45.0", "67.5"],
        ["reader", "shuffled", "30.0", "15.0", "22.5"],
        ["reader", "grounded gain", "+60.0", "+30.0", "+45.0"],
    ]
    assert [line[:2] for line in lines[5:]] == [
        ["both", w] for w in ("score", "shuffled", "grounded gain")
    ] + [["chance", ""]]


def test_without_shuffled_images_there_are_dashes_and_no_grounding_table(comparison):
    assert grounding_table(comparison) == ""
    for table in (comparison_table, compact_table):
        rows = _cells(table(comparison))
        assert {
            rows[arm][column]
            for arm in ("random", "mmssr", "full")
            for column in ("shuffled", "grounded gain")
        } == {"–"}


def test_a_gain_is_turned_round_where_lower_is_better(tmp_path):
    errors = toy_suite(bench("t1", "One", "ocr", direction="lower"), bench("t2", "Two", "ocr"))
    comparison = _with_shuffled(tmp_path, errors)
    assert comparison.arm("reader").grounded == pytest.approx({"t1": -0.6, "t2": 0.3})
    lines = grounding_table(comparison).splitlines()
    assert lines[2].startswith("| reader | score | 90.0 | 45.0 |") and "| -60.0 | +30.0 | -15.0 |" in lines[4]


def test_markdown_escapes_pipes_and_checks_widths():
    assert markdown(["a", "b"], [["x|y", 1]]).splitlines()[2] == "| x\\|y | 1 |"
    with pytest.raises(ValueError, match="needs 2 cells"):
        markdown(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="needs 2 cells"):
        markdown(["a", "b"], [["x", "y"], ["x", "y", "z"]])
    assert (
        markdown(["a", "b", "c"], [["x", "y", "z"]]) == "| a | b | c |\n| :-- | --: | --: |\n| x | y | z |\n"
    )
