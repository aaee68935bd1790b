"""Score answers that another tool made: lmms-eval's samples or VLMEvalKit's result sheets.

    python -m evaluation.imported lmms-eval run/*_samples_*.jsonl --suite rules --data benchmarks --out eval/x
    python -m evaluation.imported vlmevalkit run/model_MME.xlsx --tasks mme --suite mm14 --data benchmarks \\
        --out eval/y

A file belongs to the task or data set in its name; else write NAME=FILE with a task or benchmark of the
suite. Each row must be a question of the local data: its question and reference answer are compared, and
missing, double or unknown rows are refused. The answers are then kept and scored as `evaluation.run` does, so
every value is derived again; where a file records scores, differences from ours are counted.

The protocol of the result says that it is imported, by which tool and version, and that batches, prompts and
weights' type are not known. So imported results can be compared with each other (all arms imported, same tool
and version) and never with those of `evaluation.run`: import both to put them side by side. Neither tool says
whether an answer was cut: none counts as `truncated`.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.command import CommandError, CommandParser
from evaluation.run import (
    add_judge,
    add_suite,
    judge_of,
    judged_and_scored,
    open_for,
    prepared,
    run_command,
    status_of,
)

if TYPE_CHECKING:
    from evaluation.foreign import Record
    from evaluation.joined import Place
    from evaluation.opened import Opened
    from evaluation.questions import Questions
    from evaluation.suite import Benchmark

TOOLS = ("lmms-eval", "vlmevalkit")


@dataclass(frozen=True)
class Joined:
    """The records of a file by the benchmark's questions."""

    benchmark: "Benchmark"
    file: Path
    records: "Mapping[Place, Record]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_command(parser().parse_args(arguments), _run)


def _run(options: argparse.Namespace) -> int:
    from evaluation.foreign import digest
    from evaluation.printed import print_result

    server = judge_of(options)
    opened = open_for(options, server)
    files = files_of(options, opened)
    joined = list(_joined(options.tool, opened, files))
    digests = {name: digest(file) for name, file in files.items()}
    about = identity_of(options.tool, digests, _version(options, files))
    out = prepared(options.out)
    _keep(opened, joined, about, out / "answers")
    summary, judged = judged_and_scored(opened, server, None, about, out)
    print(f"{about['engine']}: the answers of {len(files)} files, scored again")
    print_result(opened.suite, summary, judged)
    for line in differences(opened, joined, out):
        print(line)
    return status_of(opened, summary)


