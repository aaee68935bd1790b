"""The table of selectors in curation/README.md says what the selectors say of themselves."""

import inspect
from pathlib import Path

import readme_tables

import curation
from curation.selectors.registry import SELECTORS, describe, get_selector

README = Path(curation.__path__[0]) / "README.md"
OWN = readme_tables.row(
    [
        "`my_module:my_function`",
        "your own `select(columns, budget, seed, **params)`",
        "its `NEEDS`",
        "its `COST`",
        "",
        "its own",
    ]
)


def row(name: str) -> str:
    """The selector's line of the table, from its record and its signature."""
    found, params = describe(name), list(inspect.signature(get_selector(name)).parameters)[3:]
    return readme_tables.row(
        [
            f"`{name}`",
            found.summary,
            ", ".join(found.needs) or "nothing",
            found.cost,
            "targeted" if found.targeted else "blind",
            ", ".join(f"`{p}`" for p in params),
        ]
    )


def test_the_table_of_selectors():
    readme_tables.check(README, "| selector |", [row(name) for name in SELECTORS], [OWN])
