"""Reading records one by one: offsets, chunk borders, truncation at every byte."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.pool.errors import BrokenJson
from curation.pool.stream import RangeReader, guess_start, layout_of, read_records, repeated_key

RECORDS = [
    {"id": "a", "text": 'brackets ] } [ { and "quotes" \\ inside'},
    {"id": "b", "text": "snow ☃, emoji 🙂, umlaut ä", "list": [1, [2, {}], []]},
    {},
    7,
    "word",
    [3],
    None,
    {"id": "c", "text": "é" * 40},
]
LAYOUTS = {
    "compact": json.dumps(RECORDS, separators=(",", ":")),
    "unicode": json.dumps(RECORDS, ensure_ascii=False),
    "indented": json.dumps(RECORDS, ensure_ascii=False, indent=2) + "\n\n",
    "bom": "\ufeff  " + json.dumps(RECORDS, ensure_ascii=False),
    "lines": "\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS),
    "windows lines": "\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS) + "\r\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
def test_records_and_their_bytes(tmp_path, layout, chunk):
    data = LAYOUTS[layout].encode()
    path = tmp_path / "data.json"
    path.write_bytes(data)
    records = list(read_records(path, chunk_bytes=chunk))
    assert [item.value for item in records] == RECORDS
    assert [json.loads(data[item.offset : item.offset + item.length]) for item in records] == RECORDS
    assert [item.index for item in records] == list(range(len(RECORDS)))
    assert not any(item.fault for item in records)


@pytest.mark.parametrize("layout", ["compact", "unicode", "indented"])
def test_a_list_cut_anywhere_is_reported_with_its_offset(tmp_path, layout):
    data = LAYOUTS[layout].encode().rstrip()
    for cut in range(1, len(data)):
        path = tmp_path / "cut.json"
        path.write_bytes(data[:cut])
        whole = []
        with pytest.raises(BrokenJson) as error:
            whole.extend(read_records(path, chunk_bytes=50))
        assert (whole[-1].offset + whole[-1].length if whole else 0) <= error.value.byte_offset <= cut
        assert [item.value for item in whole] == RECORDS[: len(whole)]
        # A cut inside a character of several bytes reads as broken UTF-8.
        assert ("truncated" in str(error.value) and "Fetch" in str(error.value)) or "UTF-8" in str(
            error.value
        ), cut


def test_the_message_names_record_offset_and_what_to_do(tmp_path):
    path = tmp_path / "pool.json"
    path.write_text('[{"id": 1},\n {"id": 2, "text": "half a sen')
    with pytest.raises(
        BrokenJson, match=r"inside or right after record 1 .*starts at byte 13; 1 complete.*--limit 1"
    ) as error:
        list(read_records(path))
    assert error.value.byte_offset == 13


@pytest.mark.parametrize(
    ("text", "message", "offset"),
    [
        ("", "is empty", 0),
        ("hello", "starts with neither", 0),
        ('[{"a": 1} {"b": 2}]', "expected ',' or ']'", 10),
        ('[{"a": 1}, {"b": 2]', "truncated", 11),
        ('[{"a": 1}, nul, {"c": 3}]', "Expecting value", 11),
        ('[{"a": 1},, {"c": 3, "more": "than sixteen characters"}]', "Expecting value", 10),
        ('[{"a": 1}] [2]', "text follows", 11),
        ('{"data": [\n{"id": 1}\n]}', "first line is not a complete JSON", 0),
    ],
)
def test_files_that_are_not_a_list_of_records(tmp_path, text, message, offset):
    path = tmp_path / "pool.json"
    path.write_text(text)
    with pytest.raises(BrokenJson, match=message) as error:
        list(read_records(path))
    assert error.value.byte_offset == offset


@pytest.mark.parametrize("layout", ["list", "lines"])
@pytest.mark.parametrize("chunk", [5, 1000])
@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (b'{"a": "' + b"x" * 30 + b'\xff"}', "byte {37} is not UTF-8"),
        (b'{"a" 2}', "delimiter at byte {5}"),
        (b'{"a": 2, "b": [1, 2}', "delimiter at byte {19}"),
        (b'{"a": "no end, "b": 3}', "delimiter at byte {16}"),
        (b'{"a": "a line\x01"}', "control character at byte {13}"),
        ('{"a": "ü", "b": }'.encode(), "Expecting value at byte {17}"),
    ],
)
def test_a_broken_record_costs_itself_alone(tmp_path, layout, chunk, broken, fault):
    records = [b'{"a": 1}', broken, b'{"a": 3, "more": [{"b": 1}, {"b": 2}]}', b'{"a": 4}']
    path = tmp_path / "pool.json"
    path.write_bytes(b"[" + b", ".join(records) + b"]" if layout == "list" else b"\n".join(records) + b"\n")
    read = list(read_records(path, chunk_bytes=chunk))
    data = path.read_bytes()
    assert [data[item.offset :][: item.length] for item in read] == records
    assert [bool(item.fault) for item in read] == [False, True, False, False]
    head, _, rest = fault.partition("{")
    place, _, tail = rest.partition("}")
    assert f"{head}{read[1].offset + int(place)}{tail}" in read[1].fault


def test_a_comma_before_the_bracket_loses_nothing(tmp_path):
    path = tmp_path / "pool.json"
    path.write_text('[{"a": 1}, {"a": 2},\n]\n')
    assert [item.value for item in read_records(path)] == [{"a": 1}, {"a": 2}]
    path.write_text('[{"a": 1}, {"a": 2},\n')
    with pytest.raises(BrokenJson, match="truncated"):
        list(read_records(path))


RANGES = {
    **LAYOUTS,
    "same keys": json.dumps([{"id": i, "text": '}, {"id": ' * (i % 7)} for i in range(40)]),
    "keys inside": json.dumps([{"id": i, "parts": [{"id": 1}, {"id": 2}] * (i % 3)} for i in range(30)]),
    "broken inside": '[{"id": 1}, {"id" 2}, {"id": "no end}, {"id": 4}, 5, {"id": 6}]',
}


@pytest.mark.parametrize("layout", RANGES)
@pytest.mark.parametrize("size", [1, 10, 50, 200])
def test_ranges_that_follow_each_other_give_the_whole_file(tmp_path, layout, size):
    path = tmp_path / "data.json"
    path.write_bytes(RANGES[layout].encode())
    whole = [(item.offset, item.length) for item in read_records(path)]
    found, start, shape = [], None, layout_of(path)
    for stop in range(size, path.stat().st_size + size, size):
        reader = RangeReader(shape, start, stop, chunk_bytes=16)
        found += [(piece.offset, len(piece.raw)) for piece in reader]
        start = reader.next
        if start is None:
            break
        guess = guess_start(shape, stop)
        assert guess is None or guess >= stop
        if layout in ("same keys", "lines", "windows lines") and stop > whole[0][0]:
            assert guess == start
    assert found == whole and start is None


def test_a_broken_line_is_a_fault_and_a_cut_last_line_an_error(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text('{"id": 1}\n{"id": \n{"id": 3}\n')
    records = list(read_records(path))
    assert [item.value for item in records] == [{"id": 1}, None, {"id": 3}]
    assert records[1].fault and not records[0].fault and not records[2].fault
    path.write_text('{"id": 1}\n{"id": 3')
    with pytest.raises(BrokenJson, match="truncated") as error:
        list(read_records(path))
    assert error.value.byte_offset == 10


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=150, deadline=None)
def test_any_list_reads_as_json_loads_does(tmp_path_factory, values, chunk, ascii_only, indent):
    path = tmp_path_factory.getbasetemp() / "any.json"
    data = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    path.write_bytes(data)
    records = list(read_records(path, chunk_bytes=chunk))
    assert [item.value for item in records] == values
    assert [json.loads(data[item.offset : item.offset + item.length]) for item in records] == values


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "large.json"
    path.write_text(json.dumps([{"id": i, "text": "x" * 1000} for i in range(6000)]))
    tracemalloc.start()
    assert sum(1 for _ in read_records(path, chunk_bytes=1 << 16)) == 6000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ('{"id": 1, "conversations": [{"from": "x", "value": "y"}]}', None),
        ('{"id": 1, "id": 1, "conversations": []}', "id"),
        ('{"id" : 1, "id": 1, "conversations": []}', "id"),
        ('{"i\\u0064": 1, "id": 1, "conversations": []}', "id"),
        ('{"id": 1, "conversations": [{"from": "x", "value": "y", "from": "x"}]}', "from"),
        ('{"id": 1, "conversations": [{"from": "x", "value": ":) says \\": or \\":"}]}', None),
        ('{"id": 1, "other": {"a": 1, "a": 2}}', "a"),
        ('{"id": 1, "other": {"a": 1, "b": 2}}', None),
        ("[1, 2]", None),
    ],
)
def test_a_key_that_is_there_twice(record, key):
    assert repeated_key(record.encode(), json.loads(record)) == key
