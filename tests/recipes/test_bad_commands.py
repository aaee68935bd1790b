"""Wrong recipes, overrides and arguments give one line with place and remedy before anything is written."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from recipes import report as report_command
from recipes import run
from recipes import sweep as sweep_command
from recipes.store.__main__ import main as store_command


def refused(capsys, *arguments: str) -> str:
    """The only line on stderr of a run that is refused with exit status 2."""
    capsys.readouterr()
    assert run.main([*arguments, "--dry-run"], "dummy_stages") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def aliases(levels: int) -> str:
    """A "billion laughs" document: each level contains the one below ten times."""
    lines = [f"x{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'lol'] * 10)}]" for n in range(levels)]
    return "\n".join(["name: x", "scale: tiny", *lines, f"description: *a{levels - 1}", "arms: {}"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: x\npretrain: " + "{a: " * 3000 + "1" + "}" * 3000, "bad.yaml:2: nested too deeply"),
        (
            "name: x\npretrain: " + "{a: " * 150 + "1" + "}" * 150,
            "bad.yaml:2: nested too deeply (more than 100 levels)",
        ),
        ("name: x\npretrain: &p {a: *p}\narms: {}\n", "bad.yaml:2: a value refers to itself"),
        ("name: &n [*n]\n", "bad.yaml:1: a value refers to itself"),
        (aliases(12), "aliases multiply to more than 1,000,000 values"),
        ("name: x\nlimit: " + "9" * 6000 + "\n", "bad.yaml: not valid YAML: Exceeds the limit"),
        ("name: x\nlimit: 2026-99-99\n", "bad.yaml: not valid YAML: month must be in 1..12"),
        ("[1, 2]", "bad.yaml:1: a recipe must be a mapping of keys to values"),
        ("", "bad.yaml:1: a recipe must be a mapping of keys to values"),
        ("a: [1", "bad.yaml:2: not valid YAML: did not find expected"),
        ("name: x\npretrain: " + "[" * 200_000 + "]" * 200_000, "bad.yaml:2: nested too deeply"),
        ("a: 1\nname: \0", "bad.yaml:1: not valid YAML"),
    ],
    ids=lambda value: value[:40].replace("\n", " "),
)
def test_an_invalid_recipe_file_is_refused(project, capsys, text, message):
    Path("bad.yaml").write_text(text)
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert message in refused(capsys, "bad.yaml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - seconds < 10, "CPU seconds"


def test_a_recipe_file_that_is_not_utf8_is_refused(project, capsys):
    Path("bad.yaml").write_bytes("name: ä".encode("utf-16"))
    assert "bad.yaml: not UTF-8 text: invalid" in refused(capsys, "bad.yaml")


@pytest.mark.parametrize(
    "name",
    ["/dev/null", ".", "n" * 300, "a\0b", "~nobody-of-this-name/x.yaml"],
    ids=lambda name: repr(name[:12]),
)
def test_a_name_that_is_not_a_recipe_file_is_refused(project, capsys, name):
    assert "does not exist in" in refused(capsys, name)


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.lr=.inf", "train.lr: got inf; Input should be a finite number"),
        ("train.weight_decay=.nan", "train.weight_decay: got nan; Input should be"),
        ("train.epochs=1e18", "train.epochs: got 1e+18; Input should be less than or equal to 10000"),
        ("pool.size=1000000000000000", "pool.size: got 1000000000000000; Input should be less than"),
        ("pool.seed=-1", "pool.seed: got -1; Input should be greater than or equal to 0"),
        ("arms.random.seeds=[-1]", "arms.random.seeds"),
        ("arms.random.seeds=1000000000", "arms.random.seeds"),
        ("resources.workers=1000000", "workers: got 1000000; Input should be less than or equal to 1"),
        ("arms.random.budget=tokens:1e400", "budget 'tokens:1e400' is not allowed; give a share"),
        ("arms.random.budget=tokens:" + "9" * 400, "is not allowed; give a share"),
        ("arms.random.budget=" + "9" * 40, "arms.random.budget: budget "),
        ("arms.random.budget=nan%", "arms.random.budget: budget 'nan%' is not allowed; give a share"),
        (
            "evaluation.suite=nowhere",
            "evaluation.suite: suite 'nowhere' does not exist: shipped are llava10, mini,",
        ),
        ("train.deepspeed=gone.json", "deepspeed: DeepSpeed config 'gone.json' does not exist"),
        ("train.deepspeed=broken.json", "deepspeed: broken.json is not valid JSON"),
        ("train.deepspeed=list.json", "deepspeed: list.json must hold a JSON object"),
        ("scorer.prompts=compct", "scorer.prompts: prompt set 'compct' does not exist: shipped are c"),
        ("base.path=unsafe", "base.path: unsafe has no safetensors weights, and other formats are"),
        ('base.path="a\\0b"', "base.path: a path must not contain a NUL character"),
        ("root=~nobody-of-this-name", "root: Could not determine home directory.; write the full path"),
        ('root="a\\0b"', "root: a path must not contain a NUL character"),
        ("root=" + "r" * 300, "root: a part of the path is longer than 255 bytes"),
        ("name=" + "n" * 300, "name: got 'nnnn"),
        ("name=../up", "name: got '../up'; String should match pattern"),
        ("description=[" + "x," * 400 + "]", "... (2,000 characters); Input should be a valid string"),
        ("teacher={kind: api, model: m, server: {url: 'http://bob:PASSW0RD@h/v1'}}", "an address must not"),
        ("teacher={kind: api, model: m, server: {url: 'http://h/v1?api-key=QUERYKEY'}}", "put the key into"),
        ("scoring.server={url: 'http://h/v1#frag'}", "server.url: an address must not contain a user"),
        ("a", "`a` is not an override; write key=value"),
        ("train.lr=[", "the value is not valid YAML"),
    ],
    ids=lambda value: value[:44],
)
def test_an_invalid_override_is_refused(project, capsys, override, message):
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("unsafe").mkdir()
    Path("unsafe/config.json").write_text("{}")
    Path("unsafe/pytorch_model.bin").write_bytes(b"x")
    before = sorted(project.rglob("*"))
    line = refused(capsys, "demo.yaml", override)
    assert message in line and "PASSW0RD" not in line and "QUERYKEY" not in line and len(line) < 1000
    assert sorted(project.rglob("*")) == before


def test_a_user_pool_without_benchmarks_is_refused_before_any_training(project, capsys):
    Path("data.json").write_text("[]")
    scale = Path("scales/tiny.yaml")
    scale.write_text(scale.read_text().replace("bench: {kind: mini, items: 30, seed: 1000}\n", ""))
    Path("own.yaml").write_text(
        "name: own\nscale: tiny\npool: {kind: llava, source: data.json}\n"
        "arms: {a: {selector: random, budget: 1}}\n"
    )
    assert "bench: missing; suite 'mini' has no items to evaluate on: give a section `bench`" in refused(
        capsys, "own.yaml"
    )
    assert run.main(["own.yaml", "--until", "select", "--dry-run"], "dummy_stages") == 0


def test_importing_a_user_module_is_announced(project, capsys, monkeypatch):
    Path("own_rule.py").write_text("def select(columns, budget, seed): ...\n")
    monkeypatch.syspath_prepend(project)
    arguments = ["demo.yaml", "arms.random.selector=own_rule:select", "--dry-run"]
    assert run.main(arguments, "dummy_stages") == 0
    assert "note: importing own_rule, which the recipe names; its code is executed" in capsys.readouterr().err


def test_a_root_that_is_not_a_directory_is_a_one_line_error(project, capsys):
    assert run.main(["demo.yaml", "root=/dev/null"], "dummy_stages") == 1
    assert capsys.readouterr().err == (
        "error: cannot write /dev/null/runs/demo/stages: Not a directory; a part of the path is a file: "
        "choose another place with root=DIR\n"
    )


@pytest.mark.slow
def test_a_recipe_longer_than_the_limit_of_arguments_is_tracked(project, capsys):
    pytest.importorskip("wandb")
    Path("long.yaml").write_text(Path("demo.yaml").read_text().replace("three arms", "x" * 300_000))
    arguments = ["long.yaml", "track.mode=offline", "--until", "bench"]
    assert run.main(arguments, "dummy_stages") == 0
    assert "wandb: offline" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, arguments, status",
    [
        (run.main, ["demo.yaml", "--executor", "slurm"], 2),
        (run.main, ["demo.yaml", "--limit", "x"], 2),
        (run.main, [], 2),
        (sweep_command.main, ["gone.yaml"], 2),
        (report_command.main, ["gone.yaml"], 2),
        (report_command.main, ["demo.yaml", "--items", "x"], 2),
        (store_command, [], 2),
        (store_command, ["burn"], 2),
        (store_command, ["ls", "--root", "a\0b"], 2),
        (store_command, ["ls", "--root", "gone"], 1),
    ],
)
def test_wrong_arguments_are_a_one_line_error(project, capsys, command, arguments, status):
    try:
        returned = command(arguments)
    except SystemExit as error:
        returned = error.code
    err = capsys.readouterr().err
    assert returned == status and err.startswith("error: ") and err.count("\n") == 1, err


COMMANDS = (
    *("curation.pool", "curation.signals", "curation.select", "curation.export", "curation.compare"),
    *("curation.preflight", "curation.dedup", "curation.decontaminate"),
    *("curation.imports.load", "training.convert"),
    *("recipes.run", "recipes.sweep", "recipes.report", "recipes.store"),
)


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_answers_help_within_a_cpu_second(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "usage:" in done.stdout.lower(), done.stderr[-500:]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "CPU seconds"


HEAVY = {"torch", "transformers", "pydantic", "numpy", "rich", "yaml"}


@pytest.mark.parametrize(
    "module", ["recipes.run", "recipes.sweep", "recipes.report", "recipes.store.__main__"]
)
def test_help_imports_no_heavy_package(module):
    code = (
        f"import sys, {module}; {module}.parser().format_help();print({HEAVY!r} & set(sys.modules) or 'none')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr[-500:]
