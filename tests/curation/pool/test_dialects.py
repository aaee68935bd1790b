"""One parser for LLaVA's records and other trainers': same conversation, same hash, nothing unsaid."""

import hashlib
import json
import sys
import time
import unicodedata

import pytest

from curation.pool import sources
from curation.pool.dialects import IMAGE_KEYS, looks_like_media
from curation.pool.readable import control_tokens, is_empty
from curation.pool.reasons import MAX_DETAIL
from curation.pool.record import BadRecord, RecordOptions, parse_record
from curation.pool.sample import Turn

ASKED, ANSWERED = "<image>\nWhat is shown?", "A red square."
LLAVA = {
    "id": "a",
    "image": "coco/a.jpg",
    "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}],
}
MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
PARTS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat is shown?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": ANSWERED}]},
]
FORMS = {
    "llava_list": LLAVA | {"image": ["coco/a.jpg"]},
    "sharegpt": {"id": "a", "images": ["coco/a.jpg"], "conversations": LLAVA["conversations"]},
    "llamafactory": {"id": "a", "images": ["coco/a.jpg"], "messages": MESSAGES},
    "role_content_in_conversations": {"id": "a", "images": ["coco/a.jpg"], "conversations": MESSAGES},
    "text_of_json": {"id": "a", "image": "coco/a.jpg", "conversations": json.dumps(LLAVA["conversations"])},
    "messages_in_text": {"id": "a", "images": ["coco/a.jpg"], "messages": json.dumps(MESSAGES, indent=1)},
    "columns_of_turns": {
        "id": "a",
        "image": "coco/a.jpg",
        "conversations": {"from": ["human", "gpt"], "value": [ASKED, ANSWERED]},
    },
    "alpaca": {
        "id": "a",
        "images": ["coco/a.jpg"],
        "instruction": "<image>",
        "input": "What is shown?",
        "output": ANSWERED,
    },
    "swift": {
        "id": "a",
        "images": ["coco/a.jpg"],
        "query": ASKED,
        "response": ANSWERED,
        "history": [],
        "system": None,
    },
    "swift_path": {"id": "a", "images": [{"path": "coco/a.jpg", "bytes": None}], "messages": MESSAGES},
    "openai_parts": {"id": "a", "images": ["coco/a.jpg"], "messages": PARTS},
    "openai_image_in_parts": {
        "id": "a",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "coco/a.jpg"}},
                    {"type": "text", "text": "\nWhat is shown?"},
                ],
            },
            MESSAGES[1],
        ],
    },
    "table_row_with_every_column": LLAVA | {"messages": None, "images": [], "query": None, "videos": []},
}


@pytest.mark.parametrize("name", FORMS)
def test_a_conversation_is_the_same_record_in_every_form(name):
    assert parse_record(FORMS[name]) == parse_record(LLAVA)


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_every_alias_of_image_is_read(key):
    value = {"id": "a", key: "coco/a.jpg", "conversations": LLAVA["conversations"]}
    assert parse_record(value) == parse_record(LLAVA)


def test_the_content_hash_of_a_llava_record_is_fixed():
    """Ids of published pools are such hashes: the definition must not move."""
    turns = [["human", '<image>\n\x01\x7f\u2028é\ud7ff\U0001f600"\\/'], ["gpt", "b\b\f\t"]]
    value = {"image": ["x/é.png"], "conversations": [{"from": r, "value": v} for r, v in turns]}
    text = json.dumps([["x/é.png"], turns], ensure_ascii=False, separators=(",", ":"))
    assert parse_record(value).content_hash == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def reason(value, **options):
    with pytest.raises(BadRecord) as caught:
        parse_record(value, RecordOptions(**options))
    assert 0 < len(caught.value.detail) <= MAX_DETAIL and caught.value.detail.isprintable()
    return caught.value.reason, caught.value.detail


def ask(question="What colour?", answer="Red.", **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} | more


