"""Sweeps: the cells of a file, sharing of stages, failed cells, merging, table and plot."""

import json
import os
import re
import shutil
import zlib

import dummy_stages.compare
import pyarrow.parquet as pq
import pytest
import yaml
from dummy_stages.body import run as dummy_run
from evaluation_data import TOY
from experiments import experiment
from PIL import Image
from processes import REPOSITORY

from evaluation.aggregate import compare as compared
from evaluation.experiment import FILES, Experiment
from recipes.errors import RecipeError
from recipes.report import main as report
from recipes.sweep import main
from recipes.sweep_file import load_sweep

ABLATIONS = sorted((REPOSITORY / "recipes" / "ablations").glob("*.yaml"))
SWEEP = """\
name: tries
description: two keys
recipe: demo.yaml
axes:
  teacher.share: [0.05, 0.2]
  pool.defects.blind: [0, 0.05, 0.2]
cells:
  quiet: {teacher.noise: 0, pool.defects.blind: 0}
"""
CELLS = ["default", "share-0.2", "blind-0", "blind-0.2", "quiet"]


def of_cell(name: str) -> Experiment:
    """What the comparison of a cell is computed from: other answers in each."""
    names = ["mmssr", "random", "full"]
    return experiment(names=names, suite=TOY, seeds=2, seed=zlib.crc32(name.encode()))


def compare(config, inputs, out, progress):
    """The dummy stage with an experiment's files."""
    assert list(dict.fromkeys(run["arm"] for run in config["runs"])) == ["mmssr", "random", "full"]
    of_cell(config["name"]).write(out)
    return dummy_run(config, inputs, out, progress)


@pytest.fixture
def sweep(project, monkeypatch):
    """The run directory of tries.yaml beside demo.yaml, with a compare stage that writes comparison.json."""
    monkeypatch.setattr(dummy_stages.compare, "run", compare)
    (project / "tries.yaml").write_text(SWEEP)
    return project / "runs" / "tries"


def run(*arguments):
    return main(["tries.yaml", *arguments], package="dummy_stages")


def rows(place):
    return pq.read_table(place / "sweep.parquet").to_pylist()


def test_one_at_a_time_has_one_default_cell_and_one_for_each_other_value(sweep):
    found = load_sweep("tries.yaml")
    assert [cell.name for cell in found.cells] == CELLS
    assert [cell.loaded.recipe.name for cell in found.cells] == [f"tries/{name}" for name in CELLS]
    high = found.cell("blind-0.2").loaded.recipe
    assert (high.pool.defects.blind, high.teacher.share, high.teacher.noise) == (0.2, 0.05, 0.2)
    quiet = found.cell("quiet").loaded
    assert (quiet.recipe.teacher.noise, quiet.recipe.pool.defects.blind) == (0, 0)
    assert quiet.modified == ("pool.defects.blind", "teacher.noise")
    assert found.axes == {
        "teacher.share": [(0.05, "default"), (0.2, "share-0.2")],
        "pool.defects.blind": [(0, "blind-0"), (0.05, "default"), (0.2, "blind-0.2")],
    }


def test_an_axis_includes_the_recipes_own_value(sweep, project):
    (project / "tries.yaml").write_text(SWEEP.replace("[0, 0.05, 0.2]", "[0.2, 0]"))
    assert load_sweep("tries.yaml").axes["pool.defects.blind"] == [
        (0, "blind-0"),
        (0.05, "default"),
        (0.2, "blind-0.2"),
    ]


def test_grid_has_all_combinations_and_a_default_only_if_it_is_one_of_them(sweep, project):
    (project / "tries.yaml").write_text(SWEEP.partition("cells:")[0] + "mode: grid\n")
    found = load_sweep("tries.yaml")
    combined = ["default", "blind-0", "blind-0.2", "share-0.2_blind-0", "share-0.2", "share-0.2_blind-0.2"]
    assert [cell.name for cell in found.cells] == combined
    without = load_sweep("tries.yaml", ["teacher.share=0.5"])
    assert len(without.cells) == 6 and "default" not in {c.name for c in without.cells}
    assert without.axes["pool.defects.blind"] == [
        (0, "share-0.05_blind-0"),
        (0.05, "share-0.05"),
        (0.2, "share-0.05_blind-0.2"),
    ]


def test_a_recipe_in_the_file_may_extend_another(sweep, project):
    written = yaml.safe_load(SWEEP) | {"recipe": {"extends": "demo.yaml", "arms": {"random": {"seeds": 1}}}}
    (project / "tries.yaml").write_text(yaml.safe_dump(written))
    recipe = load_sweep("tries.yaml").cells[0].loaded.recipe
    assert recipe.arms["random"].seeds == 1 and recipe.arms["mmssr"].seeds == 2 and recipe.pool.size == 600


