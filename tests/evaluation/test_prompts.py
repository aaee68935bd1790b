"""Prompts: the tokens of an evaluation are those of the training, for every family and every template."""

import json

import numpy as np
import pytest
import tiny_families
import tiny_models
from byte_tokenizer import build_byte_tokenizer
from PIL import Image

from curation.mini.tokenizer import TEMPLATE
from curation.pool.sample import Sample, Turn
from evaluation.prompts import (
    FAMILIES,
    OwnTemplate,
    TemplateError,
    flatten,
    open_encoder,
    prompt_hash,
    resolved_template,
    template_of,
)
from training.chat_template import TEMPLATES
from training.images import ImageError
from training.models import load_processor
from training.render import IGNORE, Renderer

CASES = [
    ("llava", "llava_1_5"),
    ("base", "llava_onevision"),
    ("anyres", "llava_onevision"),
    ("anyres", "llava_next_qwen"),
    ("qwen", "qwen2_5_vl"),
    ("llava", "llava_v1"),
    ("llava_next", "llava_1_5"),
    ("llava_next", "llava_next_mistral"),
    ("llava_next", "llava_next_llama_3"),
    ("qwen3_vl", "qwen3_vl"),
    ("internvl", "internvl"),
    ("smolvlm", "smolvlm"),
    ("llava", "mini"),
    ("base", "mini"),
]
OWN = {"llava_v1", "llava_next_qwen", "llava_next_mistral", "llava_next_llama_3"}
"""Templates that `training.convert` writes into a checkpoint, or that its own template leads to."""
MODEL_TYPE = {
    "llava": "llava",
    "base": "llava_onevision",
    "anyres": "llava_onevision",
    "qwen": "qwen2_5_vl",
    "llava_next": "llava_next",
    "qwen3_vl": "qwen3_vl",
    "internvl": "internvl",
    "smolvlm": "smolvlm",
}
OTHERS = tuple(kind for kind in MODEL_TYPE if kind not in tiny_models.KINDS)
# As the checkpoints on the Hub have them, in short: contents are lists of parts, no mark of the answer.
IN_PLACE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGES_FIRST = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def processors(tmp_path_factory):
    """kind -> (folder, processor, image mode), with a tokenizer that tells spaces and newlines apart."""
    root = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curation.mini.tokenizer.build_tokenizer", build_byte_tokenizer)
        folders = {kind: tiny_models.build(kind, root / kind) for kind in tiny_models.KINDS}
    folders |= {kind: tiny_families.build(kind, root / kind) for kind in OTHERS}
    return {kind: (folder, *load_processor(folder)) for kind, folder in folders.items()}


def draw(seed, size=(90, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def text(words):
    return {"type": "text", "text": words}


def image(picture):
    return {"type": "image", "url": picture}


CONVERSATIONS = {
    # name: (images, [(question as training data write it, the same as parts of a message)])
    "one image": (1, [("<image>\nWhat is it?", ["image", "What is it?"])]),
    "two images": (2, [("<image>\n<image>\nWhich one?", ["image", "image", "Which one?"])]),
    "in the middle": (
        2,
        [("See <image> and then <image>. Which?", ["See ", "image", " and then ", "image", ". Which?"])],
    ),
    "no image": (0, [("What is 2 + 2?", ["What is 2 + 2?"])]),
    "two turns": (1, [("<image>\nWhat is it?", ["image", "What is it?"]), ("Why?\n", ["Why?\n"])]),
}


def conversation(name):
    """(sample of a training, messages of an evaluation) with the same content."""
    count, questions = CONVERSATIONS[name]
    pictures = tuple(draw(i, (90 + 30 * i, 60)) for i in range(count))
    left, messages = iter(pictures), []
    for _, parts in questions:
        content = [image(next(left)) if part == "image" else text(part) for part in parts]
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [text("a red cat")]},
        ]
    turns = tuple(Turn(question, "a red cat") for question, _ in questions)
    return Sample(0, name, "test", pictures, turns), messages[:-1]


def with_template(processor, name):
    """Sets the template of that name; None leaves the checkpoint without one, so that the shipped is used."""
    own = TEMPLATE if name == "mini" else None
    if name in OWN:
        own = (TEMPLATES / f"{name}.jinja").read_text()
    processor.chat_template = processor.tokenizer.chat_template = own


