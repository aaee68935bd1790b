"""Errors of the recipe engine that are reported to the user, each with what to do about it.

They quote what a recipe or a library says, so the user, password and query of every URL in them are masked.
"""

from collections.abc import Iterable

from curation.nearest import nearest as closest
from curation.teacher.address import masked


class RecipeError(Exception):
    """A recipe that cannot be run as written: the place, the problem, and what is allowed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


class StoreError(Exception):
    """The store cannot be read or written: the path, and what to do."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


class StageError(Exception):
    """A stage failed. `details` holds the original traceback as text."""

    def __init__(self, stage: str, error: str, details: str) -> None:
        error, details = masked(error), masked(details)
        super().__init__(f"stage {stage} failed: {error}")
        self.stage, self.error, self.details = stage, error, details

    def __reduce__(self) -> tuple[type["StageError"], tuple[str, str, str]]:
        # The default would call __init__ with the message alone when a worker's error is unpickled.
        return StageError, (self.stage, self.error, self.details)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of all known names where none is similar."""
    known = sorted(known)
    near = closest(name, known)
    return f"did you mean `{near}`?" if near else f"known are: {', '.join(known) or 'none'}"
