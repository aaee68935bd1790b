"""Errors that reach the user of the recipe engine, each with what to do about it."""

import sys
from collections.abc import Callable, Iterable

from curation.nearest import nearest as closest
from recipes.stop import Stopped, end_descendants, stoppable


class RecipeError(Exception):
    """A recipe that cannot be run as written: where, what, and what is allowed."""


class StoreError(Exception):
    """The store cannot be read or written: which path, and what to do."""


class StageError(Exception):
    """A stage failed. `details` holds the original traceback as text."""

    def __init__(self, stage: str, error: str, details: str):
        super().__init__(f"stage {stage} failed: {error}")
        self.stage, self.error, self.details = stage, error, details

    def __reduce__(self):
        return StageError, (self.stage, self.error, self.details)


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and print the errors that reach the user.

    Returns 2 for a wrong recipe, 1 for a failed stage or store, 128 + the signal's number if a signal stopped it.
    """
    with stoppable():
        try:
            return command()
        except RecipeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except StageError as error:
            print(f"{error.details}\nerror: {error}", file=sys.stderr)
            return 1
        except StoreError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            end_descendants()
            print(stopped, file=sys.stderr)
            return stopped.status


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of what is known where nothing is near."""
    known = sorted(known)
    near = closest(name, known)
    return f"did you mean `{near}`?" if near else f"known are: {', '.join(known) or 'none'}"