MEDIA = {
    "name": "pictures/a b.JPG",
    "address": "http://host/a.png?size=2",
    "data_url": "data:image/png;base64,iVBORw0KGgo",
    "base64": "/9j/" + "A" * 100,
    "list": [["a.png"]],
    "bytes": {"bytes": "/9j/4AAQ", "path": None},
    "nested": {"meta": {"file": "a.webp"}},
    "video": "clip.mp4",
    "sound": "a.wav",
}


@pytest.mark.parametrize("kind", MEDIA)
def test_an_unknown_key_with_media_is_never_text_only(kind):
    code, detail = reason(ask(depiction=MEDIA[kind]))
    assert code == "unknown_media_key" and "depiction" in detail and "--image-key" in detail
    turns = ask()["conversations"]
    code, detail = reason({"conversations": [turns[0] | {"depiction": MEDIA[kind]}, turns[1]]})
    assert code == "unknown_media_key" and "depiction" in detail


@pytest.mark.parametrize("kind", MEDIA)
def test_beside_an_image_an_unknown_key_is_counted(kind):
    record = parse_record(LLAVA | {"depiction": MEDIA[kind], "note": None})
    assert record.unknown == ("depiction",) and record.images == ("coco/a.jpg",)


def test_an_unknown_key_without_media_is_counted():
    plain = {"note": "see fig. 3.jpg is what the caption in the scanned book says", "score": 3, "tags": ["a"]}
    record = parse_record(ask(**plain, none=None))
    assert record.unknown == ("note", "score", "tags") and record.source == "text_only"
    assert not any(map(looks_like_media, ["a.jpg\nb", "jpg", ".jpg", "x" * 2000 + ".jpg", 3, None, {}]))


@pytest.mark.parametrize(
    "value",
    [
        ask("<image>", image_path="a.jpg", img="b.jpg"),
        {
            "images": ["a.jpg"],
            "messages": [{"role": "user", "content": [{"type": "image", "image": "b.jpg"}]}],
        },
    ],
)
def test_keys_that_name_different_pictures_are_ambiguous(value):
    assert reason(value)[0] == "unknown_media_key"


def test_keys_that_name_the_same_picture_are_not():
    assert parse_record(ask("<image>", image_path="a.jpg", img=["a.jpg"])).images == ("a.jpg",)


def test_image_key_names_the_pictures():
    value = ask("<image>", image="thumb.jpg", photo="big.jpg")
    record = parse_record(value, RecordOptions(image_key="photo"))
    assert record.images == ("big.jpg",) and record.unknown == ("image",)
    assert reason(ask(image="thumb.jpg"), image_key="photo")[0] == "unknown_media_key"


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_empty_image_without_placeholder_is_text_only(empty):
    record = parse_record(ask(image=empty))
    assert (record.images, record.source, record.unknown) == ((), "text_only", ())
    assert record.content_hash == parse_record(ask()).content_hash
    assert reason(ask("<image>", image=empty))[0] in ("bad_image_field", "image_count_mismatch")


@pytest.mark.parametrize("key", ["image", "images", "img"])
@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("data:image/jpeg;base64," + "A" * 20_000, "data URL"),
        ("/9j/" + "A" * 20_000, "base64"),
        ("https://host/a.jpg", "URL"),
        ({"bytes": "A" * 20_000, "path": "a.jpg"}, "bytes"),
        ([{"no": "path"}], "not a path"),
        ([None], "not a path"),
        (3, "not a path"),
    ],
)
def test_what_is_no_path_is_said_shortly(key, field, said):
    code, detail = reason(ask("<image>", **{key: field}))
    assert code == "bad_image_field" and said in detail


def test_videos_are_refused_under_any_name():
    for key in ("video", "videos", "audios"):
        assert reason(ask("<image>", image="a.jpg", **{key: ["v.mp4"]}))[0] == "bad_image_field"
        assert parse_record(ask("<image>", image="a.jpg", **{key: []})).unknown == ()


