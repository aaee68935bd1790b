"""Order, failures and processes of the executors; what the display shows."""

import io
import os

import pytest
from rich.console import Console

from recipes.code import Stages
from recipes.errors import StageError
from recipes.executors import Schedule, run_inline, run_pool
from recipes.progress import LiveDisplay, PlainDisplay
from recipes.task import Task


@pytest.fixture
def task(tmp_path):
    """A function that makes a task of the dummy stage `acts`, which does what its config asks."""

    def make(name, **config):
        return Task(
            kind="acts",
            family="acts",
            name=name,
            hash=name.ljust(64, "0"),
            config={"name": name, **config},
            inputs={},
            parents={},
            out=tmp_path / "store" / "acts" / name,
            work=1.0,
            stages=Stages("dummy_stages"),
            provenance={},
        )

    return make


class Recorder:
    """A display that records all calls."""

    def __init__(self):
        self.events = []

    def __getattr__(self, event):
        return lambda *about: self.events.append((event, *about))

    def names(self, event):
        return [getattr(e[1], "name", e[1]) for e in self.events if e[0] == event]


def schedule(*tasks, parents=None, seconds=None):
    by_name = {t.name: t for t in tasks}
    return Schedule(
        by_name,
        {n: set((parents or {}).get(n, ())) for n in by_name},
        {n: (seconds or {}).get(n, 1.0) for n in by_name},
    )


def inline(plan, display):
    run_inline(plan, display)


def pool(plan, display):
    run_pool(plan, display, 2)


both = pytest.mark.parametrize("execute", [inline, pool])


# ------------------------------------------------------------------------------------------ order


def test_the_longest_path_goes_first(task):
    plan = schedule(
        task("a"), task("b"), task("c"), task("d"), parents={"d": {"c"}}, seconds={"b": 3, "c": 2, "d": 5}
    )
    order = []
    while chosen := plan.next():
        order.append(chosen.name)
    assert order == ["c", "b", "a"]  # c leads to d: 7 seconds; d waits
    plan.finished("c")
    assert plan.next().name == "d"
    assert plan.next() is None


@both
def test_parents_finish_before_children_start(task, execute):
    shown = Recorder()
    execute(schedule(task("a"), task("b"), task("c"), parents={"b": {"a"}, "c": {"a", "b"}}), shown)
    assert [e[0] for e in shown.events if e[0] in {"start", "finish"}] == ["start", "finish"] * 3
    assert shown.names("finish") == ["a", "b", "c"]


@both
def test_reports_reach_the_display(task, execute):
    shown = Recorder()
    execute(schedule(task("a", total=7, advance=[3, 4], say="0.5 tokens")), shown)
    assert ("total", "a", 7) in shown.events
    assert sum(e[2] for e in shown.events if e[0] == "advance") == 7
    assert ("say", "a", "0.5 tokens") in shown.events


def test_the_pool_reuses_concurrent_single_threaded_processes(task, tmp_path):
    meet = {"meet": [str(tmp_path / "meet"), 2]}  # each waits until both are running
    tasks = [task("a", **meet), task("b", **meet), task("c"), task("d")]
    threads = os.environ.get("OMP_NUM_THREADS")
    shown = Recorder()
    pool(schedule(*tasks, parents={"c": {"a", "b"}, "d": {"a", "b"}}), shown)
    about = {e[1].name: e[1].summary for e in shown.events if e[0] == "finish"}
    assert about["a"]["pid"] != about["b"]["pid"]
    assert {about["c"]["pid"], about["d"]["pid"]} <= {about["a"]["pid"], about["b"]["pid"]}
    assert os.getpid() not in {v["pid"] for v in about.values()}
    assert {v["threads"] for v in about.values()} == {"1"}
    assert os.environ.get("OMP_NUM_THREADS") == threads, "the parent's own setting is restored"


@pytest.mark.parametrize("given, shown", [(None, {"0", "1"}), ("5,GPU-7a", {"5", "GPU-7a"})])
def test_each_worker_of_the_pool_sees_one_gpu_of_its_own(task, tmp_path, monkeypatch, given, shown):
    _pretend_gpus(monkeypatch, given, 2)
    meet = {"meet": [str(tmp_path / "meet"), 2]}  # each waits until both are running
    seen = _devices(schedule(task("a", **meet), task("b", **meet), task("c")), workers=4)
    assert {seen["a"], seen["b"]} == shown and seen["c"] in shown
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given, "the parent's own setting is restored"


def test_there_are_no_more_workers_than_gpus(task, monkeypatch):
    _pretend_gpus(monkeypatch, None, 1)
    assert set(_devices(schedule(task("a"), task("b"), task("c")), workers=3).values()) == {"0"}


