"""Label a share of the pool with capability scores and styles by a model on a chat-completions server.

Answers are cached in store/labels_api/answers, by model and request: after a killed run, or for another share
of the pool or another recipe, only requests without an answer are sent and paid for. Delete that folder to
request all again. Labels that are missing because the teacher failed are asked for again as soon as the
server is reached in another way (ASKING).
"""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent

ASKING = ("url", "timeout", "retries", "longest_wait", "token_field")
"""Settings of a server that decide which requests are answered, and identify no label."""


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes labels.parquet and labels.json; returns the labelled share, counts, cost and agreement."""
    from curation.pool.read import Pool
    from curation.teacher.estimate import measuring
    from curation.teacher.labels import label_pool
    from curation.teacher.prompt import TASK
    from recipes.stages.label_estimate import estimate_of

    pool, server = Pool.open(inputs["pool"]), config["server"]
    task = inputs["prompt"].read_text(encoding="utf-8") if "prompt" in inputs else TASK
    progress.say(f"{config['model']}: {estimate_of({**config, **server}, inputs['pool'], task)}")
    with naming("teacher.server", "teacher.model"):
        teacher = _teacher(config, task, out.parent / "answers", progress)
        sampling = {key: config[key] for key in ("share", "seed", "floor", "temper", "agreement")}
        on_progress = measuring(teacher, progress.say, counter(progress))
        summary = label_pool(pool, teacher, out, **sampling, on_progress=on_progress)
    _say(config["model"], summary, progress)
    kept = ("n", "share_labelled", "missing", "missing_scores", "cost", "agreement")
    return {k: summary[k] for k in kept if k in summary}


def incomplete(config: dict[str, Any], record: dict[str, Any]) -> str | None:
    """The labels that are missing for reasons of the server, if it is now reached in another way."""
    from curation.teacher.rubric import FAILURES

    lost = {k: n for k, n in record["summary"].get("missing", {}).items() if k in FAILURES}
    before, now = record.get("config", {}).get("server", {}), config["server"]
    changed = [name for name in ASKING if before.get(name) != now.get(name)]
    if not lost or not changed:
        return None
    return f"{counted(lost).removeprefix('; ')}; {', '.join(changed)} changed, so they are asked for again"


def _teacher(config: dict[str, Any], task: str, answers: Path, progress: Any) -> Any:
    from curation.teacher.api import ApiTeacher
    from curation.teacher.batch import BatchOptions
    from curation.teacher.chat import ChatClient

    server = {**config["server"]}
    mode, batch = server.pop("mode"), server.pop("batch")
    return ApiTeacher(
        ChatClient(server["url"], config["model"], **client_options(server)),
        task=task,
        cache=answers,
        concurrency=server["concurrency"],
        max_failed=server["max_failed"],
        batch=BatchOptions(**batch) if mode == "batch" else None,
        say=progress.say,
        **{name: config[name] for name in ("repeats", "detail", "json_schema", "max_tokens")},
    )


def _say(model: str, summary: dict[str, Any], progress: Any) -> None:
    cost = summary["cost"]
    progress.say(
        f"{summary['n']} samples labelled ({summary['share_labelled']:.1%} of the pool)"
        f"{counted(summary['missing'])}"
    )
    progress.say(
        f"{model}: {spent(cost)}; {cost['kept']:,} answers of earlier runs "
        f"({cost['kept_input_tokens']:,} input tokens, {cost['kept_output_tokens']:,} output tokens)"
    )
    if twice := summary.get("agreement"):
        from curation.teacher.agreement import in_words

        progress.say(in_words(twice))
