"""Kill -9 at many moments, run the same command again: equal artefacts, and finished stages are not redone.

To point this at a real chain: `Chain(folder, recipe, package="recipes.stages", warm=False)` in a test of its own.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import killed_run
import pytest

from recipes.store import read_done

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
TIMED = {"begun.json", "stage.json", "timings.json", "lineage.json"}
"""Files that hold seconds, times of change, or the commit of the moment."""
BESIDE = {".log", ".tmp", ".lock", ".seen"}
"""Endings of what stands beside artefacts."""
POINTS = 14


@dataclass
class Chain:
    """A recipe that can be run in processes of their own, each with its own root."""

    folder: Path
    recipe: str
    package: str = "dummy_stages"
    executor: str = "inline"
    warm: bool = True  # fork this process, which has imported everything, instead of starting a new one

    def arguments(self, root: Path) -> list[str]:
        return [self.recipe, f"root={root}", f"--executor={self.executor}"]

    def command(self, root: Path) -> list[str]:
        return [sys.executable, str(HERE / "killed_run.py"), self.package, *self.arguments(root)]

    def environment(self, **extra: object) -> dict[str, str]:
        paths = os.pathsep.join([str(REPOSITORY), str(HERE)])
        return {**os.environ, "PYTHONPATH": paths, **{k: str(v) for k, v in extra.items()}}

    def run(self, root: Path, **extra: object) -> int:
        """Exit status; negative if the process was killed."""
        if self.warm:
            return self._run_forked(root, extra)
        return subprocess.run(
            self.command(root), cwd=self.folder, env=self.environment(**extra), capture_output=True
        ).returncode

    def _run_forked(self, root: Path, extra: dict[str, object]) -> int:
        if pid := os.fork():
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = 99
        try:
            os.chdir(self.folder)
            os.environ.update(self.environment(**extra))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            sys.stdout = sys.stderr = open(os.devnull, "w")
            status = killed_run.run(self.package, self.arguments(root))
        finally:
            os._exit(status)  # never back into pytest


def contents(root: Path) -> dict[str, str]:
    """Hash of every file below store/ and runs/ that may not depend on time, links as their targets."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and path.name not in TIMED and path.suffix not in BESIDE:
            text = path.read_bytes().replace(str(root).encode(), b"ROOT")
            if path.name == "done.json":  # all but the hash of stage.json and of files with times
                text = read_done(path.parent).root.encode()
            text = text.replace(b"executor: pool", b"executor: inline")
            found[name] = hashlib.sha256(text).hexdigest()
    return found


def finished(root: Path) -> set[str]:
    """kind/hash of the stages that are marked as done."""
    return {f"{p.parent.parent.name}/{p.parent.name}" for p in (root / "store").glob("*/*/done.json")}


def check_kill_and_resume(chain: Chain, root: Path, undisturbed: dict[str, str], **kill: object) -> set[str]:
    """Kill one run, run again, compare; returns what was finished at the kill."""
    status = chain.run(root, DUMMY_LOG=root.with_suffix(".first"), **kill)
    assert status != 0
    done = finished(root)
    log = root.with_suffix(".again")
    assert chain.run(root, DUMMY_LOG=log) == 0
    redone = set(log.read_text().split()) if log.exists() else set()
    assert not redone & done
    assert contents(root) == undisturbed
    return done


@pytest.fixture
def chain(project):
    import recipes.engine  # noqa: F401  what a forked run needs is imported once, here

    (project / "short.yaml").write_text(
        "name: short\nscale: tiny\ntrack: {wandb: {mode: disabled}}\narms: {a: {selector: mmssr, budget: 30%}, b: {selector: random, budget: 30%}}\n"
    )
    return Chain(project, "short.yaml")


def undisturbed(chain: Chain, tmp_path: Path) -> tuple[dict[str, str], int]:
    """Contents after a run that nothing disturbs, and how many changes its main process made."""
    count = tmp_path / "count"
    assert chain.run(tmp_path / "calm", COUNT_TO=count) == 0
    return contents(tmp_path / "calm"), int(count.read_text())


