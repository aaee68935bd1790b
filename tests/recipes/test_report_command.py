"""`python -m recipes.report`: the origin of results, whether they are current, and the exit status."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from evaluation_data import TOY
from experiments import experiment
from processes import REPOSITORY, environment

from curation.mini.captions import GATES
from evaluation.statistics.power import smallest_effect
from recipes import external, finished, report, rundir, store
from recipes.graph import Plan, store_path
from recipes.load import load
from recipes.plan import make_plan
from recipes.power import mean_components

SPREAD = {"full": (60.0, 1.0, 3), "random_30": (50.0, 1.0, 5), "random_10": (40.0, 1.0, 5)}


def comparison(**means: float) -> dict:
    """The content of comparison.json; all gates of the regime pass unless other `means` (in %) are given."""
    arms = [
        {
            "arm": name,
            "budget": "30%",
            "units": n,
            "mean": {"mean": means.get(name, mean), "std": std},
            "difference": None,
            "baseline": None,
            "benchmarks": {"t": {"mean": 0.6, "std": 0.01}},
            "shuffled": {"t": 0.2},
            "grounded": {"t": 0.41},
            "grounded_mean": {"mean": 41.0, "std": None},
        }
        for name, (mean, std, n) in SPREAD.items()
    ]
    suite = {"benchmarks": [{"name": "t", "label": "Reading", "scale": 1.0, "direction": "higher"}]}
    return {
        "suite": suite,
        "arms": arms,
        "chance": {"t": 0.1},
        "blind": {"t": 0.3},
        "n": {"t": 300},
        "baseline": "random_30",
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, a base whose committed values pass every gate, and no shipped results."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (base / name).write_text("{}")
    commit(base, {})
    monkeypatch.setitem(external.BUILTIN, "builtin:mini", base)
    monkeypatch.setattr(finished, "RESULTS", tmp_path / "recipes" / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commit(base: Path, values: dict[str, float]) -> None:
    """Write gates.json with these values, and 0.95 for the other gates."""
    (base / "gates.json").write_text(
        json.dumps({gate: {"value": values.get(gate, 0.95), "n": 300} for gate in GATES})
    )


def planned() -> Plan:
    return make_plan(load(str(REPOSITORY / "recipes" / "mini_regime.yaml")))


def finish(root: Path, content: dict) -> None:
    """Write the comparison as a finished run does: into the store and into runs/, with its lineage."""
    plan = planned()
    last = plan.nodes[-1]
    place = store_path(root, last.kind, last.hash)
    place.mkdir(parents=True)
    (place / "comparison.json").write_text(json.dumps(content))
    store.finish(place, last.hash, {"seconds": 1.0, "summary": {}})
    write_results(root / "runs" / "mini_regime", content)


def write_results(folder: Path, content: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps(content))
    write_lineage(folder)


def write_lineage(folder: Path) -> None:
    store.write_json(folder / "lineage.json", {"stages": rundir.stages_of(planned())})


def gates(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit status, output, errors) of `--gates mini` with the committed values of the base."""
    capsys.readouterr()
    status = report.main(["--gates", "mini", "--items", "0", *arguments])
    return status, *capsys.readouterr()


