"""Files that a config names, as inputs of stages: their content is part of the result's identity.

The stage opens them by the name in its config; the input only carries the hash.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from curation.closure import file_hash
from recipes.errors import RecipeError
from recipes.external import External, Fingerprints, expanded, several
from recipes.load import Loaded
from recipes.schema import Bench, NotJudged, required
from training.spec import FitSpec

if TYPE_CHECKING:
    from evaluation.suite import Benchmark, Suite


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
    from evaluation.suites import path_of

    where, suite = loaded.locate("evaluation", "suite"), suite_of(loaded)
    try:
        tasks = task_files(suite, [task.task for b in suite for task in b.tasks], prints)
    except (FileNotFoundError, ImportError) as error:
        raise RecipeError(f"{where}: evaluation.suite: {error}") from error
    return {"suite": several([path_of(loaded.recipe.evaluation.suite)], prints), "tasks": tasks}


def suite_of(loaded: Loaded) -> "Suite":
    """The suite of the evaluation, without its judged benchmarks where they are declared not judged.

    Raises RecipeError for an unknown or invalid suite.
    """
    from evaluation.opened import reduced
    from evaluation.suite import load_suite

    evaluation = loaded.recipe.evaluation
    try:
        return reduced(load_suite(evaluation.suite), not_judged=isinstance(evaluation.judge, NotJudged))
    except (ValueError, FileNotFoundError) as error:
        raise RecipeError(f"{loaded.locate('evaluation', 'suite')}: evaluation.suite: {error}") from error


def task_files(suite: "Suite", tasks: list[str], prints: Fingerprints) -> External:
    """The files of these tasks: YAML by content, Python by the code that they execute.

    Raises FileNotFoundError; ImportError for a task of lmms-eval that is not installed.
    """
    from evaluation.tasks import files_of

    files = files_of(suite.folder, tasks)
    data = several([file for file in files if file.suffix != ".py"], prints)
    code = [file_hash(file) for file in files if file.suffix == ".py"]
    return External(data.path, prints.text("\n".join([data.hash, *code])))


def mirror_input(loaded: Loaded, benchmarks: "Sequence[Benchmark]", prints: Fingerprints) -> External:
    """The data of these benchmarks in the recipe's mirror, identified by content. Raises RecipeError."""
    from evaluation.mirror import Mirror, MirrorError

    where = loaded.locate("evaluation", "data", "mirror")
    folder = expanded(required(loaded.recipe.evaluation.data).mirror, where)
    try:
        mirror = Mirror(folder)
        digests = []
        for benchmark in benchmarks:
            mirror.check(benchmark, strict=False)
            digests += [mirror.digest(benchmark.data_of(task)) for task in benchmark.tasks]
    except MirrorError as error:
        raise RecipeError(f"{where}: evaluation.data.mirror: {error}") from error
    return External(folder.resolve(), prints.text("\n".join(digests)))


def work_of_bench(bench: Bench) -> float:
    """Number of items in all benchmarks of the mini world, for time estimates."""
    from curation.taxonomy import CAPABILITIES

    return bench.items * len(CAPABILITIES)