def test_kill_at_many_points_and_resume(chain, tmp_path):
    calm, changes = undisturbed(chain, tmp_path)
    assert changes > 100
    seen = set()
    for n in range(POINTS):
        point = 1 + round(n * (changes - 2) / (POINTS - 1))
        point += (point + n) % 2  # every other one is odd: where it opens a file, in the middle of that write
        done = check_kill_and_resume(chain, tmp_path / f"killed{n}", calm, KILL_AT=point)
        seen.add(len(done))
    assert min(seen) == 0 and len(seen) > POINTS / 2  # the kills were spread over the chain


def test_kill_again_and_again_in_one_store(chain, tmp_path):
    """Each run gets a little further; what is left behind by one kill does not harm the next run."""
    calm, changes = undisturbed(chain, tmp_path)
    root, statuses = tmp_path / "often", []
    for n in range(40):
        statuses.append(chain.run(root, KILL_AT=24 + 2 * n))
        if statuses[-1] == 0:
            break
    assert statuses[-1] == 0 and statuses.count(-signal.SIGKILL) >= 5
    assert contents(root) == calm


def test_a_worker_is_killed_in_the_pool(chain, tmp_path):
    calm, _ = undisturbed(chain, tmp_path)
    chain.executor, chain.warm = "pool", False
    for n, point in enumerate((9, 31)):
        check_kill_and_resume(chain, tmp_path / f"killed{n}", calm, KILL_IN="worker", KILL_AT=point)


def test_the_parent_is_killed_in_the_pool(chain, tmp_path):
    calm, _ = undisturbed(chain, tmp_path)
    chain.executor, chain.warm = "pool", False
    for n, point in enumerate((12, 45)):
        check_kill_and_resume(chain, tmp_path / f"killed{n}", calm, KILL_AT=point)


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_kernel_ends_the_process_in_the_middle_of_a_write(chain, tmp_path, size):
    """With a file size limit and SIGXFSZ at its default, the kernel stops a write after exactly `size` bytes."""
    calm, _ = undisturbed(chain, tmp_path)
    root = tmp_path / "cut"
    limited = (
        f"import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_DFL);"
        f"resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); sys.argv.pop(0);"
        f"runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python, *arguments = chain.command(root)
    died = subprocess.run(
        [python, "-c", limited, *arguments], cwd=chain.folder, env=chain.environment(), capture_output=True
    )
    assert died.returncode == -signal.SIGXFSZ
    assert max(p.stat().st_size for p in root.rglob("*") if p.is_file()) == size
    assert chain.run(root) == 0
    assert contents(root) == calm


def test_two_processes_run_the_same_recipe_at_once(chain, tmp_path):
    calm, _ = undisturbed(chain, tmp_path)
    root, log = tmp_path / "shared", tmp_path / "shared.log"
    environment = chain.environment(DUMMY_LOG=log, DUMMY_SECONDS="0.02")
    both = [
        subprocess.Popen(chain.command(root), cwd=chain.folder, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    executed = log.read_text().split()
    assert sorted(executed) == sorted(finished(root))  # each stage once
    assert contents(root) == calm


def test_workers_die_with_a_killed_parent(chain, tmp_path):
    chain.executor = "pool"
    pids = tmp_path / "pids"
    process = subprocess.Popen(
        chain.command(tmp_path / "root"),
        cwd=chain.folder,
        stdout=subprocess.DEVNULL,
        env=chain.environment(DUMMY_SECONDS="60", DUMMY_PIDS=pids),
    )
    _wait_for(lambda: pids.exists() and len(pids.read_text().split()) >= 2)
    process.kill()
    process.wait()
    _wait_for(lambda: not any(_runs(int(pid)) for pid in pids.read_text().split()))


def _wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_compared_is_worth_comparing(chain, tmp_path):
    """The harness sees a difference in an artefact, and the done marks list every file."""
    chain.run(tmp_path / "root")
    before = contents(tmp_path / "root")
    select = next((tmp_path / "root" / "store" / "select").glob("*/part-0.txt"))
    listed = json.loads((select.parent / "done.json").read_text())["files"]
    assert set(listed) == {"nested/value.json", "part-0.txt", "part-1.txt", "part-2.txt"}
    select.write_text("other")
    assert contents(tmp_path / "root") != before
