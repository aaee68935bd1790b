"""Label a share of the pool with capability scores and styles by a model on a chat-completions server.

Answers are cached in store/labels_api/answers, by model and request: after a killed run, or for another share
of the pool or another recipe, only requests without an answer are sent and paid for. Delete that folder to
request all again.
"""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes labels.parquet and labels.json; returns the labelled share, counts and cost."""
    from curation.pool.read import Pool
    from curation.teacher.api import TASK, ApiTeacher
    from curation.teacher.chat import ChatClient
    from curation.teacher.labels import label_pool

    pool, server = Pool.open(inputs["pool"]), config["server"]
    task = inputs["prompt"].read_text(encoding="utf-8") if "prompt" in inputs else TASK
    with naming("teacher.server", "teacher.model"):
        client = ChatClient(server["url"], config["model"], **client_options(server))
        teacher = ApiTeacher(
            client,
            task=task,
            cache=out.parent / "answers",
            concurrency=server["concurrency"],
            max_failed=server["max_failed"],
            **{name: config[name] for name in ("repeats", "detail", "json_schema", "max_tokens")},
        )
        sampling = {key: config[key] for key in ("share", "seed", "floor", "temper")}
        summary = label_pool(pool, teacher, out, **sampling, on_progress=counter(progress))
    cost = summary["cost"]
    progress.say(
        f"{summary['n']} samples labelled ({summary['share_labelled']:.1%} of the pool)"
        f"{counted(summary['missing'])}"
    )
    progress.say(
        f"{config['model']}: {spent(cost)}; {cost['kept']:,} answers of earlier runs "
        f"({cost['kept_input_tokens']:,} input tokens, {cost['kept_output_tokens']:,} output tokens)"
    )
    return {k: summary[k] for k in ("n", "share_labelled", "missing", "missing_scores", "cost")}