def test_a_system_key_is_a_system_turn():
    turns = ask()["conversations"]
    spoken = parse_record({"conversations": [{"from": "system", "value": "Be kind."}, *turns]})
    keyed = parse_record(ask(system="Be kind."))
    assert keyed == spoken and keyed.system == "Be kind." and keyed.unknown == ()
    assert parse_record({"query": "What colour?", "response": "Red.", "system": "Be kind."}) == spoken
    assert parse_record({"messages": [{"role": "system", "content": "Be kind."}, *turns]}) == spoken
    assert keyed.content_hash != parse_record(ask(system="Be rude.")).content_hash
    assert parse_record(ask(system=" ")).content_hash == parse_record(ask()).content_hash
    both = {"system": "Be kind.", "conversations": [{"from": "system", "value": "Be rude."}, *turns]}
    assert reason(both)[0] == "odd_roles"
    assert parse_record(both | {"system": "Be rude."}).system == "Be rude."
    assert reason(ask(system=3))[0] == "bad_conversations"


def test_history_comes_before_the_query():
    value = {"query": "sure?", "response": "yes", "history": [["<image>what?", "dog"]], "images": ["a.jpg"]}
    record = parse_record(value)
    assert record.turns == (Turn("<image>what?", "dog"), Turn("sure?", "yes")) and record.images == ("a.jpg",)
    assert reason(value | {"history": ["what?"]})[0] == "bad_conversations"


def test_a_record_of_no_known_form_names_its_keys():
    code, detail = reason({"prompt": "a", "completion": "b"})
    assert code == "bad_conversations" and "messages" in detail and "prompt, completion" in detail
    assert reason(ask(messages=MESSAGES))[0] == "bad_conversations"
    tool = [*MESSAGES, {"role": "tool", "content": "3"}]
    assert reason({"messages": tool, "images": ["a.jpg"]})[0] == "odd_roles"
    sound = [{"role": "user", "content": [{"type": "input_audio"}]}, MESSAGES[1]]
    assert reason({"messages": sound})[0] == "bad_conversations"


CONTROL = ["<|im_end|>", "<|eot_id|>", "</s>", "<s>", "[INST]", "<pad>", "<image_soft_token>",
           "<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
           "<|vision_start|>", "[/INST]", "<end_of_utterance>"]  # fmt: skip


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("[{not json", "conversations is a text, and no valid JSON"),
        ("[" * 100_000, "conversations is a text, and no valid JSON"),
        ("once upon a time", "conversations is str"),
        ({"from": ["human", "gpt"], "value": ["a"]}, "conversations is dict"),
        ({"from": "human", "value": "a"}, "conversations is dict"),
    ],
)
def test_a_conversation_that_is_no_list_of_turns_is_said(held, said):
    code, detail = reason({"id": "a", "conversations": held})
    assert code == "bad_conversations" and said in detail


@pytest.mark.parametrize("token", CONTROL)
def test_control_tokens_are_counted_and_are_no_answer(token):
    record = parse_record(ask(f"What?{token}", f"Red.{token} {token}"))
    assert record.control_tokens == 3 and record.turns == (Turn(f"What?{token}", f"Red.{token} {token}"),)
    assert reason(ask("What?", f" {token}\u200b{token}"))[0] == "empty_answer"
    assert reason(ask(token))[0] == "empty_question"


def test_a_bases_own_tokens_count_too():
    own = ("[IMG]", "~eot~", "<image>", " ")
    assert parse_record(ask("<image>a [IMG] b", "c ~eot~ d", image="x.jpg")).control_tokens == 0
    record = parse_record(
        ask("<image>a [IMG] b", "c ~eot~ d", image="x.jpg"), RecordOptions(control_tokens=own)
    )
    assert record.control_tokens == 2
    assert reason(ask("a", "~eot~"), control_tokens=own)[0] == "empty_answer"


