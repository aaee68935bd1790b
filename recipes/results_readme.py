"""Figures in a README, from the shipped results: written between marks, and checked against them.

    python -m recipes.results_readme                  # exit status 1 if a figure is not that of the results
    python -m recipes.results_readme --write          # fill in what the results say

A figure in a sentence stands between two comments, of which the first says where it comes from:

    mmSSR is <!--= mini_study mmssr_30 difference -->-1.8 [-2.7, -0.8]<!--=--> points from random.

The words are the folder of the results (of a sweep: `mini_teacher/share-0.25`), the arm, and what of it (see
FIGURES; `benchmark ocr`, `without ocr`, `mix source chat` have words of their own). A whole table stands
between `<!-- table: mini_study -->` and `<!-- /table -->`: of all arms, or of those named, and of all
COLUMNS, or of those named behind a bar (`<!-- table: mini_study mmssr_30 | arm mean difference -->`);
`<!-- table: gates mini_regime -->` and `<!-- table: levels mini_regime -->` are those of `recipes.report`.

A file with the line `<!-- figures: checked -->` has no other figures: every decimal number, signed number
and percentage in it is in such a mark, in code, or one of ALLOWED. What no result changes (thresholds, hours,
figures of papers) stands after `<!-- figures: typed -->`, up to the next line of the former kind.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from recipes.finished import RECIPES, RESULTS, NoResults, read_json

READMES = (RECIPES.parent / "README.md", RECIPES / "README.md", RESULTS / "README.md")
CHECKED = "<!-- figures: checked -->"
TYPED = re.compile(rf"<!-- figures: typed -->.*?(?={CHECKED}|\Z)", re.DOTALL)
MARK = re.compile(r"(<!--= (?P<key>[^>]*?) -->)(?P<text>.*?)(<!--=-->)", re.DOTALL)
TABLE = re.compile(r"(<!-- table: (?P<key>[^>]*?) -->\n)(?P<text>.*?)(<!-- /table -->)", re.DOTALL)
FIGURE = re.compile(r"(?<![\w.])(?:\d[\d,.]*\s?%|[-+−]\d[\d,.]*\d|[-+−]\d|\d+\.\d+)(?![\w]|\.\w)")
"""What counts as a quoted figure: signed or decimal numbers, and percentages."""
CODE = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->|\]\([^)]*\)|arXiv \d{4}\.\d{5}", re.DOTALL)
ALLOWED = frozenset({"1 %", "5 %", "10 %", "25 %", "30 %", "50 %", "80 %", "95 %", "100 %", "3.11"})
"""What names budgets, labelled shares, levels and versions, which no result changes."""
DASH = "–"
Arm = Mapping[str, Any]


class Unknown(ValueError):
    """A mark that names nothing that the results have."""


# ---------------------------------------------------------------------------------------------- figures


def _spread(spread: Mapping[str, float | None] | None) -> str:
    if spread is None:
        return DASH
    return f"{spread['mean']:.1f}" + ("" if spread["std"] is None else f" ± {spread['std']:.1f}")


def interval(difference: Mapping[str, float | None] | None, corrected: bool = True) -> str:
    """`-1.8 [-2.7, -0.8]`: with the interval that holds for all arms at once, or the arm's own."""
    if difference is None:
        return DASH
    ends = [difference[f"corrected_{end}" if corrected else end] for end in ("low", "high")]
    if None in ends:
        return f"{difference['value']:+.1f}"
    return f"{difference['value']:+.1f} [{ends[0]:+.1f}, {ends[1]:+.1f}]"


def claimed(arm: Arm) -> str:
    """`undecided over pools`; a dash for an arm about which nothing is claimed."""
    claim = arm["claim"]
    if not claim or claim["verdict"] is None:
        return DASH
    margin = f" within {claim['margin']:g}" if claim["verdict"] == "equivalent" else ""
    return f"{claim['verdict']}{margin} {claim['scope']}"


