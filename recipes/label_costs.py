"""What a dry run says of the cost of a teacher's labels, from the pool that is built."""

from pathlib import Path

from recipes.schema import ApiTeacher
from recipes.stages.label_estimate import estimate_of


def note(teacher: ApiTeacher, pool: Path, finished: Path) -> str | None:
    """A sentence on the cost of labelling the pool in the folder; None if the labels in `finished` are there.

    pool: a pool's artefact, which may not be built.
    """
    if (finished / "done.json").is_file():
        return None
    if not (pool / "done.json").is_file():
        return "teacher: what its labels may cost is known once the pool is built"
    return f"teacher: {estimate_of(teacher.model_dump(mode='json'), pool)}"
