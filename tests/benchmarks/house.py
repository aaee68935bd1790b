"""Figures of the source code: sizes, types, prose. One row of a table for each folder with a checkout.

python tests/benchmarks/house.py [FOLDER ...]
"""

import argparse
import ast
import io
import statistics
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("curation", "training", "evaluation", "recipes")
LONG_FUNCTION, LONG_LINE = 40, 100
Function = ast.FunctionDef | ast.AsyncFunctionDef


def spread(numbers: Sequence[int]) -> str:
    """Median, 90th percentile and maximum."""
    ordered = sorted(numbers)
    return f"{statistics.median_low(ordered)}/{ordered[int(0.9 * (len(ordered) - 1))]}/{ordered[-1]}"


def annotations(function: Function) -> Iterator[ast.expr | None]:
    """Of every parameter but self and cls, and of the result; None where there is none."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    others = [a for a in (given.vararg, given.kwarg) if a is not None]
    yield from (a.annotation for a in [*named, *others] if a.arg not in ("self", "cls"))
    yield function.returns


def docstring_lines(tree: ast.AST) -> int:
    """Lines of every text that stands as a statement."""
    return sum(
        node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.end_lineno is not None
    )


def comment_lines(text: str) -> int:
    """Lines on which nothing but a comment stands."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip() for t in tokens)


def row(root: Path) -> list[str]:
    """The figures of one checkout."""
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py")]
    texts = [text for file in files if (text := file.read_text()).strip()]
    tests = [f.read_text() for f in (root / "tests").rglob("*.py") if "benchmarks" not in f.parts]
    trees = [ast.parse(text) for text in texts]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]
    sizes = [f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno is not None]
    public = [f for f in functions if not f.name.startswith("_")]
    typed = sum(all(annotation is not None for annotation in annotations(f)) for f in public)
    said = [ast.unparse(a) for f in functions for a in annotations(f) if a is not None]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    total = sum(len(text.splitlines()) for text in texts)
    return [
        str(len(texts)),
        spread([len(text.splitlines()) for text in texts]),
        f"{spread(sizes)} ({sum(size > LONG_FUNCTION for size in sizes)})",
        f"{typed / len(public):.0%}",
        f"{sum('Any' in text for text in said) / len(said):.1%}",
        f"{sum(map(docstring_lines, trees)) / len(lines):.1%}",
        f"{sum(map(comment_lines, texts)) / len(lines):.1%}",
        f"{sum(len(line) > LONG_LINE for line in lines) / len(lines):.1%}",
        f"{sum(len(text.splitlines()) for text in tests) / total:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="*", default=[Path(__file__).parents[2]])
    names = [
        "folder",
        "files",
        "lines med/p90/max",
        f"functions med/p90/max (>{LONG_FUNCTION} lines)",
        "public fully typed",
        "annotations with Any",
        "docstring lines",
        "comment lines",
        f">{LONG_LINE} cols",
        "tests:code",
    ]
    print("|", " | ".join(names), "|\n|", " | ".join([":--"] + ["--:"] * (len(names) - 1)), "|")
    for folder in parser.parse_args().folders:
        print("|", " | ".join([folder.resolve().name, *row(folder)]), "|")


if __name__ == "__main__":
    main()