FIGURES: dict[str, Callable[[Arm], str]] = {
    "mean": lambda arm: _spread(arm["mean"]),
    "mean_alone": lambda arm: f"{arm['mean']['mean']:.1f}",
    "std": lambda arm: f"{arm['mean']['std']:.2f}",
    "shuffled": lambda arm: DASH if arm["shuffled_mean"] is None else f"{arm['shuffled_mean']['mean']:.1f}",
    "grounded": lambda arm: DASH if arm["grounded_mean"] is None else f"{arm['grounded_mean']['mean']:+.1f}",
    "full": lambda arm: DASH if arm["full"] is None else f"{arm['full']:.1f}",
    "above": lambda arm: DASH if arm["above"] is None else f"{arm['above']}/{len(arm['benchmarks'])}",
    "difference": lambda arm: interval(arm["difference"]),
    "own": lambda arm: interval(arm["difference"], corrected=False),
    "value": lambda arm: f"{arm['difference']['value']:+.1f}",
    "p": lambda arm: f"{arm['difference']['corrected_p']:.3f}",
    "claim": claimed,
    "family": lambda arm: str(arm["claim"]["family"]),
    "runs": lambda arm: str(arm["runs"]),
    "units": lambda arm: str(arm["units"]),
    "unparsed": lambda arm: f"{100 * arm['unparsed']:.1f} %",
}
"""What can be quoted of an arm."""
COLUMNS: dict[str, tuple[str, Callable[[Arm], str]]] = {
    "arm": ("arm", lambda arm: arm["arm"]),
    "budget": ("budget", lambda arm: arm["budget"]),
    "runs": ("runs", FIGURES["runs"]),
    "mean": ("mean", FIGURES["mean"]),
    "shuffled": ("shuffled", FIGURES["shuffled"]),
    "grounded": ("grounded gain", FIGURES["grounded"]),
    "full": ("/FULL", FIGURES["full"]),
    "above": ("> random", FIGURES["above"]),
    "difference": ("difference, all at once [95 %]", FIGURES["difference"]),
    "claim": ("claim", FIGURES["claim"]),
}
"""Name of a column -> title and cell of a table of arms."""


