"""Inspect and clean the store: list its stages and their runs, find damage, delete stages that no run uses.

python -m recipes.store ls [--root DIR]
python -m recipes.store verify [--root DIR]          # read every byte; exit status 1 if a stage is damaged
python -m recipes.store gc --dry-run [--root DIR]    # list what gc would delete: stages that no run uses
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
BESIDE = (".lock", ".log", ".seen")
"""Endings of the files beside an artefact that belong to it."""


@dataclass(frozen=True)
class Artefact:
    """One directory of the store: stage, state, age in seconds, size in bytes, and the runs that use it."""

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
    """The parser of this command."""
    program = CommandParser(
        prog="python -m recipes.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = program.add_subparsers(dest="command", required=True, metavar="ls|verify|gc")
    for name, text in (
        ("ls", "list the stages with their age, size, state and runs"),
        ("verify", "read every file and compare it with its hash"),
        ("gc", "delete the stages that no run directory uses"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--root",
            type=path,
            default=Path("."),
            metavar="DIR",
            help="directory of store/ and runs/ (default: the current one)",
        )
        if name == "gc":
            command.add_argument(
                "--dry-run", action="store_true", help="print what would be deleted; delete nothing"
            )
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if `verify` finds damage or there is no readable store; 2 for a wrong command."""
    options = parser().parse_args(arguments)
    from rich.console import Console

    from recipes.command import exit_status

    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False)
    return exit_status(lambda: COMMANDS[options.command](options, console))


# ------------------------------------------------------------------------------------------ commands


def list_store(options: argparse.Namespace, console: "Console") -> int:
    """Print one line for each artefact, and the totals."""
    from rich.markup import escape
    from rich.table import Table

    artefacts = survey(options.root)
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
        f"{len(artefacts)} stages, {_bytes(total)}; {sum(not one.runs for one in artefacts)} used by no run"
    )
    return 0


def verify_store(options: argparse.Namespace, console: "Console") -> int:
    """Read every finished artefact and print the damaged ones."""
    artefacts = survey(options.root, full=True)
    damaged = [one for one in artefacts if one.state.startswith("damaged")]
    for one in damaged:
        console.print(f"{one.label} ({one.name}): {one.state}", markup=False, soft_wrap=True)
    done = sum(one.state == "done" for one in artefacts)
    unfinished = len(artefacts) - done - len(damaged)
    console.print(f"{done} stages verified, {len(damaged)} damaged, {unfinished} unfinished")
    if damaged:
        console.print("the next run of a recipe that uses a damaged stage rebuilds it")
    return 1 if damaged else 0


def collect_garbage(options: argparse.Namespace, console: "Console") -> int:
    """Delete, or with --dry-run list, the artefacts that no plan and no link of a run directory names."""
    freed = 0
    for one in survey(options.root):
        if one.runs:
            continue
        if not options.dry_run and _in_use(one.path):
            console.print(
                f"{one.label} ({one.name}): kept, another process is running this stage", markup=False
            )
            continue
        freed += one.size
        console.print(f"{one.label} ({one.name}): {_bytes(one.size)}", markup=False, soft_wrap=True)
        if not options.dry_run:
            _delete(one.path)
    console.print(f"{_bytes(freed)} {'would be freed' if options.dry_run else 'freed'}")
    return 0


def _delete(place: Path) -> None:
    """Delete an artefact and the files beside it. Raises StoreError if the disk is not writable."""
    import shutil

    from recipes import store

    with store.explained(place):
        # The mark goes first, so that a process killed before the end leaves an unfinished artefact.
        (place / "done.json").unlink(missing_ok=True)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        for ending in BESIDE:
            place.with_name(place.name + ending).unlink(missing_ok=True)


COMMANDS = {"ls": list_store, "verify": verify_store, "gc": collect_garbage}


# ------------------------------------------------------------------------------------------ survey


def survey(root: Path, full: bool = False) -> list[Artefact]:
    """Every artefact below root/store, by kind and hash. Raises StoreError if there is no store."""
    from recipes.errors import StoreError

    if not (root / "store").is_dir():
        raise StoreError(f"{root / 'store'} does not exist; give the parent directory of store/ with --root")
    users = runs_by_artefact(root)
    folders = (p for p in (root / "store").glob("*/*") if _is_artefact(p))
    return [_artefact(p, users.get(f"{p.parent.name}/{p.name}", ()), full) for p in sorted(folders)]


def runs_by_artefact(root: Path) -> dict[str, tuple[str, ...]]:
    """`kind/hash` -> the runs whose plan names it, or whose links point to it."""
    users: dict[str, set[str]] = {}
    for plan in (root / "runs").rglob("plan.json"):
        run = plan.parent.relative_to(root / "runs").as_posix()
        for label in (*_planned(plan), *_linked(plan.parent / "stages")):
            users.setdefault(label, set()).add(run)
    return {label: tuple(sorted(runs)) for label, runs in users.items()}


def _planned(plan: Path) -> Iterator[str]:
    """Labels of a plan's stages.

    Raises StoreError for an unreadable plan, whose stages gc must not delete.
    """
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
