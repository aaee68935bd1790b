"""Capability, style and loss producers against plain computations with the same checkpoint."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from curation.pool.read import Pool
from curation.pool.sample import Turn
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.losses import answer_losses, score_losses
from curation.signals.raters.capability import (
    check_tokenizer,
    digit_questions,
    digit_scores,
    score_capabilities,
)
from curation.signals.raters.prefix import Questions
from curation.signals.raters.queries import PromptError, load_queries
from curation.signals.raters.ratings import score_capabilities_and_styles
from curation.signals.raters.style import likely_styles, max_answer_tokens, score_styles
from curation.taxonomy import CAPABILITY_KEYS, STYLES

torch = pytest.importorskip("torch")
QUERIES = load_queries("compact")


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, device="cpu")


@pytest.fixture(scope="module")
def capability(small_pool, tiny_vlm_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("capability")
    return out, score_capabilities(small_pool, tiny_vlm_dir, out, batch_size=4, shard_rows=16)


def last_log_probs(vlm, sample, query):
    """Next-token log-probabilities where the answer to `query` begins, by one plain forward of all turns."""
    asked = replace(sample, turns=(*sample.turns, Turn(query, "")))
    batch = vlm.collator([vlm.renderer.prompt(asked)])
    del batch["labels"]
    with torch.inference_mode():
        return torch.log_softmax(vlm.model(**batch).logits[0, -1], dim=-1)


def test_digit_scores_are_argmax_expectation_entropy_and_mass():
    p = np.array([[0.1, 0.2, 0.3, 0.0, 0.0, 0.2], [0.25, 0.0, 0.25, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        cap, expected, entropy, mass = digit_scores(np.log(p).astype(np.float32))
    assert cap.tolist() == [2, 0] and cap.dtype == np.int8
    assert expected.tolist() == pytest.approx([(0.2 + 0.6 + 1.0) / 0.8, 1.0]) and expected.dtype == np.float32
    assert (
        entropy.tolist() == pytest.approx([stats.entropy(row[row > 0]) for row in p], rel=1e-5)
        and entropy.dtype == np.float32
    )
    assert mass.tolist() == pytest.approx([0.8, 0.5])


def test_the_expected_score_survives_a_vanishing_mass():
    _, expected, entropy, mass = digit_scores(np.float32([-900, -900, -2000, -2000, -2000, -2000]))
    assert expected == pytest.approx(0.5) and entropy == pytest.approx(np.log(2)) and mass == 0


def test_the_capability_signal_has_a_row_for_each_sample(capability, small_pool, vlm):
    out, summary = capability
    table = read_signal(out, small_pool.hash)
    assert table["row"].to_pylist() == list(range(40))
    assert table.column_names[1:] == [
        f"{kind}_{key}" for kind in ("cap", "exp", "ent", "mass") for key in CAPABILITY_KEYS
    ]
    assert summary["rows"] == 40 and summary["rows_missing"] == 0 and summary["samples_per_second"] > 0
    assert 0.5 < summary["padding_efficiency"] <= 1 and summary["low_mass_scores"] > 0
    digits = [answer[0] for answer in digit_questions(vlm.renderer, QUERIES)[13].answers]
    for row in (0, 4, 6, 39):
        log_probs = last_log_probs(vlm, small_pool[row], QUERIES.capability[13])[digits].numpy()
        cap, expected, entropy, mass = digit_scores(log_probs)
        assert table["cap_ocr"][row].as_py() == cap
        assert table["ent_ocr"][row].as_py() == pytest.approx(float(entropy), abs=1e-5)
        assert table["exp_ocr"][row].as_py() == pytest.approx(float(expected), abs=1e-5)
        assert table["mass_ocr"][row].as_py() == pytest.approx(float(mass), rel=1e-4)


def test_the_metadata_record_pool_model_and_prompts(capability, small_pool):
    meta = read_metadata(capability[0])
    assert (
        meta["pool_hash"] == small_pool.hash
        and meta["prompt_hash"] == QUERIES.hash
        and meta["image_mode"] == "base"
    )
    assert len(meta["model_hash"]) >= 12 and meta["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_second_run_computes_only_what_is_missing(capability, small_pool, tiny_vlm_dir, tmp_path):
    shutil.copytree(capability[0], tmp_path / "s")
    (tmp_path / "s" / "part-00001.parquet").unlink()
    seen = []
    summary = score_capabilities(
        small_pool,
        tiny_vlm_dir,
        tmp_path / "s",
        batch_size=4,
        shard_rows=16,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert summary["rows_computed"] == 16 == summary["samples"] and summary["rows_kept"] == 24
    assert seen[0] == (24, 40), "what is kept is reported at once, before work begins"
    assert seen[-1] == (40, 40)
    assert read_signal(tmp_path / "s").equals(read_signal(capability[0]))


def test_scores_do_not_depend_on_the_batches(capability, small_pool, tiny_vlm_dir, tmp_path):
    score_capabilities(small_pool, tiny_vlm_dir, tmp_path, batch_size=13, shard_rows=40)
    one, other = read_signal(capability[0]), read_signal(tmp_path)
    for key in CAPABILITY_KEYS:
        np.testing.assert_allclose(one[f"exp_{key}"].to_numpy(), other[f"exp_{key}"].to_numpy(), atol=1e-5)


@torch.inference_mode()
def test_losses_equal_the_models_own_loss_sample_by_sample(vlm, small_pool):
    examples = [vlm.renderer.encode(small_pool[row]) for row in range(8)]
    for example, loss in zip(examples, answer_losses(vlm, examples), strict=True):
        naive = vlm.model(**vlm.collator([example])).loss
        assert loss.nll == pytest.approx(naive.item(), abs=1e-5)
        assert loss.tokens == int((example.labels[1:] != -100).sum()) > 0


def test_the_loss_signal(vlm, small_pool, tiny_vlm_dir, tmp_path):
    summary = score_losses(small_pool, tiny_vlm_dir, tmp_path, max_tokens=300, shard_rows=25)
    table = read_signal(tmp_path, small_pool.hash)
    assert (
        table.column_names == ["row", "nll", "el2n", "margin", "answer_tokens"]
        and summary["padding_efficiency"] > 0.85
    )
    with torch.inference_mode():
        expected = [answer_losses(vlm, [vlm.renderer.encode(sample)])[0] for sample in small_pool.samples()]
    np.testing.assert_allclose(table["nll"].to_numpy(), [loss.nll for loss in expected], atol=1e-5)
    assert table["answer_tokens"].to_pylist() == [loss.tokens for loss in expected]
    assert summary["answer_tokens"] == sum(loss.tokens for loss in expected)


def test_a_random_styler_names_only_other_and_it_is_counted(small_pool, tiny_vlm_dir, tmp_path):
    summary = score_styles(small_pool, tiny_vlm_dir, tmp_path, batch_size=16, shard_rows=30)
    table = read_signal(tmp_path, small_pool.hash)
    assert (
        summary["rows"] == 40
        and summary["other_rows"] == sum("other" in s for s in table["styles"].to_pylist()) > 0
    )
    assert all(styles for styles in table["styles"].to_pylist())


def test_one_pass_for_both_gives_what_two_give(capability, small_pool, tiny_vlm_dir, tmp_path):
    summary = score_capabilities_and_styles(
        small_pool, tiny_vlm_dir, tmp_path / "both", batch_size=7, shard_rows=30
    )
    score_styles(small_pool, tiny_vlm_dir, tmp_path / "style")
    both, scores = read_signal(tmp_path / "both", small_pool.hash), read_signal(capability[0])
    assert both["styles"].equals(read_signal(tmp_path / "style")["styles"])
    for name in scores.column_names:
        np.testing.assert_allclose(both[name].to_numpy(), scores[name].to_numpy(), atol=1e-5)
    assert (
        summary["rows"] == 40
        and summary["samples"] == 40
        and summary["other_rows"] > 0
        and summary["mean_digit_mass"] > 0
    )


def test_likely_styles_are_the_best_and_those_near_it():
    log_probs = np.log(
        [[0.05, 0.4, 0.3, 0.1, 0.05, 0.05, 0.02, 0.02, 0.01], [0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]]
    )
    assert likely_styles(log_probs, 0.5) == [
        ["coordinate", "yes_no"],
        ["multi_choice", "coordinate"] + [list(STYLES)[k] for k in range(2, 7)],
    ]
    assert likely_styles(log_probs, 1) == [["coordinate"], ["multi_choice"]]
    assert likely_styles(log_probs, 0.8) == [["coordinate"], ["multi_choice", "coordinate"]]
    with pytest.raises(ValueError, match="threshold"):
        likely_styles(log_probs, 0)


def test_likelihood_mode_names_the_likeliest_and_keeps_the_log_probabilities(
    small_pool, tiny_vlm_dir, vlm, tmp_path
):
    summary = score_styles(
        small_pool, tiny_vlm_dir, tmp_path, mode="likelihood", threshold=0.9, batch_size=16
    )
    table = read_signal(tmp_path, small_pool.hash)
    log_probs = np.stack([table[f"style_logp_{key}"].to_numpy() for key in STYLES], axis=1)
    words = [vlm.tokenizer.convert_tokens_to_ids(QUERIES.styles[key]) for key in STYLES]
    for row in (0, 4, 6):
        expected = last_log_probs(vlm, small_pool[row], QUERIES.style)[words].numpy()
        np.testing.assert_allclose(log_probs[row], expected, atol=1e-5)
    assert table["styles"].to_pylist() == likely_styles(log_probs, 0.9)
    assert summary["mean_style_mass"] == pytest.approx(np.exp(log_probs).sum(axis=1).mean(), rel=1e-5)
    assert summary["low_mass_styles"] == 40 and summary["other_rows"] == 0
    assert read_metadata(tmp_path)["mode"] == "likelihood" and read_metadata(tmp_path)["threshold"] == 0.9


def test_the_longest_style_answer_fits(vlm):
    text = QUERIES.style_answer(list(QUERIES.styles))
    assert max_answer_tokens(vlm.tokenizer, QUERIES) == len(vlm.tokenizer.tokenize(text)) + 1


@pytest.fixture
def damaged_pool(small_pool, tmp_path):
    """The small pool with the image of row 3 overwritten after the audit."""
    shutil.copytree(small_pool.folder.parent, tmp_path / "copy")
    pool = Pool.open(tmp_path / "copy" / small_pool.folder.name)
    pool[3].images[0].write_bytes(b"no picture any more")
    return pool


@pytest.mark.parametrize(
    ("score", "column"),
    [
        (score_capabilities, "exp_ocr"),
        (score_losses, "nll"),
        (score_styles, "styles"),
    ],
)
def test_a_broken_image_has_no_score_and_is_counted(damaged_pool, tiny_vlm_dir, tmp_path, score, column):
    summary = score(damaged_pool, tiny_vlm_dir, tmp_path / "s")
    values = read_signal(tmp_path / "s")[column].to_pylist()
    assert [row for row, value in enumerate(values) if value is None] == [3]
    assert summary["missing"] == {"broken_image": 1} and summary["rows_missing"] == 1


@pytest.mark.parametrize(
    ("score", "options", "columns"),
    [
        (score_capabilities, {}, ["cap_ocr", "exp_ocr", "ent_ocr", "mass_ocr"]),
        (score_styles, {"mode": "greedy"}, ["styles"]),
        (score_styles, {"mode": "likelihood"}, ["styles", "style_logp_word"]),
        (score_capabilities_and_styles, {}, ["cap_ocr", "mass_ocr", "styles"]),
    ],
    ids=["capability", "greedy", "likelihood", "ratings"],
)
def test_a_model_that_overflows_gives_no_score_and_it_is_counted(
    small_pool, tiny_vlm_dir, tmp_path, monkeypatch, score, options, columns
):
    plain = Questions._read_trie

    def overflowing(self, prefix):
        hidden = plain(self, prefix)
        hidden[0] = torch.nan
        return hidden

    monkeypatch.setattr(Questions, "_read_trie", overflowing)
    summary = score(small_pool, tiny_vlm_dir, tmp_path, batch_size=20, shard_rows=20, **options)
    table = read_signal(tmp_path, small_pool.hash)
    assert summary["missing"] == {"not_finite": 2} and summary["rows_missing"] == 2, (
        "the first of each shard's one batch"
    )
    for column in columns:
        assert table[column].null_count == 2, column


def renderer_with(vlm, answers, unknown=None):
    """The renderer of `vlm`, with the digits' tokens from `answers` and a word `unknown` to its tokenizer."""
    words = vlm.tokenizer

    def encode(text, add_special_tokens):
        return [words.unk_token_id if unknown in text else 1]

    tokenizer = SimpleNamespace(encode=encode if unknown else words.encode, unk_token_id=words.unk_token_id)
    return SimpleNamespace(
        tokenizer=tokenizer,
        query_tokens=vlm.renderer.query_tokens,
        answer_tokens=lambda question, answer, flat: answers(int(answer)),
    )


