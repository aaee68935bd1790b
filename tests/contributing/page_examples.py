"""Read the worked examples of a Markdown page: files to write, changes to make, commands to run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ELLIPSIS = "…"
"""At the end of a context line of a diff: the line in the file goes on."""


@dataclass(frozen=True)
class Step:
    """One code block in python, yaml, diff, bash or text; `path` is the file that is named above it."""

    language: str
    path: str
    body: str


def sections(page: str) -> dict[str, str]:
    """Text of each `### heading` of a page, up to the next heading of level 2 or 3."""
    found: dict[str, list[str]] = {}
    heading, fenced = "", False
    for line in page.splitlines():
        fenced ^= line.startswith("```")
        if not fenced and line.startswith(("## ", "### ")):
            heading = line.removeprefix("### ") if line.startswith("### ") else ""
        elif heading:
            found.setdefault(heading, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def steps(section: str) -> Iterator[Step]:
    """The code blocks of a section; the file of a block is the last path in backquotes in bold above it."""
    parts = re.split(r"^```(\w+)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    for above, language, body in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        paths = [
            path for bold in re.findall(r"\*\*(.+?)\*\*", above) for path in re.findall(r"`([\w./]+)`", bold)
        ]
        if language in ("python", "yaml", "diff"):
            assert paths, f"no file is named in bold above this block:\n{body}"
        yield Step(language, paths[-1] if paths else "", body)


def apply(diff: str, file: Path) -> None:
    """Apply a diff without line numbers to `file`; the lines that it expects must occur exactly once."""
    lines = file.read_text(encoding="utf-8").splitlines()
    changes = [(line[:1], line[1:]) for line in diff.splitlines()]
    old = [text for sign, text in changes if sign != "+"]
    places = [at for at in range(len(lines) - len(old) + 1) if all(map(matches, old, lines[at:]))]
    assert len(places) == 1, f"{file.name}: {len(places)} places match instead of one:\n{diff}"
    taken = iter(lines[places[0] : places[0] + len(old)])
    new = []
    for sign, text in changes:
        line = text if sign == "+" else next(taken)
        new += [line] if sign != "-" else []
    lines[places[0] : places[0] + len(old)] = new
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def matches(expected: str, line: str) -> bool:
    """Whether a line of a file is the one that a diff expects."""
    return line.startswith(expected[:-1]) if expected.endswith(ELLIPSIS) else line == expected
