"""Bins of names said and sources, against plain Python; dictionary-encoded lists; both engines."""

import importlib.util

import numpy as np
import pyarrow as pa
import pytest
from selector_tables import plain_key

from curation.selectors import ColumnError, get_selector
from curation.selectors.bins import Bins, Said
from curation.selectors.primitives.keys import groups, seeded_keys

ENGINES = ["numpy", *(["numba"] if importlib.util.find_spec("numba") else [])]
NAMES = ("a", "b", "c", "")


def random_lists(rng, n):
    """Lists with nulls, null names, names said again, and an offset into a longer array."""
    lists = [
        None
        if rng.random() < 0.2
        else [None if rng.random() < 0.1 else NAMES[k] for k in rng.integers(0, 4, rng.integers(0, 5))]
        for _ in range(n + 1)
    ]
    return pa.array(lists, pa.list_(pa.string())).slice(1), lists[1:]


def plain_bins(lists, sources, bin_of, bare):
    """bin -> [(row, position)]: positions count the names that are no repeats of a bin."""
    bins = {}
    for row, said in enumerate(lists):
        names = [name for name in said or [] if name is not None] or ([] if bare is None else [bare])
        for position, b in enumerate(dict.fromkeys(bin_of[name, sources[row]] for name in names)):
            bins.setdefault(b, []).append((row, position))
    return bins


@pytest.mark.parametrize("engine", ENGINES)
def test_bins_equal_plain_python(engine):
    for case in range(200):
        rng = np.random.default_rng(case)
        column, lists = random_lists(rng, n := int(rng.integers(1, 30)))
        sources, width = rng.integers(0, 3, n).astype(np.int32), 3
        if case % 2:
            column = column.cast(pa.list_(pa.dictionary(pa.int32(), pa.string())))
        said = Said.of(pa.table({"styles": column}), "styles")
        of_pair = rng.integers(0, 5, len(said.names) * width).astype(np.int32)
        bin_of = {
            (name, s): int(of_pair[at * width + s])
            for at, name in enumerate(said.names)
            for s in range(width)
        }
        bare = 0 if case % 3 == 0 and said.names else None
        found = Bins.of(said, sources, of_pair, width=width, bare=bare, placed=bare is None, engine=engine)
        expected = plain_bins(lists, sources.tolist(), bin_of, None if bare is None else said.names[bare])
        for b in range(len(found.starts) - 1):
            span = slice(found.starts[b], found.starts[b + 1])
            assert found.rows[span].tolist() == [row for row, _ in expected.get(b, [])], (case, b)
            if bare is None:
                assert found.positions[span].tolist() == [position for _, position in expected.get(b, [])], (
                    case,
                    b,
                )
        assert found.starts[-1] == sum(map(len, expected.values())) and found.bare == sum(
            not [x for x in said or [] if x is not None] for said in lists
        )
        met = {
            at * width + s
            for at, name in enumerate(said.names)
            for s in range(width)
            if any(name in (names or []) and sources[row] == s for row, names in enumerate(lists))
        }
        assert said.met(sources, width, engine).tolist() == sorted(met)


def test_selections_do_not_hang_on_how_styles_are_stored_or_chunked():
    rng, n = np.random.default_rng(0), 60
    column, _ = random_lists(rng, n)
    table = pa.table(
        {
            "row": np.arange(n),
            "id": [f"i{k}" for k in range(n)],
            "source": [f"s{k % 3}" for k in range(n)],
            "styles": column,
            "cap_ocr": rng.integers(0, 6, n).astype(np.int8),
            "cap_logic": rng.integers(0, 6, n).astype(np.int8),
        }
    )
    coded = pa.chunked_array(
        [
            column.slice(0, 25).cast(kind := pa.list_(pa.dictionary(pa.int32(), pa.string()))),
            column.slice(25).cast(kind),
        ]
    )
    stored = table.set_column(3, "styles", coded)
    assert (
        stored["styles"].type == kind
        and stored["styles"].chunk(0).values.dictionary != stored["styles"].chunk(1).values.dictionary
    )
    for name in ("mmssr", "mmssr_official"):
        for engine in ENGINES:
            plain, found = (get_selector(name)(t, 20, 3, engine=engine) for t in (table, stored))
            assert (
                plain.rows.tolist() == found.rows.tolist()
                and plain.reason.equals(found.reason)
                and plain.notes == found.notes
            )


def test_lists_of_numbers_are_refused():
    with pytest.raises(ColumnError, match=r"column 'styles' is list<.*int64>.*not list<string>"):
        Said.of(pa.table({"styles": [[1], [2]]}), "styles")


def test_groups_of_encoded_text_are_those_of_plain_text():
    names = pa.array(["b", None, "a", "b"])
    codes, found = groups(names)
    assert codes.tolist() == [1, -1, 0, 1] and found == ["a", "b"]
    repeated = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2], pa.int8()), pa.array(["b", "a", "b"]))
    codes, found = groups(repeated)
    assert codes.tolist() == [1, -1, 0, 1] and found == ["a", "b"]


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_are_the_same_with_every_engine(engine):
    names = ["", "a", "b" * 300, "é", "id_1"] * 3
    assert seeded_keys(5, pa.array(names), engine).tolist() == [plain_key(5, name) for name in names]
    assert len(seeded_keys(5, pa.array([], pa.string()), engine)) == 0