def identity_of(tool: str, files: Mapping[str, str], version: str | None) -> dict[str, Any]:
    """Who answered: the files, since nothing else is known of the model. `files`: sha256 by part."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
    return {
        "checkpoint": f"imported-{hashlib.sha256(lines.encode()).hexdigest()[:16]}",
        "dtype": None,
        "template": None,
        "engine": f"imported {tool} {version or '(version not known)'}",
        "imported": {"tool": tool, "version": version},
        "files": dict(sorted(files.items())),
    }


def _version(options: argparse.Namespace, files: Mapping[str, Path]) -> str | None:
    """The tool's version: as given, or the commit in the names of VLMEvalKit's folders.

    lmms-eval records the commit of the folder that it was started in, which says nothing of it.
    """
    from evaluation.foreign import version_in

    if options.made_by or options.tool != "vlmevalkit":
        return options.made_by
    versions = {version_in(file) for file in files.values()}
    if len(versions) > 1:
        known = ", ".join(sorted(str(version) for version in versions))
        raise CommandError(
            f"the sheets come from several versions ({known}): import them apart, or give --made-by"
        )
    return versions.pop()


# ---------------------------------------------------------------------------------- files and questions


def files_of(options: argparse.Namespace, opened: "Opened") -> dict[str, Path]:
    """The file of each part (lmms-eval) or benchmark (VLMEvalKit). CommandError if one lacks."""
    from evaluation.foreign import dataset_of, task_of

    names = _names(opened, by_task=options.tool == "lmms-eval")
    found: dict[str, Path] = {}
    for given in options.files:
        name, equals, text = given.rpartition("=")
        file = Path(text)
        name = name if equals else (task_of if options.tool == "lmms-eval" else dataset_of)(file)
        if name not in names:
            said = f"{name!r} is not" if name else "its name tells no data set"
            raise CommandError(
                f"{given}: {said} of suite {opened.suite.name!r}: write NAME=FILE, one of {', '.join(names)}"
            )
        if names[name] in found:
            raise CommandError(f"{names[name]}: two files are given, {found[names[name]]} and {file}")
        found[names[name]] = file
    if missing := sorted(set(names.values()) - found.keys()):
        raise CommandError(
            f"no file for {', '.join(missing)}: give all, or name the benchmarks that you have with --tasks"
        )
    return found


def _names(opened: "Opened", *, by_task: bool) -> dict[str, str]:
    """What a file may be called, and the part or benchmark that this means."""
    if not by_task:
        return {benchmark.name: benchmark.name for benchmark in opened.suite}
    parts = [questions for own in opened.parts.values() for questions in own]
    return {name: part.name for part in parts for name in (part.name, part.task.task)}


def _joined(tool: str, opened: "Opened", files: Mapping[str, Path]) -> Iterator[Joined]:
    """The records of every file, checked. Raises ForeignError."""
    from evaluation.foreign import read_samples, read_sheet
    from evaluation.joined import check, join_samples, join_sheet

    read, join = (read_sheet, join_sheet) if tool == "vlmevalkit" else (read_samples, join_samples)
    for benchmark in opened.suite:
        for name, parts in _by_file(tool, opened, benchmark).items():
            wanted = [(part, i) for part in parts for i in opened.part(part).indices]
            records = join(files[name], read(files[name]), wanted)
            check(files[name], records, parts)
            yield Joined(benchmark, files[name], records)


def _by_file(tool: str, opened: "Opened", benchmark: "Benchmark") -> "Mapping[str, Sequence[Questions]]":
    """The parts of a benchmark by what names their file: a sheet holds all of them, samples one."""
    parts = opened.parts[benchmark.name]
    return {benchmark.name: parts} if tool == "vlmevalkit" else {part.name: [part] for part in parts}


# ----------------------------------------------------------------------------- answers and differences


def _keep(opened: "Opened", joined: Sequence[Joined], about: Mapping[str, Any], folder: Path) -> None:
    """Write the answers as `evaluation.answering` keeps them."""
    from evaluation.journal import Answer, Answers, path_of

    records = {place: record for own in joined for place, record in own.records.items()}
    for questions in (questions for own in opened.parts.values() for questions in own):
        part = opened.part(questions)
        identity = part.identity(about)
        with Answers(path_of(folder, part.name, identity), identity) as kept:
            for index in (index for index in part.indices if index not in kept.known):
                record = records[part.name, index]
                kept.add(index, Answer(record.text, False, record.tokens), record.prompt)


def differences(opened: "Opened", joined: Sequence[Joined], out: Path) -> Iterator[str]:
    """One line for each file: how many of the scores that it records are not ours."""
    ours = _scores(opened, out)
    for own in joined:
        recorded = {
            place: (score, ours[place])
            for place, record in own.records.items()
            if place in ours and (score := recorded_score(own.benchmark, record.columns)) is not None
        }
        other = [place for place, (theirs, score) in recorded.items() if abs(theirs - score) > 1e-6]
        yield f"{own.file.name}: {_agreement(recorded, other)}"


def _agreement(recorded: "Mapping[Place, tuple[float, float]]", other: "Sequence[Place]") -> str:
    if not recorded:
        return "no scores to compare with ours"
    if not other:
        return f"all {len(recorded):,} recorded scores are ours"
    (part, index), (theirs, ours) = other[0], recorded[other[0]]
    return (
        f"{len(other):,} of {len(recorded):,} recorded scores are not ours (first: {part}, question {index}: "
        f"recorded {theirs:g}, ours {ours:g})"
    )


def _scores(opened: "Opened", out: Path) -> "dict[Place, float]":
    """Our score of every question, by place; without benchmarks that have no value."""
    import pyarrow.parquet as pq

    rows = pq.read_table(out / "scores.parquet", columns=["benchmark", "item_score"]).to_pylist()
    scored = {row["benchmark"] for row in rows}
    parts = [p for b in opened.suite if b.name in scored for p in opened.parts[b.name]]
    places = [(part.name, index) for part in parts for index in opened.part(part).indices]
    return dict(zip(places, (row["item_score"] for row in rows), strict=True))


def recorded_score(benchmark: "Benchmark", columns: Mapping[str, Any]) -> float | None:
    """The score of a question that its record holds, 0..1; None if there is none.

    lmms-eval's stands under the metric, VLMEvalKit's under `hit` or `score`.
    """
    for name in (*benchmark.metric, "hit", "score"):
        value = columns.get(name)
        if isinstance(value, Mapping):
            value = value.get(benchmark.item)
        text = str(value).lower()
        try:
            number = float({"true": "1", "false": "0"}.get(text, text))
        except ValueError:
            continue
        if 0 <= number <= 1:
            return number
    return None


# ------------------------------------------------------------------------------------------ arguments


def parser() -> CommandParser:
    """The parser of the command line."""
    own = CommandParser(
        prog="python -m evaluation.imported",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("tool", choices=TOOLS, help="what wrote the files")
    own.add_argument("files", nargs="+", metavar="[NAME=]FILE")
    own.add_argument("--made-by", metavar="VERSION", help="the tool's version, part of the protocol")
    add_suite(own)
    add_judge(own)
    return own


if __name__ == "__main__":
    sys.exit(main())
