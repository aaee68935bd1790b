"""The answering model without lmms-eval: batching, padding, decoding, stop strings, both kinds of encoder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curation.mini.tokenizer import build_tokenizer
from evaluation.decode import greedy
from evaluation.model import Answerer, ProcessorEncoder, cut, flatten
from training.images import ImageError
from training.models import build_tiny, load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build_tiny(
        tmp_path_factory.mktemp("tiny"), build_tokenizer(), hidden=48, layers=2, vision_layers=1
    )


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def _ask(i: int) -> list[dict]:
    text = "what is at b 3 ?" + " dog" * (i % 7)
    return [
        {"role": "user", "content": [{"type": "image", "url": _picture(i)}, {"type": "text", "text": text}]}
    ]


def test_batch_size_does_not_change_answers(tiny):
    torch.manual_seed(0)
    conversations = [_ask(i) for i in range(11)]
    one, many = (Answerer.load(tiny, batch_size=n).answer(conversations, max_new_tokens=12) for n in (1, 5))
    assert one == many and len(set(one)) > 1


def test_own_decoding_equals_generate(tiny):
    answerer = Answerer.load(tiny, batch_size=16)
    prompts = [answerer.prompt(_ask(i)) for i in range(16)]
    batch = answerer.encoder.batch([prompt.content for prompt in prompts])
    width, lengths = batch["input_ids"].shape[1], set()
    for k in range(2, 12):  # many tokens end an answer, so that the rows of a batch end at different steps
        ends = list(range(4, answerer.model.config.text_config.vocab_size, k))
        theirs = answerer.model.generate(
            **batch, max_new_tokens=20, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[:, width:]
        ours = greedy(answerer.model, batch, max_new_tokens=20, ends=torch.tensor(ends), pad=0)
        assert torch.equal(ours[:, : theirs.shape[1]], theirs) and not ours[:, theirs.shape[1] :].any()
        lengths |= {int((row != 0).sum()) for row in ours}
    assert len(lengths) > 2, "rows must end at different steps for this test to mean anything"


def test_sampling_and_beams_go_through_generate(tiny):
    answerer = Answerer.load(tiny)
    torch.manual_seed(0)
    sampled = answerer.answer([_ask(0)] * 4, max_new_tokens=8, do_sample=True, temperature=2.0)
    assert len(set(sampled)) > 1
    assert len(answerer.answer([_ask(0)], max_new_tokens=3, num_beams=2)) == 1


def test_token_limit_and_stop_strings(tiny):
    answerer = Answerer.load(tiny)
    long, short = (answerer.answer([_ask(3)], max_new_tokens=n)[0] for n in (20, 2))
    assert long.startswith(short) and len(short) < len(long)
    stop = long.split()[-1]
    assert stop not in answerer.answer([_ask(3)], max_new_tokens=20, until=[stop])[0]
    assert cut(" a b\n\nc", ["\n\n"]) == "a b" and cut("a", None) == "a" and cut("ab", "b") == "a"


def test_text_only_and_several_images(tiny):
    text_only = [{"role": "user", "content": [{"type": "text", "text": "what is this ?"}]}]
    two = [
        {
            "role": "user",
            "content": [{"type": "image", "url": _picture(i)} for i in range(2)]
            + [{"type": "text", "text": "which ?"}],
        }
    ]
    assert len(Answerer.load(tiny, batch_size=2).answer([text_only, two, text_only], max_new_tokens=4)) == 3


def test_pixels_reach_the_model_and_the_hash(tiny):
    answerer = Answerer.load(tiny)
    picture, other = _picture(0), _picture(7)
    ask = [
        [{"role": "user", "content": [{"type": "image", "url": p}, {"type": "text", "text": "what ?"}]}]
        for p in (picture, other)
    ]
    a, b = map(answerer.prompt, ask)
    assert a.length == b.length and a.hash != b.hash and a.hash == answerer.prompt(ask[0]).hash
    logits = [answerer.model(**answerer.encoder.batch([p.content])).logits[0, -1] for p in (a, b)]
    assert not torch.allclose(*logits)


def test_literal_placeholders_in_a_prompt_are_removed():
    text, images = flatten(
        {
            "role": "user",
            "content": [{"type": "image", "url": "x"}, {"type": "text", "text": "look <image> here"}],
        }
    )
    assert text == "<image>\nlook  here" and images == ["x"]


@pytest.mark.parametrize(
    "messages, message",
    [
        ([{"role": "assistant", "content": [{"type": "text", "text": "x"}]}], "end with the user"),
        ([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "not 'video'"),
    ],
)
def test_what_cannot_be_asked_is_an_error(tiny, messages, message):
    with pytest.raises(ValueError, match=message):
        Answerer.load(tiny).answer([messages])


def test_a_broken_image_is_not_swallowed(tiny, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    broken = [
        {
            "role": "user",
            "content": [{"type": "image", "url": tmp_path / "broken.png"}, {"type": "text", "text": "?"}],
        }
    ]
    with pytest.raises(ImageError, match="broken_image"):
        Answerer.load(tiny).answer([broken])


def test_anyres_checkpoint_and_the_processor_encoder_agree(tiny):
    """The renderer's anyres prompt equals what the checkpoint's own processor makes of the same messages."""
    model, processor = load(tiny)
    model.config.image_mode = "anyres"
    answerer = Answerer(model, processor, batch_size=4)
    ours = answerer.answer([_ask(i) for i in range(4)], max_new_tokens=8)
    processor.chat_template = (
        "{% for m in messages %}<|user|> {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    other = Answerer(model, processor, batch_size=4)
    other.encoder, other.own_decoding = ProcessorEncoder(processor), False
    assert ours == other.answer([_ask(i) for i in range(4)], max_new_tokens=8)


@pytest.mark.slow
def test_importable_without_lmms_eval():
    code = (
        "import sys; sys.modules['lmms_eval'] = None; "
        "import evaluation.model, evaluation.harness; print('fine')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.stdout.strip() == "fine", run.stderr
