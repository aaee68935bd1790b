"""The answers that `evaluation.answering.ask` kept, found again by part and respondent."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.answering import SHUFFLED, Part, shuffled_part
from evaluation.journal import Answer, find, has_answers, path_of, read
from evaluation.questions import EvaluationError

Identity = Mapping[str, Any]
"""All about a respondent that decides its answers (`evaluation.answering.Respondent.identity`)."""


def _found(
    folders: Sequence[Path], part: Part, about: Identity | None
) -> tuple[Identity, dict[int, Answer]] | None:
    """(identity, answers) of a part by the respondent `about`, or by the only one that folders know.

    None if they hold no file of it. Raises AnswersError, or EvaluationError if some answers are missing.
    """
    for folder in folders:
        path = path_of(folder, part.name, part.identity(about)) if about else find(folder, part.name)
        if path is None or not path.is_file():
            continue
        identity, answers = read(path)
        if missing := sum(i not in answers for i in part.indices):
            raise EvaluationError(
                f"{folder}: {missing} of {len(part.indices)} answers to {part.name} are missing"
            )
        return identity, {i: answers[i] for i in part.indices}
    return None


def own_answers(
    folders: Sequence[Path], part: Part, about: Identity | None
) -> tuple[Identity, dict[int, Answer]]:
    """(identity, answers) of a part. Raises AnswersError, or EvaluationError if some or all are missing."""
    if (found := _found(folders, part, about)) is None:
        raise EvaluationError(f"{folders[0]} holds no answers to {part.name}")
    return found


def shuffled_answers(folders: Sequence[Path], part: Part, about: Identity | None) -> dict[int, Answer] | None:
    """The answers of a part with other images; None if it was not asked that way."""
    if not any(has_answers(folder, f"{part.questions.name}{SHUFFLED}") for folder in folders):
        return None  # without a look at the images of all questions
    other = shuffled_part(part)
    found = _found(folders, other, about) if other else None
    return found[1] if found else None
