"""Errors of the recipe engine that are reported to the user, each with what to do about it."""

from collections.abc import Iterable

from curation.nearest import nearest as closest


class RecipeError(Exception):
    """A recipe that cannot be run as written: the place, the problem, and what is allowed."""


class StoreError(Exception):
    """The store cannot be read or written: the path, and what to do."""


class StageError(Exception):
    """A stage failed. `details` holds the original traceback as text."""

    def __init__(self, stage: str, error: str, details: str) -> None:
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