def test_overrides_change_all_cells_and_name_moves_the_sweep(sweep):
    found = load_sweep("tries.yaml", ["pool.size=50", "name=other"])
    assert {cell.loaded.recipe.pool.size for cell in found.cells} == {50}
    assert found.name == "other" and found.cells[0].loaded.recipe.name == "other/default"


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            ("pool.defects.blind:", "pool.defects.blnd:"),
            ["tries.yaml:6", "pool.defects.blnd", "did you mean `blind`"],
        ),
        (("[0.05, 0.2]", "[0.05, 2]"), ["tries.yaml:5", "teacher.share", "got 2"]),
        (("axes:", "axis:"), ["tries.yaml:4", "axis", "did you mean `axes`"]),
        (("recipe: demo.yaml", "recipe: dmo.yaml"), ["recipe file dmo.yaml does not exist in"]),
        (("[0, 0.05, 0.2]", "[0, 0]"), ["two cells would have the name `blind-0`"]),
    ],
)
def test_an_invalid_sweep_is_refused_before_anything_runs(sweep, project, executed, capsys, change, messages):
    (project / "tries.yaml").write_text(SWEEP.replace(*change))
    assert run() == 2 and executed() == []
    error = capsys.readouterr().err
    for message in messages:
        assert message in error


def test_an_unknown_cell_is_refused(sweep, capsys):
    assert run("--cell", "blind-0.3") == 2
    assert "did you mean `blind-0.2`" in capsys.readouterr().err
    assert run("--only", "x*") == 2


def test_a_dry_run_counts_shared_stages_once_and_writes_nothing(sweep, project, executed, capsys):
    before = sorted(project.rglob("*"))
    assert run("--dry-run") == 0
    assert executed() == [] and sorted(project.rglob("*")) == before
    cells = {
        line.split("│")[1].strip(): [int(c) for c in line.split("│")[2:5]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    }
    assert list(cells) == CELLS
    assert cells["default"] == [32, 0, 0]
    assert cells["share-0.2"][2] > 10  # bench, pool, random and full are those of `default`
    assert cells["blind-0"][2] == 1  # only the benchmarks


@pytest.mark.slow
def test_cells_share_the_store_and_a_second_run_is_cached(sweep, executed):
    assert run() == 0
    kinds = [entry.partition("/")[0] for entry in executed()]
    assert kinds.count("bench") == 1 and kinds.count("source") == 3 and kinds.count("compare") == 5
    shown = {f"sweep.{kind}" for kind in ("json", "md", "parquet", "pdf", "png", "svg")}
    assert {p.name for p in sweep.iterdir()} == {*CELLS, *shown}
    assert (sweep / "quiet" / "recipe.yaml").is_file()
    first = {p.name: p.read_bytes() for p in sweep.iterdir() if p.is_file()}
    done = executed()
    assert run() == 0 and executed() == done
    assert {p.name: p.read_bytes() for p in sweep.iterdir() if p.is_file()} == first


def test_a_cells_resolved_recipe_can_be_run(sweep, executed):
    from recipes.run import main as run_recipe

    assert run() == 0
    done = executed()
    assert run_recipe([str(sweep / "blind-0.2" / "recipe.yaml")], package="dummy_stages") == 0
    assert executed() == done


def test_rows_and_table_contain_every_cell_arm_and_benchmark(sweep):
    assert run() == 0
    table = rows(sweep)
    assert len(table) == 5 * 3 * 3
    row = next(r for r in table if (r["cell"], r["arm"], r["benchmark"]) == ("blind-0.2", "mmssr", "mean"))
    ours = compared(of_cell("tries/blind-0.2"), others=4).arm("mmssr")
    assert json.loads(row["settings"]) == {"pool.defects.blind": 0.2} and row["baseline"] == "random"
    assert (row["score"], row["std"], row["verdict"]) == (ours.mean.mean, ours.mean.std, ours.claim.verdict)
    bounds = [row[name] for name in ("difference", "low", "high", "corrected_low", "corrected_high")]
    d = ours.difference
    assert bounds == [d.value, d.low, d.high, d.corrected_low, d.corrected_high]
    reading = next(r for r in table if (r["cell"], r["arm"], r["benchmark"]) == ("quiet", "mmssr", "t2"))
    quiet = compared(of_cell("tries/quiet")).arm("mmssr")
    assert reading["score"] == pytest.approx(100 * quiet.benchmarks["t2"].mean)
    assert reading["difference"] == quiet.benchmark_differences["t2"].value
    text = (sweep / "sweep.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| blind-0.2 | mmssr | "))
    assert f"| {d.value:+.1f} [{d.corrected_low:+.1f}, {d.corrected_high:+.1f}] | undecided on this" in line
    full = next(line for line in text.splitlines() if line.startswith("| quiet | full | "))
    gap = compared(of_cell("tries/quiet")).arm("full").difference.value
    assert f"| 25.0 | 30.0 | {gap:+.1f} | – |" in full, "of all data nothing is claimed"
    assert "`pool.defects.blind`: 0, 0.05, 0.2" in text and "Not done" not in text
    width, height = Image.open(sweep / "sweep.png").size
    assert width > 900 and height > 300


