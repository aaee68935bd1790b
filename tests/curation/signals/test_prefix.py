"""Questions after a shared prefix against separate forward passes, for every class of model."""

import string
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tiny_models import KINDS, build
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from curation.pool.sample import Sample, Turn
from curation.signals.core.generate import generate
from curation.signals.core.vlm import PassStats, Vlm
from curation.signals.raters.capability import digit_questions, score_rows, score_rows_official
from curation.signals.raters.official import parse_score, with_prompt
from curation.signals.raters.prefix import Questions, attention_implementation, check_model
from curation.signals.raters.queries import load_queries
from curation.signals.raters.style import style_question
from curation.signals.raters.targets import RaterExamples, scorer_targets
from curation.signals.raters.trie import Question
from curation.taxonomy import CAPABILITY_KEYS
from training.models import load_processor
from training.render import IGNORE, Renderer

OFFICIAL = load_queries("official_style")
FLAT = load_queries("official_flat")
COMPACT = load_queries("compact")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, built = tmp_path_factory.mktemp("tiny"), {}

    def checkpoint(kind):
        if kind not in built:
            built[kind] = build(kind, folder / kind)
        return built[kind]

    return checkpoint


@pytest.fixture(scope="module", params=KINDS)
def vlm(request, checkpoints):
    return Vlm(checkpoints(request.param), device="cpu")


def picture(seed, size=(64, 64)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    )


SAMPLES = [
    Sample(0, "square", "t", (picture(0),), (Turn("<image> what is at b2 ?", "dog"),)),
    Sample(
        1,
        "wide",
        "t",
        (picture(1, (150, 60)),),
        (Turn("<image> describe the image .", "a red circle ."), Turn("is there a dog ?", "no")),
    ),
    Sample(2, "text", "t", (), (Turn("which letter is in the row ?", "c a t"),)),
    Sample(
        3,
        "pair",
        "t",
        (picture(2), picture(3, (40, 90))),
        (Turn("<image> <image> what is the colour ?", "yes"),),
    ),
]


@torch.inference_mode()
def alone(vlm, example, prompt, answer):
    """Log-probability of an answer after a prefix and a prompt, by a plain forward pass of its own."""
    whole = with_prompt(example, (*prompt, *answer))
    at = len(whole) - len(answer) - 1 + np.arange(len(answer))
    return float(plain_log_probs(vlm, whole)[at, list(answer)].double().sum())


@torch.inference_mode()
def plain_log_probs(vlm, example):
    batch = vlm.batch([example])
    del batch["labels"]
    return vlm.model(**batch).logits[0].log_softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("queries", [OFFICIAL, FLAT], ids=["turns", "flat"])
def test_the_trie_equals_fifteen_separate_forward_passes(vlm, queries):
    digits, style = digit_questions(vlm.renderer, queries), style_question(vlm.renderer, queries)
    examples = [vlm.renderer.context(sample, queries.flat) for sample in SAMPLES]
    assert (
        len(digits) == 14
        and len({len(example) for example in examples}) >= 3
        and max(len(name) for name in style.answers) > 2
    )
    with torch.inference_mode():
        answered = Questions(vlm, [*digits, style])(examples)
    got = np.stack(answered.log_probs[:14])
    assert got.shape == (14, 4, 6) and answered.finite.all()
    for question, values in zip(digits, got, strict=True):
        tokens = [answer[-1] for answer in question.answers]
        plain = [
            plain_log_probs(vlm, with_prompt(e, (*question.prompt, *question.answers[0][:-1])))[-1, tokens]
            .double()
            .numpy()
            for e in examples
        ]
        assert np.abs(values - plain).max() < 1e-5
        assert np.std(plain, axis=0).min() > 1e-2, "samples must not all give the same answer"
    names = np.array([[alone(vlm, e, style.prompt, name) for name in style.answers[::2]] for e in examples])
    assert np.abs(answered.log_probs[14][:, ::2] - names).max() < 1e-5
    assert np.ptp(got, axis=0).min() > 1e-3, "queries must not all give the same answer"


def test_branches_for_training_equal_the_trie(vlm):
    questions = digit_questions(vlm.renderer, COMPACT)[:4]
    batch = vlm.batch(
        [vlm.renderer.branches(s, [(q, None) for q in COMPACT.capability[:4]]) for s in SAMPLES]
    )
    rows, positions = batch["branch_index"].unbind(dim=1)
    with torch.inference_mode():
        tree = vlm.log_probs(vlm.hidden(batch)[rows, positions]).view(4, 4, -1)
        trie = np.stack(
            Questions(vlm, questions)([vlm.renderer.context(s) for s in SAMPLES]).log_probs, axis=1
        )
    digits = [answer[-1] for answer in questions[0].answers]
    assert np.abs(tree[:, :, digits].numpy() - trie).max() < 1e-5