def test_ordinary_markup_is_no_control_token():
    for text in ("a < b", "<b>x</b>", "x[i] = y[0]", "List<String>", "<|", "|>", "f(x) <| g |> h", "<image>"):
        assert control_tokens().count(text) == 0


def test_empty_is_what_a_reader_sees():
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zs", "Zl", "Zp"):
            assert is_empty(chr(code)), hex(code)
    for blank in ("", "\u200b\ufeff", "\u2800\u3164", "\ufe0f\u200d", "\t\n"):
        assert reason(ask("What?", blank))[0] == "empty_answer"
        assert reason(ask(blank))[0] == "empty_question"
    for text in (".", "é", "是", "😀", "\u0301a", "-"):
        assert parse_record(ask(text, text)).turns[0].answer == text


def test_a_picture_alone_is_a_question():
    assert parse_record(ask("<image>\u200b", image="a.jpg")).turns[0].question == "<image>\u200b"
    turns = [*ask("<image>", "dog")["conversations"], *ask("", "cat")["conversations"]]
    assert reason({"image": "a.jpg", "conversations": turns})[0] == "empty_question"


@pytest.mark.parametrize(
    ("path", "depth", "expected"),
    [
        ("coco/a.jpg", 1, "coco"),
        ("coco/train/x/a.jpg", 1, "coco"),
        ("coco/train/x/a.jpg", 2, "coco/train"),
        ("coco/a.jpg", 2, "coco"),
        ("./coco/a.jpg", 1, "coco"),
        ("a.jpg", 1, "unknown"),
        ("./a.jpg", 2, "unknown"),
    ],
)
def test_the_source_is_a_folder_of_the_path(path, depth, expected):
    record = parse_record(ask("<image>", image=path), RecordOptions(source_depth=depth))
    assert (record.source, record.folder) == (expected, None)


def test_sources_of_absolute_paths_are_resolved_together(tmp_path):
    paths = [
        "/data/pool/coco/train/a.jpg",
        "/data/pool/gqa/b.jpg",
        "/data/pool/c.jpg",
        "../up/x/d.jpg",
        "../up/y/e.jpg",
    ]
    records = [parse_record(ask("<image>", image=path)) for path in paths]
    assert {record.source for record in records} == {"unknown"}
    found = sources.resolve(record.folder for record in records)
    assert [found[record.folder] for record in records] == ["coco", "gqa", "unknown", "x", "y"]
    deep = sources.resolve([record.folder for record in records], depth=2)
    assert deep["/data/pool/coco/train"] == "coco/train"
    assert sources.resolve(["/data/pool/coco"]) == {"/data/pool/coco": "unknown"}
    inside = {str(tmp_path / "coco"): "coco", str(tmp_path): "unknown"}
    assert sources.resolve(inside, root=tmp_path) == inside


def test_keys_and_files_that_name_the_source():
    value = ask("<image>", image="coco/a.jpg", dataset="vqa", source="s")
    assert parse_record(value).source == "s"
    assert parse_record(value, RecordOptions(source_key="dataset")).source == "vqa"
    assert parse_record(value, RecordOptions(source_key="absent")).source == "unknown"
    assert parse_record(value, RecordOptions(default_source="file")).source == "s"
    assert parse_record(ask(), RecordOptions(default_source="file")).source == "file"


def test_an_unpacked_line_that_could_not_be_read_says_why():
    assert reason({"id": "a", "idx": 3, "_unreadable": ["image_missing", "no member a.jpg"]}) == (
        "image_missing",
        "no member a.jpg",
    )


def test_a_plain_record_is_parsed_in_microseconds():
    """A bound far above the 10 us it takes, so that only a lost fast path fails it."""
    value = ask("<image>\n" + "what is it " * 15, "a red square " * 40, id="a", image="coco/a.jpg")
    start = time.process_time()
    for _ in range(2000):
        parse_record(value)
    assert (time.process_time() - start) / 2000 < 60e-6
