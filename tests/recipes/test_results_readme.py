"""Figures quoted in READMEs are those of the shipped results, and of their per-question scores."""

import json

import pytest
from evaluation_data import TOY
from experiments import experiment

from evaluation.aggregate import compare
from evaluation.experiment import FILES, Experiment
from evaluation.regime import regime_verdicts
from recipes.finished import RESULTS
from recipes.results_readme import CHECKED, READMES, Quoted, Unknown, differences, filled, main, unmarked

SHIPPED = sorted(folder for folder in RESULTS.iterdir() if (folder / "experiment.json").is_file())
SENTENCE = "mmSSR is <!--= drawn method_0 difference -->{}<!--=--> points from random at 30 %.\n"
TABLE = "<!-- table: drawn method_0 -->\n{}<!-- /table -->\n"


@pytest.fixture
def results(tmp_path):
    """A folder `drawn` of shipped results."""
    made = experiment(4, seeds=3, suite=TOY)
    made.write(tmp_path / "drawn")
    content = compare(made).to_dict()
    (tmp_path / "drawn" / "comparison.json").write_text(json.dumps(content))
    return tmp_path


def test_a_figure_is_that_of_the_results(results):
    arm = compare(experiment(4, seeds=3, suite=TOY)).arm("method_0")
    d, quoted = arm.difference, Quoted(results)
    text = filled(SENTENCE.format("+99.9"), quoted)
    assert f"-->{d.value:+.1f} [{d.corrected_low:+.1f}, {d.corrected_high:+.1f}]<!--=-->" in text
    assert list(differences(text, quoted)) == [] and filled(text, quoted) == text
    [wrong] = differences(SENTENCE.format("+99.9"), quoted)
    assert "line 1" in wrong and "+99.9" in wrong and f"{d.value:+.1f}" in wrong
    said = {key: quoted.figure(f"drawn method_0 {key}") for key in ("mean", "claim", "above", "value")}
    assert said["mean"] == f"{arm.mean.mean:.1f} ± {arm.mean.std:.1f}"
    assert said["claim"] == f"{arm.claim.verdict} on this pool" and said["above"] == f"{arm.above}/2"
    assert quoted.figure("drawn method_0 without t1").startswith(f"{arm.robustness.without['t1'].value:+.1f}")
    of_benchmark = arm.benchmark_differences["t2"]
    assert quoted.figure("drawn method_0 benchmark t2").startswith(f"{of_benchmark.value:+.1f}")


def test_a_table_is_made_whole(results):
    quoted = Quoted(results)
    text = filled(TABLE.format("| old |\n"), quoted)
    assert "| old |" not in text and text.count("\n| method_0 |") == 1 and "| random |" not in text
    assert list(differences(text, quoted)) == []
    assert "| random |" in quoted.table("drawn") and len(list(differences(TABLE.format("x\n"), quoted))) == 1


def test_columns_of_a_table_can_be_chosen(results):
    rows = Quoted(results).table("drawn random method_0 | arm mean").splitlines()
    assert rows[0] == "| arm | mean |" and [row.count("|") for row in rows] == [3] * 4
    with pytest.raises(Unknown, match="no column meen"):
        Quoted(results).table("drawn | meen")


def test_gates_and_levels_are_those_of_the_regime():
    """Of the shipped regime: what `recipes.report --gates mini` prints of it."""
    quoted = Quoted()
    verdicts = regime_verdicts(quoted.comparison("mini_regime"))
    lines = quoted.table("gates mini_regime").splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == [verdict.value for verdict in verdicts]
    assert quoted.table("levels mini_regime").count("\n") == 2 + 14


@pytest.mark.parametrize(
    "key, message",
    [
        ("drawn method_9 mean", "no arm `method_9`"),
        ("drawn method_0 meen", "no figure `meen`"),
        ("drawn method_0 benchmark t9", "no difference benchmark `t9`"),
        ("drawn method_0", "is not FOLDER ARM FIGURE"),
        ("drawn method_0 mix source chat", "knows no mix of source"),
    ],
)
def test_a_mark_that_names_nothing_is_refused(results, key, message):
    with pytest.raises(Unknown, match=message):
        Quoted(results).figure(key)
    assert list(differences(f"<!--= {key} -->1<!--=-->", Quoted(results)))


@pytest.mark.parametrize(
    "text, figures",
    [
        ("mmSSR is 3 points lower (-1.8).", ["-1.8"]),
        ("26.1 % is chat, 12.8 of it blind, 70 % captions.", ["26.1 %", "12.8", "70 %"]),
        ("at 30 %, a 95 % interval; 3 seeds, 14 benchmarks, p. 4", []),
        ("`-1.8` in code, [a link](#at-12.5), arXiv 2503.13383, python 3.11.2-rc", []),
        ("<!--= a b c -->-1.8<!--=--> marked, then +2.0 not", ["+2.0"]),
        ("<!-- table: a -->\n| 1.5 |\n<!-- /table -->\n| 2.5 |", ["2.5"]),
        (f"<!-- figures: typed -->\nabout 1.7 hours\n{CHECKED}\nby 2.5", ["2.5"]),
    ],
)
def test_figures_outside_marks_are_found(text, figures):
    assert [line.split("`")[1] for line in unmarked(f"{CHECKED}\n{text}")] == figures
    plain = text.replace(CHECKED, "")
    assert list(unmarked(plain)) == [], "a file that does not say that it is checked"


def test_the_command_writes_and_checks(results, capsys):
    page = results / "README.md"
    page.write_text(CHECKED + "\n" + SENTENCE.format("+99.9") + TABLE.format(""))
    there = [str(page), "--results", str(results)]
    assert main(there) == 1 and "should be" in capsys.readouterr().out
    assert main([*there, "--write"]) == 0 and main(there) == 0
    page.write_text(page.read_text() + "\nIt wins by 12.5 points.\n")
    assert main(there) == 1 and "`12.5` is not between marks" in capsys.readouterr().out
    page.write_text("<!--= nowhere a mean -->1<!--=-->")
    assert main([*there, "--write"]) == 2 and "nowhere" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(RESULTS.parents[1])))
def test_every_figure_of_a_readme_is_that_of_the_shipped_results(readme):
    text = readme.read_text(encoding="utf-8")
    assert list(differences(text, Quoted())) == [] and list(unmarked(text)) == []


@pytest.mark.parametrize("readme", [READMES[0], READMES[2]], ids=["README.md", "recipes/results/README.md"])
def test_a_readme_with_results_has_no_other_figures(readme):
    assert CHECKED in readme.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_numbers_are_those_of_the_shipped_scores(folder):
    computed = compare(Experiment.read(folder)).to_dict()
    assert json.loads((folder / "comparison.json").read_text()) == json.loads(json.dumps(computed))
    assert sum((folder / name).stat().st_size for name in FILES) < 2_000_000