def test_greedy_text_from_the_shared_cache_equals_separate_generation(vlm, monkeypatch):
    question = Question(style_question(vlm.renderer, OFFICIAL).prompt)
    digits = digit_questions(vlm.renderer, OFFICIAL)[:2]
    examples = [vlm.renderer.context(sample) for sample in SAMPLES]

    def texts(max_new_tokens):
        with torch.inference_mode():
            questions = Questions(vlm, [*digits, question], continued=2, max_new_tokens=max_new_tokens)
            return questions(examples).texts, [
                generate(vlm, [with_prompt(e, question.prompt)], max_new_tokens)[0] for e in examples
            ]

    shared, separate = texts(6)
    assert shared == separate and len(set(shared)) > 1 and texts(1)[0] == texts(1)[1]
    monkeypatch.setattr(vlm.tokenizer, "decode", lambda tokens, skip_special_tokens: list(map(int, tokens)))
    tokens = texts(6)[0]
    end = tokens[0][2]
    monkeypatch.setattr(vlm.renderer, "end_id", end)  # a random model does not end its turns
    ended, separate = texts(6)
    assert (
        ended == [row[: [*row, end].index(end)] for row in tokens]
        and len(ended[0]) == [*tokens[0], end].index(end) <= 2
    )
    assert [row[: len(kept)] for row, kept in zip(separate, ended, strict=True)] == ended


def test_half_precision_stays_near(checkpoints, vlm):
    half = Vlm(vlm.path, device="cpu", dtype="bfloat16")
    questions = digit_questions(vlm.renderer, COMPACT)

    def log_probs(model):
        with torch.inference_mode():
            return np.stack(
                Questions(model, questions)([model.renderer.context(s) for s in SAMPLES]).log_probs
            )

    assert np.abs(log_probs(half) - log_probs(vlm)).max() < 0.1, "0.04 was measured, at log-probs around -7"
    assert half.identity("capability", "p")["dtype"] == "bfloat16" != vlm.identity("capability", "p")["dtype"]


def test_a_batch_without_images_equals_plain_forward_passes(vlm):
    questions = digit_questions(vlm.renderer, COMPACT)[:1]
    example = vlm.renderer.context(SAMPLES[2])
    with torch.inference_mode():
        got = Questions(vlm, questions)([example, example]).log_probs[0]
    expected = [alone(vlm, example, questions[0].prompt, answer) for answer in questions[0].answers]
    assert np.abs(got - expected).max() < 1e-5 and np.ptp(expected) > 1e-2
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)


def test_positions_of_grids_are_the_models_own(checkpoints):
    vlm = Vlm(checkpoints("qwen"), device="cpu")
    batch = vlm.batch([vlm.renderer.context(sample) for sample in SAMPLES])
    theirs, _ = vlm.model.model.get_rope_index(
        batch["input_ids"],
        batch["mm_token_type_ids"],
        batch["image_grid_thw"],
        attention_mask=batch["attention_mask"],
    )
    grids = iter(batch["image_grid_thw"].tolist())
    assert len({tuple(grid) for grid in batch["image_grid_thw"].tolist()}) > 1
    for row, sample in enumerate(SAMPLES):
        length = int(batch["attention_mask"][row].sum())
        own = [next(grids) for _ in sample.images]
        family = vlm.renderer.loader.family
        ours = family.positions(vlm.processor, batch["input_ids"][row, :length].numpy(), own)
        assert ours.tolist() == theirs[:, row, :length].tolist()


def test_qwen_text_is_rendered_as_by_its_processor(checkpoints):
    vlm = Vlm(checkpoints("qwen"), device="cpu")
    encoded = vlm.renderer.encode(SAMPLES[3])
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    turns = f"{image} {image} what is the colour ?"
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{turns}<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    )
    theirs = vlm.processor(
        images=list(SAMPLES[3].images), text=[text], return_tensors="pt", add_special_tokens=False
    )
    ours = vlm.batch([encoded])
    assert encoded.input_ids.tolist() == theirs["input_ids"][0].tolist()
    assert ours["image_grid_thw"].tolist() == theirs["image_grid_thw"].tolist()
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"])
    assert ours["mm_token_type_ids"].tolist() == theirs["mm_token_type_ids"].tolist()
    assert vlm.tokenizer.decode(encoded.input_ids[encoded.labels != IGNORE]) == "yes <|im_end|>"


class Rows:
    """A pool of SAMPLES."""

    @staticmethod
    def samples(rows):
        return [SAMPLES[row] for row in rows]


def with_sure_digits(vlm):
    """The checkpoint with a head that puts nearly all probability on digits."""
    digits = [answer[-1] for answer in digit_questions(vlm.renderer, FLAT)[0].answers]
    head = torch.nn.Linear(vlm.head.in_features, vlm.head.out_features)
    with torch.no_grad():
        head.weight.copy_(vlm.head.weight)
        head.bias.zero_()[digits] += 25
    vlm.head = vlm.model.lm_head = head
    return vlm


