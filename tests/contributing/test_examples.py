"""The worked examples of CONTRIBUTING.md, executed word for word in a copy of the project.

Each example writes its files, makes its changes and runs its commands. Every command must succeed, and
a `text` block must be part of what the command before it printed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from page_examples import apply, sections, steps

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sections((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
COPIED = ("curation", "training", "evaluation", "recipes", "tests", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "results", "benchmarks", "contributing", "*.pyc")


@pytest.fixture
def project(tmp_path, demo):
    """A copy of the project, with the small pool of the page."""
    folder = copy_of_the_project(tmp_path / "project")
    shutil.copytree(demo, folder / "demo")
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the commands for a small pool leave in demo/."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("demo") / "project")
    follow(EXAMPLES["A small pool to try things on"], folder)
    return folder / "demo"


def copy_of_the_project(folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copyfile(source, folder / name)
    return folder


def follow(section: str, project: Path) -> None:
    """Do what the section says."""
    printed = ""
    for step in steps(section):
        if step.language in ("python", "yaml"):
            file = project / step.path
            assert not file.exists(), f"{step.path} exists already: the example shows a new file"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(step.body, encoding="utf-8")
        elif step.language == "diff":
            apply(step.body, project / step.path)
        elif step.language == "bash":
            printed = run(step.body, project)
        else:
            for line in step.body.splitlines():
                assert line.strip() in printed, printed[-3000:]


def run(commands: str, project: Path) -> str:
    """Run a block of commands as a user would, `python` being this interpreter; returns what they printed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_selector(project):
    follow(EXAMPLES["A selector"], project)
    subset = pq.read_table(project / "demo" / "subsets" / "prototypes" / "subset.parquet")
    similarity = pq.read_table(
        sorted((project / "demo" / "signals" / "cluster_image").glob("part-*.parquet"))[0]
    )
    lowest = sorted(value for value in similarity["similarity_image"].to_pylist() if value is not None)[
        : len(subset)
    ]
    assert sorted(subset["similarity"].to_pylist()) == pytest.approx(lowest)


@pytest.mark.slow
def test_a_signal(project):
    follow(EXAMPLES["A signal"], project)
    subset = pq.read_table(project / "demo" / "subsets" / "varied" / "subset.parquet")
    values = pq.read_table(project / "demo" / "signals" / "variety" / "part-00000.parquet")[
        "word_variety"
    ].to_pylist()
    chosen = [values[row] for row in subset["row"].to_pylist()]
    assert min(chosen) >= sorted(value for value in values if value is not None)[-len(chosen)]


@pytest.mark.slow
def test_a_benchmark(project):
    pytest.importorskip("lmms_eval", reason="evaluation needs the [eval] extra")
    follow(EXAMPLES["A benchmark"], project)
    summary = json.loads((project / "demo" / "evaluation" / "summary.json").read_text())
    assert summary["benchmarks"]["colours_named"]["n"] == 12
    assert pq.read_table(project / "demo" / "evaluation" / "scores.parquet").num_rows == 12


def test_a_diff_must_fit_in_exactly_one_place(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("a\nb and more\na\n")
    apply(" b and…\n+new\n", file)
    assert file.read_text() == "a\nb and more\nnew\na\n"
    apply("-new\n", file)
    for diff in (" a\n+twice\n", " missing\n+never\n"):
        with pytest.raises(AssertionError, match=r"names.txt: [02] places match"):
            apply(diff, file)
    assert file.read_text() == "a\nb and more\na\n"


def test_every_example_of_the_page_is_executed():
    assert list(EXAMPLES) == ["A small pool to try things on", "A selector", "A signal", "A benchmark"]
