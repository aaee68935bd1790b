"""Picks of a selector beside those of an oracle: a plain-Python function that follows the published rule.

A module tests/parity/test_parity_<name>.py holds a `Method` called METHOD, whose oracle imports nothing of
`curation`, and two tests, `check_random(METHOD)` and `check_frozen(METHOD)`. Its frozen table,
tests/parity/<name>.parquet, is written by `python tests/parity/freeze.py <name>`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.selectors.primitives.keys import seeded_keys
from curation.selectors.registry import get_selector

FOLDER = Path(__file__).parents[1] / "parity"
CASES = 200
MOST_BYTES = 100_000
META = b"winnow.parity"


@dataclass(frozen=True)
class Method:
    """A selector with the parameters of its published variant, and what makes and answers a case.

    make: (random generator, number of rows) -> table of everything that the selector reads.
    oracle: (rows as dictionaries, budget, params) -> the values of `row` that the published rule picks. Each
        dictionary has `key` besides the table's columns: the number by which ties are broken, lowest first.
        params has `seed` besides the selector's parameters.
    ordered: the method has an order, which is compared too. rows: of the frozen table. sizes: of random ones.
    budget: share of the rows that is picked, of the frozen table; random ones are drawn. selector: where it
    has another name than the method. available: how many rows of a table can be picked at all.
    """

    name: str
    make: Callable[[np.random.Generator, int], pa.Table]
    oracle: Callable[[list[dict[str, Any]], int, Mapping[str, Any]], list[int]]
    params: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    rows: int = 300
    sizes: tuple[int, int] = (12, 60)
    budget: float = 0.2
    selector: str = ""
    available: Callable[[pa.Table], int] = len

    @property
    def address(self) -> str:
        """The selector's name."""
        return self.selector or self.name


def identified(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """The columns `row` and `id` of a case; the ids are drawn, so that no order of ties repeats."""
    return {
        "row": pa.array(range(rows), pa.int32()),
        "id": [f"s{rng.integers(1 << 40)}-{row}" for row in range(rows)],
    }


def expected(method: Method, table: pa.Table, budget: int, seed: int) -> list[int]:
    """The oracle's picks, which must be as many as the budget."""
    keys = seeded_keys(seed, table["id"].combine_chunks())
    rows = [row | {"key": int(key)} for row, key in zip(table.to_pylist(), keys, strict=True)]
    picks = method.oracle(rows, budget, {**method.params, "seed": seed})
    assert len(picks) == len(set(picks)) == budget
    return picks


def check_random(method: Method) -> None:
    """The selector picks what the oracle picks, in CASES random tables of random sizes and budgets."""
    for number in range(CASES):
        rng = np.random.default_rng(number)
        table = method.make(rng, int(rng.integers(*method.sizes)))
        budget = int(rng.integers(1, max(method.available(table), 2)))
        _same(method, table, expected(method, table, budget, number), number)


def check_frozen(method: Method) -> None:
    """The selector picks what the frozen table says, and so does the oracle today."""
    path = FOLDER / f"{method.name}.parquet"
    assert path.stat().st_size <= MOST_BYTES
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[META])
    assert meta["params"] == dict(method.params)
    published = table.filter(pc.is_valid(table["published"])).sort_by("published")["row"].to_pylist()
    assert len(published) == meta["budget"]
    table = table.drop_columns(["published"])
    assert published == expected(method, table, meta["budget"], meta["seed"])
    _same(method, table, published, meta["seed"])


def freeze(method: Method) -> Path:
    """Write the frozen table: its columns, and `published`, the place of a row among the oracle's picks."""
    table = method.make(np.random.default_rng(len(method.name)), method.rows)
    budget = int(method.budget * len(table))
    picks = expected(method, table, budget, 0)
    place = {row: at for at, row in enumerate(picks)}
    ranks = pa.array([place.get(row) for row in table["row"].to_pylist()], pa.int32())
    meta = {"selector": method.address, "budget": budget, "seed": 0, "params": dict(method.params)}
    table = table.append_column("published", ranks).replace_schema_metadata({META: json.dumps(meta)})
    path = FOLDER / f"{method.name}.parquet"
    pq.write_table(table, path, compression="zstd")
    return path


def _same(method: Method, table: pa.Table, picks: list[int], seed: int) -> None:
    found = get_selector(method.address)(table, len(picks), seed, **method.params).rows.tolist()
    if method.ordered:
        assert found == picks, f"case {seed} of {len(table)} rows"
    else:
        assert sorted(found) == sorted(picks), f"case {seed} of {len(table)} rows"