def test_official_digits_are_the_argmax_where_the_mass_is_high(checkpoints):
    vlm = with_sure_digits(Vlm(checkpoints("anyres"), device="cpu", image_mode="base"))
    rows, stats, unparsed = [0, 1, 2, 3], PassStats(), Counter()
    official = score_rows_official(Rows, rows, vlm, FLAT, stats, lambda k: None, unparsed, max_new_tokens=1)
    trie = score_rows(Rows, rows, vlm, FLAT, 4, PassStats(), lambda k: None)
    caps = [name for name in trie.column_names if name.startswith("cap_")]
    assert min(min(trie[name.replace("cap", "mass")].to_pylist()) for name in caps) > 0.99
    assert official.column_names == trie.column_names and official.schema == trie.schema
    for name in caps:
        assert official[name].to_pylist() == [*trie[name].to_pylist()[:2], None, trie[name].to_pylist()[3]]
    assert len({tuple(trie[name].to_pylist()) for name in caps}) > 1
    assert stats.missing == {"no_image": 1} and not unparsed
    assert official["exp_ocr"].null_count == official["mass_ocr"].null_count == 4


def test_official_text_that_is_not_a_score_is_null_and_counted(checkpoints):
    vlm, unparsed = Vlm(checkpoints("base"), device="cpu"), Counter()
    table = score_rows_official(Rows, [0], vlm, FLAT, PassStats(), lambda k: None, unparsed, max_new_tokens=2)
    assert table["cap_ocr"].to_pylist() == [None] and unparsed == {"no_integer": 14}
    assert [parse_score(text, unparsed) for text in (" 4 ", "+3", "6", "-1", "4.0", "", "five", "0")] == [
        4,
        3,
        None,
        None,
        None,
        None,
        None,
        0,
    ]
    assert unparsed == {"no_integer": 17, "out_of_range": 2}


def test_the_flat_form_is_one_user_turn_of_lines(vlm):
    sample, query = SAMPLES[1], FLAT.capability[2]
    lines = f"<image> describe the image .\na red circle .\nis there a dog ?\nno\n{query}"
    whole = vlm.renderer.prompt(replace(sample, turns=(Turn(lines, ""),)))
    prefix, prompt = vlm.renderer.context(sample, True), vlm.renderer.query_tokens(query, True)
    assert with_prompt(prefix, prompt).input_ids.tolist() == whole.input_ids.tolist()
    branch = vlm.renderer.branches(sample, [(query, "3")], True)
    assert branch.input_ids[: len(whole)].tolist() == whole.input_ids.tolist()
    assert (
        vlm.renderer.answer_tokens(query, "3", True)[0]
        == branch.input_ids[len(whole)]
        == branch.labels[len(whole)]
    )
    labels = pa.table(
        {
            "row": [1],
            **{
                f"cap_{key}": pa.array([3 if k == 2 else None], pa.int8())
                for k, key in enumerate(CAPABILITY_KEYS)
            },
        }
    )
    trained = RaterExamples(SAMPLES, vlm.renderer, scorer_targets(labels, FLAT)[0])[0]
    assert (
        trained.input_ids.tolist() == branch.input_ids.tolist()
        and trained.labels.tolist() == branch.labels.tolist()
    )


def test_the_attention_implementation_of_a_loaded_checkpoint_can_be_read(vlm):
    """It is a property without public access: the check must not pass silently if transformers renames it."""
    assert attention_implementation(vlm.model.model.language_model.config) == "sdpa"
    check_model(vlm)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SimpleNamespace(_attn_implementation="flash_attention_2"), "takes no custom mask"),
        (SimpleNamespace(_attn_implementation="sdpa", sliding_window=4096), "does not keep the whole prefix"),
        (
            SimpleNamespace(_attn_implementation="sdpa", layer_types=["full_attention", "sliding_attention"]),
            "does not keep the whole prefix",
        ),
    ],
)
def test_a_model_that_cannot_share_a_prefix_is_refused(config, message):
    decoder = SimpleNamespace(language_model=SimpleNamespace(config=config))
    with pytest.raises(ValueError, match=message):
        check_model(SimpleNamespace(path="m", model=SimpleNamespace(model=decoder)))


def test_digits_after_a_space_token_of_their_own_are_answers_of_two_tokens(checkpoints):
    """As in LLaMA's tokenizer, which LLaVA-1.5 has."""
    marks = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "\u2581"]
    core = Tokenizer(
        models.BPE({mark: k for k, mark in enumerate([*marks, *string.printable])}, [], unk_token="<unk>")
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    special = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<image>"],
    }
    processor = load_processor(checkpoints("llava"))[0]
    processor.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    processor.chat_template, processor.image_token_id = None, 4
    questions = digit_questions(Renderer(processor), FLAT)
    assert [processor.tokenizer.convert_ids_to_tokens(answer) for answer in questions[0].answers] == [
        ["\u2581", d] for d in "012345"
    ]
    assert "".join(processor.tokenizer.convert_ids_to_tokens(questions[0].prompt)).endswith("ASSISTANT:")
