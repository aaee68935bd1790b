"""The quick way gives what the parser gives, or nothing; and it takes nearly all records of plain files."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.pool.plain import reader
from curation.pool.record import DEFAULT, BadRecord, RecordOptions, parse_record, record_id
from curation.pool.stream import decode, repeated_key
from curation.pool.tokens import token_counter

TALK = [{"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": "a dog [0.1, 0.2]"}]
PLAIN = {"id": "a", "image": "coco/a.jpg", "conversations": TALK}


def text_only(question, answer="yes"):
    return {
        "id": "a",
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }


def same(raw, options=DEFAULT):
    """Whether the quick way takes the record; what it gives is compared with the parser's."""
    plain = reader(options)(raw)
    if plain is None:
        return False
    value, fault = decode(raw)
    assert fault is None and repeated_key(raw, value) is None
    record = parse_record(value, options)
    assert plain[1:5] == (record.id, record.source, record.folder, record.images)
    assert (plain.turns, plain.content.hex(), plain.text) == (
        len(record.turns),
        record.content_hash,
        record.text(),
    )
    assert plain.unknown == record.unknown and plain.reason is plain.detail is None
    assert not (record.skipped_first or record.skipped_last or record.control_tokens)
    assert plain.place == value.get("idx")
    assert (plain.idx, plain.own_idx) == (record_id(value, "idx"), record_id(value, "own_idx"))
    return True


@pytest.mark.parametrize(
    "record",
    [
        PLAIN,
        PLAIN | {"id": 7, "source": "chat", "idx": 3},
        PLAIN | {"id": "  grüß ", "image": "grüß.jpg"},
        PLAIN | {"image": "/abs/x/a.jpg", "source": ""},
        PLAIN | {"image": "../up/a.jpg", "id": None},
        {"conversations": TALK[:1] + TALK[1:], "image": "a.jpg"},
        text_only("2 < 3 ?") | {"image": None},
        PLAIN | {"model": "", "width": 3, "note": None},
        text_only("x") | {"model": "x.y", "n": 1, "image": None, "e\u00fc": "a: b"},
        text_only("a key ?", "no: :) one"),
        text_only("[INST is no token"),
        text_only("<b>bold</b>", "no :) key"),
        text_only("\x00 zero \x7f", "\u00a0x\u2028y\x85z \U0001f642"),
    ],
)
def test_plain_records_are_taken(record):
    assert same(json.dumps(record).encode()) and same(json.dumps(record, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(PLAIN).replace('"id": "a"', '"id": "a", "id": "b"'),
        json.dumps(PLAIN).replace('"id": "a"', '"id" : "a", "id": "b"'),
        json.dumps(PLAIN).replace('"from": "gpt"', '"from": "gpt", "from": "gpt"'),
        json.dumps(PLAIN | {"model": "", "n": 1}).replace('"n"', '"model"'),
        json.dumps(PLAIN | {"model": ""}).replace('"from": "gpt"', '"from": "gpt", "n": 1'),
        json.dumps(PLAIN | {"box": [1, 2]}),
        json.dumps(PLAIN | {"data_source": "x"}),
        json.dumps(PLAIN | {"system": "x"}),
        json.dumps(PLAIN | {"images": []}),
        json.dumps(text_only("x") | {"picture": "a.jpg"}),
        json.dumps(PLAIN).replace("a dog", "a dog <image>"),
        json.dumps(PLAIN | {"image": ""}),
        json.dumps(PLAIN | {"image": ["a.jpg"]}),
        json.dumps(PLAIN | {"image": "data:image/png;base64,xx"}),
        json.dumps(PLAIN | {"id": True}),
        json.dumps(PLAIN | {"conversations": TALK[::-1]}),
        json.dumps(PLAIN | {"conversations": TALK[:1]}),
        json.dumps(PLAIN | {"conversations": [*TALK, TALK[0]]}),
        json.dumps(PLAIN | {"conversations": [{"from": "system", "value": "x"}, *TALK]}),
        json.dumps(text_only("a <image> more")),
        json.dumps(text_only("", "x")),
        json.dumps(text_only("x", "\u200b")),
        json.dumps(text_only("x", "no<|im_end|>")),
        json.dumps(text_only("x", "[/INST]")),
        json.dumps(text_only("\ud800")),
        json.dumps(text_only("a key ?", ":) it looks like one")),
        "[1]",
        '{"id": "a"',
    ],
)
def test_anything_unusual_is_left_to_the_parser(raw):
    assert reader(DEFAULT)(raw.encode("utf-8", "surrogatepass")) is None


def test_options_are_kept():
    raw = json.dumps(PLAIN | {"image": "a/b/c.jpg"}).encode()
    for options in (RecordOptions(source_depth=2), RecordOptions(default_source="file")):
        assert same(raw, options)
    assert reader(RecordOptions(image_key="picture"))(raw) is None
    assert reader(RecordOptions(source_key="from"))(raw) is None
    assert reader(RecordOptions(control_tokens=("dog",)))(raw) is None


PIECES = [
    "<image>",
    "<",
    "[",
    "<|im_end|>",
    "</s>",
    " ",
    "\n",
    "\u200b",
    "a",
    "ü",
    "☃",
    '"',
    ":",
    '":',
    "\\",
    "\x85",
]
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
turns = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "human", "gpt", "gpt", "system"]), "value": texts}
)
names = st.text(string.ascii_lowercase + "/.: ü", max_size=12)
records = st.fixed_dictionaries(
    {
        "conversations": st.lists(turns, max_size=4)
        | st.tuples(texts, texts, names).map(
            lambda t: [{"from": "human", "value": "<image>" + t[0]}, {"from": "gpt", "value": t[1] + "x"}]
        )
    },
    optional={
        "id": names | st.none() | st.integers() | st.booleans() | st.floats(),
        "image": names | st.none() | st.lists(names, max_size=2),
        "source": names | st.none(),
        "idx": st.integers(0, 5),
        "other": names | st.none() | st.integers() | st.lists(names, max_size=1),
        "data_source": names,
    },
)


@given(records, st.booleans(), st.integers(1, 2), st.sampled_from([None, "file"]))
@settings(max_examples=400, deadline=None)
def test_the_quick_way_agrees_with_the_parser(record, ascii_only, depth, source):
    raw = json.dumps(record, ensure_ascii=ascii_only).encode()
    options = RecordOptions(source_depth=depth, default_source=source)
    try:
        parse_record(decode(raw)[0], options)
    except BadRecord:
        assert reader(options)(raw) is None
    else:
        same(raw, options)


@given(
    st.text(
        st.characters(exclude_categories=("Cs",)) | st.sampled_from(" \t\n\x0b\x1c\x1f\x85\xa0"), max_size=30
    )
)
def test_words_are_counted_as_split_counts_them(text):
    assert token_counter(None)[0]([text, text.encode("ascii", "ignore").decode()]) == [
        len(text.split()),
        len(text.encode("ascii", "ignore").decode().split()),
    ]
