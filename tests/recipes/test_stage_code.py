"""A stage's CODE names every module that can change its result: what it imports, directly or not, inside functions too."""

import ast
from pathlib import Path

import pytest

from recipes.code import REPOSITORY, _constants

STAGES = REPOSITORY / "recipes" / "stages"
HARMLESS = {
    "curation/pool/errors.py": "messages",
    "curation/pool/sample.py": "a type",
    "curation/teacher/base.py": "a type",
    "curation/signals/__init__.py": "a registry",
    "curation/selectors/__init__.py": "a registry; the selector's own module counts",
    "curation/selectors/param_types.py": "messages",
    "training/hub.py": "finds files, whose content counts",
    "recipes/stages/counting.py": "progress",
    "recipes/stages/scoring.py": "progress",
    "recipes/stages/serving.py": "progress, settings of a server",
    "recipes/errors.py": "messages",
}
INDEX_ONLY = {"curation/pool/record.py"}
"""Stages that read the pool's index parse no record."""
BESIDE = {
    "select": INDEX_ONLY,
    "signal_cluster": INDEX_ONLY,
    "signal_value": INDEX_ONLY,
    "signal_quality_models": {  # another kind's stand-in; the encoders beside whose error class it uses
        "curation/signals/quality/stand_in.py",
        "curation/teacher/draw.py",
        "curation/teacher/rubric.py",
        "curation/taxonomy.py",
        "curation/signals/vectors/dual_encoder.py",
        "curation/signals/core/vlm.py",
        "curation/pool/images.py",
        "training/collate.py",
        "training/images.py",
        "training/render.py",
    },
    "signal_custom": INDEX_ONLY,  # what the user's function reads is its own affair
    "probe_subsets": INDEX_ONLY
    | {"curation/signals/subset_value/features.py", "curation/signals/subset_value/regressors.py"},
    "evaluate": INDEX_ONLY,
    "train": {"curation/subset.py", "curation/selectors/contract.py"},  # reads a subset's rows
    "fit_seed": {"curation/subset.py", "curation/selectors/contract.py"},
}


def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere, but for types alone."""
    found, todo = set(), [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        todo += ast.iter_child_nodes(node)
    return found


def reached(file: Path) -> set[str]:
    """Paths in the repository of all that a file imports, directly or not; empty files left out."""
    seen, todo = set(), [file]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for module in imported(current):
            at = REPOSITORY.joinpath(*module.split("."))
            todo += [path for path in (at.with_suffix(".py"), at / "__init__.py") if path.is_file()]
    return {path.relative_to(REPOSITORY).as_posix() for path in seen - {file} if path.stat().st_size}


# compare only reads what other stages left, and a metadata grader loads none of the models that other graders do
@pytest.mark.parametrize(
    "stage",
    sorted({f.stem for f in STAGES.glob("*.py") if "CODE" in _constants(f)} - {"compare", "signal_quality"}),
)
def test_code_is_complete(stage):
    code = _constants(STAGES / f"{stage}.py")["CODE"]
    covered = {
        path
        for path in reached(STAGES / f"{stage}.py")
        if any(path == c or path.startswith(f"{c}/") for c in code)
    }
    left = reached(STAGES / f"{stage}.py") - covered - set(HARMLESS) - BESIDE.get(stage, set())
    assert not left, f"{stage}: CODE lacks {sorted(left)}"
