"""Processes that tests start: their environment, waiting for them, and whether they are still alive."""

import os
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DUMMY_STAGES = REPOSITORY / "tests" / "recipes"
"""The folder of the package `dummy_stages`."""
DUMMY_RUN = "import sys; from recipes.run import main; sys.exit(main(sys.argv[1:], package='dummy_stages'))"
"""Code of a process that runs a recipe with the dummy stages; the arguments follow it."""


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """os.environ with `folders`, the project and the dummy stages on PYTHONPATH, and with `variables`."""
    paths = os.pathsep.join(str(folder) for folder in (*folders, REPOSITORY, DUMMY_STAGES))
    return {**os.environ, "PYTHONPATH": paths, **variables}


def wait_for(condition: Callable[[], object], seconds: float = 40.0) -> None:
    """Wait until `condition` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still waiting after {seconds} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        # The name, in parentheses, may contain spaces and parentheses; the state follows it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
