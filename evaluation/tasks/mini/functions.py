"""Prompt and scoring of the mini tasks, named in `_default.yaml`. Documents follow the schema of the mini
benchmarks: index, id, image, question, options, answer, kind, capability, style, chance."""

from typing import Any

from evaluation.extract import score


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The one image of the question, as RGB; the model decides how to resize it."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question; the data already contain the options and the instruction on how to answer."""
    return doc["question"]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The score in 0..1 of the first answer; 0 where no answer could be read out of it."""
    return {"score": score(doc["kind"], results[0], doc["answer"], doc["options"] or ()).value}
