"""What a node of a training reads from Slurm and from the job folder, without starting any rank."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from processes import wait_for

from training import agent, job, launch, slurm
from training.agent import Agent, LaunchError, claim, failed
from training.interrupt import Signals
from training.last_words import last_words
from training.launch import _appeared, _place, main
from training.spec import FitSpec


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("login", ["login"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("a[1-2]-ib[08-10]", [f"a{n}-ib{m}" for n in (1, 2) for m in ("08", "09", "10")]),
        ("n[1,3].cluster", ["n1.cluster", "n3.cluster"]),
    ],
)
def test_a_list_of_slurm_nodes_is_expanded(listed, names):
    assert slurm.expand(listed) == names


def test_the_head_node_is_scontrols_or_the_lists_first(tmp_path, monkeypatch):
    assert slurm.head({}) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = {"SLURM_JOB_NODELIST": "gpu[04-05]"}
    assert slurm.head(listed) == "gpu04"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho node-of-$3\necho another\n")
    scontrol.chmod(0o755)
    assert slurm.head(listed) == "node-of-gpu[04-05]"
    scontrol.write_text("#!/bin/sh\nexit 1\n")  # as in a container without Slurm's configuration
    assert slurm.head(listed) == "gpu04"


def test_a_batch_script_has_no_node_number_and_a_task_of_several_has():
    batch = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NODEID": "0", "SLURM_PROCID": "0"}
    assert slurm.node(batch) is None and slurm.nodes(batch) == 2
    assert slurm.node(batch | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1"}) == 1


def test_limits_of_the_batch_script_do_not_reach_the_nodes():
    kept = slurm.for_steps({"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_PER_TASK": "1"})
    assert kept == {"SLURM_JOB_ID": "7"}


def test_where_a_training_on_several_nodes_is_started(tmp_path, monkeypatch):
    two = FitSpec(nodes=2)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert not _place(two)  # by hand
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert _place(two) and not _place(FitSpec(processes=8))
    assert not _place(FitSpec(nodes=2, rendezvous="gpu01:29500"))
    with pytest.raises(LaunchError, match="asks for 3 nodes, and the Slurm allocation has 2"):
        _place(FitSpec(nodes=3))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(LaunchError, match="runs in 2 tasks of `srun`"):
        _place(two)


def test_a_spec_runs_in_processes_of_its_own_when_it_has_several_or_deepspeed():
    assert not FitSpec().distributed() and not FitSpec(processes=1).distributed()
    for spec in (FitSpec(processes=2), FitSpec(nodes=2), FitSpec(deepspeed="zero2")):
        assert spec.distributed()
    with pytest.raises(ValueError, match="rendezvous"):
        FitSpec(rendezvous="two words")


# ------------------------------------------------------------------------------------------ job folder


@pytest.fixture
def two(tmp_path):
    """A job for two nodes of one rank each."""
    return new_job(tmp_path, FitSpec(nodes=2, processes=1))


def new_job(folder, spec):
    return job.create(
        spec, "base", range(1), folder / "out", keep_adapters=False, nodes=spec.nodes, processes=1
    )


def test_a_job_is_read_as_it_was_written(two, tmp_path):
    assert job.read(tmp_path / "out.job") == two
    assert two.examples() == range(1) and two.base == "base" and two.cwd == os.getcwd()
    assert json.loads((two.folder / "job.json").read_text())["spec"]["nodes"] == 2
    again = new_job(tmp_path, two.spec)
    assert again.id != two.id and again.records(again.joined) == {}


def test_data_that_cannot_be_sent_is_refused(tmp_path):
    with pytest.raises(job.DataNotShared, match="cannot be sent to other processes"):
        job.create(
            FitSpec(), "b", iter(lambda: 0, 1), tmp_path / "out", keep_adapters=False, nodes=1, processes=2
        )
    assert not (tmp_path / "out.job/job.json").exists()


def test_progress_is_read_once_and_a_torn_line_later(two):
    lines, file = job.Progress(two), two.folder / job.PROGRESS
    assert list(lines.new()) == []
    file.write_text(job.line(1, 9, "loss é") + "[2, 9")
    assert list(lines.new()) == [[1, 9, "loss é"]]
    with file.open("a") as handle:
        handle.write(', "loss"]\n')
    assert list(lines.new()) == [[2, 9, "loss"]] and list(lines.new()) == []


def test_nodes_that_join_by_hand_get_the_free_numbers(two):
    assert claim(two) == 1
    with pytest.raises(LaunchError, match="all 2 nodes have joined already"):
        claim(two)


def rank(two, number, node=0, **record):
    two.write(f"ranks/{number}.json", {"node": node, "host": f"h{node}", "process": 100 + number})
    two.log_of_rank(number).write_text(f"words of rank {number}\n")
    if record:
        two.write(f"failed/{number}.json", record)


def test_the_last_words_are_those_of_the_first_rank_that_raised(two):
    rank(two, 0, 0, error="RuntimeError: Connection closed by peer", time=12.0)
    rank(two, 1, 1, error="ValueError: bad sample", time=11.0)
    two.write("exits/0.json", {"0": 1})
    two.write("exits/1.json", {"1": 1})
    words = last_words(two, 0, 1)
    assert words.startswith(
        "the training failed: rank 1 (node 1, h1, process 101) raised ValueError: bad sample"
    )
    assert "then:\n  rank 0 (node 0, h0, process 100) raised RuntimeError: Connection" in words
    assert words.endswith("words of rank 1") and "words of rank 0" not in words


def test_a_killed_rank_failed_before_those_that_raised(two):
    rank(two, 0, 0, error="RuntimeError: Connection closed by peer", time=12.0)
    rank(two, 1, 1)
    two.write("exits/0.json", {"0": 1})
    two.write("exits/1.json", {"1": -9})
    assert "rank 1 (node 1, h1, process 101) was killed by SIGKILL" in last_words(two, 0, 1).splitlines()[0]


def test_a_terminated_rank_is_a_consequence(two):
    rank(two, 0, 0)
    rank(two, 1, 1, error="ValueError: bad sample", time=11.0)
    two.write("exits/0.json", {"0": -signal.SIGABRT})
    two.write("exits/1.json", {"1": 1})
    assert "rank 1 (node 1, h1, process 101) raised" in last_words(two, 0, 1).splitlines()[0]


def test_without_a_failed_rank_torchrun_is_quoted(two):
    two.log_of_node(0).write_text("could not start\n")
    two.write("exits/0.json", {"torchrun": 1})
    two.write("exits/1.json", {"torchrun": 0})
    words = last_words(two, 0, 1)
    assert "torchrun ended with exit code 1" in words and words.endswith("could not start")


def test_ranks_that_ended_because_they_were_asked_to_have_not_failed():
    assert not failed({"0": 128 + signal.SIGTERM, "1": 0}) and failed({"0": 1}) and failed({"0": -9})


def test_a_node_without_a_sign_of_life_is_lost(two, monkeypatch):
    watching = Agent(two, 0, None)
    two.write(f"{two.joined}/1.json", {"host": "h1", "beat": 5})
    monkeypatch.setattr(agent, "LOST_SECONDS", 0.2)
    assert watching.beat() and not watching._others_have_failed()
    time.sleep(0.3)
    two.write(f"{two.joined}/1.json", {"host": "h1", "beat": 6})
    assert not watching._others_have_failed()  # it has changed since
    time.sleep(0.3)
    assert watching._others_have_failed()
    assert "node 1 (h1) has shown no sign of life for 0 s" in last_words(two, 0, 1)


# ------------------------------------------------------------------------------------------ rendezvous


def test_a_taken_port_is_named_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = FitSpec(nodes=2, processes=1, rendezvous=f"127.0.0.1:{port}")
        with pytest.raises(LaunchError, match=rf"port {port} of .* is not free \(Address already in use\)"):
            agent.attend(new_job(tmp_path, spec), 0)


def test_nodes_that_do_not_come_are_named_after_the_time_limit(two, monkeypatch):
    monkeypatch.setattr(agent, "JOIN_SECONDS", 0.5)
    with pytest.raises(
        LaunchError, match=r"1 of 2 nodes joined within 0 s; missing: 1\. .* --job .*out\.job"
    ):
        agent.attend(two, 0)
    with pytest.raises(LaunchError, match="another node gave up"):  # the other one, coming too late
        agent.attend(two, 1)


def test_a_node_does_not_join_a_start_whose_first_node_is_dead(two, monkeypatch):
    monkeypatch.setattr(agent, "JOIN_SECONDS", 0.5)
    two.write(f"{two.joined}/0.json", {"host": "h0", "beat": 5})
    two.write("go.json", ["127.0.0.1", 1])
    with pytest.raises(LaunchError, match="has shown no sign of life"):
        agent.attend(two, 1)


def test_a_node_leaves_a_start_that_was_replaced(two, tmp_path):
    new_job(tmp_path, two.spec)
    with pytest.raises(agent.Superseded):
        agent.attend(two, 1)


def test_a_node_whose_start_is_replaced_ends_its_ranks_and_leaves_the_new_one_alone(two, tmp_path):
    """As where the launcher is killed and starts again before the ranks of this node have noticed."""
    replaced = [sys.executable, "-c", "import time; time.sleep(60)"]
    watching = Agent(two, 1, None)
    watching.beat()
    watching.last_beat = 0.0
    new_job(tmp_path, two.spec)
    begun = time.monotonic()
    with pytest.raises(agent.Superseded), Signals() as signals:
        watching.run(replaced, dict(os.environ), signals)
    assert time.monotonic() - begun < 30
    assert not list((two.folder / job.EXITS).iterdir()), "the new start must not look failed"
    two.end(0, {"0": 1})
    assert not list((two.folder / job.EXITS).iterdir())


def test_a_request_to_stop_reaches_nodes_that_still_wait(two):
    two.write("stop.json", signal.SIGTERM)
    with pytest.raises(agent.StoppedEarly, match="stopped by SIGTERM, and nothing new was saved"):
        agent._join(Agent(two, 0, None), Signals())


def test_a_node_that_waits_in_vain_says_so(tmp_path, capsys):
    assert main(["--job", str(tmp_path / "out.job"), "--wait", "0"]) == 1
    assert "no training on several nodes appeared in 0 s" in capsys.readouterr().err


def test_a_node_takes_part_in_what_waits_for_nodes_below_a_folder(tmp_path, monkeypatch):
    store = tmp_path / "store" / "train"
    store.mkdir(parents=True)
    ended = new_job(store, FitSpec(nodes=2, seed=1))
    ended.write("exits/0.json", {"torchrun": 0})
    assert _appeared(tmp_path, 0, several=True) is None
    waits = job.create(
        FitSpec(nodes=2), "b", range(0), store / "other", keep_adapters=False, nodes=2, processes=1
    )
    assert _appeared(tmp_path, 0, several=True) == waits == _appeared(waits.folder, 0, several=False)
    claim(waits)
    waits.write(f"{waits.joined}/0.json", {"host": "h0", "beat": 1})
    assert _appeared(tmp_path, 0, several=True) is None  # all have come


def test_a_start_waits_for_the_ranks_of_an_earlier_one(two, monkeypatch):
    module = [sys.executable, "-c", "import time; time.sleep(60)", str(two.folder)]
    earlier = subprocess.Popen(module)
    two.write("ranks/0.json", {"node": 0, "host": "h0", "process": earlier.pid})
    monkeypatch.setattr(launch, "EARLIER_SECONDS", 0.3)
    wait_for(lambda: agent.is_rank(earlier.pid, two.folder))
    try:
        with pytest.raises(
            LaunchError, match=rf"an earlier start .* still runs \(processes \[{earlier.pid}\]\)"
        ):
            launch._wait_for_earlier(two.folder)
    finally:
        earlier.kill()
        earlier.wait()
    launch._wait_for_earlier(two.folder)
