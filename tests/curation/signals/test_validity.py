"""How valid a model finds an answer with and without the question: plain forward passes, texts, errors."""

import math
from dataclasses import replace

import pytest

from curation.pool.sample import Sample, Turn
from curation.signals.core.table import read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.validity import Wording, reply_tokens, score_validity

torch = pytest.importorskip("torch")
MINI = {"query": "is the answer right ? yes or no", "yes": "yes", "no": "no"}


def test_the_verdict_is_asked_in_one_turn():
    turns = (Turn("<image>\nwhat ?", "dog"), Turn("and <image> ?", "two"))
    sample = Sample(3, "s", "src", ("a.png", "b.png"), turns, system="be brief")
    asked = Wording(query="valid ?").ask(sample, with_question=True)
    (turn,) = asked.turns
    assert turn.question == (
        "<image>\n<image>\nQuestion: what ?\nAnswer: dog\nQuestion: and  ?\nAnswer: two\nvalid ?"
    )
    assert turn.answer == "Yes"
    assert (asked.row, asked.images, asked.system) == (3, sample.images, None)
    (bare,) = Wording(query="valid ?").ask(sample, with_question=False).turns
    assert bare.question == "<image>\n<image>\nAnswer: dog\nAnswer: two\nvalid ?"


@torch.inference_mode()
def plain(vlm, sample):
    """Of two forward passes on the sample alone, answered with yes and with no, the probability of yes."""
    first = []
    for reply in ("yes", "no"):
        answered = replace(sample, turns=(Turn(sample.turns[0].question, reply),))
        batch = vlm.collator([vlm.renderer.encode(answered)])
        at = int((batch["labels"][0] != -100).nonzero()[0])
        logits = vlm.model(**batch).logits[0, at - 1]
        first.append(logits[batch["labels"][0, at]].exp().item())
    return first[0] / sum(first)


def test_a_pool_has_the_models_own_probabilities(small_pool, tiny_vlm_dir, tmp_path):
    summary = score_validity(
        small_pool, tiny_vlm_dir, tmp_path, **MINI, max_tokens=400, shard_rows=15, device="cpu"
    )
    table, vlm = read_signal(tmp_path, small_pool.hash), Vlm(tiny_vlm_dir, device="cpu")
    wording = Wording(**MINI)
    for row in (0, 4, 6, 39):  # one image, none, two; one to three turns
        for name, shown in (("valid_with", True), ("valid_without", False)):
            expected = plain(vlm, wording.ask(small_pool[row], shown))
            assert table[name][row].as_py() == pytest.approx(expected, rel=1e-4)
        assert table["valid_with"][row].as_py() != table["valid_without"][row].as_py()
    assert (summary["samples"], summary["forwards"], summary["rows"]) == (40, 80, 40)
    assert summary["nulls"] == {"valid_with": 0, "valid_without": 0}
    assert math.isclose(summary["mean_valid_with"], sum(table["valid_with"].to_pylist()) / 40, rel_tol=1e-6)


def test_replies_with_the_same_first_token_are_refused(tiny_vlm_dir):
    vlm = Vlm(tiny_vlm_dir, device="cpu")
    with pytest.raises(ValueError, match="begin with the same token"):
        reply_tokens(vlm, Wording(query="valid ?", yes="no", no="no"))
    yes, no = reply_tokens(vlm, Wording(**MINI))
    assert vlm.tokenizer.convert_ids_to_tokens([yes, no]) == ["yes", "no"]
