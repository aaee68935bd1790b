from dataclasses import replace

import numpy as np
import pytest

from curation.pool.sample import Sample, Turn
from training.chat_template import TEMPLATES, _fits, find_template, render, with_rules
from training.images import ImageError
from training.render import (
    IGNORE,
    Encoded,
    Renderer,
    RenderError,
    RenderRules,
    fitted,
    truncated,
)


def words(renderer, ids):
    return renderer.tokenizer.convert_ids_to_tokens([int(i) for i in ids])


@pytest.fixture
def sample(draw):
    turns = (Turn("<image> what colour ?", "red"), Turn("is the dog at a1 ?", "no 4"))
    return Sample(0, "x", "test", (draw(0),), turns)


def test_answers_and_their_ends_carry_the_loss(renderer, sample):
    encoded = renderer.encode(sample)
    trained = encoded.labels != IGNORE
    assert words(renderer, encoded.input_ids[trained]) == ["red", "<|end|>", "no", "4", "<|end|>"]
    assert np.array_equal(encoded.labels[trained], encoded.input_ids[trained])
    assert encoded.input_ids.dtype == encoded.labels.dtype == np.int32


def test_loss_on_the_last_turn_only(renderer, sample):
    encoded = renderer.encode(sample, loss_turns="last")
    assert words(renderer, encoded.input_ids[encoded.labels != IGNORE]) == ["no", "4", "<|end|>"]


def test_placeholder_becomes_the_images_tokens_in_place(renderer, sample):
    ids = renderer.encode(sample).input_ids
    at = np.flatnonzero(ids == renderer.image_id)
    assert at.tolist() == list(range(1, 18))
    assert words(renderer, ids[:1]) == ["<|user|>"] and words(renderer, ids[18:20]) == ["what", "colour"]


def test_ids_equal_the_processors_own(loaded, renderer, sample):
    _, processor = loaded
    image = sample.images[0]
    two = Sample(0, "x", "t", (image, image), (Turn("<image> <image> what ?", "red"),))
    chat = [{"role": "user", "content": "<image> <image> what ?"}]
    text, _ = render(renderer.template, chat, {"bos_token": ""}, True)
    theirs = processor(images=[[image, image]], text=[text], add_special_tokens=False)["input_ids"][0]
    assert renderer.prompt(two).input_ids.tolist() == list(theirs)


def test_prompt_is_the_beginning_of_the_conversation(renderer, sample):
    prompt, full = renderer.prompt(sample), renderer.encode(sample, loss_turns="last")
    assert np.array_equal(full.input_ids[: len(prompt)], prompt.input_ids)
    assert np.flatnonzero(full.labels != IGNORE)[0] == len(prompt)
    assert (prompt.labels == IGNORE).all()


def test_a_branch_reads_like_the_same_turn_in_the_conversation(renderer, sample):
    queries = [("score dog ?", "3"), ("what is the colour of a2 ?", None), ("score dog ?", "5")]
    encoded = renderer.branches(sample, queries)
    start = encoded.prefix
    for branch, (question, answer) in zip(encoded.branches, queries, strict=True):
        longer = replace(sample, turns=(*sample.turns, Turn(question, answer or "")))
        whole = renderer.encode(longer, "last") if answer else renderer.prompt(longer)
        tokens = encoded.input_ids[start : start + branch.total]
        assert np.array_equal(np.concatenate([encoded.input_ids[: encoded.prefix], tokens]), whole.input_ids)
        assert np.array_equal(encoded.labels[start : start + branch.total], whole.labels[encoded.prefix :])
        assert encoded.prefix + branch.prompt == len(renderer.prompt(longer))
        start += branch.total
    assert start == len(encoded)
    assert (encoded.labels[: encoded.prefix] == IGNORE).all()


@pytest.mark.parametrize(
    ("turns", "images", "reason"),
    [
        ((), 0, "no_assistant_turn"),
        ((Turn("what ?", " "),), 0, "empty_answer"),
        ((Turn("what ?", "red"),), 1, "image_count"),
        ((Turn("<image> <image> what ?", "red"),), 1, "image_count"),
        ((Turn("what ?", "red <image>"),), 0, "image_count"),
    ],
)
def test_unusable_samples_say_why(renderer, draw, turns, images, reason):
    with pytest.raises(RenderError, match="sample bad") as caught:
        renderer.encode(Sample(0, "bad", "t", tuple(draw(i) for i in range(images)), turns))
    assert caught.value.reason == reason


