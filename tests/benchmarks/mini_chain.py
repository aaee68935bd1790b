"""Seconds and memory of the mini chain as a user runs it: cold, cached, smoke, --help and --dry-run.

    python tests/benchmarks/mini_chain.py [--root DIR] [--skip-cold]

Prints one line per run with its bound; exit status 1 if a bound is exceeded. DIR should be empty for a cold
run.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

RECIPE = "mmssr_30pct.yaml"
BOUNDS = {"cold": 720.0, "cached": 20.0, "smoke": 90.0, "help": 1.0, "dry-run": 5.0}
MEMORY_GB = 6.0


def tree_memory(process: psutil.Process) -> int:
    """Proportional set size of a process and its children, bytes (shared pages are counted once)."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def timed(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak GB) of one `python -m recipes.run`; raises CalledProcessError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes.run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(1.0):
            try:
                peak = max(peak, tree_memory(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if process.returncode:
        print(output[-3000:])
        raise subprocess.CalledProcessError(process.returncode, arguments)
    print(
        "\n".join(line for line in output.splitlines() if line.startswith(("seconds by stage", "this run")))
    )
    return seconds, peak / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path)
    parser.add_argument("--skip-cold", action="store_true")
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="winnow-bench-"))
    runs = {
        "help": ["--help"],
        "cold": [RECIPE, f"root={root}"],
        "cached": [RECIPE, f"root={root}"],
        "dry-run": [RECIPE, f"root={root}", "--dry-run"],
        "smoke": [RECIPE, "scale=smoke", f"root={root}/smoke"],
    }
    if options.skip_cold:
        del runs["cold"]
    missed = False
    for name, arguments in runs.items():
        seconds, peak = timed(arguments)
        missed |= seconds > BOUNDS[name] or peak > MEMORY_GB
        print(
            f"{name}: {seconds:.1f} s (bound {BOUNDS[name]:.0f}), "
            f"peak memory {peak:.2f} GB (bound {MEMORY_GB:.0f})",
            flush=True,
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
