"""`python -m recipes.reproduce`: published tables re-derived, a run beside them, and refused input."""

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from processes import REPOSITORY, environment

from recipes import published
from recipes.errors import RecipeError
from recipes.published import Claims, load_table, names, re_derive
from recipes.published_run import NOT_RUN, OUTSIDE, WITHIN, compare, read_run, unmatched
from recipes.reproduce import main

SCORES = [name for name in names() if load_table(name).rows]
TABLE = load_table("mmssr_main")
STD = 0.01
"""Standard deviation over seeds of every fabricated score, as a fraction of its scale."""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with copies of all shipped tables, in place of them."""
    folder = tmp_path / "reference"
    shutil.copytree(published.REFERENCE, folder)
    monkeypatch.setattr(published, "REFERENCE", folder)
    return folder


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


# ----------------------------------------------------------------------------------------- re-deriving


@pytest.mark.parametrize("name", names())
def test_every_shipped_table_loads_and_re_derives(name, capsys):
    assert main([name]) == 0
    out = capsys.readouterr().out
    assert "not run" in out and f"arXiv {load_table(name).about.arxiv}" in out


def test_all_means_and_counts_of_mmssr_come_out(capsys):
    main(["mmssr_main"])
    assert "28 of 28 /FULL and 24 of 24 >Rand come out" in capsys.readouterr().out
    derived = re_derive(TABLE)
    assert len(derived) == 28 and sum(one.row.above is not None for one in derived) == 24
    # By hand: the ten ratios of the row mmssr at 5 %, MME as its own.
    ours = [77.79, 53.33, 43.27, 43.53, 51.83, 59.16, 1938.68, 77.66, 88.45, 52.00]
    full = [80.57, 59.40, 45.16, 47.16, 56.87, 60.73, 2117.56, 81.87, 92.76, 59.60]
    by_hand = 100 * sum(a / b for a, b in zip(ours, full, strict=True)) / 10
    row = next(one for one in derived if (one.row.budget, one.row.method) == (5, "mmssr"))
    assert row.relative == pytest.approx(by_hand) and row.above == 8


def test_means_of_icons_come_out_with_its_own_digits(capsys):
    main(["icons_20pct_llava665k"])
    out = capsys.readouterr().out
    assert "11 of 11 Rel come out" in out and ">Rand" not in out and "| 98.6 " in out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",8,93.20", ",8,93.22", "27 of 28 /FULL and 24 of 24 >Rand"),
        (",8,93.20", ",7,93.20", "28 of 28 /FULL and 23 of 24 >Rand"),
        ("5,mmssr,77.79", "5,mmssr,73.70", "27 of 28 /FULL and 23 of 24 >Rand"),
    ],
)
def test_a_doctored_figure_does_not_come_out(own, capsys, old, new, said):
    replace(own / "mmssr_main.csv", old, new)
    assert main(["mmssr_main"]) == 1
    out = capsys.readouterr().out
    assert said in out and out.count("DOES NOT COME OUT") == 1


def test_claims_alone_say_that_nothing_can_be_re_derived(capsys):
    assert isinstance(load_table("mllm_selector").about, Claims)
    main(["mllm_selector"])
    out = capsys.readouterr().out
    assert "25.36" in out and "nothing can be re-derived" in out


def test_labels_of_instructiongpt4_are_all_thirty():
    labels = [
        float(claim.value)
        for claim in load_table("instructiongpt4").claims
        if claim.name.startswith("subset_")
    ]
    assert len(labels) == 30 and (min(labels), max(labels)) == (29.51, 31.69)


# ---------------------------------------------------------------------------------------- refused input


def other_rows(own: Path) -> str:
    """A row of ICONS with as many cells as the table of mmSSR has."""
    line = (own / "icons_20pct_llava665k.csv").read_text().splitlines()[-1].split(",")
    return ",".join([*line[:-1], "4", line[-1]]) + "\n"


def test_a_row_of_another_paper_is_refused(own, capsys):
    with (own / "mmssr_main.csv").open("a") as file:
        file.write(other_rows(own).replace("1485.7", "63.1"))
    assert main(["mmssr_main"]) == 2
    error = capsys.readouterr().err
    assert "mmssr_main.csv:30" in error and "not of the table of arXiv 2503.13383" in error
    assert "rows of different papers are never mixed" in error


def test_a_second_row_of_a_method_is_refused(own, capsys):
    lines = (own / "mmssr_main.csv").read_text().splitlines()
    (own / "mmssr_main.csv").write_text("\n".join([*lines, lines[-1]]) + "\n")
    assert main(["mmssr_main"]) == 2
    assert "the row mmssr at 30 % is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "5,random,73.74",
            "5,random,7x.74",
            "mmssr_main.csv:3: MMBv11: '7x.74' must be a number from 0 to 100",
        ),
        ("5,random,73.74", "5,random,173.74", "must be a number from 0 to 100"),
        ("5,random,73.74", "5,random", "mmssr_main.csv:3: 13 cells under a header of 14"),
        (",8,93.20", ",8.5,93.20", "gt_rand: 8.5 must be a whole number"),
        ("100,full,80.57", "100,full,0", "the full-data score is 0"),
        (
            "budget,method,MMBv11,MMStar",
            "budget,method,MMStar,MMBv11",
            "the header must be budget,method,MMBv11",
        ),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(own, capsys, old, new, said):
    replace(own / "mmssr_main.csv", old, new)
    assert main(["mmssr_main"]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_row_or_file_is_refused(own, capsys):
    file = own / "mmssr_main.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert main(["mmssr_main"]) == 2
    assert "the row mmssr at 30 % is missing" in capsys.readouterr().err
    file.unlink()
    assert main(["mmssr_main"]) == 2
    assert "mmssr_main.csv: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: scores", "kind: score", "kind: must be scores or claims, got 'score'"),
        ("suite: mmssr10", "suit: mmssr10", "suit: unknown key; did you mean `suite`?"),
        ("random: random", "random: randm", "methods: randm is missing; did you mean `random`?"),
        ("{selector: deita}", "{}", "give either `selector` or"),
    ],
)
def test_a_wrong_description_is_refused_with_its_line(own, capsys, old, new, said):
    replace(
        own / "mmssr_main.yaml",
        f" {old}" if old.startswith("{") else f"\n{old}",
        f" {new}" if new == "{}" else f"\n{new}",
    )
    assert main(["mmssr_main"]) == 2
    error = capsys.readouterr().err
    assert said in error and "mmssr_main.yaml:" in error


def test_a_table_of_ones_own_is_given_by_path(tmp_path, capsys):
    for ending in ("yaml", "csv"):
        shutil.copy(published.REFERENCE / f"presel_15pct_llava665k.{ending}", tmp_path / f"mine.{ending}")
    assert main([str(tmp_path / "mine.yaml")]) == 0
    assert "3 of 3 Rel come out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mmsr_main"], "unknown table `mmsr_main`; did you mean `mmssr_main`?"),
        (["zzz"], "known are: icons_20pct_llava665k, "),
        (["nowhere/x.yaml"], "nowhere/x.yaml"),
        ([], "give the name of one table, or --list alone"),
        (["mmssr_main", "--list"], "give the name of one table, or --list alone"),
        (["--list", "--run", "x"], "give the name of one table, or --list alone"),
        (["mmssr_main", "--run", "nowhere"], "nowhere does not exist; run a recipe first"),
        (["mmssr_main", "--out", "table.txt"], "give a name that ends in .md"),
        (["mmssr_main", "--out", "nowhere/table.md"], "nowhere/table.md cannot be written"),
    ],
)
def test_wrong_commands_are_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_two_tables_at_once_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["mmssr_main", "icons_20pct_llava665k"])
    assert stopped.value.code == 2 and "icons_20pct_llava665k" in capsys.readouterr().err


def test_the_list_names_every_table(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys, recipes.reproduce as r; r.parser().format_help();"
        "print([m for m in ('numpy', 'pyarrow', 'pydantic', 'rich') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]" and time.monotonic() - start < 5


# ------------------------------------------------------------------------------------------ a run beside


def own_scale(column) -> float:
    """The scale of a fabricated benchmark: 0..1 where the printed one is in %."""
    return 1.0 if column.scale == 100 else column.scale


def write_run(
    folder: Path, *, suite: str = "mmssr10", modified: tuple = (), limit: int | None = None
) -> Path:
    """The files of a run whose arms reach the printed scores of their rows; MMMU has 900 questions here."""
    columns = TABLE.scores.columns
    entries = [
        {"name": c.benchmark, "scale": own_scale(c), "judge": None, "deviations": ["other prompt"]}
        for c in columns.values()
    ]
    arms = {
        "full": ("all", "100%", (100, "full")),
        "random": ("random", "30%", (30, "random")),
        "best": ("mmssr", "30%", (30, "mmssr")),
        "spread": ("coincide", "30%", (30, "coincide")),
        "few": ("mmssr", "200", (5, "mmssr")),
    }
    comparison = {
        "suite": {"name": suite, "benchmarks": entries},
        "protocol": {"suite": suite, "limit": limit},
        "full_arm": "full",
        "n": {c.benchmark: 900 if name == "MMMU" else c.n for name, c in columns.items()},
        "arms": [_result(name, *row) for name, (_, _, row) in arms.items()],
    }
    recipe = {name: {"selector": selector, "budget": budget} for name, (selector, budget, _) in arms.items()}
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(comparison))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"arms": recipe}))
    (folder / "lineage.json").write_text(json.dumps({"scale": "llava", "modified": list(modified)}))
    return folder


def _result(name: str, budget: float, method: str) -> dict:
    """An arm whose means are the printed scores in our scales."""
    columns, row = TABLE.scores.columns, TABLE.row(budget, method)
    return {
        "arm": name,
        "units": 4,
        "full_std": 0.5,
        "above": row.above,
        "benchmarks": {
            c.benchmark: {"mean": row.scores[n] / c.scale * own_scale(c), "std": STD * own_scale(c)}
            for n, c in columns.items()
        },
    }


def change(folder: Path, file: str, edit) -> None:
    content = yaml.safe_load((folder / file).read_text())
    edit(content)
    (folder / file).write_text(json.dumps(content) if file.endswith("json") else yaml.safe_dump(content))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "demo")


def side(run: Path, budget: float, method: str):
    return next(s for s in compare(TABLE, read_run(run)) if (s.row.budget, s.row.method) == (budget, method))


def test_without_a_run_every_row_and_column_is_not_run():
    sides = compare(TABLE, None)
    assert len(sides) == 28 and all(len(s.cells) == 10 for s in sides)
    assert {s.verdict for s in sides} | {c.verdict for s in sides for c in s.cells} == {NOT_RUN}


def test_a_run_that_reaches_the_printed_scores_is_within_tolerance(run):
    best = side(run, 30, "mmssr")
    assert (best.arm, best.seeds, best.above, best.verdict) == ("best", 4, 10, WITHIN)
    assert best.relative == pytest.approx(99.115, abs=0.001)
    assert {cell.verdict for cell in best.cells} == {WITHIN}
    mme = next(cell for cell in best.cells if cell.column == "MME")
    assert mme.ours == pytest.approx(2132.93) and mme.share == pytest.approx(mme.published_share)


def test_the_tolerance_is_that_of_questions_and_seeds(run):
    cell = next(cell for cell in side(run, 30, "mmssr").cells if cell.column == "MMMU")
    a, f, share = 0.4487, 0.4516, 0.4487 / 0.4516
    questions = sum((a * (1 - a) + share**2 * f * (1 - f)) / n for n in (1003, 900))
    seeds = (1 + share**2) * STD**2 * (1 + 1 / 4)
    assert cell.tolerance == pytest.approx(1.96 * 100 * math.sqrt(questions + seeds) / f)


def test_one_seed_has_no_spread_and_says_so(run):
    def one_seed(content):
        for arm in content["arms"]:
            arm["units"], arm["full_std"] = 1, None
            for spread in arm["benchmarks"].values():
                spread["std"] = None

    before = side(run, 30, "mmssr")
    change(run, "comparison.json", one_seed)
    after = side(run, 30, "mmssr")
    assert after.tolerance < before.tolerance
    assert "one seed of ours: its spread is not in the tolerance" in after.differs


def test_a_score_far_from_the_printed_one_is_outside(run):
    def worse(content):
        content["arms"][2]["benchmarks"]["mmstar"]["mean"] -= 0.3

    change(run, "comparison.json", worse)
    best = side(run, 30, "mmssr")
    verdicts = {cell.column: cell.verdict for cell in best.cells}
    assert verdicts["MMStar"] == OUTSIDE and verdicts["AI2D"] == WITHIN
    assert best.verdict == OUTSIDE


def test_what_differs_is_beside_the_score(run):
    cells = {cell.column: cell.differs for cell in side(run, 30, "mmssr").cells}
    assert cells["MMMU"]["n"] == "1003, ours 900" and "n" not in cells["MMStar"]
    assert cells["AI2D"]["scale"] == "100, ours 1 (converted)" and "scale" not in cells["MME"]
    assert cells["MMVet"]["judge"] == "not stated, ours rules"
    assert cells["MMVet"]["prompt"].endswith(", ours other prompt")


def test_a_row_without_an_arm_is_not_run_and_one_without_a_selector_is_not_comparable(run):
    assert side(run, 10, "mmssr").verdict == NOT_RUN
    assert side(run, 30, "e5-v").verdict == "not comparable: no selector here ranks by E5-V embeddings"
    full = side(run, 100, "full")
    assert full.verdict == "not comparable: what both sides are divided by"
    assert {cell.verdict for cell in full.cells} == {full.verdict}
    assert unmatched(TABLE, read_run(run)) == ["few"]


def test_two_arms_of_one_row_are_not_comparable(run):
    change(run, "recipe.yaml", lambda content: content["arms"]["few"].update(budget="30%"))
    assert side(run, 30, "mmssr").verdict == "not comparable: best and few are both this row"


def test_oracle_scores_are_not_the_published_method(run):
    change(run, "recipe.yaml", lambda content: content["arms"]["best"].update(signals="oracle"))
    assert side(run, 30, "mmssr").verdict == NOT_RUN
    assert "best" in unmatched(TABLE, read_run(run))


def test_parameters_of_an_arm_are_said(run):
    change(run, "recipe.yaml", lambda content: content["arms"]["best"].update(params={"bins": "source"}))
    assert "ours sets bins=source" in side(run, 30, "mmssr").differs


def test_a_benchmark_that_the_suite_lacks_is_not_comparable(run):
    change(run, "comparison.json", lambda content: content["suite"]["benchmarks"].pop(1))
    best = side(run, 30, "mmssr")
    assert best.verdict == "not comparable: MMStar cannot be compared" and best.relative is None
    cells = {cell.column: cell.verdict for cell in best.cells}
    assert cells["MMStar"] == "not comparable: suite mmssr10 has no MMStar" and cells["AI2D"] == WITHIN


def test_another_sum_of_points_is_not_comparable(run):
    """MME's perception part (2000) against the sum of both parts (2800) is no other way of writing it."""

    def perception(content):
        next(e for e in content["suite"]["benchmarks"] if e["name"] == "mme").update(scale=2000)

    change(run, "comparison.json", perception)
    best = side(run, 30, "mmssr")
    assert best.verdict == "not comparable: MME cannot be compared"
    assert next(c for c in best.cells if c.column == "MME").verdict == "not comparable: scale 2800, ours 2000"


