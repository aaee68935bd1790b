"""A judge grades, or reads, the answers of a checkpoint to the suite's judged benchmarks."""

from pathlib import Path
from typing import Any

from recipes.stages.counting import counter
from recipes.stages.serving import spent


def run(config: dict[str, Any], inputs: dict[str, Any], out: Path, progress: Any) -> dict[str, Any]:
    """Writes judgements.json; the replies that were paid for are kept in store/judge/replies.

    Raises RecipeError if a verdict is missing: a benchmark without all verdicts has no value. The next run
    continues with what was paid for.
    """
    from evaluation.judge import JudgeServer
    from evaluation.judging import judge_suite, write_judgements
    from evaluation.opened import open_suite
    from evaluation.suite import load_suite
    from recipes.errors import RecipeError

    suite = load_suite(config["suite"])
    judged = suite.only(tuple(benchmark.name for benchmark in suite if benchmark.judge))
    opened = open_suite(judged, inputs["bench"], limit=config["limit"])
    server = config["server"]
    same = ("timeout", "retries", "input_price", "output_price", "max_cost_usd", "token_field")
    found = judge_suite(
        opened,
        [inputs["answers"]],
        JudgeServer(
            config["model"],
            config["version"],
            server["url"],
            server["key_env"],
            workers=server["concurrency"],
            attempts=config["attempts"],
            deadline=config["deadline"],
            **{name: server[name] for name in same},
        ),
        out.parent / "replies",
        on_progress=counter(progress),
    )
    for name, entry in found.items():
        progress.say(f"{name}: {spent(entry['cost'])}" if "cost" in entry else name)
    if missing := [
        str(entry.get("advice", entry["missing"])) for entry in found.values() if "missing" in entry
    ]:
        raise RecipeError(f"evaluation.judge: {' '.join(missing)}")
    write_judgements(found, out)
    return {
        "judged": {name: sum(map(len, entry["verdicts"].values())) for name, entry in found.items()},
        "cost": {name: entry["cost"] for name, entry in found.items()},
    }
