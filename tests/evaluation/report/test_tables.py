"""Tables: every number comes from the comparison, unknown values are dashes, CSV has full precision."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from comparisons import comparison as made_up
from comparisons import context, difference
from evaluation_data import TOY, bench, compared, toy_suite, write_evaluation

from evaluation.comparison import Against, Claim, Comparison, Difference
from evaluation.context import Context
from evaluation.report.marks import marks
from evaluation.report.table import (
    Cell,
    Column,
    Row,
    Table,
    as_csv,
    as_markdown,
    markdown,
    number_cell,
    text_cell,
)
from evaluation.report.tables import all_tables
from evaluation.report.tables.benchmarks import benchmarks_table, differences_table, grounding_table
from evaluation.report.tables.controls import controls_table
from evaluation.report.tables.costs import costs_table
from evaluation.report.tables.pools import pools_table
from evaluation.report.tables.results import results_table
from evaluation.report.tables.robustness import power_table, robustness_table
from evaluation.report.tables.rows import MAX_SHOWN, shortened, shown_arms
from evaluation.report.tables.subsets import mix_table, overlap_table, subsets_table
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


def cells(table: Table) -> dict[str, dict[str, str]]:
    """Arm -> title -> text, of the last row of each arm."""
    titles = [column.title for column in table.columns]
    return {
        str(row.cells[0].values[0]): dict(zip(titles, [cell.text for cell in row.cells], strict=True))
        for row in table.rows
    }


def csv_rows(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(table))))


# ------------------------------------------------------------------------------------------- values


def test_scores_by_benchmark(comparison):
    rows = cells(benchmarks_table(comparison))
    assert list(rows) == ["mmssr", "random", "full", "chance"], "arms under test first, then controls, levels"
    assert (rows["mmssr"]["One"], rows["mmssr"]["Two"], rows["mmssr"]["seeds"]) == (
        "65.0 ± 7.1",
        "32.5 ± 3.5",
        "2",
    )
    assert rows["full"]["One"] == "80.0" and rows["chance"]["mean"] == "25.0"


def test_results_are_those_of_the_comparison(comparison):
    row = cells(results_table(comparison))["mmssr"]
    assert row["/FULL"] == "81.2 ± 8.8" and row["mean"] == "48.8 ± 5.3" and row["unparsed"] == "10.0 %"
    arm = comparison.arm("mmssr")
    assert row["difference to random"] == "+15.00"
    low, high = arm.difference.corrected_low, arm.difference.corrected_high
    assert row["corrected 95 % interval"] == f"[{low:+.2f}, {high:+.2f}]"
    assert row[">Rand (by chance)"].startswith("2/2")
    assert cells(results_table(comparison))["random"]["claim"] == "–"


def test_seeds_that_are_not_selections_are_counted_as_runs(tmp_path):
    runs = [
        Run("a", sel, tr, "1", write_evaluation(tmp_path / f"{sel}{tr}", {b.name: np.ones(4) for b in TOY}))
        for sel in range(2)
        for tr in range(3)
    ]
    table = results_table(compared(runs, TOY, reference=None, baseline=None))
    assert cells(table)["a"]["seeds"] == "2 (6 runs)" and "difference" in cells(table)["a"]


def test_scores_are_in_percent_of_the_scale_and_the_range_has_two_ends(tmp_path):
    suite = toy_suite(bench("t1", "One", "ocr", scale=200.0), bench("t2", "Two", "data"))
    scores = {"full": (100.0, 0.5), "a": (50.0, 0.4), "random": (20.0, 0.2)}
    runs = [
        Run(arm, 0, 0, "1", write_evaluation(tmp_path / arm, {"t1": np.full(4, x), "t2": np.full(4, y)}))
        for arm, (x, y) in scores.items()
    ]
    comparison = compared(runs, suite)
    rows = cells(benchmarks_table(comparison))
    assert (rows["a"]["One"], rows["a"]["Two"], rows["a"]["mean"]) == ("25.0", "40.0", "32.5")
    assert rows["chance"]["One"] == "0.1"  # 0.25 of 200
    [row] = [row for row in csv_rows(results_table(comparison)) if row["arm"] == "a"]
    assert [float(row[name]) for name in ("full", "full_low", "full_high")] == pytest.approx([65, 50, 80])


def test_blind_row_only_when_measured(comparison):
    assert "blind" not in cells(benchmarks_table(comparison))
    rows = cells(benchmarks_table(replace(comparison, blind={"t1": 0.3, "t2": None})))
    assert (rows["blind"]["One"], rows["blind"]["Two"], rows["blind"]["mean"]) == ("30.0", "–", "–")


def test_differences_are_positive_where_the_arm_is_better(tmp_path):
    errors = toy_suite(bench("t1", "One", "ocr", direction="lower"), bench("t2", "Two", "ocr"))
    runs = [
        Run(
            arm,
            s,
            0,
            "1",
            write_evaluation(tmp_path / f"{arm}{s}", {"t1": np.full(4, v), "t2": np.full(4, v)}),
        )
        for arm, v in (("a", 0.2), ("random", 0.5))
        for s in range(2)
    ]
    row = cells(differences_table(compared(runs, errors)))["a"]
    assert row["against"] == "random" and row["One"].startswith("+30.0") and row["Two"].startswith("-30.0")
    found = csv_rows(differences_table(compared(runs, errors)))[0]
    assert float(found["t1_corrected_low"]) <= float(found["t1_low"]) <= float(found["t1"])
    assert float(found["t1"]) <= float(found["t1_high"]) <= float(found["t1_corrected_high"])


def test_an_arm_stands_beside_the_controls_that_are_its_alone():
    found = made_up(4)
    assert not controls_table(found).rows
    unknown = Difference(0.5, *[math.nan] * 8)
    own = {
        "random": Against(difference(2.0, 0.5), Claim("beats", 1.0, "on this pool", 4)),
        "selector_1": Against(unknown, Claim(None, 1.0, "on this pool", 4, "one repetition")),
    }
    arms = [replace(arm, own_controls=own) if arm.arm == "mmssr" else arm for arm in found.arms]
    arms = [replace(arm, control="tokens") if arm.arm == "selector_1" else arm for arm in arms]
    table = controls_table(replace(found, arms=tuple(arms)))
    first, second = ([cell.text for cell in row.cells] for row in table.rows)
    assert first[:3] == ["mmssr", "10%", "random"] and first[6:9] == ["+2.00", "[+0.39, +3.61]", "beats"]
    assert second[2:4] == ["selector_1", "token-matched random"]
    assert second[6:] == ["+0.50", "–", "no verdict", "–"]
    assert "nan" not in as_csv(table).lower() and "nan" not in as_markdown(table)


def test_robustness_says_the_weak_end_and_what_a_claim_rests_on():
    found = made_up(3)
    arm = found.arm("mmssr")
    names = [b.name for b in found.suite]
    robustness = replace(
        arm.robustness,
        without={name: difference(2.0 if k else 0.25, 0.5) for k, name in enumerate(names)},
        rests_on=(names[0], names[2]),
        without_mme=difference(1.5, 0.5),
    )
    found = replace(
        found, arms=tuple(replace(a, robustness=robustness) if a is arm else a for a in found.arms)
    )
    row = cells(robustness_table(found))["mmssr"]
    assert row["without one benchmark"] == "+0.25 to +2.00 (without Spatial)"
    assert row["rests on"] == "Spatial, Logic" and row["median of benchmarks"] == "+2.00"
    assert row["without MME"].startswith("+1.50 [") and row["chance-corrected"].startswith("+2.94 [")
    [mme] = [row["without_mme"] for row in csv_rows(robustness_table(found)) if row["arm"] == "mmssr"]
    assert float(mme) == 1.5
    assert "without MME" not in cells(robustness_table(made_up(3)))["mmssr"], "a suite without MME"


def test_what_would_decide_is_said_where_it_is_known():
    table = power_table(made_up(4, pools=3))
    assert cells(table)["selector_1"]["would decide"] == "12 pools x 2 seeds"
    assert cells(table)["mmssr"]["would decide"] == "–", "it is decided"
    assert cells(table)["mmssr"]["between pools"] == "0.40"
    assert cells(power_table(made_up(4)))["mmssr"]["between pools"] == "–", "one pool cannot tell"


def test_costs_stand_beside_the_score():
    found = made_up(4)
    row = cells(costs_table(found, context(found)))["mmssr"]
    assert row["selection, s"] == "40.0" and row["training, FLOPs"] == "4e+15"
    assert row["selection / training"] == "25 %" and row["difference"] == "+2.10"
    assert cells(costs_table(found, context(found)))["full"]["training, s"] == "–", "not known"
    assert not costs_table(found, Context("t")).rows


def test_means_and_differences_by_pool():
    assert not pools_table(made_up(3)).rows
    found = made_up(3, pools=2, seeds=1)
    row, arm = cells(pools_table(found))["mmssr"], found.arm("mmssr")
    assert row["pool 1"] == f"{arm.pool_means[1]:.1f} ({arm.pool_differences[1]:+.1f})"
    assert (
        row["pools x seeds"] == "2 x 1" and cells(pools_table(found))["random"]["std of differences"] == "–"
    )
    assert row["std of means"] == f"{np.std(arm.pool_means, ddof=1):.1f}"


def _with_shuffled(tmp_path, suite=TOY) -> Comparison:
    """Arms of two seeds; `reader` was asked with shuffled images once, `both` twice, `guesser` not at all."""
    asked = {("reader", 0): 0.3, ("both", 0): 0.5, ("both", 1): 0.4}
    runs = []
    for arm, values in {"reader": (0.9, 0.7), "both": (0.5, 0.6), "guesser": (0.2, 0.2)}.items():
        for seed, value in enumerate(values):
            other = asked.get((arm, seed))
            shuffled = None if other is None else {"t1": np.full(10, other), "t2": np.full(10, other / 2)}
            scores = {"t1": np.full(10, value), "t2": np.full(10, value / 2)}
            path = write_evaluation(tmp_path / f"{arm}{seed}", scores, shuffled=shuffled)
            runs.append(Run(arm, seed, 0, "30%", path))
    return compared(runs, suite, reference=None, baseline="guesser")


def test_shuffled_and_grounded_columns(tmp_path):
    rows = cells(benchmarks_table(_with_shuffled(tmp_path)))
    found = {name: (row["mean"], row["shuffled"], row["grounded gain"]) for name, row in rows.items()}
    assert found["reader"] == ("60.0 ± 10.6", "22.5", "+45.0"), "the gain of the seed evaluated both ways"
    assert found["both"] == ("41.2 ± 5.3", "33.8 ± 5.3", "+7.5 ± 10.6")
    assert found["guesser"] == ("15.0 ± 0.0", "–", "–") and found["chance"] == ("25.0", "", "")


def test_grounding_table(tmp_path):
    table = grounding_table(_with_shuffled(tmp_path))
    lines = [[cell.text for cell in row.cells] for row in table.rows]
    assert lines[:3] == [
        ["reader", "30%", "score", "90.0", "45.0", "67.5"],
        ["reader", "30%", "shuffled", "30.0", "15.0", "22.5"],
        ["reader", "30%", "grounded gain", "+60.0", "+30.0", "+45.0"],
    ]
    assert [line[0] for line in lines[3:]] == ["both"] * 3 + ["chance"]


def test_without_shuffled_images_there_is_no_grounding(comparison):
    assert not grounding_table(comparison).rows
    assert "shuffled" not in cells(benchmarks_table(comparison))["mmssr"]


def test_controls_stand_apart_without_the_right_image_too():
    found = made_up(3)
    asked = {name: dict.fromkeys((b.name for b in found.suite), 0.3) for name in ("shuffled", "grounded")}
    found = replace(found, arms=tuple(replace(arm, **asked) for arm in found.arms))
    rows = [(row.cells[0].text, row.group) for row in grounding_table(found).rows if row.group != "levels"]
    assert rows[::3] == [("mmssr", "arms"), ("full", "controls"), ("random", "controls")] and len(rows) == 9


def test_a_gain_is_turned_round_where_lower_is_better(tmp_path):
    errors = toy_suite(bench("t1", "One", "ocr", direction="lower"), bench("t2", "Two", "ocr"))
    comparison = _with_shuffled(tmp_path, errors)
    assert comparison.arm("reader").grounded == pytest.approx({"t1": -0.6, "t2": 0.3})
    rows = grounding_table(comparison).rows
    assert [cell.text for cell in rows[0].cells][3:5] == ["90.0", "45.0"]
    assert [cell.text for cell in rows[2].cells][3:] == ["-60.0", "+30.0", "-15.0"]


def test_lengths_stand_beside_those_of_the_baseline():
    found = made_up(3)
    row = cells(subsets_table(found, context(found)))["mmssr"]
    assert row["samples"] == "360" and row["text tokens"] == "9,400" and row["x baseline"] == "1.01"
    assert "repeat a question" not in row
    shares = cells(overlap_table(context(found)))["mmssr"]
    assert shares["random"] == f"{100 * context(found).overlap['mmssr', 'random']:.1f} %"
    assert shares["mmssr"] == "–"


def test_a_mix_has_the_pool_beside_it():
    found = context(made_up(3))
    table = mix_table(found)
    assert [column.title for column in table.columns] == ["kind", "name", "random", "mmssr", "pool"]
    rows = {
        (row.cells[0].text, row.cells[1].text): [cell.text for cell in row.cells[2:]] for row in table.rows
    }
    assert rows["source", "caption | web"] == ["40.0 %"] * 3
    assert sum(kind == "capability x style" for kind, _ in rows) == 24


# ------------------------------------------------------------------------------------------- marks


def ranked(*verdicts: str, baseline_mean: float = 50.0) -> Comparison:
    """Arms a, b, ... with falling means and these verdicts (`+` beats, `-` loses to, `0`, `?` no verdict)."""
    found = made_up(2 + len(verdicts))
    base = replace(found.arm("random"), mean=replace(found.arm("random").mean, mean=baseline_mean))
    words = {"+": ("beats", 2.0), "-": ("loses to", -2.0), "0": ("undecided", 0.1), "?": (None, 2.0)}
    tested = [
        replace(
            arm,
            mean=replace(arm.mean, mean=60.0 - k),
            claim=replace(arm.claim, verdict=words[verdict][0]),
            difference=difference(words[verdict][1], 0.3),
        )
        for k, (arm, verdict) in enumerate(zip(found.arms[2:], verdicts, strict=True))
    ]
    return replace(found, arms=(found.arms[0], base, *tested))


@pytest.mark.parametrize(
    ("verdicts", "marked"),
    [
        ("++0", ["best", "second", ""]),
        ("+0+", ["best", "", ""]),
        ("0++", ["", "", ""]),
        ("???", ["", "", ""]),
        ("---", ["", "", ""]),
    ],
)
def test_best_is_marked_only_where_a_claim_stands_behind_it(verdicts, marked):
    found = ranked(*verdicts)
    names = [arm.arm for arm in found.arms[2:]]
    assert [marks(found).get(name, "") for name in names] == marked
    assert "full" not in marks(found), "the reference arm is not a competitor"
    rows = {row.cells[0].text: row for row in results_table(found).rows}
    assert [rows[name].cells[3].mark for name in names] == marked


def test_a_baseline_that_all_lose_to_is_the_best():
    assert marks(ranked("-", "-", baseline_mean=70.0)) == {"random": "best"}
    assert marks(ranked("-", "0", baseline_mean=70.0)) == {}


def test_a_benchmark_is_marked_by_its_own_interval():
    found = ranked("+", "0")
    one = found.suite.benchmarks[0]
    arms = [
        replace(
            arm,
            benchmarks=arm.benchmarks | {one.name: replace(arm.benchmarks[one.name], mean=0.9 - 0.1 * k)},
            benchmark_differences={one.name: difference(3.0, 0.2)},
        )
        for k, arm in enumerate(found.arms)
        if arm.baseline
    ]
    assert marks(replace(found, arms=(*found.arms[:2], *arms)), one) == {
        arms[0].arm: "best",
        arms[1].arm: "second",
    }
    wide = [replace(arm, benchmark_differences={one.name: difference(3.0, 2.0)}) for arm in arms]
    assert marks(replace(found, arms=(*found.arms[:2], *wide)), one) == {}


# ------------------------------------------------------------------------------------------- many arms


def test_of_many_arms_the_ends_are_shown_and_csv_has_all():
    found = made_up(200)
    kept = shown_arms(found)
    assert kept is not None and len(kept) == 22 and {"random", "full"} <= kept
    values = sorted(arm.difference.value for arm in found.arms if arm.difference)
    shown = [arm.difference.value for arm in found.arms if arm.difference and arm.arm in kept]
    assert sorted(shown) == values[:10] + values[-10:]
    table = results_table(found)
    assert len(shortened(table, kept).rows) == 22 and len(csv_rows(table)) == 200
    assert shown_arms(made_up(MAX_SHOWN)) is None


def test_all_tables_have_their_own_names_and_columns():
    found = made_up(6, pools=3)
    tables = all_tables(found, context(found))
    names = [table.name for table in tables]
    assert names == [
        "results", "benchmarks", "differences", "robustness", "power", "costs", "pools", "subsets", "overlap",
        "mix",
    ]  # fmt: skip
    for table in tables:
        columns = [name for column in table.columns for name in column.names]
        assert len(set(columns)) == len(columns), f"{table.name}: two columns of one name in CSV"
        assert len(csv_rows(table)) == len(table.rows)


# ------------------------------------------------------------------------------------------- the model


def test_csv_is_exact_and_has_no_markup():
    columns = (Column("arm", ("arm",), foreign=True), Column("d [95 %]", ("d", "low")))
    rows = (
        Row((text_cell('a,"b"\n<c> & *d*'), Cell("+0.1 [..]", (0.1 + 0.2, math.nan), "best"))),
        Row((text_cell("=cmd()"), Cell("–", (None, -1e-9))), "controls"),
    )
    text = as_csv(Table("t", "T", columns, rows))
    assert list(csv.reader(io.StringIO(text))) == [
        ["group", "arm", "d", "low"],
        ["under test", 'a,"b"\\n<c> & *d*', repr(0.1 + 0.2), ""],
        ["controls", "'=cmd()", "", "-1e-09"],
    ]
    assert "\r" not in text and text.endswith("\n")


def test_markdown_of_a_table_holds_no_foreign_markup_and_marks_the_best():
    columns = (Column("a<b>", ("a",), left=True, foreign=True), Column("d", ("d",)))
    rows = (
        Row((text_cell("x|*y* <i>"), Cell("1", (1,), "best"))),
        Row((text_cell("z"), Cell("0", (0,), "second"))),
        Row((text_cell("r"), Cell("–", (None,))), "controls"),
    )
    assert as_markdown(Table("t", "T", columns, rows)).splitlines() == [
        "| a&lt;b&gt; | d |",
        "| :-- | --: |",
        r"| x\|\*y\* &lt;i&gt; | **1** |",
        "| z | *0* |",
        "| *controls* |  |",
        "| r | – |",
    ]


def test_a_table_of_uneven_rows_is_refused():
    column = Column("a", ("a", "b"))
    with pytest.raises(ValueError, match="table t: a row of 2 cells, it needs 1"):
        Table("t", "T", (column,), (Row((text_cell("x"), text_cell("y"))),))
    with pytest.raises(ValueError, match="table t, column a: 1 values in a cell"):
        Table("t", "T", (column,), (Row((text_cell("x"),)),))


def test_markdown_escapes_pipes_and_checks_widths():
    assert markdown(["a", "b"], [["x|y", 1]]).splitlines()[2] == "| x\\|y | 1 |"
    with pytest.raises(ValueError, match="needs 2 cells"):
        markdown(["a", "b"], [["x"]])
    assert (
        markdown(["a", "b", "c"], [["x", "y", "z"]]) == "| a | b | c |\n| :-- | --: | --: |\n| x | y | z |\n"
    )


def test_what_is_not_known_is_a_dash():
    assert number_cell(math.nan, str).text == number_cell(None, str).text == "–"
    assert number_cell(0.0, str).text == "0.0"
