"""Check that no validation item of a targeted selector is a question that the arms are compared on."""

import json
from pathlib import Path
from typing import Any


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes held_out.json, the counts that it returns. Raises RecipeError for an item that is reported.

    Items are a pool (input `items`), or the questions that a suite asks (`items_of`, input `mirror`).
    """
    from evaluation.held_out import check_items, items_of_pool, items_of_suite
    from evaluation.mirror import MirrorError
    from evaluation.opened import open_suite
    from recipes.errors import RecipeError

    reported = open_suite(config["suite"], inputs["bench"], not_judged=config["not_judged"])
    if "items" in inputs:
        items = items_of_pool(inputs["items"])
    else:
        own = config["items_of"]
        items = items_of_suite(open_suite(own["suite"], inputs["mirror"], limit=own["limit"]))
    try:
        alike = check_items(reported, items)
    except MirrorError as error:
        raise RecipeError(f"{config['key']}: {error}") from error
    found = {"items": len(items), "same_words": alike}
    (out / "held_out.json").write_text(json.dumps(found))
    progress.say(f"none of {len(items)} validation items is reported ({alike} questions with the same words)")
    return found
