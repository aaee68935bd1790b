"""Let a model behind a chat-completions server label a share of the pool: capability scores and interaction styles.

Answers lie beside the artefacts, in store/labels_api/answers, by model and request: a run that was killed, another share of the
same pool and another recipe pay only for what was never answered. Delete that folder to ask anew.
"""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import client_options, counted, naming, spent


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes labels.parquet and labels.json; returns the share labelled, counts and cost."""
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
        summary = label_pool(
            pool,
            teacher,
            out,
            share=config["share"],
            seed=config["seed"],
            floor=config["floor"],
            temper=config["temper"],
            on_progress=counter(progress),
        )
    cost = summary["cost"]
    progress.say(
        f"{summary['n']} samples labelled ({summary['share_labelled']:.1%} of the pool){counted(summary['missing'])}"
    )
    progress.say(
        f"{config['model']}: {spent(cost)}; {cost['kept']:,} answers of earlier runs ({cost['kept_input_tokens']:,} tokens read, "
        f"{cost['kept_output_tokens']:,} written)"
    )
    return {k: summary[k] for k in ("n", "share_labelled", "missing", "missing_scores", "cost")}