def rows(out: str) -> dict[str, list[str]]:
    """The cells of every table row, by the first cell."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")
    ]
    return {cells[0]: cells[1:] for cells in lines}


def test_all_gates_of_a_finished_run_pass(here, capsys):
    finish(here, comparison())
    status, out, errors = gates(capsys)
    assert (status, errors) == (0, "") and "12 of 12 gates passed" in out
    assert "STALE" not in out and "FAIL" not in out
    assert rows(out)["full above random_30"][:4] == [
        "+0.1000 (13.69 errors of 0.0073)",
        "> 3 standard errors",
        "3 and 5 seeds",
        "pass",
    ]
    assert rows(out)["four_objects"] == ["0.950", ">= 0.60", "300", "pass", "committed 0.950 (n 300)"]
    assert rows(out)["Reading"] == ["60.0", "30.0", "20.0", "41.0", "10.0", "300"]


def test_a_failed_gate_decides_the_exit_status(here, capsys):
    finish(here, comparison(random_30=59.5))
    status, out, _ = gates(capsys)
    assert status == 1 and rows(out)["full above random_30"][3] == "FAIL"
    assert "11 of 12 gates passed; failed: full above random_30" in out


def test_a_failed_gate_of_the_base_decides_the_exit_status(here, capsys):
    finish(here, comparison())
    commit(here / "base", {"short_words": 0.4999})
    status, out, _ = gates(capsys)
    assert status == 1 and rows(out)["short_words"][3] == "FAIL" and "failed: short_words" in out


def test_a_gate_without_a_committed_value_fails(here, capsys):
    finish(here, comparison())
    (here / "base" / "gates.json").write_text("{}")
    status, out, _ = gates(capsys)
    assert status == 1 and rows(out)["short_words"] == [
        "–",
        ">= 0.50",
        "–",
        "FAIL",
        "no committed value",
    ]


@pytest.mark.parametrize(
    "committed, now, ok", [(0.95, 0.60, True), (0.95, 0.5999, False), (0.59, 0.95, False)]
)
def test_the_base_is_measured_again_and_both_values_count(here, capsys, monkeypatch, committed, now, ok):
    finish(here, comparison())
    commit(here / "base", {"four_objects": committed})
    calls = []

    def measure(base, items, seed):
        calls.append((base, items, seed))
        return {gate: {"value": now if gate == "four_objects" else 0.99, "n": items} for gate in GATES}

    monkeypatch.setitem(sys.modules, "evaluation.gates", SimpleNamespace(measure_gates=measure))
    assert report.main(["--gates", "mini", "--items", "7"]) == (0 if ok else 1)
    row = rows(capsys.readouterr().out)["four_objects"]
    assert row == [
        f"{now:.3f}",
        ">= 0.60",
        "7",
        "pass" if ok else "FAIL",
        f"measured now; committed {committed:.3f} (n 300)",
    ]
    assert calls == [(here / "base", 7, report.OTHER_CAPTIONS)]


def test_no_run_lists_the_gates_and_names_the_command(here, capsys):
    status, out, errors = gates(capsys)
    assert status == 2 and "run `python -m recipes.run mini_regime.yaml` first" in errors
    assert (
        rows(out)["full: seeds"] == ["–", ">= 3", "–", "FAIL", "not run"]
        and rows(out)["single_object"][3] == "pass"
    )


def test_results_of_another_base_are_stale(here, capsys):
    finish(here, comparison())
    (here / "base" / "model.safetensors").write_text("other weights")
    status, out, _ = gates(capsys)
    assert (
        status == 1
        and "STALE: these stages have changed since: answer, compare, evaluate, train; now it is base" in out
    )
    assert "12 of 12 gates passed; from stale results" in out and "Regime (STALE RESULTS)" in out


def test_results_of_a_part_of_the_recipe_are_partial_not_stale(here, capsys):
    finish(here, comparison())
    lineage = here / "runs" / "mini_regime" / "lineage.json"
    content = json.loads(lineage.read_text())
    last = [name for name, stage in content["stages"].items() if stage["kind"] == "evaluate"][-1]
    del content["stages"][last]
    lineage.write_text(json.dumps(content))
    for made in (here / "store" / "compare").iterdir():
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    status, out, _ = gates(capsys)
    assert (
        status == 1 and "PARTIAL: 1 evaluations of the recipe are not included" in out and "STALE" not in out
    )
    assert "12 of 12 gates passed; from partial results" in out


def test_a_damaged_comparison_in_the_store_is_not_used(here, capsys):
    finish(here, comparison())
    [damaged] = here.glob("store/compare/*/comparison.json")
    damaged.write_text(json.dumps(comparison(full=99.0)))
    out = gates(capsys)[1]
    assert f"results: {here}/runs/mini_regime" in out and rows(out)["full above random_30"][0].startswith(
        "+0.1000"
    )


def test_shipped_results_are_reported_as_such(here, capsys):
    write_results(finished.RESULTS / "mini_regime", comparison())
    status, out, _ = gates(capsys)
    assert status == 0 and "these are the shipped results, not those of a run of yours" in out
    made = {line.partition("computed with ")[2] for line in out.splitlines() if line.startswith("results:")}
    present = rundir.stages_of(planned())["clean"]["hash"][:12]
    assert len(made) == 1 and f"pool {present}" in made.pop()


def test_current_shipped_results_are_preferred_to_a_stale_run(here, capsys):
    write_results(here / "runs" / "mini_regime", comparison(full=10.0))
    (here / "base" / "model.safetensors").write_text("other weights")
    assert gates(capsys)[0] == 1
    write_results(finished.RESULTS / "mini_regime", comparison())
    status, out, _ = gates(capsys)
    assert status == 0 and "shipped" in out and "STALE" not in out


def test_results_without_lineage_are_ignored(here, capsys):
    write_results(here / "runs" / "mini_regime", comparison())
    (here / "runs" / "mini_regime" / "lineage.json").unlink()
    assert gates(capsys)[0] == 2


def test_root_is_where_results_are_looked_for(here, capsys):
    finish(here / "elsewhere", comparison())
    assert gates(capsys)[0] == 2
    assert gates(capsys, f"root={here / 'elsewhere'}")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gates", "mimi"], "did you mean `mini`?"),
        (["--gates", "mini", "train.epochs=9"], "only root=DIR is allowed"),
        (["--gates", "mini", "mini_regime"], "give the name of one recipe"),
        (["--gates", "mini", "--items", "-1"], "N >= 0"),
        ([], "give the name of one recipe"),
        (["mini_regim"], "did you mean `mini_regime.yaml`?"),
        (["mini_base"], "compares no arms"),
        (["mini_regime"], "run `python -m recipes.run mini_regime` first"),
        (["--gates", "mini", "--power"], "--out and --power are about the results of a recipe"),
        (["--gates", "mini", "--out", "x"], "--out and --power are about the results of a recipe"),
        (["."], "experiment.json does not exist"),
    ],
)
def test_a_wrong_command_is_refused(here, capsys, arguments, message):
    assert report.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_worlds_are_listed(capsys):
    assert report.main(["--gates"]) == 0
    assert capsys.readouterr().out.split()[:1] == ["mini:"]


@pytest.mark.parametrize("name", ["mini_regime", "runs/mini_regime"])
def test_findings_of_a_finished_run(here, capsys, name):
    finish(here, comparison())
    (here / "runs" / "mini_regime" / "recipe.yaml").write_text(
        rundir.resolved_yaml(load(str(REPOSITORY / "recipes" / "mini_regime.yaml")))
    )
    assert report.main([name]) == 0
    out = capsys.readouterr().out
    assert "full 30%: mean 60.00 ± 1.00 % (seeds: 3)" in out and "report.md" in out


# ---------------------------------------------------------------------------------------------- from files


@pytest.fixture
def shipped(here):
    """A folder with an experiment's three files and nothing else."""
    experiment(4, pools=3, seeds=2, suite=TOY).write(here / "shipped")
    return here / "shipped"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_three_files_are_enough_to_print_the_findings(shipped, capsys):
    before = files(shipped)
    assert report.main([str(shipped)]) == 0
    out = capsys.readouterr().out
    assert "results: " in out and "without their recipe" in out and files(shipped) == before
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["full"].endswith("to random: no verdict (shown for scale, not tested)")
    assert "over pools" in lines["method_0"] and "seeds: 6" in lines["method_0"]