def test_shipped_templates_mark_answers_with_their_end():
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    chat = [{"role": "user", "content": "<image>\nhi"}, {"role": "assistant", "content": "yo"}] * 2
    marked = {}
    for name in ("llava_onevision", "llava_1_5"):
        template = (TEMPLATES / f"{name}.jinja").read_text()
        assert _fits(template, special)
        text, spans = render(template, chat, special)
        marked[name] = (text, [text[a:b] for a, b in spans])
        prompt, _ = render(template, chat[:-1], special, True)
        assert text.startswith(prompt)
    half = "<|im_start|>user\n<image>\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    assert marked["llava_onevision"] == (half * 2, ["yo<|im_end|>"] * 2)
    assert marked["llava_1_5"] == ("<s>" + "USER: <image>\nhi ASSISTANT: yo</s>" * 2, [" yo</s>"] * 2)


class LlavaOnevisionProcessor:
    def __init__(self, template, words):
        self.chat_template = template
        self.tokenizer = type(
            "T", (), {"chat_template": None, "get_vocab": lambda _: dict.fromkeys(words, 0)}
        )()


def test_template_without_marks_or_for_lists_of_parts_is_replaced():
    listed = (
        "{% for m in messages %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
        "{% generation %}{{ c['text'] }}{% endgeneration %}{% endfor %}{% endfor %}"
    )
    unmarked = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ours = (TEMPLATES / "llava_onevision.jinja").read_text()
    for template in (listed, unmarked, None):
        assert find_template(LlavaOnevisionProcessor(template, ["<|im_start|>"]), {}) == ours
        with pytest.raises(ValueError, match="generation"):
            find_template(LlavaOnevisionProcessor(template, []), {})


def test_turns_that_do_not_tokenise_independently_are_refused(loaded, sample):
    renderer = Renderer(loaded[1], "base")
    renderer.template = "{{ messages | length }} " + renderer.template
    with pytest.raises(ValueError, match="independently"):
        renderer.branches(sample, [("score ?", None)])


def test_a_batch_of_samples_gives_what_each_gives_alone(renderer, samples, tmp_path):
    bad = [
        Sample(90, "silent", "t", (), ()),
        Sample(91, "unplaced", "t", samples[0].images, (Turn("what ?", "red"),)),
    ]
    mixed = [samples[0], bad[0], *samples[1:8], bad[1], samples[8]]
    # What a call of the processor leaves switched on must not reach the ids.
    renderer.tokenizer(["a", "b c"], padding="max_length", max_length=3, truncation=True)
    many = renderer.encode_many(mixed)
    assert [m.reason for m in many if isinstance(m, RenderError)] == ["no_assistant_turn", "image_count"]
    kept = [m for m in many if not isinstance(m, RenderError)]
    for one, sample in zip(kept, [s for s in mixed if s not in bad], strict=True):
        alone = renderer.encode(sample)
        assert one.name == sample.id and one.images == sample.images
        np.testing.assert_array_equal(one.input_ids, alone.input_ids)
        np.testing.assert_array_equal(one.labels, alone.labels)
    assert renderer.encode_many([]) == []


def test_a_batch_names_the_image_that_cannot_be_measured(loaded, tmp_path):
    absent = Sample(0, "absent", "t", (tmp_path / "no.png",), (Turn("<image> what ?", "red"),))
    fine = Sample(1, "fine", "t", (), (Turn("what ?", "red"),))
    first, second = Renderer(loaded[1], "anyres").encode_many([absent, fine])
    assert isinstance(first, ImageError) and first.reason == "missing_image"
    assert second.name == "fine"


def test_the_fingerprint_changes_with_everything_that_changes_an_example(loaded, renderer):
    _, processor = loaded
    prints = {
        Renderer(processor, mode, rules=rules).fingerprint()
        for mode in ("base", "anyres")
        for rules in (
            None,
            RenderRules(system="what is"),
            RenderRules(image_first=True),
            RenderRules(loss_turns="last"),
        )
    }
    assert len(prints) == 8 and renderer.fingerprint() in prints
    before, pins = renderer.fingerprint(), processor.image_processor.image_grid_pinpoints
    processor.image_processor.image_grid_pinpoints = [[64, 128]]
    try:
        assert renderer.fingerprint() != before
    finally:
        processor.image_processor.image_grid_pinpoints = pins
    renderer.tokenizer(["a", "b c"], padding="max_length", max_length=3, truncation=True)
    assert renderer.fingerprint() == before