@pytest.mark.parametrize("name", SCORES)
def test_every_column_is_a_benchmark_of_the_suite_that_the_table_names(name):
    from evaluation.suite import load_suite

    about = load_table(name).scores
    named = {column.benchmark for column in about.columns.values()}
    assert named == {None} if about.suite is None else named == {b.name for b in load_suite(about.suite)}


def test_a_full_score_of_zero_is_not_comparable(run):
    def zero(content):
        content["arms"][0]["benchmarks"]["ai2d"]["mean"] = 0.0

    change(run, "comparison.json", zero)
    cells = {cell.column: cell.verdict for cell in side(run, 30, "mmssr").cells}
    assert cells["AI2D"] == "not comparable: our full-data score is 0"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"suite": "mini"},
            "not comparable: suite mini; this table's editions of the benchmarks are in suite",
        ),
        ({"modified": ("train.lr",)}, "not comparable: protocol: modified (train.lr)"),
        ({"limit": 10}, "not comparable: only the first 10 questions of each benchmark were asked"),
    ],
)
def test_another_suite_or_protocol_is_said_in_one_sentence(tmp_path, capsys, changed, said):
    folder = write_run(tmp_path / "other", **changed)
    assert main(["mmssr_main", "--run", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "not comparable" in line] == [out[-1]] and said in out[-1]
    assert all(s.verdict.startswith("not comparable") for s in compare(TABLE, read_run(folder)))


def test_shipped_results_of_the_mini_world_are_not_comparable(capsys):
    assert main(["mmssr_main", "--run", str(REPOSITORY / "recipes/results/mmssr_30pct")]) == 0
    assert "not comparable: suite mini" in capsys.readouterr().out


def test_a_run_without_a_full_arm_or_recipe_is_not_comparable(run):
    (run / "recipe.yaml").unlink()
    assert "has no recipe.yaml" in side(run, 30, "mmssr").verdict
    change(run, "comparison.json", lambda content: content.update(full_arm=None))
    assert side(run, 30, "mmssr").verdict.startswith("not comparable: no arm on the full data")


def test_claims_have_no_row_to_put_a_run_beside(run, capsys):
    assert main(["mllm_selector", "--run", str(run)]) == 0
    assert "not comparable: no row of scores of this paper is known" in capsys.readouterr().out


def test_damaged_run_directories_are_refused(run):
    (run / "lineage.json").write_text("{}")
    with pytest.raises(RecipeError, match="not the files of a finished run"):
        read_run(run)
    (run / "comparison.json").write_text("{")
    with pytest.raises(RecipeError, match=r"comparison\.json cannot be read"):
        read_run(run)
    (run / "comparison.json").unlink()
    with pytest.raises(RecipeError, match="run the recipe to its report first"):
        read_run(run)


def test_terminal_and_markdown_show_the_same_verdicts(run, tmp_path, capsys):
    file = tmp_path / "table.md"
    assert main(["mmssr_main", "--run", str(run), "--out", str(file)]) == 0
    out, text = capsys.readouterr().out, file.read_text()
    for said in (
        "28 rows: ",
        "3 within tolerance",
        "arms beside no printed row: few",
        "Absolute scores",
        "Tolerance: ",
    ):
        assert said in out and said in text
    assert text.startswith("## mmssr_main: ") and "### mmssr at 30 % beside best" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum(WITHIN in line for line in tables) == 3 + 30


def test_no_figure_stands_in_two_papers_tables_of_one_run(run):
    """A run beside one table says nothing about another: the suites differ."""
    other = compare(load_table("icons_20pct_llava665k"), read_run(run))
    assert {s.verdict.partition(";")[0] for s in other} == {"not comparable: suite mmssr10"}
