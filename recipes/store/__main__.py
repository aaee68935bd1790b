"""Look after the store: what it holds and for which runs, what is damaged, what nothing reaches any more.

python -m recipes.store ls [--root DIR]
python -m recipes.store verify [--root DIR]          # reads every byte; exit status 1 if something is damaged
python -m recipes.store gc --dry-run [--root DIR]    # what would be deleted: stages that no run directory names
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curation.command import CommandParser, path

if TYPE_CHECKING:
    from rich.console import Console

HASH_DIGITS = 12
LEFT = (".lock", ".log", ".seen")
"""Endings of the files beside an artefact that go with it."""


@dataclass(frozen=True)
class Artefact:
    """One directory of the store: its stage and state, its age in seconds and its size, the runs that name it."""

    path: Path
    name: str
    state: str
    age: float
    size: int
    runs: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(
        prog="python -m recipes.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="ls|verify|gc")
    for name, text in (
        ("ls", "list the stages, with their age, size, state and runs"),
        ("verify", "read every file and compare it with its hash"),
        ("gc", "delete the stages that no run directory names"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--root", type=path, default=Path("."), metavar="DIR", help="holds store/ and runs/"
        )
        if name == "gc":
            command.add_argument(
                "--dry-run", action="store_true", help="print what would be deleted, delete nothing"
            )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if `verify` finds damage; 2 for a wrong command or a directory without a store."""
    given = parser().parse_args(arguments)
    from rich.console import Console

    from recipes.command import exit_status

    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False)
    return exit_status(lambda: COMMANDS[given.command](given, console))


# ------------------------------------------------------------------------------------------ commands


def list_store(given: argparse.Namespace, console: "Console") -> int:
    """Print a line for each artefact, and the totals."""
    from rich.markup import escape
    from rich.table import Table

    artefacts = survey(given.root)
    table = Table("stage", "name", "state", "age", "size", "runs")
    for one in artefacts:
        table.add_row(
            one.label,
            escape(one.name),
            escape(one.state),
            _age(one.age),
            _bytes(one.size),
            ", ".join(one.runs) or "none",
        )
    console.print(table)
    total = sum(one.size for one in artefacts)
    console.print(
        f"{len(artefacts)} stages, {_bytes(total)}; {sum(not one.runs for one in artefacts)} named by no run"
    )
    return 0


def verify_store(given: argparse.Namespace, console: "Console") -> int:
    """Read every finished artefact; print the damaged ones."""
    artefacts = survey(given.root, full=True)
    damaged = [one for one in artefacts if one.state.startswith("damaged")]
    for one in damaged:
        console.print(f"{one.label} ({one.name}): {one.state}", markup=False, soft_wrap=True)
    done = sum(one.state == "done" for one in artefacts)
    unfinished = len(artefacts) - done - len(damaged)
    console.print(f"{done} stages verified, {len(damaged)} damaged, {unfinished} unfinished")
    if damaged:
        console.print("the next run of their recipes makes the damaged ones again")
    return 1 if damaged else 0


def collect_garbage(given: argparse.Namespace, console: "Console") -> int:
    """Delete, or with --dry-run list, the artefacts that no plan and no link of a run directory names."""
    import shutil

    from recipes import store

    unreached = [one for one in survey(given.root) if not one.runs]
    freed = 0
    for one in unreached:
        if not given.dry_run and _in_use(one.path):
            console.print(
                f"{one.label} ({one.name}): kept, another process is running this stage", markup=False
            )
            continue
        freed += one.size
        console.print(f"{one.label} ({one.name}): {_bytes(one.size)}", markup=False, soft_wrap=True)
        if not given.dry_run:
            with store.explained(one.path):
                (one.path / "done.json").unlink(
                    missing_ok=True
                )  # first: a kill on the way leaves unfinished work
                shutil.rmtree(one.path, ignore_errors=False) if one.path.is_dir() else one.path.unlink()
                for ending in LEFT:
                    one.path.with_name(one.path.name + ending).unlink(missing_ok=True)
    console.print(f"{_bytes(freed)} {'would be freed' if given.dry_run else 'freed'}")
    return 0


COMMANDS = {"ls": list_store, "verify": verify_store, "gc": collect_garbage}


# ------------------------------------------------------------------------------------------ what is there


def survey(root: Path, full: bool = False) -> list[Artefact]:
    """Every artefact below root/store, by kind and hash. Raises StoreError where there is no store."""
    from recipes.errors import StoreError

    if not (root / "store").is_dir():
        raise StoreError(f"{root / 'store'} does not exist; give the directory that holds store/ with --root")
    reached = runs_by_artefact(root)
    folders = (p for p in (root / "store").glob("*/*") if _is_artefact(p))
    return [_artefact(p, reached.get(f"{p.parent.name}/{p.name}", ()), full) for p in sorted(folders)]


def runs_by_artefact(root: Path) -> dict[str, tuple[str, ...]]:
    """`kind/hash` -> the runs whose plan names it, or whose links lead to it."""
    found: dict[str, set[str]] = {}
    for plan in (root / "runs").rglob("plan.json"):
        run = plan.parent.relative_to(root / "runs").as_posix()
        for label in (*_planned(plan), *_linked(plan.parent / "stages")):
            found.setdefault(label, set()).add(run)
    return {label: tuple(sorted(runs)) for label, runs in found.items()}


def _planned(plan: Path) -> Iterator[str]:
    """Raises StoreError for a plan that cannot be read: what it names must not be taken for garbage."""
    import json

    from recipes.errors import StoreError

    try:
        for node in json.loads(plan.read_text(encoding="utf-8")):
            yield f"{node['kind']}/{node['hash'][:HASH_DIGITS]}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"{plan} is not readable ({error}); delete that run directory, or run its recipe again"
        ) from error


def _linked(stages: Path) -> Iterator[str]:
    for link in stages.iterdir() if stages.is_dir() else ():
        if link.is_symlink():
            target = Path(link.readlink())
            yield f"{target.parent.name}/{target.name}"


def _is_artefact(place: Path) -> bool:
    name = place.name
    return len(name) == HASH_DIGITS and set(name) <= set("0123456789abcdef")


def _artefact(place: Path, runs: tuple[str, ...], full: bool) -> Artefact:
    import time

    from recipes import store

    try:
        done, name = store.read_done(place), str(store.read_record(place).get("name", "?"))
        state = store.check(place, done.hash, full=full)
    except store.Damaged as problem:
        finished = (place / "done.json").exists() or not place.is_dir()
        state, name = f"damaged: {problem}" if finished else "unfinished", "?"
    files = [
        p for p in (place.rglob("*") if place.is_dir() else [place]) if p.is_file() and not p.is_symlink()
    ]
    size = sum(p.stat().st_size for p in files)
    return Artefact(place, name, state, time.time() - place.stat().st_mtime, size, runs)


def _in_use(place: Path) -> bool:
    import fcntl
    import os

    try:
        handle = os.open(f"{place}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


if __name__ == "__main__":
    sys.exit(main())