@pytest.mark.parametrize(
    ("question", "placed"),
    [
        ("what ?\n<image>", "<image>\nwhat ?"),
        ("what <image> is ?", "<image>\nwhat  is ?"),
        ("<image>", "<image>"),
        (" what ? ", " what ? "),
        ("<image> and\n<image>", "<image> and\n<image>"),
    ],
)
def test_image_first_moves_the_only_image_of_a_turn(question, placed):
    template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": "a <image> b"}]
    text, _ = render(with_rules(template, image_first=True), chat, {})
    assert text == f"[{placed}][a <image> b]"


def test_a_systems_text_is_written_as_it_is_and_gives_way_to_the_samples_own():
    said = 'Say "naïve" \\ {{ 1 }} 😀.\nThen stop'
    template = with_rules("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}", said)
    user = {"role": "user", "content": "q"}
    assert render(template, [user], {})[0] == f"system:{said};user:q;"
    assert render(template, [{"role": "system", "content": "own"}, user], {})[0] == "system:own;user:q;"


def test_a_system_turn_is_part_of_every_text_of_a_sample(renderer, sample):
    own = replace(sample, system="the cat")
    for ids in (renderer.encode(own).input_ids, renderer.context(own, flat=True).input_ids):
        assert words(renderer, ids[:4]) == ["<|user|>", "the", "cat", "<|user|>"]
    assert "cat" not in words(renderer, renderer.context(sample, flat=True).input_ids)


@pytest.mark.parametrize(
    "rules",
    [
        {"system": " "},
        {"loss_tokens": "all"},
        {"loss_turns": "first"},
        {"loss_tokens": "llava_next", "loss_turns": "last"},
    ],
)
def test_rules_that_make_no_sense_are_refused(rules):
    with pytest.raises(ValueError, match=next(iter(rules))):
        RenderRules(**rules)


def test_labels_of_llava_next_need_chatml(loaded):
    with pytest.raises(ValueError, match="ChatML"):
        Renderer(loaded[1], "base", rules=RenderRules(loss_tokens="llava_next"))


def pictured(spans, length=20):
    """An example of `length` tokens whose last 12 carry a loss, except in the images' `spans`."""
    ids = np.arange(length, dtype=np.int32)
    labels = np.where(ids >= length - 12, ids, IGNORE).astype(np.int32)
    for start, stop in spans:
        labels[start:stop] = IGNORE
    return Encoded(ids, labels, tuple(f"{i}.png" for i in range(len(spans))), name="x", image_spans=spans)


@pytest.mark.parametrize(
    ("spans", "limit", "length", "images"),
    [
        ((), 12, 12, 0),
        ((), 30, 20, 0),
        (((2, 6),), 12, 12, 1),
        (((2, 6),), 6, 6, 1),
        (((2, 6),), 5, 2, 0),
        (((1, 3), (4, 6), (10, 14)), 13, 10, 2),
        (((1, 3), (4, 6), (10, 14)), 14, 14, 3),
        (((2, 6), (10, 14)), 12, 2, 0),  # one of two is left: it would be tiled
    ],
)
def test_truncation_keeps_whole_images_and_the_beginning(spans, limit, length, images):
    whole = pictured(spans)
    short = truncated(whole, limit)
    assert (len(short), len(short.images), len(short.image_spans)) == (length, images, images)
    np.testing.assert_array_equal(short.input_ids, whole.input_ids[:length])
    np.testing.assert_array_equal(short.labels, whole.labels[:length])


def test_an_image_keeps_its_tokens_when_an_example_is_truncated(renderer, sample):
    whole = renderer.encode(
        replace(
            sample,
            images=sample.images * 2,
            turns=(Turn("<image> what ?", "red"), Turn("<image> is it ?", "no")),
        )
    )
    (a, b), (c, d) = whole.image_spans
    assert {*whole.input_ids[a:b], *whole.input_ids[c:d]} == {renderer.image_id}
    assert len(whole) - (b - a) - (d - c) == (whole.input_ids != renderer.image_id).sum()
    assert (whole.labels[a:b] == IGNORE).all() and len(truncated(whole, d)) == d
    with pytest.raises(ValueError, match="branches"):
        truncated(renderer.branches(sample, [("score ?", None)]), 4)
    with pytest.raises(ValueError, match="not known"):
        truncated(replace(whole, image_spans=()), 4)


def test_what_is_too_long_is_dropped_or_cut_and_needs_a_loss_that_is_left():
    whole = pictured(())
    assert fitted(whole, None) is whole and fitted(whole, 20) is whole
    assert len(fitted(whole, 12, "truncate")) == 12
    for limit, policy in ((19, "drop"), (19, "error"), (8, "truncate")):
        with pytest.raises(RenderError) as caught:
            fitted(whole, limit, policy)
        assert caught.value.reason == "too_long"
