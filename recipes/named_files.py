"""Files that a config names, as inputs of stages: their content is part of the result's identity.

The stage opens them by the name in its config; the input only carries the hash.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curation.closure import file_hash
from recipes.document import KeyPath
from recipes.errors import RecipeError
from recipes.external import External, Fingerprints, expanded, several
from recipes.load import Loaded
from recipes.schema import Bench, NotJudged, SuiteItems, required
from training.spec import FitSpec

if TYPE_CHECKING:
    from evaluation.suite import Benchmark, Suite


def deepspeed_input(train: FitSpec, loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """What of a training's DeepSpeed configuration decides its outcome, if anything does.

    Raises RecipeError unless it is a JSON object.
    """
    if train.deepspeed is None:
        return {}
    from training.deepspeed import path_of
    from training.identity import deciding

    where = loaded.locate("train", "deepspeed")
    try:
        file = path_of(train.deepspeed)
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise RecipeError(f"{where}: deepspeed: {file} must hold a JSON object")
    except FileNotFoundError as error:
        raise RecipeError(f"{where}: deepspeed: {error}") from error
    except ValueError as error:
        raise RecipeError(f"{where}: deepspeed: {file} is not valid JSON: {error}") from error
    decides = deciding(config, train.precision)
    text = json.dumps(decides, sort_keys=True)
    return {"deepspeed": External(file, prints.text(text))} if decides else {}


def prompts_input(rater: str, name: str, loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """The prompt set of a rater. Raises RecipeError if it does not exist."""
    from curation.signals.raters.prompts import path_of

    try:
        return {"prompts": several([path_of(name)], prints)}
    except FileNotFoundError as error:
        raise RecipeError(f"{loaded.locate(rater, 'prompts')}: {rater}.prompts: {error}") from error


@dataclass(frozen=True)
class NamedSuite:
    """A suite and the mirror of its data, as the keys `suite_key` and `mirror_key` of a recipe name them."""

    name: str
    mirror: str | None
    suite_key: KeyPath
    mirror_key: KeyPath
    not_judged: bool = False

    @classmethod
    def of_evaluation(cls, loaded: Loaded) -> "NamedSuite":
        """The suite that the arms are compared on."""
        section = loaded.recipe.evaluation
        keys = ("evaluation", "suite"), ("evaluation", "data", "mirror")
        mirror = section.data.mirror if section.data else None
        return cls(section.suite, mirror, *keys, not_judged=isinstance(section.judge, NotJudged))

    @classmethod
    def of_items(cls, section: SuiteItems, *key: str) -> "NamedSuite":
        """The suite of the validation items at `key`."""
        return cls(section.suite, section.mirror, (*key, "suite"), (*key, "mirror"))


def suite_inputs(named: NamedSuite, loaded: Loaded, prints: Fingerprints) -> dict[str, External]:
    """The suite, and the YAML files and Python functions of its tasks.

    Raises RecipeError for an unknown or invalid suite, and for tasks that do not exist.
    """
    from evaluation.suites import path_of

    suite = suite_of(named, loaded)
    try:
        tasks = task_files(suite, [task.task for b in suite for task in b.tasks], prints)
    except (FileNotFoundError, ImportError) as error:
        raise _at(named.suite_key, loaded, error) from error
    return {"suite": several([path_of(named.name)], prints), "tasks": tasks}


def suite_of(named: NamedSuite, loaded: Loaded) -> "Suite":
    """The suite, without its judged benchmarks where they are declared not judged.

    Raises RecipeError for an unknown or invalid suite.
    """
    from evaluation.opened import reduced
    from evaluation.suite import load_suite

    try:
        return reduced(load_suite(named.name), not_judged=named.not_judged)
    except (ValueError, FileNotFoundError) as error:
        raise _at(named.suite_key, loaded, error) from error


def _at(key: KeyPath, loaded: Loaded, error: Exception) -> RecipeError:
    """The error with the place in the recipe."""
    return RecipeError(f"{loaded.locate(*key)}: {'.'.join(key)}: {error}")


def task_files(suite: "Suite", tasks: list[str], prints: Fingerprints) -> External:
    """The files of these tasks: YAML by content, Python by the code that they execute.

    Raises FileNotFoundError; ImportError for a task of lmms-eval that is not installed.
    """
    from evaluation.tasks import files_of

    files = files_of(suite.folder, tasks)
    data = several([file for file in files if file.suffix != ".py"], prints)
    code = [file_hash(file) for file in files if file.suffix == ".py"]
    return External(data.path, prints.text("\n".join([data.hash, *code])))


def mirror_input(
    named: NamedSuite, loaded: Loaded, benchmarks: "Sequence[Benchmark]", prints: Fingerprints
) -> External:
    """The data of these benchmarks in the suite's mirror, identified by content. Raises RecipeError."""
    from evaluation.mirror import Mirror, MirrorError

    folder = expanded(required(named.mirror), loaded.locate(*named.mirror_key))
    try:
        mirror = Mirror(folder)
        digests = []
        for benchmark in benchmarks:
            mirror.check(benchmark, strict=False)
            digests += [mirror.digest(benchmark.data_of(task)) for task in benchmark.tasks]
    except MirrorError as error:
        raise _at(named.mirror_key, loaded, error) from error
    return External(folder.resolve(), prints.text("\n".join(digests)))


def check_limit(named: NamedSuite, loaded: Loaded, suite: "Suite", limit: int) -> None:
    """Raises RecipeError if the first `limit` questions of a task hold a part of a unit."""
    from evaluation import units
    from evaluation.mirror import Mirror

    mirror = Mirror(expanded(required(named.mirror), loaded.locate(*named.mirror_key)))
    for benchmark in suite:
        for task in benchmark.tasks if benchmark.unit.by else ():
            rows = mirror.columns(benchmark.data_of(task), benchmark.unit.by)
            try:
                units.check_limit(benchmark, rows, limit)
            except units.UnitError as error:
                raise RecipeError(f"{loaded.locate('limit')}: limit: {error}") from error


def mirror_questions(named: NamedSuite, loaded: Loaded, suite: "Suite") -> dict[str, int]:
    """Number of questions of each benchmark in the suite's mirror. Raises RecipeError."""
    from evaluation.mirror import Mirror, MirrorError

    folder = expanded(required(named.mirror), loaded.locate(*named.mirror_key))
    try:
        mirror = Mirror(folder)
        return {b.name: sum(mirror.questions(b, task) for task in b.tasks) for b in suite}
    except MirrorError as error:
        raise _at(named.mirror_key, loaded, error) from error


def work_of_bench(bench: Bench) -> float:
    """Number of items in all benchmarks of the mini world, for time estimates."""
    from curation.taxonomy import CAPABILITIES

    return bench.items * len(CAPABILITIES)
