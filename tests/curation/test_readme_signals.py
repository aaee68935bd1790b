"""The table of signals in curation/README.md says what the records of curation/catalogue.py say."""

import re
from pathlib import Path

import pytest
import readme_tables

import curation
from curation.catalogue import SIGNALS, Signal

README = Path(curation.__path__[0]) / "README.md"


def alternatives(pattern: str) -> list[str]:
    """All column names of a pattern, its top-level alternatives one after the other."""
    depth, parts = 0, [""]
    for letter in pattern:
        depth += (letter == "(") - (letter == ")")
        parts = [*parts, ""] if letter == "|" and not depth else [*parts[:-1], parts[-1] + letter]
    return [name for part in parts for name in expanded(part)]


def expanded(part: str) -> list[str]:
    """The names of one alternative: every choice inside parentheses, `*` for what is free."""
    if match := re.search(r"\(([^()]*)\)", part):
        before, after = part[: match.start()], part[match.end() :]
        return [name for choice in alternatives(match[1]) for name in expanded(before + choice + after)]
    return [part.replace(r"\w+", "*").replace("{0}", "*")]


def row(signal: Signal) -> str:
    """The signal's line of the table."""
    sections = [signal.section.replace("{0}", "*")] if signal.section else []
    settings = [*sections, *(f"scoring.{key}" for key in signal.scoring)]
    return readme_tables.row(
        [
            f"`{signal.name}`",
            ", ".join(f"`{name}`" for name in alternatives(signal.columns)),
            ", ".join(dict.fromkeys(signal.inputs.values())) or "the pool alone",
            ", ".join(f"`{key}`" for key in settings) or "–",
            f"`{signal.command}`",
            f"{signal.passes:g}",
        ]
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r"(cap|exp)_\w+", ["cap_*", "exp_*"]),
        (r"styles|style_logp_\w+", ["styles", "style_logp_*"]),
        (r"adam_(grad|grad_norm|influence_\w+)", ["adam_grad", "adam_grad_norm", "adam_influence_*"]),
        (r"(cluster|similarity)_{0}", ["cluster_*", "similarity_*"]),
        (r"value", ["value"]),
    ],
)
def test_names_of_a_pattern(pattern, names):
    assert alternatives(pattern) == names


def test_the_table_of_signals():
    readme_tables.check(README, "| signal |", [row(signal) for signal in SIGNALS])
