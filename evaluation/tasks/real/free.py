"""Prompt and scoring of tasks with free answers: OCRBench, GQA, MM-Vet, LLaVA-Bench (In-the-Wild)."""

from collections.abc import Mapping, Sequence
from typing import Any

Doc = Mapping[str, Any]

# Full-width forms of the ASCII characters, and the ideographic space.
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: ord(" ")}


def image(doc: Doc) -> list[Any]:
    """The one image of a question, as RGB."""
    return [doc["image"].convert("RGB")]


def question(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """The question and the instruction on how to answer, if there is one."""
    return doc["question"] + (lmms_eval_specific_kwargs or {}).get("post_prompt", "")


def ocrbench_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    return doc["question"].strip()


def ocrbench_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """1 if the answer contains one of the reference texts (OCRBench, arXiv 2305.07895).

    White space counts for nothing in formulas (HME100k), case for nothing elsewhere.
    """
    plain = _formula if doc["dataset"] == "HME100k" else _text
    references = [doc["answer"]] if isinstance(doc["answer"], str) else doc["answer"]
    answer = plain(results[0])
    right = any(plain(reference) in answer for reference in references)
    return {"ocrbench_accuracy": float(right), "unparsed": float(not answer)}


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _text(text: str) -> str:
    return text.translate(_NARROW).lower().strip().replace("\n", " ")


def judged_results(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """No score: only a judge gives one, and a question without a grade must not count as wrong."""
    return {"grade": float("nan"), "unparsed": float(not results[0].strip())}


def percent(scores: Sequence[float]) -> float:
    """Mean of scores in 0..1, on the scale 0..100."""
    return 100 * sum(scores) / len(scores)
