"""README's table of selectors says what the selectors say of themselves."""

import inspect
from pathlib import Path

import pytest

import curation
from curation.selectors.registry import SELECTORS, describe, get_selector

README = Path(curation.__path__[0]).parent / "README.md"


@pytest.mark.parametrize("name", SELECTORS)
def test_row_of_the_table(name):
    row = next(line for line in README.read_text().splitlines() if line.startswith(f"| `{name}` |")).replace(
        "\\|", "\0"
    )
    cells = [cell.strip().replace("\0", "|") for cell in row.strip("|").split("|")]
    found, params = describe(name), list(inspect.signature(get_selector(name)).parameters)[3:]
    assert cells == [
        f"`{name}`",
        found.summary,
        ", ".join(found.needs) or "nothing",
        found.cost,
        "targeted" if found.targeted else "blind",
        ", ".join(f"`{p}`" for p in params),
    ]
