"""What a page holds: counts of the whole pool, a sample, reasons, scores, copies, leaks, quarantine."""

import base64
import io
import json

import pytest
from explore_world import COPIED, COUNT, HOSTILE, PICKED, data_of, explore
from PIL import Image

from curation.explore.items import cell, conversation, lines
from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn


@pytest.fixture(scope="module")
def data(whole):
    return data_of(whole)


@pytest.fixture(scope="module")
def by_row(data):
    return {item["row"]: item for item in data["items"] if "row" in item}


def test_the_whole_is_counted(data, sampled):
    for told in (data, data_of(sampled)):
        whole = told["whole"]
        assert (whole["pool"], whole["picked"], whole["dropped"]) == (COUNT, len(PICKED), COUNT - len(PICKED))
        assert whole["quarantined"] == 2
        assert whole["by_reason"] == {"no_assistant_turn": 1, "image_missing": 1}
        assert whole["copied"] == {"picked": 1, "dropped": 2}
        assert whole["leaked"] == {"picked": 1, "dropped": 0}
        assert sum(own["picked"] for own in told["sources"]) == len(PICKED)
        assert sum(own["picked"] + own["dropped"] for own in told["sources"]) == COUNT
        nll = next(score for score in told["scores"] if score["name"] == "nll")
        assert sum(nll["picked"]) + sum(nll["dropped"]) == COUNT - 1 and nll["missing"] == 1


def test_picked_samples_have_rank_and_reason(by_row):
    assert sorted(row for row, item in by_row.items() if item["state"] == "picked") == sorted(PICKED)
    for rank, row in enumerate(PICKED):
        assert by_row[row]["rank"] == rank
        assert by_row[row]["reason"]["note"] == f"<u>because {row}</u>"
    assert "reason" not in by_row[1] and by_row[1]["state"] == "dropped"


def test_conversations_are_those_of_the_pool(world, by_row):
    pool = Pool.open(world / "pool")
    for row in (11, 30, 59):
        turn = pool[row].turns[0]
        assert by_row[row]["talk"] == [["question", turn.question], ["answer", turn.answer]]


def test_scores_are_in_the_order_of_their_names(data, by_row):
    names = [score["name"] for score in data["scores"]]
    assert names[:2] == ["cap_ocr", "nll"] and "n_turns" in names and "dup_group" not in names
    assert "vector" not in names and "record_hash" not in names
    assert by_row[10]["values"][:2] == [4, 1.4286] and by_row[5]["values"][1] is None
    assert by_row[10]["styles"] == ["yes_no", "word"] and by_row[10]["texts"] == {"origin": "<em>10</em>"}
    assert data["capabilities"] == ["ocr"]


def test_copies_have_one_group(by_row):
    assert {row for row, item in by_row.items() if item.get("group") == 3} == set(COPIED)
    assert all(by_row[row]["copies"] == 2 and by_row[row]["kind"] == "near_text" for row in COPIED)
    assert [by_row[row]["first"] for row in COPIED] == [True, False, False]
    assert "group" not in by_row[1]


def test_copies_that_a_sample_lacks_lie_beside_it(sampled):
    told = data_of(sampled)
    items = [item for item in told["items"] if "row" in item]
    drawn = {item["row"] for item in items if not item.get("beside")}
    beside = {item["row"] for item in items if item.get("beside")}
    assert len(drawn) == told["held"]["samples"] == 20 and not drawn & beside
    assert beside == (set(COPIED) - drawn if set(COPIED) & drawn else set())
    assert told["held"]["beside"] == len(beside)
    assert told["held"]["picked"] == len(PICKED)


def test_leaks_are_those_of_the_sample(by_row):
    assert [row for row, item in by_row.items() if "leaks" in item] == [21]
    assert by_row[21]["leaks"][0]["benchmark"] == "<b>bench</b>"


def test_quarantined_records_have_their_reason(data, world):
    refused = {item["id"]: item for item in data["items"] if item["state"] == "quarantined"}
    assert set(refused) == {"bad0", "bad1"}
    assert (
        refused["bad0"]["why"] == "no_assistant_turn" and "<b>no answer</b>" in refused["bad0"]["talk"][0][1]
    )
    assert refused["bad1"]["talk"][0] == ["question", "<image> where ?"]
    picture = data["pictures"][refused["bad1"]["images"][0]]
    assert picture["reason"] == "image_missing"
    assert data["reasons"]["image_missing"] and str(world) not in json.dumps(data["items"])


def test_pictures_are_small_and_shared(data, by_row, world):
    picture = data["pictures"][by_row[0]["images"][0]]
    assert (picture["width"], picture["height"]) == (320, 40)
    with Image.open(io.BytesIO(base64.b64decode(picture["jpeg"]))) as image:
        assert image.format == "JPEG" and image.size == (160, 20)
    assert by_row[0]["images"] == by_row[30]["images"] and by_row[4]["images"] == []
    assert len(data["pictures"]) == 24 + 1


def test_a_broken_image_says_why_and_names_no_folder(data, by_row, world):
    picture = data["pictures"][by_row[2]["images"][0]]
    assert "jpeg" not in picture and picture["reason"] == "image_truncated"
    assert str(world) not in picture["detail"] and "images/2.png" in picture["detail"]


def test_the_page_is_the_same_again(world, sampled, tmp_path):
    again = explore(world, tmp_path / "again.html", "--samples", 20, "--seed", 1, "--workers", 2)
    assert again.read_bytes() == sampled.read_bytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (1 / 3, 0.33333),
        (1 << 60, str(1 << 60)),
        (True, True),
        (["<b>", 1], "<b>, 1"),
        ("a\nb", "a\\nb"),
        ("x" * 300, "x" * 200 + "…"),
        (None, None),
    ],
)
def test_cells_are_what_json_and_a_browser_hold(value, expected):
    assert cell(value) == expected


def test_control_characters_are_visible():
    assert lines("a\u202eb\x07\r\nc\td\ud800") == "a\\u202eb\\x07\nc    d\\ud800"
    assert lines(HOSTILE[0]) == HOSTILE[0]


def test_long_conversations_are_cut_and_say_so():
    sample = Sample(0, "a", "b", (), (Turn("q" * 10, "a" * 10), Turn("r", "s")), "system")
    talk, cut = conversation(sample, 12)
    assert talk == [("system", "system"), ("question", "qqqqqq")] and cut == 16
    talk, cut = conversation(sample, 28)
    assert len(talk) == 5 and cut == 0
