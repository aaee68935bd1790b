"""Tokens and labels against tables of expected ids, derived from the published rules (golden/derive.py)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.pool.sample import Sample, Turn
from training.render import IGNORE, Renderer, RenderRules, fitted

GOLDEN = Path(__file__).parent / "golden"
CONVERSATIONS = json.loads((GOLDEN / "conversations.json").read_text())
TABLES = {
    name: json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("vicuna_v1", "qwen", "truncated")
}
SYSTEM = {
    "vicuna_v1": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "qwen": "You are a helpful assistant.",
}
CASES = [("vicuna_v1", "answer"), ("qwen", "answer"), ("qwen", "llava_next")]


def sample_of(name):
    talk = CONVERSATIONS[name]
    pictures = tuple(Image.new("RGB", (28, 28)) for _ in range(talk["images"]))
    turns = tuple(Turn(*turn) for turn in talk["turns"])
    return Sample(0, name, "golden", pictures, turns, talk.get("system"))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def ruled(request, golden_processor):
    """(table, rule of the labels, a renderer for both)."""
    table, loss = request.param
    rules = RenderRules(system=SYSTEM[table], image_first=True, loss_tokens=loss)
    return table, loss, Renderer(golden_processor(table), "base", rules=rules)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_and_labels_are_the_tables(ruled, name):
    table, loss, renderer = ruled
    encoded = renderer.encode(sample_of(name))
    assert encoded.input_ids.tolist() == TABLES[table][name]["ids"]
    assert encoded.labels.tolist() == TABLES[table][name][loss]


def test_a_truncated_conversation_is_the_tables(ruled):
    table, loss, renderer = ruled
    encoded = fitted(renderer.encode(sample_of("long")), 100, "truncate")
    assert encoded.input_ids.tolist() == TABLES["truncated"][table]["ids"]
    assert encoded.labels.tolist() == TABLES["truncated"][table][loss]


@pytest.mark.parametrize(("name", "answer", "llava_next"), [("text_only", 2, 14), ("two_texts", 7, 27)])
def test_the_tables_have_as_many_labels_as_llava_next_was_seen_to_have(name, answer, llava_next):
    row = TABLES["qwen"][name]
    assert [sum(i != IGNORE for i in row[rule]) for rule in ("answer", "llava_next")] == [answer, llava_next]


def test_the_tables_follow_from_the_rules():
    spec = importlib.util.spec_from_file_location("derive", GOLDEN / "derive.py")
    derive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(derive)
    assert derive.tables() == TABLES
    imported = [line for line in (GOLDEN / "derive.py").read_text().splitlines() if "import" in line]
    assert not any(package in line for line in imported for package in ("training", "curation", "evaluation"))


def test_a_checkpoint_saved_with_the_rules_is_rendered_by_them_without_being_told(
    ruled, tmp_path, golden_processor
):
    table, _, renderer = ruled
    processor = golden_processor(table)
    processor.chat_template = renderer.template
    processor.save_pretrained(tmp_path)
    again = Renderer(type(processor).from_pretrained(tmp_path), "base")
    for name in CONVERSATIONS:
        np.testing.assert_array_equal(again.encode(sample_of(name)).input_ids, TABLES[table][name]["ids"])
    twice = Renderer(processor, "base", rules=renderer.rules)
    assert twice.encode(sample_of("image_last")).input_ids.tolist() == TABLES[table]["image_last"]["ids"]


def test_the_published_place_of_an_image_is_not_the_datas(golden_processor):
    plain = Renderer(golden_processor("qwen"), "base", rules=RenderRules(system=SYSTEM["qwen"]))
    table = TABLES["qwen"]
    for name in CONVERSATIONS:
        same = plain.encode(sample_of(name)).input_ids.tolist() == table[name]["ids"]
        assert same == (name != "image_last"), name
