"""Run a recipe in a process that kills itself with SIGKILL at its k-th change of the file system.

    KILL_AT=17 python tests/recipes/killed_run.py STAGES_PACKAGE demo.yaml root=DIR ...

A change is the opening of a file for writing, a rename, a new directory, a deletion or a link, by Python code in this
process (KILL_IN=parent) or in the workers that it spawns (KILL_IN=worker). If the change is the opening of a file
and k is odd, half a line is written into it first: a kill in the middle of a write. With COUNT_TO=FILE the number of
changes is written there at the end.
"""

import os
import signal
import sys

EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killer:
    """Counts changes below `root`; at number `kill_at` the process ends."""

    def __init__(self, root: str, kill_at: int):
        self.root, self.kill_at, self.count, self.active = root, kill_at, 0, True

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.active or not self._changes(event, arguments):
            return
        self.count += 1
        if self.count == self.kill_at:
            self.active = False
            if event == "open" and self.kill_at % 2:
                with open(arguments[0], "wb") as half:
                    half.write(b'{"half": ')
            os.kill(os.getpid(), signal.SIGKILL)

    def _changes(self, event: str, arguments: tuple) -> bool:
        if event not in EVENTS and not (event == "open" and arguments[2] & WRITING):
            return False
        path = next((a for a in reversed(arguments[:2]) if isinstance(a, str | os.PathLike)), "")
        return os.fspath(path).startswith(self.root)


def install(arguments: list[str], here: str) -> Killer:
    """Put a killer into this process; it kills if this is the kind of process that is meant."""
    root = next(a.removeprefix("root=") for a in arguments if a.startswith("root="))
    killer = Killer(
        root, int(os.environ.get("KILL_AT", 0)) if here == os.environ.get("KILL_IN", "parent") else 0
    )
    sys.addaudithook(killer)
    return killer


def run(package: str, arguments: list[str]) -> int:
    """The command line in this process, with the killer; exit status."""
    killer = install(arguments, "parent")
    from recipes.run import main

    status = main(arguments, package=package)
    if count_to := os.environ.get("COUNT_TO"):
        with open(count_to, "w", encoding="utf-8") as file:
            file.write(str(killer.count))
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
elif __name__ == "__mp_main__":  # imported anew by a spawned worker
    install(sys.argv, "worker")