def test_every_shipped_template_is_in_the_comparison():
    assert {name for _, name in CASES} == {path.stem for path in TEMPLATES.glob("*.jinja")} | {"mini"}
    assert {kind for kind, _ in CASES} == set(MODEL_TYPE)
    assert set(MODEL_TYPE.values()) == set(FAMILIES), "every family that training renders"


@pytest.mark.parametrize("kind, template", CASES)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt_of_an_evaluation_is_the_prompt_of_the_training(processors, kind, template, name):
    _, processor, mode = processors[kind]
    with_template(processor, template)
    sample, messages = conversation(name)
    renderer = Renderer(processor, mode)
    if template != "mini":
        assert renderer.template == (TEMPLATES / f"{template}.jinja").read_text()
    trained = renderer.encode(sample, "last")
    question = trained.input_ids[: int(np.flatnonzero(trained.labels != IGNORE)[0])]
    encoder = open_encoder(MODEL_TYPE[kind], processor, mode, "training")
    prompt = encoder.prompt(messages)
    asked = prompt.content.input_ids
    assert asked.tolist() == question.tolist() and prompt.length == len(asked)
    if renderer.template in (processor.chat_template, processor.tokenizer.chat_template):
        own = open_encoder(MODEL_TYPE[kind], processor, mode, "checkpoint").prompt(messages)
        assert own.content.input_ids.tolist() == asked.tolist()


@pytest.mark.parametrize("template", ["training", "checkpoint"])
@pytest.mark.parametrize("kind", MODEL_TYPE)
def test_an_image_keeps_its_place(processors, kind, template):
    _, processor, mode = processors[kind]
    images_first = IMAGES_FIRST.replace("<image>", processor.image_token)
    processor.chat_template = IN_PLACE if kind in ("qwen", "qwen3_vl") else images_first
    encoder = open_encoder(MODEL_TYPE[kind], processor, mode, template)
    message = {"role": "user", "content": [text("left"), image(draw(0)), text("middle"), image(draw(1))]}
    ids = encoder.prompt([message]).content.input_ids
    seen = processor.tokenizer.decode(ids[np.insert(np.diff(ids) != 0, 0, True)])
    token = processor.image_token
    assert seen.index("left") < seen.index(token) < seen.index("midle") < seen.rindex(token)  # runs collapse


def test_the_checkpoints_own_template_says_what_is_between(processors):
    """Qwen2.5-VL's template has no newline after an image; training data have one, and so has its prompt."""
    _, processor, mode = processors["qwen"]
    processor.chat_template = IN_PLACE
    _, messages = conversation("one image")

    def seen(template):
        ids = open_encoder("qwen2_5_vl", processor, mode, template).prompt(messages).content.input_ids
        return processor.tokenizer.decode(ids[ids != processor.image_token_id])

    assert "<|vision_start|><|vision_end|>What is it?" in seen("checkpoint")
    assert "<|vision_start|><|vision_end|>\nWhat is it?" in seen("training")


