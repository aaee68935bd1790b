"""Answers in the files of other tools: lmms-eval's samples and VLMEvalKit's result sheets, as records.

    records = read_samples(Path("20260101_000000_samples_mme.jsonl"))
    records = read_sheet(Path("model_MMBench_DEV_EN_V11.xlsx"))

A record is what a file says about one question. Nothing is joined or scored here (`evaluation.imported`).
"""

import ast
import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAILED = "Failed to obtain answer"
"""How VLMEvalKit's text for a question that was not answered begins."""
DATASETS = {
    "AI2D_TEST": "ai2d",
    "BLINK": "blink",
    "ChartQA_TEST": "chartqa",
    "DocVQA_VAL": "docvqa",
    "GQA_TestDev_Balanced": "gqa",
    "InfoVQA_VAL": "infovqa",
    "MMBench_DEV_CN": "mmbench_cn",
    "MMBench_DEV_EN": "mmbench_en",
    "MMBench_DEV_EN_V11": "mmbench_v11",
    "MME": "mme",
    "MMMU_DEV_VAL": "mmmu",
    "MMStar": "mmstar",
    "MMT-Bench_VAL": "mmt",
    "MMVet": "mmvet",
    "MathVista_MINI": "mathvista",
    "OCRBench": "ocrbench",
    "POPE": "pope",
    "ScienceQA_TEST": "scienceqa",
    "TextVQA_VAL": "textvqa",
    "VizWiz": "vizwiz",
}
"""VLMEvalKit's names of data sets, and the benchmarks of the shipped suites that have the same questions."""


class ForeignError(ValueError):
    """A file of another tool that cannot be read, or whose rows are not the benchmark's questions."""


@dataclass(frozen=True)
class Record:
    """What a file says about one question; `row` counts its records from 1, `columns` is all of it.

    `question`: the text that was asked, or the question in it; "" if the file has none. `references`: texts
    of its reference answer. `tokens`: length of the answer, 0 if it is not recorded.
    """

    row: int
    text: str
    question: str
    references: tuple[str, ...]
    columns: Mapping[str, Any]
    tokens: int = 0

    @property
    def prompt(self) -> str:
        """The hash of what was asked, as far as the file says."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:16]


def digest(file: Path) -> str:
    """sha256 of a file. Raises OSError."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------ lmms-eval


def read_samples(file: Path) -> list[Record]:
    """The records of lmms-eval's `*_samples_<task>.jsonl`. Raises ForeignError, OSError."""
    records = []
    for row, line in enumerate(_lines(file), 1):
        try:
            sample = json.loads(line)
            asked = sample.get("input")
            records.append(
                Record(
                    row,
                    _response(sample),
                    asked if isinstance(asked, str) else "",  # some models record their settings here
                    (str(sample["target"]),),
                    {**sample, "doc_id": int(sample["doc_id"])},
                    _output_tokens(sample),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForeignError(f"{file}, line {row}: is no sample of lmms-eval ({error!r})") from error
    return records


def _response(sample: Mapping[str, Any]) -> str:
    """What the model said: lmms-eval drops `resps` where no filter has changed it."""
    given = sample.get("resps", sample.get("filtered_resps"))
    while isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, str):
        raise ValueError("it has no answer, or several")
    return given


def _output_tokens(sample: Mapping[str, Any]) -> int:
    counts = [entry for entry in sample.get("token_counts") or () if entry]
    return int(counts[0].get("output_tokens") or 0) if counts else 0


def task_of(file: Path) -> str | None:
    """The task that the name of a file of samples tells."""
    _, found, task = file.stem.partition("_samples_")
    return task if found else None


# ------------------------------------------------------------------------------------------ VLMEvalKit


def read_sheet(file: Path) -> list[Record]:
    """The records of a result sheet (.xlsx, .tsv, .csv or .json). Raises ForeignError, OSError.

    An empty cell is an empty answer; a question that was not answered (`FAILED`) is an error.
    """
    rows = _rows(file)
    if missing := {"index", "prediction"} - set(rows[0] if rows else ()):
        raise ForeignError(
            f"{file} lacks column {', '.join(sorted(missing))}: is it the sheet of predictions?"
        )
    records = [
        Record(
            row,
            _text(columns["prediction"]),
            _text(columns.get("question")),
            _listed(columns.get("answer", columns.get("answers"))),
            columns,
        )
        for row, columns in enumerate(rows, 1)
    ]
    if failed := [record.row for record in records if record.text.startswith(FAILED)]:
        raise ForeignError(
            f"{file}: {len(failed)} of {len(records)} questions were not answered (first: row {failed[0]}, "
            f"{FAILED!r}): run the tool again, it asks only for these"
        )
    return records


def _rows(file: Path) -> list[dict[str, Any]]:
    kind = file.suffix.lower()
    if kind == ".xlsx":
        return _excel(file)
    if kind in (".tsv", ".csv"):
        csv.field_size_limit(sys.maxsize)
        return list(csv.DictReader(_lines(file, keepends=True), delimiter="\t" if kind == ".tsv" else ","))
    if kind == ".json":
        return _json(file)
    raise ForeignError(f"{file}: a result sheet must be an .xlsx, .tsv, .csv or .json file")


def _excel(file: Path) -> list[dict[str, Any]]:
    from zipfile import BadZipFile

    try:
        import openpyxl
    except ImportError as error:
        raise ForeignError(
            f"{file}: reading .xlsx needs openpyxl (pip install openpyxl), or save it as .tsv"
        ) from error
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except (BadZipFile, KeyError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise ForeignError(f"{file} is no .xlsx file ({error})") from error
    first, *rows = book.worksheets[0].iter_rows(values_only=True) or [()]
    book.close()
    names = [str(name) for name in first]
    return [dict(zip(names, row, strict=False)) for row in rows if any(cell is not None for cell in row)]


def _json(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ForeignError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ForeignError(f"{file} must hold a list of rows, each an object")
    return content


def _listed(value: Any) -> tuple[str, ...]:
    """The texts of a reference: a list of alternatives is stored as its Python text."""
    text = _text(value)
    if text.startswith("["):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed = None
        if isinstance(parsed, list) and all(isinstance(entry, str | int | float) for entry in parsed):
            return (text, *map(str, parsed))
    return (text,) if text else ()


def _text(value: Any) -> str:
    """A cell as text; a missing value is empty."""
    return "" if value is None or value != value else str(value)


def dataset_of(file: Path) -> str | None:
    """The benchmark of the data set in a sheet's name, `<model>_<data set>[_<judge>].xlsx`."""
    found = [name for name in DATASETS if re.search(rf"(?:^|_){re.escape(name)}(?=_|$)", file.stem)]
    return DATASETS[max(found, key=len)] if found else None


def version_in(file: Path) -> str | None:
    """The commit of VLMEvalKit in the name of its run's folder, such as T20250101_G0123abcd."""
    for part in reversed(file.absolute().parts[:-1]):
        if match := re.fullmatch(r"T\d{8}_G(\w{8})", part):
            return match[1]
    return None


def _lines(file: Path, keepends: bool = False) -> Iterable[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:  # an answer keeps its line ends
            text = handle.read()
    except UnicodeDecodeError as error:
        raise ForeignError(f"{file} is not UTF-8 text ({error})") from error
    # Not str.splitlines, which also cuts at characters that answers may hold.
    lines = text.split("\n")
    return [f"{line}\n" if keepends else line for line in lines if keepends or line.strip()]