@pytest.mark.parametrize(
    "answers",
    [lambda d: (3,), lambda d: (7,) * (d + 1), lambda d: (d, 9)],
    ids=["equal", "unary", "ends alike"],
)
def test_a_tokenizer_that_does_not_write_digits_as_single_tokens_is_refused(vlm, answers):
    with pytest.raises(PromptError, match="not single tokens"):
        digit_questions(renderer_with(vlm, answers), QUERIES)


def test_a_token_before_every_digit_belongs_to_the_answer(vlm):
    questions = digit_questions(renderer_with(vlm, lambda d: (5, 20 + d)), QUERIES)
    assert len(questions) == 14 and questions[3].answers == tuple((5, 20 + d) for d in range(6))


def test_a_tokenizer_with_an_unknown_word_is_refused(vlm):
    with pytest.raises(PromptError, match="does not know a word of 'rate : object"):
        check_tokenizer(renderer_with(vlm, None, unknown="spatial").tokenizer, QUERIES)


@pytest.mark.parametrize(
    ("score", "setting", "message"),
    [
        (score_capabilities, "mode", "mode must be one of trie, official, got 'tree'"),
        (score_styles, "mode", "mode must be one of greedy, likelihood, official, got 'tree'"),
        (
            score_capabilities_and_styles,
            "style_mode",
            "style_mode must be one of greedy, likelihood, got 'tree'",
        ),
    ],
)
def test_unknown_modes_are_refused(small_pool, tiny_vlm_dir, tmp_path, score, setting, message):
    with pytest.raises(ValueError, match=message):
        score(small_pool, tiny_vlm_dir, tmp_path, **{setting: "tree"})
