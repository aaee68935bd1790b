"""A checkpoint answers all benchmarks, also with shuffled images if asked.

Answers are kept in store/answer/answers as they are made, by checkpoint and by everything that decides them:
after a kill, with a longer suite or from another recipe, only answers that do not exist yet are asked for.
Delete that folder to ask for all again.
"""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes a JSONL file of answers for each task of a benchmark; returns the number of answers."""
    from evaluation.answering import Settings
    from evaluation.harness import answer_suite
    from evaluation.opened import open_suite, suite_to_ask
    from evaluation.respondent import Checkpoint

    suite = suite_to_ask(config["tasks"], config["benchmarks"])
    opened = open_suite(suite, inputs["bench"], limit=config["limit"])
    names = ("batch_size", "max_batch_tokens", "dtype", "template", "loaders", "workers")
    settings = Settings(**{name: config[name] for name in names})
    respondent = Checkpoint(inputs["model"], settings)
    kept = out.parent / "answers" / respondent.identity["checkpoint"][:12]
    files = answer_suite(
        opened,
        respondent,
        kept,
        shuffled=config["shuffled"],
        data=inputs["bench"],
        on_progress=counter(progress),
    )
    return {"answers": sum(file.write(out) for file in files)}