def test_everything_is_made_again_from_three_files(shipped, here, capsys):
    assert report.main([str(shipped), "--out", "one"]) == 0
    assert "report: one/report.md" in capsys.readouterr().out
    moved = here / "elsewhere" / "copy"
    shutil.copytree(shipped, moved)
    shutil.rmtree(shipped)
    assert report.main([str(moved), "--out", "two"]) == 0
    assert files(here / "one") == files(here / "two") and "report.md" in files(here / "one")
    # A finished run is made again in the same way, from its own three files.
    shutil.copytree(moved, here / "runs" / "mini_regime")
    content = json.loads((here / "one" / "comparison.json").read_text())
    (here / "runs" / "mini_regime" / "comparison.json").write_text("{}")
    write_lineage(here / "runs" / "mini_regime")
    assert report.main(["mini_regime", "--out", "three"]) == 0
    assert json.loads((here / "three" / "comparison.json").read_text()) == content


def test_a_rebuild_takes_seconds(shipped, here):
    """CPU seconds with compiled modules: the wall clock also measures what else the machine does."""
    command = [sys.executable, "-m", "recipes.report", str(shipped), "--out", str(here / "again")]
    own = environment() | {"PYTHONPYCACHEPREFIX": str(here / "compiled")}
    own.pop("PYTHONDONTWRITEBYTECODE", None)
    used = []
    for _ in range(2):  # the first one compiles
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(command, cwd=here, env=own, capture_output=True, check=True)
        used.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    assert used[1] < 5


def test_power_is_that_of_the_variances_seen(shipped, capsys):
    assert report.main([str(shipped), "--power"]) == 0
    out = capsys.readouterr().out
    claims = [arm["claim"] for arm in finished.folder_results(shipped).comparison["arms"] if arm["claim"]]
    seen = mean_components([claim["components"] for claim in claims if claim["family"]])
    assert "at once for 2 differences" in out and "mean over 2 arms" in out
    assert f"questions {seen.questions:.2f}" in out
    table = rows(out)
    assert table["1"][0] == "–", "one repetition has no variance of its own"
    assert table["15"][0] == f"{smallest_effect(seen, 15, 1, 1, 2):.2f}"
    assert float(table["30"][0]) < float(table["15"][0]) < float(table["5"][0])


def test_power_of_one_pool_says_what_is_not_known(here, capsys):
    experiment(3, seeds=3, suite=TOY).write(here / "one")
    assert report.main([str(here / "one"), "--power"]) == 0
    assert "What pools add is not known" in capsys.readouterr().out


def test_power_needs_repetitions(here, capsys):
    experiment(3, seeds=1, suite=TOY).write(here / "one")
    assert report.main([str(here / "one"), "--power"]) == 2
    assert "no arm has two independent repetitions" in capsys.readouterr().err
    assert report.main([str(here / "one")]) == 0
    assert "no verdict (one repetition" in capsys.readouterr().out


@pytest.mark.slow
def test_committed_values_are_printed_without_torch(here):
    code = (
        "import sys; from recipes.report import main; status = main(['--gates', 'mini', '--items', '0']);"
        "sys.exit(10 * status + ('torch' in sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=here, env=environment(), capture_output=True, check=False)
    assert done.returncode in (0, 10, 20), (
        done.stderr
    )  # whether the gates of this checkout pass is not tested