def test_intervals_hold_for_all_cells_at_once(sweep):
    """One difference in each of five cells: a wider interval than in the cell's own report, one family."""
    assert run() == 0
    assert "all 5 differences of this sweep" in (sweep / "sweep.md").read_text()
    for cell in CELLS:
        alone = compared(of_cell(f"tries/{cell}")).arm("mmssr").difference
        [row] = [r for r in rows(sweep) if (r["cell"], r["arm"], r["benchmark"]) == (cell, "mmssr", "mean")]
        assert row["low"] == alone.low == pytest.approx(alone.corrected_low)
        assert row["corrected_low"] < alone.corrected_low


def test_a_sweep_is_shown_again_from_its_files_alone(sweep, project, capsys):
    assert run("--only", "blind*") == 0
    capsys.readouterr()
    moved = project / "elsewhere"
    for name in ("sweep.json", *(f"{cell}/{file}" for cell in ("blind-0", "blind-0.2") for file in FILES)):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sweep / name, moved / name)
    shown = {p.name: p.read_bytes() for p in sweep.iterdir() if p.stem == "sweep" and p.suffix != ".json"}
    shutil.rmtree(sweep)
    assert report([str(moved), "--out", "again"]) == 0
    assert {p.name: p.read_bytes() for p in (project / "again").iterdir()} == shown and "sweep.png" in shown
    out = capsys.readouterr().out
    assert "quiet: not run" in out and "blind-0: mmssr 10%: mean" in out and "table: again/sweep.md" in out
    assert report([str(moved), "--power"]) == 2 and "is a sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "sweep.json").write_text("{"), "sweep.json is not the file of a sweep"),
        (lambda f: (f / "sweep.json").write_text('{"format": 9}'), "has format 9.*update"),
        (lambda f: (f / "blind-0" / "scores.parquet").unlink(), "blind-0/scores.parquet cannot be read"),
    ],
)
def test_damaged_files_of_a_sweep_are_refused(sweep, damage, message, capsys):
    assert run("--only", "blind*") == 0
    capsys.readouterr()
    damage(sweep)
    assert report([str(sweep)]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_a_failed_cell_is_recorded_and_the_others_run(sweep, executed, capsys, monkeypatch):
    def fails(config, inputs, out, progress):
        if config["name"] == "tries/blind-0":
            raise RuntimeError("told to fail")
        return compare(config, inputs, out, progress)

    monkeypatch.setattr(dummy_stages.compare, "run", fails)
    assert run() == 1
    assert [entry.partition("/")[0] for entry in executed()].count("compare") == 4
    failed = [r for r in rows(sweep) if r["state"] == "failed"]
    assert [r["cell"] for r in failed] == ["blind-0"] and "told to fail" in failed[0]["error"]
    text = (sweep / "sweep.md").read_text()
    assert "| blind-0 | failed |" in text and "`blind-0`: failed: stage compare failed" in text
    assert "told to fail" in capsys.readouterr().err
    assert run("--merge") == 1

    monkeypatch.setattr(dummy_stages.compare, "run", compare)
    assert run() == 0
    assert not (sweep / "blind-0" / "failed.json").exists()
    assert {r["state"] for r in rows(sweep)} == {"done"}


def test_a_failure_of_an_earlier_recipe_is_not_reported(sweep, monkeypatch):
    monkeypatch.setenv("DUMMY_FAIL", "train")
    assert run("--cell", "default") == 1
    monkeypatch.delenv("DUMMY_FAIL")
    assert run("--merge", "train.lr=0.5") == 0
    assert {r["state"] for r in rows(sweep)} == {"not run"}
    assert not (sweep / "sweep.png").exists()


def test_single_cells_are_merged_later(sweep, executed):
    for name in ("default", "blind-0"):
        assert run("--cell", name) == 0
    assert not (sweep / "sweep.md").exists()
    done = executed()
    assert run("--merge") == 0 and executed() == done
    states = {r["cell"]: r["state"] for r in rows(sweep)}
    assert states == {
        "default": "done",
        "share-0.2": "not run",
        "blind-0": "done",
        "blind-0.2": "not run",
        "quiet": "not run",
    }


def test_only_runs_the_matching_cells(sweep):
    assert run("--only", "blind*") == 0
    states = {r["cell"]: r["state"] for r in rows(sweep)}
    assert [name for name, state in states.items() if state == "done"] == ["blind-0", "blind-0.2"]


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda f: f.stem)
def test_every_shipped_sweep_loads_and_varies_the_defaults(file):
    found = load_sweep(str(file), [f"root={os.devnull}"])
    assert found.name == file.stem and found.cells[0].name == "default" and not found.cells[0].loaded.modified
    assert all(
        "default" in [name for _, name in values] and len(values) > 1 for values in found.axes.values()
    )


def test_the_defect_sweep_sets_each_defect_to_zero_and_all_in_one_cell():
    from curation.mini.draft import Defects

    found = load_sweep("ablations/mini_defects.yaml")
    assert set(found.axes) == {f"pool.defects.{name}" for name in Defects.model_fields}
    assert all(values[0][0] == 0 for values in found.axes.values())
    assert found.cell("clean").loaded.recipe.pool.defects == Defects(**dict.fromkeys(Defects.model_fields, 0))
    with pytest.raises(RecipeError):
        found.cell("blind")
