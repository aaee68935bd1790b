"""Errors that reach the user of the recipe engine, each with what to do about it."""

import difflib
from collections.abc import Iterable


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


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or the list of what is known where nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(known) or 'none'}"