def test_without_a_gpu_nothing_is_hidden(task, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _devices(schedule(task("a")), workers=2) == {"a": None}


def _pretend_gpus(monkeypatch, given, n):
    """`n` GPUs for this process, and CUDA_VISIBLE_DEVICES as `given`."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)


def _devices(plan, workers):
    """CUDA_VISIBLE_DEVICES of the process that performed each task; at most one process per GPU."""
    shown = Recorder()
    run_pool(plan, shown, workers)
    about = {e[1].name: e[1].summary for e in shown.events if e[0] == "finish"}
    processes = {v["pid"] for v in about.values()}
    gpus = {v["gpu"] for v in about.values()}
    assert gpus == {None} or len(processes) == len(gpus)
    return {name: v["gpu"] for name, v in about.items()}


def test_output_of_a_worker_goes_to_the_log_beside_the_artefact(task, capfd):
    made = task("a", print="noise of a library")
    pool(schedule(made), Recorder())
    assert "noise" in made.out.with_name("a.log").read_text()
    assert "noise" not in capfd.readouterr().out


# ------------------------------------------------------------------------------------------ failures


@both
def test_an_error_names_the_stage_and_keeps_its_traceback(task, execute):
    with pytest.raises(StageError) as caught:
        execute(schedule(task("a", fail="no such thing")), Recorder())
    assert str(caught.value) == "stage a failed: ValueError: no such thing"
    assert "acts.py" in caught.value.details and "raise ValueError" in caught.value.details


@both
def test_a_full_disk_inside_a_stage_says_what_to_do(task, execute):
    with pytest.raises(
        StageError, match=r"stage a failed: .*No space left on device.*free some space.*root=DIR"
    ):
        execute(schedule(task("a", write="/dev/full")), Recorder())


@both
def test_no_stage_starts_that_needs_a_failed_one(task, execute):
    shown = Recorder()
    with pytest.raises(StageError):
        execute(schedule(task("a", fail="x"), task("b"), parents={"b": {"a"}}), shown)
    assert shown.names("start") == ["a"]
    assert shown.names("fail") == ["a"]


def test_a_running_stage_may_finish_after_a_failure(task, tmp_path):
    meet = [str(tmp_path / "meet"), 2]
    slow = task("slow", meet=meet, seconds=0.5)
    shown = Recorder()
    with pytest.raises(StageError, match="stage bad failed"):
        pool(
            schedule(task("bad", meet=meet, fail="x"), slow, task("later"), seconds={"bad": 9, "slow": 8}),
            shown,
        )
    assert shown.names("finish") == ["slow"]
    assert ("fail", "bad", ["slow"]) in shown.events
    assert (slow.out / "done.json").exists()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kill": 9}, "stage a failed: its process was killed by SIGKILL; was it out of memory?"),
        ({"kill": 11}, "stage a failed: its process was killed by SIGSEGV"),
        ({"exit": 3}, "stage a failed: its process ended with exit status 3"),
    ],
)
def test_a_worker_that_dies_is_an_error_with_its_last_lines(task, config, message):
    with pytest.raises(StageError) as caught:
        pool(schedule(task("a", print="last words", **config)), Recorder())
    assert str(caught.value) == message
    assert "last words" in caught.value.details


def test_an_error_that_cannot_be_pickled_arrives(task):
    with pytest.raises(StageError, match="Unpicklable: holds a lock"):
        pool(schedule(task("a", unpicklable=True)), Recorder())


@both
def test_a_failed_stage_is_rerun_from_scratch(task, execute):
    made = task("a", fail="x")
    with pytest.raises(StageError):
        execute(schedule(made), Recorder())
    assert (made.out / "started").exists() and not (made.out / "done.json").exists()
    execute(schedule(task("a")), Recorder())
    assert (made.out / "done.json").exists()


def test_a_stage_that_resumes_finds_its_files(task, monkeypatch):
    made = task("a", fail="x")
    monkeypatch.setattr(Stages, "resumes", lambda self, kind: True)
    with pytest.raises(StageError):
        inline(schedule(made), Recorder())
    (made.out / "half").write_text("done before")
    inline(schedule(task("a")), Recorder())
    assert (made.out / "half").exists()


# ------------------------------------------------------------------------------------------ display


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_display_of_a_run(task, kind):
    file = io.StringIO()
    console = Console(file=file, force_terminal=kind is LiveDisplay, width=120)
    good, bad = task("train[a,0]", total=2, advance=[1, 1], say="3 steps [of 4]"), task("b", fail="x")
    with kind(console, {"train[a,0]": 12.0}) as shown, pytest.raises(StageError):
        inline(schedule(good, bad, parents={"b": {"train[a,0]"}}), shown)
    text = file.getvalue()
    assert "train[a,0]: 3 steps [of 4]" in text
    assert "train[a,0]: done in" in text
    assert "b: failed" in text
    if kind is PlainDisplay:
        assert "starts (about 12 s)" in text
        assert "\x1b" not in text


def test_live_display_shows_counts_and_expectation(task):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LiveDisplay(console, {"train[a,0]": 12.0}) as shown:
        shown.start("train[a,0]")
        shown.total("train[a,0]", 8)
        shown.advance("train[a,0]", 3)
        [row] = shown.bars.tasks
        assert (row.completed, row.total, row.fields["about"]) == (3, 8, "(about 12 s)")
    assert "train[a,0]" in console.file.getvalue()
