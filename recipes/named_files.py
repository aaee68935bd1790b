"""Files that a config names, as inputs of stages: their content is part of the result's identity.

The stage opens them by the name in its config; the input only carries the hash.
"""

import json
from pathlib import Path

from curation.closure import file_hash
from recipes.errors import RecipeError
from recipes.external import External, Fingerprints, several
from recipes.load import Loaded
from recipes.schema import Bench
from training.spec import FitSpec


def deepspeed_input(train: FitSpec, loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """The DeepSpeed configuration of a training, if it has one.

    Raises RecipeError unless it is a JSON object.
    """
    if train.deepspeed is None:
        return {}
    from training.deepspeed import path_of

    where = loaded.locate("train", "deepspeed")
    try:
        file = path_of(train.deepspeed)
        if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
            raise RecipeError(f"{where}: deepspeed: {file} must hold a JSON object")
    except FileNotFoundError as error:
        raise RecipeError(f"{where}: deepspeed: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{where}: deepspeed: {file} is not valid JSON: {error}") from error
    return {"deepspeed": several([file], prints)}


def prompts_input(rater: str, name: str, loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """The prompt set of a rater. Raises RecipeError if it does not exist."""
    from curation.signals.raters.prompts import path_of

    try:
        return {"prompts": several([path_of(name)], prints)}
    except FileNotFoundError as error:
        raise RecipeError(f"{loaded.locate(rater, 'prompts')}: {rater}.prompts: {error}") from error


def suite_inputs(loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """The suite of the evaluation, and the YAML files and Python functions of its tasks.

    Raises RecipeError for an unknown or invalid suite, and for tasks that do not exist.
    """
    from evaluation.suite import load_suite
    from evaluation.suites import path_of
    from evaluation.tasks import files_of

    where, name = loaded.locate("evaluation", "suite"), loaded.recipe.evaluation.suite
    try:
        suite, file = load_suite(name), path_of(name)
        files = files_of(suite.folder, [benchmark.task for benchmark in suite])
    except (ValueError, FileNotFoundError) as error:
        raise RecipeError(f"{where}: evaluation.suite: {error}") from error
    return {"suite": several([file], prints), "tasks": _tasks(files, prints)}


def _tasks(files: list[Path], prints: Fingerprints) -> External:
    """YAML files by content, Python files by the code that they execute."""
    data = several([file for file in files if file.suffix != ".py"], prints)
    code = [file_hash(file) for file in files if file.suffix == ".py"]
    return External(data.path, prints.text("\n".join([data.hash, *code])))


def work_of_bench(bench: Bench) -> float:
    """Number of items in all benchmarks of the mini world, for time estimates."""
    from curation.taxonomy import CAPABILITIES

    return bench.items * len(CAPABILITIES)
