"""Where an export is written: everything beside its final place, and renamed at the end."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from curation import killpoints
from curation.atomic import replacing


@contextlib.contextmanager
def files(outputs: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary paths beside `outputs`, which they replace when the block ends without an error.

    The first comes last, so that it exists only with its companions.
    """
    outputs[0].parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(outputs)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(replacing(out)) for out in outputs]


@contextlib.contextmanager
def folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, which it replaces when the block ends without an error.

    An earlier folder is moved aside first and deleted last: at no moment does `out` hold parts of both.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned([out])
    temporary, aside = (out.with_name(f".{out.name}.{os.getpid()}.{end}") for end in ("tmp", "old.tmp"))
    temporary.mkdir()
    try:
        yield temporary
        killpoints.reach("before rename")
        if os.path.lexists(out):
            os.rename(out, aside)
        os.rename(temporary, out)
        killpoints.reach("after rename")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if aside.exists() and not out.exists():  # the second rename failed
            os.rename(aside, out)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(outputs: Sequence[Path]) -> None:
    """Delete what killed exports to the same places left; other processes' files stay while they live."""
    for out in outputs:
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.tmp"):
            process = left.name.removeprefix(f".{out.name}.").partition(".")[0]
            if process.isdigit() and not _is_alive(int(process)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, and is another user's
        return True
    return True