def test_the_processor_makes_the_same_tokens_of_its_own_template(processors):
    for kind, template in (("qwen", IN_PLACE), ("llava", IMAGES_FIRST), ("anyres", IMAGES_FIRST)):
        _, processor, mode = processors[kind]
        processor.chat_template = template
        sample, messages = conversation("one image")
        theirs = processor.apply_chat_template(
            [{"role": "user", "content": [image(sample.images[0]) | {"type": "image"}, text("What is it?")]}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        ours = open_encoder(MODEL_TYPE[kind], processor, mode, "checkpoint").prompt(messages)
        assert ours.content.input_ids.tolist() == theirs["input_ids"][0].tolist()


@pytest.mark.parametrize("bos, written", [("<s>", True), ("<s>", False)])
def test_the_first_special_token_is_there_once(processors, bos, written):
    from tokenizers.processors import TemplateProcessing

    _, processor, mode = processors["llava"]
    tokenizer = processor.tokenizer
    processor.chat_template = ("{{ bos_token }}" if written else "") + IMAGES_FIRST
    _, messages = conversation("one image")
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    backend.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    try:
        ids = open_encoder("llava", processor, mode, "checkpoint").prompt(messages).content.input_ids
    finally:
        backend.post_processor = before
    assert ids[0] == tokenizer.bos_token_id and (ids == tokenizer.bos_token_id).sum() == 1


# ----------------------------------------------------------------------------------- which template


def test_auto_is_the_checkpoints_own_template_unless_it_was_trained_here(processors):
    _, processor, _ = processors["qwen"]
    processor.chat_template = IN_PLACE
    assert template_of("qwen2_5_vl", processor) == "checkpoint"
    assert template_of("qwen2_5_vl", processor, trained=True) == "training"
    assert template_of("qwen2_5_vl", processor, "training") == "training"
    assert template_of("vipllava", processor, trained=True) == "checkpoint"
    processor.chat_template = processor.tokenizer.chat_template = None
    assert template_of("qwen2_5_vl", processor) == "training"  # nothing else is there
    _, processor, _ = processors["base"]
    processor.chat_template = TEMPLATE  # marks answers: written for trainings such as ours
    assert template_of("llava_onevision", processor) == "training"
    assert template_of("llava_onevision", processor, "checkpoint") == "checkpoint"


def test_a_training_leaves_the_mark(processors, tmp_path):
    from training.fit import FitSpec, fit

    folder, processor, _ = processors["qwen"]
    processor.chat_template = IN_PLACE
    processor.save_pretrained(folder)
    assert resolved_template(folder) == "checkpoint"
    fit(FitSpec(max_steps=1, batch_size=1), folder, [conversation("one image")[0]], tmp_path / "out")
    assert resolved_template(tmp_path / "out") == "training"
    (tmp_path / "out/fit.json").write_text(json.dumps({"other": "tool"}))
    assert resolved_template(tmp_path / "out") == "checkpoint"


def test_what_no_template_can_do_is_an_error(processors):
    _, processor, _ = processors["llava"]
    with pytest.raises(TemplateError, match="one of auto, training, checkpoint, got 'own'"):
        template_of("llava", processor, "own")
    with pytest.raises(TemplateError, match="not for vipllava: use 'checkpoint'"):
        template_of("vipllava", processor, "training")
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="has no chat template"):
        OwnTemplate(processor)
    processor.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(TemplateError, match="neither parts"):
        OwnTemplate(processor)


# ------------------------------------------------------------------------------------------- pieces


def test_literal_placeholders_in_a_prompt_are_removed():
    message = {"role": "user", "content": [image("x"), text("look <image> here")]}
    assert flatten(message) == "<image>\nlook  here"


def test_places_of_images_in_flat_text():
    parts = [text("A "), image("x"), image("y"), text(" b")]
    assert flatten({"content": parts}) == "A <image><image> b"
    assert flatten({"content": parts[1:]}, "<I>") == "<I>\n<I>\n b"


def test_the_hash_covers_pixels_not_paths(tmp_path):
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        draw(seed).save(tmp_path / name)
    a, b, c = (prompt_hash(b"x", [tmp_path / f"{name}.png"]) for name in "abc")
    assert a == b != c and prompt_hash(b"x", [draw(0)]) != prompt_hash(b"x", [draw(0).rotate(180)])
    assert prompt_hash(b"x", [Image.new("L", (2, 3))]) != prompt_hash(b"x", [Image.new("L", (3, 2))])


@pytest.mark.parametrize(
    "messages, message",
    [
        ([{"role": "assistant", "content": [text("x")]}], "end with the user"),
        ([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "not 'video'"),
    ],
)
def test_what_cannot_be_asked_is_an_error(processors, messages, message):
    _, processor, mode = processors["base"]
    with pytest.raises(ValueError, match=message):
        open_encoder("llava_onevision", processor, mode, "training").prompt(messages)


def test_a_broken_image_is_not_swallowed(processors, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    _, processor, mode = processors["anyres"]
    with pytest.raises(ImageError, match="broken_image"):
        open_encoder("llava_onevision", processor, mode, "training").prompt(
            [{"role": "user", "content": [image(tmp_path / "broken.png"), text("?")]}]
        )
