"""The answering model without lmms-eval: batching, memory, decoding, stop strings, checkpoints it refuses."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_families
import tiny_models
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from curation.mini.tokenizer import build_tokenizer
from evaluation.decode import greedy
from evaluation.model import (
    Answerer,
    CheckpointError,
    cut,
    is_out_of_memory,
    resolved_dtype,
    stop_strings,
)
from training.images import ImageError
from training.models import build_tiny, load


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return build_tiny(
        tmp_path_factory.mktemp("tiny"), build_tokenizer(), hidden=48, layers=2, vision_layers=1
    )


OTHERS = ("llava_next", "qwen3_vl", "internvl", "smolvlm")
KINDS = (*tiny_models.KINDS, *OTHERS)
IMAGE = dict.fromkeys(("qwen", "qwen3_vl"), "<|vision_start|><|image_pad|><|vision_end|>")
IMAGE |= {"internvl": "<IMG_CONTEXT>"}


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    folders = {kind: tiny_models.build(kind, root / kind) for kind in tiny_models.KINDS}
    return folders | {kind: tiny_families.build(kind, root / kind) for kind in OTHERS}


def _picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def _ask(i: int, size: tuple[int, int] = (64, 64)) -> list[dict]:
    text = "what is at b 3 ?" + " dog" * (i % 7)
    content = [{"type": "image", "url": _picture(i, size)}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def _mixed() -> list[list[dict]]:
    """One image, two images, none; sizes and lengths differ."""
    text_only = [{"role": "user", "content": [{"type": "text", "text": "what is this ?"}]}]
    content = [{"type": "image", "url": _picture(i, (40, 90))} for i in range(2)]
    two = [{"role": "user", "content": [*content, {"type": "text", "text": "which ?"}]}]
    return [_ask(0), two, text_only, _ask(1, (150, 60)), _ask(5, (70, 70))]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_does_not_change_answers(families, kind):
    one, many, few = (
        Answerer.load(families[kind], batch_size=n, max_batch_tokens=t).answer(_mixed(), max_new_tokens=8)
        for n, t in ((1, None), (5, None), (5, 120))
    )
    assert one == many == few and len(set(one)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_own_decoding_equals_generate(families, kind):
    answerer = Answerer.load(families[kind])
    prompts = [answerer.prompt(messages) for messages in [*_mixed(), *map(_ask, range(6, 12))]]
    batch = answerer.collate(prompts)
    theirs_of = {key: value for key, value in batch.items() if key != "position_ids"}
    width, lengths = batch["input_ids"].shape[1], set()
    for k in range(2, 12, 3):  # many tokens end an answer, so that the rows of a batch end at different steps
        ends = list(range(4, answerer.model.config.text_config.vocab_size, k))
        theirs = answerer.model.generate(
            **theirs_of, max_new_tokens=20, do_sample=False, eos_token_id=ends, pad_token_id=0
        )[:, width:]
        ours, counts = greedy(answerer.model, batch, max_new_tokens=20, ends=torch.tensor(ends), pad=0)
        assert torch.equal(ours[:, : theirs.shape[1]], theirs) and not ours[:, theirs.shape[1] :].any()
        lengths |= set(counts.tolist())
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
    assert cut(" a b\n\nc", ["\n\n"]) == "a b" and cut("a", []) == "a" and cut("ab", ["b"]) == "a"
    assert stop_strings({"until": "b"}) == ["b"] and stop_strings({"until": ["", "c"]}) == ["c"]
    assert stop_strings({}) == []


def test_truncated_is_an_answer_that_only_the_limit_ended(tiny):
    answerer = Answerer.load(tiny)
    prompts = [answerer.prompt(_ask(i)) for i in range(8)]
    whole = answerer.generate(prompts, {"max_new_tokens": 20})
    assert all(answer.truncated and answer.tokens == 20 for answer in whole)
    tokens, _ = greedy(
        answerer.model, answerer.collate(prompts), max_new_tokens=20, ends=answerer.ends, pad=0
    )
    # A row and a step, not the first, at which it writes a token that it has not written before.
    row, at = next((r, k) for r in range(8) for k in range(1, 9) if tokens[r, k] not in tokens[r, :k])
    asked = prompts[row : row + 1]
    answerer.ends = tokens[row, at : at + 1]
    for limit, truncated in ((20, False), (at + 1, False), (at, True)):
        (answer,) = answerer.generate(asked, {"max_new_tokens": limit})
        assert answer.truncated is truncated and answer.tokens == min(limit, at + 1)
    answerer.ends = torch.tensor([10**6])
    stop = answerer.tokenizer.decode(tokens[row, at])
    (stopped,) = answerer.generate(asked, {"max_new_tokens": 20, "until": [stop]})
    assert not stopped.truncated and stopped.tokens < 20 and stop not in stopped.text


def test_beams_say_what_is_truncated_too(tiny):
    answerer = Answerer.load(tiny)
    answer, *_ = answerer.generate([answerer.prompt(_ask(0))], {"max_new_tokens": 4, "num_beams": 2})
    assert answer.truncated and answer.tokens == 4


def test_pixels_reach_the_model_and_the_hash(tiny):
    answerer = Answerer.load(tiny)
    ask = [
        [{"role": "user", "content": [{"type": "image", "url": p}, {"type": "text", "text": "what ?"}]}]
        for p in (_picture(0), _picture(7))
    ]
    a, b = map(answerer.prompt, ask)
    assert a.length == b.length and a.hash != b.hash and a.hash == answerer.prompt(ask[0]).hash
    logits = [answerer.model(**answerer.collate([prompt])).logits[0, -1] for prompt in (a, b)]
    assert not torch.allclose(*logits)


def test_a_broken_image_is_not_swallowed(tiny, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    content = [{"type": "image", "url": tmp_path / "broken.png"}, {"type": "text", "text": "?"}]
    with pytest.raises(ImageError, match="broken_image"):
        Answerer.load(tiny).answer([[{"role": "user", "content": content}]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_own_path_and_the_processors_agree(families, kind, monkeypatch):
    """A family's pixels and positions are what the checkpoint's processor and `generate` make of them."""
    template = (
        "{% for m in messages %}<|user|> {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}"
    )
    model, processor = load(families[kind])
    if kind == "base":
        model.config.image_mode = "anyres"  # one tile of the processor's own making
    processor.chat_template = template.replace("IMAGE", IMAGE.get(kind, "<image>"))
    questions = [_ask(0, (64, 64)), _ask(1, (150, 60)), _ask(5, (70, 90))]
    ours = Answerer(model, processor, batch_size=4, template="checkpoint")
    first = ours.answer(questions, max_new_tokens=8)
    monkeypatch.setattr("evaluation.prompts.FAMILIES", ())
    monkeypatch.setattr("evaluation.model.FAMILIES", ())
    other = Answerer(model, processor, batch_size=4, template="checkpoint")
    assert first == other.answer(questions, max_new_tokens=8) and not other.own_decoding
    lengths = [[answerer.prompt(q).length for q in questions] for answerer in (ours, other)]
    assert lengths[0] == lengths[1]


def test_a_family_that_training_lacks_is_asked_through_its_processor():
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaProcessor,
        VipLlavaConfig,
        VipLlavaForConditionalGeneration,
    )

    tokenizer = build_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**shape, image_size=28, patch_size=14)
    text = LlamaConfig(
        **shape,
        vocab_size=len(tokenizer),
        initializer_range=tiny_models.SPREAD,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    model = VipLlavaForConditionalGeneration(
        VipLlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=image,
            image_seq_length=4,
            vision_feature_layers=[-1, -2],
        )
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    one, many = (Answerer(model, processor, batch_size=n) for n in (1, 5))
    assert many.template == "checkpoint" and not many.own_decoding
    texts = one.answer(_mixed(), max_new_tokens=6)
    assert texts == many.answer(_mixed(), max_new_tokens=6) and len(set(texts)) > 1
    prompts = [many.prompt(messages) for messages in _mixed()]
    assert max(p.length for p in prompts) == many.collate(prompts)["input_ids"].shape[1]


# ------------------------------------------------------------------------------------------ batches


def test_batches_are_bounded_by_rows_and_by_padded_tokens(tiny):
    answerer = Answerer.load(tiny, batch_size=3, max_batch_tokens=100)
    lengths = [10, 30, 500, 40, 33, 10, 10, 10]
    batches = list(answerer.batches(lengths))
    assert batches == [[2], [3, 4], [1, 0, 5], [6, 7]]
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 100
    for name in ("batch_size", "max_batch_tokens"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            Answerer.load(tiny, **{name: 0})


def test_the_length_of_a_prompt_counts_every_image_token(families):
    answerer = Answerer.load(families["anyres"])
    small, large = (answerer.prompt(_ask(0, size)) for size in ((64, 64), (128, 128)))
    batch = answerer.collate([large])
    assert large.length == batch["input_ids"].shape[1] > small.length
    assert small.length >= int((batch["input_ids"] == answerer.encoder.image_id).sum()) // 4


# ------------------------------------------------------------------------------------------- memory


def _short_of_memory(answerer, monkeypatch, rows, error):
    """Makes every batch of more than `rows` fail; returns the sizes that were tried."""
    real, tried = answerer._generate, []

    def generate(inputs, generation):
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > rows:
            raise error
        return real(inputs, generation)

    monkeypatch.setattr(answerer, "_generate", generate)
    return tried


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 3 GiB"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "numpy"])
def test_out_of_memory_halves_the_batch_says_so_once_and_changes_no_answer(tiny, monkeypatch, error):
    questions = [_ask(i) for i in range(13)]
    want = Answerer.load(tiny, batch_size=13).answer(questions, max_new_tokens=6)
    said = []
    answerer = Answerer.load(tiny, batch_size=13, say=said.append)
    tried = _short_of_memory(answerer, monkeypatch, 3, error)
    assert answerer.answer(questions, max_new_tokens=6) == want
    assert tried == [13, 7, 4, 2, 2, 3, 3, 3] and len(said) == 1
    assert said[0].startswith("out of memory with 13 questions (") and "max_batch_tokens" in said[0]
    assert answerer.answer(questions, max_new_tokens=6) == want
    assert all(n <= 3 for n in tried[8:]), "what did not fit once is not tried again"


def test_the_default_is_a_warning(tiny, monkeypatch):
    answerer = Answerer.load(tiny)
    _short_of_memory(answerer, monkeypatch, 1, ERRORS[0])
    with pytest.warns(UserWarning, match="out of memory with 2 questions"):
        answerer.answer([_ask(0), _ask(1)], max_new_tokens=2)


def test_one_question_that_does_not_fit_is_an_error(tiny, monkeypatch):
    answerer = Answerer.load(tiny, say=lambda line: None)
    tried = _short_of_memory(answerer, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        answerer.answer([_ask(0), _ask(1)], max_new_tokens=2)
    assert tried == [2, 1] and "one question of" in caught.value.__notes__[0]


def test_other_errors_are_no_lack_of_memory(tiny, monkeypatch):
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(KeyError("x"))
    answerer = Answerer.load(tiny)
    tried = _short_of_memory(answerer, monkeypatch, 0, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"), warnings.catch_warnings():
        warnings.simplefilter("error")
        answerer.answer([_ask(0), _ask(1)], max_new_tokens=2)
    assert tried == [2]


def test_a_real_allocation_failure_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_dtype(monkeypatch, tiny):
    assert resolved_dtype("auto", "cpu") == "float32" and resolved_dtype("float16", "cpu") == "float16"
    with pytest.raises(ValueError, match="dtype must be one of"):
        resolved_dtype("int8")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for has, want in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation, has=has: has)
        assert resolved_dtype("auto") == want and resolved_dtype("auto", "cpu") == "float32"


def test_bfloat16_on_the_cpu_answers(tiny):
    answerer = Answerer.load(tiny, dtype="bfloat16", device="cpu")
    assert answerer.model.dtype == torch.bfloat16 and answerer.answer([_ask(0)], max_new_tokens=3)


# -------------------------------------------------------------------------------------- checkpoints


def _without(checkpoint: Path, out: Path, *patterns: str) -> Path:
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns(*patterns))
    return out


def test_missing_weights_are_refused(tiny, tmp_path):
    folder = _without(tiny, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    gone = sorted(key for key in weights if "layers.1." in key)
    save_file(
        {k: v for k, v in weights.items() if k not in gone},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match=rf"lacks {len(gone)} weights, .*layers\.1\..*, \.\.\.;"):
        Answerer.load(folder)


@pytest.mark.parametrize(
    "patterns, message",
    [
        (["processor_config.json"], "has no usable processor"),
        (["tokenizer*"], "has no (usable )?processor"),
        (["*.safetensors"], "has no safetensors weights"),
        (["config.json"], "has no config.json"),
    ],
)
def test_a_checkpoint_without_a_part_is_refused(tiny, tmp_path, patterns, message):
    with pytest.raises(CheckpointError, match=message):
        Answerer.load(_without(tiny, tmp_path / "copy", *patterns))


def test_other_kinds_of_models_are_refused(tiny, tmp_path):
    folder = _without(tiny, tmp_path / "copy")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings["text_config"]))
    with pytest.raises(CheckpointError, match="is a qwen2 model, which does not turn images"):
        Answerer.load(folder)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlavaQwenForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"python -m training\.convert"):
        Answerer.load(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "of_the_future"}))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Answerer.load(folder)


@pytest.mark.slow
def test_importable_without_lmms_eval():
    code = (
        "import sys; sys.modules['lmms_eval'] = None; "
        "import evaluation.answer, evaluation.model, evaluation.harness; print('fine')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert run.stdout.strip() == "fine", run.stderr
