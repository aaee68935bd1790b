"""Run a command that the kernel terminates (SIGTERM) as soon as the process that started it dies.

    python -m training.parent_death PARENT_PID COMMAND [ARGUMENT ...]

A launcher that is killed with SIGKILL cannot clean up, and two trainings must never write to one directory.
The child asks for the signal itself, since `preexec_fn` of subprocess may deadlock in a process with threads.
Standard library only, so that the command starts without delay. Linux only; elsewhere the command runs
without this guard.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def terminate_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent, process `parent`, dies; survives exec.

    Raises SystemExit when the parent is dead already.
    """
    if sys.platform != "linux":
        return
    import ctypes

    # The signal follows the death of the thread that started us: the launcher's waits until we have ended.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # A parent that died before that call sends no signal any more, but another process has adopted us.
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which started this one, has ended")


def main(argv: Sequence[str] | None = None) -> None:
    """Guard this process, then replace it by the command."""
    parser = argparse.ArgumentParser(description="Run a command that is terminated when its parent dies.")
    parser.add_argument("parent", type=int, metavar="PARENT_PID")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    if not args.command:
        parser.error("a command to run is required")
    terminate_with_parent(args.parent)
    os.execvp(args.command[0], args.command)


if __name__ == "__main__":
    main()
