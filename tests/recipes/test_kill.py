"""SIGKILL at named points of a run: a rerun gives equal artefacts and repeats no finished stage."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from killed import contents, finished, forked, killed, spread
from processes import DUMMY_RUN, alive, environment, wait_for

from curation import killpoints

pytestmark = pytest.mark.slow

POINTS = 20


@dataclass
class Chain:
    """Runs a recipe with dummy stages in separate processes, each with its own root."""

    folder: Path
    executor: str = "inline"

    def arguments(self, root: Path) -> list[str]:
        return ["short.yaml", f"root={root}", f"--executor={self.executor}"]

    def run(self, root: Path, kill: str | None = None) -> int:
        """Exit status; negative if the process was killed."""
        if self.executor == "inline":
            return forked("dummy_stages", self.arguments(root), self.folder, kill=kill)
        with self.start(root, **({killpoints.VARIABLE: kill} if kill else {})) as process:
            return process.wait()

    def start(self, root: Path, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", DUMMY_RUN, *self.arguments(root)],
            cwd=self.folder,
            env=environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def chain(project, monkeypatch):
    import recipes.engine  # noqa: F401  # imported once, before the forks
    from recipes.code import Stages
    from recipes.load import load
    from recipes.plan import make_plan

    (project / "short.yaml").write_text(
        "name: short\nscale: tiny\ntrack: {mode: disabled}\n"
        "arms: {a: {selector: mmssr, budget: 30%}, b: {selector: random, budget: 30%}}\n"
    )
    make_plan(load("short.yaml"), Stages("dummy_stages"))  # reads all source files once
    return Chain(project)


@pytest.fixture
def calm(chain, tmp_path):
    """(contents of an undisturbed run, the kill points that it reached in order)."""
    listed = tmp_path / "points.txt"
    assert chain.run(tmp_path / "calm", kill=f"list:{listed}") == 0
    return contents(tmp_path / "calm"), list(dict.fromkeys(listed.read_text().splitlines()))


def executed(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_kill_at_many_points_and_resume(chain, calm, tmp_path, monkeypatch):
    whole, points = calm
    assert len(points) > 100 and len({point.split("/")[0] for point in points}) > 10
    counts = set()
    for n, point in enumerate(spread(points, POINTS)):
        root, log = tmp_path / f"killed{n}", tmp_path / f"log{n}"
        assert killed(chain.run(root, kill=point)), point
        done = finished(root)
        monkeypatch.setenv("DUMMY_LOG", str(log))
        assert chain.run(root) == 0
        assert not set(executed(log)) & done, f"a finished stage ran again after {point}"
        assert contents(root) == whole, point
        counts.add(len(done))
    assert min(counts) == 0 and len(counts) > POINTS / 3, "the kills must be spread over the chain"


def test_repeated_kills_in_one_store(chain, calm, tmp_path):
    """Each run gets further; what a killed run leaves behind does not affect the next one."""
    whole, points = calm
    root = tmp_path / "often"
    statuses = [chain.run(root, kill=point) for point in spread(points, 40)]
    assert sum(map(killed, statuses)) >= 20
    assert chain.run(root) == 0 and contents(root) == whole


@pytest.mark.parametrize("point", ["select[a,0]/begin/1", "train[b,0]/before rename/2"])
def test_a_killed_worker_of_the_pool(chain, calm, tmp_path, point):
    chain.executor = "pool"
    root = tmp_path / "killed"
    assert chain.run(root, kill=point) == 1  # the parent reports it
    assert 0 < len(finished(root)) < len([name for name in calm[0] if name.endswith("done.json")])
    assert chain.run(root) == 0 and contents(root) == calm[0]


@pytest.mark.parametrize("point", ["start/before rename/2", "start/after rename/6"])
def test_a_killed_parent_of_the_pool(chain, calm, tmp_path, point):
    chain.executor = "pool"
    root = tmp_path / "killed"
    assert killed(chain.run(root, kill=point))
    assert chain.run(root) == 0 and contents(root) == calm[0]


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_kernel_kills_the_process_in_the_middle_of_a_write(chain, calm, tmp_path, size):
    """With a file size limit and the default SIGXFSZ, the kernel stops a write after exactly `size` bytes."""
    root = tmp_path / "cut"
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_DFL);"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
        "from recipes.run import main; sys.exit(main(sys.argv[1:], package='dummy_stages'))"
    )
    died = subprocess.run(
        [sys.executable, "-c", limited, *chain.arguments(root)],
        cwd=chain.folder,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGXFSZ
    assert max(p.stat().st_size for p in root.rglob("*") if p.is_file()) == size
    assert chain.run(root) == 0 and contents(root) == calm[0]


def test_two_processes_run_the_same_recipe_at_once(chain, calm, tmp_path):
    root, log = tmp_path / "shared", tmp_path / "shared.log"
    both = [chain.start(root, DUMMY_LOG=str(log), DUMMY_SECONDS="0.02") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(executed(log)) == sorted(finished(root))  # each stage once
    assert contents(root) == calm[0]


def test_workers_die_with_a_killed_parent(chain, tmp_path):
    chain.executor = "pool"
    pids = tmp_path / "pids"
    process = chain.start(tmp_path / "root", DUMMY_SECONDS="60", DUMMY_PIDS=str(pids))
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) >= 2)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_contents_detects_a_changed_artefact(chain, tmp_path):
    """The comparison that the tests above rely on can fail, and done.json lists every file."""
    chain.run(tmp_path / "root")
    before = contents(tmp_path / "root")
    select = next((tmp_path / "root" / "store" / "select").glob("*/part-0.txt"))
    listed = json.loads((select.parent / "done.json").read_text())["files"]
    assert set(listed) == {"nested/value.json", "part-0.txt", "part-1.txt", "part-2.txt"}
    select.write_text("other")
    assert contents(tmp_path / "root") != before