class Quoted:
    """The shipped results that marks refer to; each file is read once."""

    def __init__(self, results: Path = RESULTS) -> None:
        self.comparison = cache(lambda name: self._comparison(results, name))
        self._context = cache(lambda name: read_json(results / name / "experiment.json")["context"])

    @staticmethod
    def _comparison(results: Path, name: str) -> dict[str, Any]:
        sweep, _, cell = name.partition("/")
        if not cell:
            return read_json(results / name / "comparison.json")
        from recipes.sweep_results import read

        for one in read(results / sweep).cells:
            if one.name == cell and one.comparison:
                return dict(one.comparison)
        raise Unknown(f"sweep {sweep} has no finished cell `{cell}`")

    def figure(self, key: str) -> str:
        """The text of one mark. Raises Unknown, and NoResults for results that are not there."""
        words = shlex.split(key)
        if len(words) < 3:
            raise Unknown(f"`{key}` is not FOLDER ARM FIGURE")
        folder, name, what, *more = words
        if what == "mix":
            return self._mix(folder, name, *more)
        arm = self._arm(folder, name)
        tables = {
            "benchmark": arm["benchmark_differences"],
            "without": (arm["robustness"] or {}).get("without"),
        }
        if what in tables and len(more) == 1:
            if more[0] not in (tables[what] or {}):
                raise Unknown(f"`{key}`: arm {name} has no difference {what} `{more[0]}`")
            return interval(tables[what][more[0]], corrected=what == "benchmark")
        if what not in FIGURES or more:
            raise Unknown(f"`{key}`: no figure `{' '.join([what, *more])}`; known are {', '.join(FIGURES)}")
        return FIGURES[what](arm)

    def _arm(self, folder: str, name: str) -> Arm:
        arms = {arm["arm"]: arm for arm in self.comparison(folder)["arms"]}
        if name not in arms:
            raise Unknown(f"{folder} has no arm `{name}`; it has {', '.join(arms)}")
        return arms[name]

    def _mix(self, folder: str, name: str, *which: str) -> str:
        """Share of one source, style, capability or defect in an arm's subsets (mean), or in the `pool`."""
        if len(which) != 2:
            raise Unknown(f"{folder} {name} mix: give a kind and a name, such as `mix source chat`")
        context = self._context(folder)
        mixes = (
            [context["pool_mix"]]
            if name == "pool"
            else [subset["mix"] for subset in context["subsets"] if subset["arm"] == name]
        )
        shares = [mix.get(which[0], {}).get(which[1], 0.0) for mix in mixes if mix.get(which[0])]
        if not shares:
            raise Unknown(f"{folder} knows no mix of {which[0]} of `{name}`")
        return f"{100 * sum(shares) / len(shares):.1f} %"

    def table(self, key: str) -> str:
        """The rows of one table; see the module's docstring. Raises Unknown."""
        subject, _, chosen = key.partition("|")
        first, *names = shlex.split(subject)
        if first in ("gates", "levels") and len(names) == 1:
            make = _gates if first == "gates" else _levels
            return _markdown(make(self.comparison(names[0])))
        if unknown := [name for name in chosen.split() if name not in COLUMNS]:
            raise Unknown(f"no column {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
        columns = [COLUMNS[name] for name in chosen.split() or COLUMNS]
        arms = [self._arm(first, name) for name in names] or self.comparison(first)["arms"]
        return _markdown(
            [[title for title, _ in columns], *([cell(arm) for _, cell in columns] for arm in arms)]
        )


def _gates(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The gates of the regime, with their verdicts."""
    from evaluation.regime import regime_verdicts

    rows = [
        [v.gate, v.value, v.wanted, v.n, "pass" if v.passed else "FAIL", v.note]
        for v in regime_verdicts(comparison)
    ]
    return [["gate", "value", "required", "n", "verdict", "note"], *rows]


def _levels(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The full arm by benchmark, in % of the scale."""
    from evaluation.regime import levels

    rows = []
    for level in levels(comparison):
        percents = (level.full, level.blind, level.shuffled, level.gain, level.chance)
        cells = [DASH if value is None else f"{100 * value:.1f}" for value in percents]
        rows.append([level.label, *cells, str(level.n)])
    titles = ("benchmark", "full", "blind majority", "shuffled image", "grounded gain", "chance", "n")
    return [list(titles), *rows]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header."""
    aligned = [":--", *["--:"] * (len(rows[0]) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (rows[0], aligned, *rows[1:]))


# ---------------------------------------------------------------------------------------------- documents


def filled(text: str, quoted: Quoted) -> str:
    """The document with every mark and table as the results have it."""
    text = MARK.sub(lambda m: f"{m[1]}{quoted.figure(m['key'])}{m[4]}", text)
    return TABLE.sub(lambda m: f"{m[1]}{quoted.table(m['key'])}{m[4]}", text)


def differences(text: str, quoted: Quoted) -> Iterator[str]:
    """A line for every mark and table whose text is not what the results say."""
    for pattern, say in ((MARK, quoted.figure), (TABLE, quoted.table)):
        for found in pattern.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            try:
                wanted = say(found["key"])
            except (Unknown, NoResults) as error:
                yield f"line {line}: {error}"
                continue
            if found["text"] != wanted:
                yield f"line {line}: {found['key']}: `{found['text'].strip()}` should be `{wanted.strip()}`"


def unmarked(text: str) -> Iterator[str]:
    """A line for every figure outside marks, tables and code; none in a file that is not CHECKED."""
    if CHECKED not in text:
        return
    for pattern in (TYPED, MARK, TABLE, CODE):
        text = pattern.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
    for found in FIGURE.finditer(text):
        if re.sub(r"\s", " ", found[0]) not in ALLOWED:
            line = text.count("\n", 0, found.start()) + 1
            yield f"line {line}: `{found[0]}` is not between marks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if a figure differs or is not marked; 2 for a mark that names nothing."""
    from curation.command import CommandParser

    command = CommandParser(prog="python -m recipes.results_readme", description=__doc__.splitlines()[0])
    command.add_argument("files", metavar="FILE", nargs="*", type=Path, help="default: the READMEs")
    command.add_argument("--write", action="store_true", help="fill in what the results say")
    command.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    options: argparse.Namespace = command.parse_args(arguments)
    quoted, wrong = Quoted(options.results), []
    for path in options.files or READMES:
        text = path.read_text(encoding="utf-8")
        if options.write:
            try:
                text = filled(text, quoted)
            except (Unknown, NoResults) as error:
                print(f"error: {path}: {error}", file=sys.stderr)
                return 2
            path.write_text(text, encoding="utf-8")
        wrong += [f"{path}: {one}" for one in (*differences(text, quoted), *unmarked(text))]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
