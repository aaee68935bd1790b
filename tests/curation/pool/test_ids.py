"""Unique ids: the columnar way gives what a plain loop over records gives."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.pool import ids
from curation.pool.ids import DUPLICATE_ID, DUPLICATE_RECORD, KEPT, hexadecimal, repeated_hashes, unique_ids


def by_loop(own, content):
    """(ids, fates, records without an id) by the definition."""
    fates, seen = [], set()
    for pair in zip(own, content, strict=True):
        fates.append(DUPLICATE_RECORD if pair in seen else KEPT)
        seen.add(pair)
    kept = [name for name, fate in zip(own, fates, strict=True) if fate == KEPT]
    missing = kept.count(None)
    names = [
        text.hex() if name is None or kept.count(name) > 1 else name
        for name, text in zip(own, content, strict=True)
    ]
    first = {}
    for at, name in enumerate(names):
        if fates[at] == KEPT and first.setdefault(name, at) != at:
            fates[at] = DUPLICATE_RECORD if content[at] == content[first[name]] else DUPLICATE_ID
    return names, fates, missing


contents = st.integers(0, 5).map(lambda n: bytes([n]) * 16)
owns = st.none() | st.sampled_from(["a", "b", "ab", "", "☃", "long" * 9]) | contents.map(bytes.hex)


@given(st.lists(st.tuples(owns, contents), max_size=30), st.sampled_from([2, 1 << 16]))
@settings(max_examples=300, deadline=None)
def test_any_records(records, at_once):
    own, content = [r[0] for r in records], [r[1] for r in records]
    before, ids._AT_ONCE = ids._AT_ONCE, at_once
    try:
        found = unique_ids(pa.array(own, pa.string()), pa.array(content, pa.binary(16)))
    finally:
        ids._AT_ONCE = before
    names, fates, missing = by_loop(own, content)
    assert found.fate.tolist() == fates
    kept = np.array(fates) == KEPT
    assert [n for n, k in zip(found.ids.to_pylist(), kept, strict=True) if k] == [
        n for n, k in zip(names, kept, strict=True) if k
    ]
    assert found.missing == missing


def test_a_slice_of_hashes_in_hexadecimal():
    raw = [bytes(range(n, n + 16)) for n in range(9)]
    assert hexadecimal(pa.array(raw, pa.binary(16)).slice(2, 4)).to_pylist() == [r.hex() for r in raw[2:6]]


halves = st.sampled_from([b"first...", b"second..", b"third..."])


@given(st.lists(contents | st.builds(bytes.__add__, halves, halves), max_size=20))
def test_repeated_hashes(raw):
    assert repeated_hashes(pa.array(raw, pa.binary(16))) == len(raw) - len(set(raw))
