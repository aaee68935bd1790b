"""One uniform reading of answers for all benchmarks, beside their official scorers.

Official scorers differ in which clothes of a right answer they accept ("B", "(B)", "The answer is B."), so
that data which change only the style of a model move its scores. Here every answer is read by the extractors
of evaluation.extract; what is read is put in the plainest form and scored officially: the `lenient` score. An
answer that cannot be read is `unparsed`.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

from evaluation.answer_text import announced
from evaluation.extract import extract
from evaluation.suite import Extractor


def read(extractor: Extractor, doc: Mapping[str, Any], text: str) -> str | None:
    """The plain answer in `text`, such as "B", "Yes", "4.5"; None if there is none or more than one."""
    options = options_of(extractor, doc)
    if extractor.kind == "short" or (extractor.kind == "choice" and not options):
        return _short(text)  # an open question among choices has no options
    if extractor.kind == "column":
        return extract(doc["kind"], text, options)
    value = extract(extractor.kind, text, options)
    if value is None or extractor.kind == "number":
        return value
    return value.upper() if extractor.kind == "choice" else value.capitalize()


def options_of(extractor: Extractor, doc: Mapping[str, Any]) -> list[str]:
    """The options of a question; empty texts where the suite gives only their number."""
    source = extractor.options
    if source is None:
        return []
    if isinstance(source, int):
        return [""] * source
    if isinstance(source, tuple):
        return [str(doc[column]) for column in source if _given(doc.get(column))]
    value = doc[source]
    if isinstance(value, str):  # MMMU stores a list as its Python text
        value = ast.literal_eval(value) if value.strip() else []
    return [str(option) for option in value or ()]


def _given(value: Any) -> bool:
    """Whether an option column holds an option: tables without one hold "", "nan" or a missing value."""
    return value is not None and value == value and str(value).strip().lower() not in ("", "nan")


def _short(text: str) -> str | None:
    """A free answer: what follows "the answer is", else the whole text; None without a word."""
    if not re.search(r"\w", text):
        return None
    return announced(text) or text.strip()
