"""What Slurm's variables say about the nodes of an allocation.

`SLURM_JOB_ID` (inside an allocation), `SLURM_NNODES`, `SLURM_JOB_NODELIST` or `SLURM_NODELIST`, and inside a
step that `srun` started `SLURM_NODEID`, `SLURM_PROCID` and `SLURM_STEP_NUM_TASKS`; sbatch(1) and srun(1)
define them.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping


def inside(environment: Mapping[str, str]) -> bool:
    """Whether this process runs in an allocation, on a machine with `srun`."""
    return "SLURM_JOB_ID" in environment and shutil.which("srun") is not None


def nodes(environment: Mapping[str, str]) -> int:
    """The nodes of the allocation."""
    return int(environment.get("SLURM_NNODES") or environment.get("SLURM_JOB_NUM_NODES") or 1)


def node(environment: Mapping[str, str]) -> int | None:
    """This node's number in a step of several tasks; None elsewhere (a batch script has the number 0 too)."""
    return int(environment["SLURM_NODEID"]) if tasks(environment) > 1 else None


def tasks(environment: Mapping[str, str]) -> int:
    """The tasks of the step that `srun` started this process in; 1 outside of one."""
    return int(environment.get("SLURM_STEP_NUM_TASKS") or 1)


def head(environment: Mapping[str, str]) -> str | None:
    """The host name of the first node of the allocation; None outside of one.

    `scontrol` resolves the list of nodes; where it does not exist or fails, `expand` does.
    """
    listed = next(
        (
            environment[name]
            for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
            if environment.get(name)
        ),
        None,
    )
    if listed is None:
        return None
    if shutil.which("scontrol"):
        command = ["scontrol", "show", "hostnames", listed]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.split():
            return done.stdout.split()[0]
    return expand(listed)[0]


def expand(listed: str) -> list[str]:
    """The host names of a Slurm node list: `gpu[01-03,7],login` is gpu01, gpu02, gpu03, gpu7, login.

    Raises ValueError for a list that is none.
    """
    names = []
    for entry in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", listed):
        names += _expand_entry(entry)
    if not names:
        raise ValueError(f"{listed!r} is not a list of Slurm nodes")
    return names


def _expand_entry(entry: str) -> list[str]:
    """One entry of a list; with several brackets (`rack[1-2]n[1-2]`) the last number runs fastest."""
    before, bracket, rest = entry.partition("[")
    if not bracket:
        return [entry]
    numbers, _, after = rest.partition("]")
    return [
        f"{before}{number}{tail}"
        for span in numbers.split(",")
        for number in _span(span)
        for tail in (_expand_entry(after) if after else [""])
    ]


def _span(span: str) -> list[str]:
    """`08-10` is 08, 09, 10: leading zeros stay."""
    first, dash, last = span.partition("-")
    if not dash:
        return [first]
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def srun(nodes: int) -> list[str]:
    """The command that runs one task on each of `nodes` nodes of the allocation, beside this process.

    A task sees all of its node's processors and GPUs: torchrun places the ranks.
    """
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--overlap",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
    ]


def for_steps(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what `srun` would take from the batch script as limits of each task."""
    limits = ("SLURM_NTASKS_PER_", "SLURM_GPUS_PER_TASK", "SLURM_CPUS_PER_TASK", "SLURM_TRES_PER_TASK")
    return {name: value for name, value in environment.items() if not name.startswith(limits)}
