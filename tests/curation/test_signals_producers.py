"""Capability, style and loss producers against plain computations with the same checkpoint."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from curation.pool.read import Pool
from curation.pool.sample import Turn
from curation.signals.capability import branch_log_probs, check_tokenizer, digit_scores, score_capabilities
from curation.signals.losses import answer_losses, score_losses
from curation.signals.queries import PromptError, load_queries
from curation.signals.style import decode, max_answer_tokens, score_styles
from curation.signals.table import read_metadata, read_signal
from curation.signals.vlm import Vlm
from curation.taxonomy import CAPABILITY_KEYS

torch = pytest.importorskip("torch")
QUERIES = load_queries("compact")


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, device="cpu")


@pytest.fixture(scope="module")
def left(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, side="left", device="cpu")


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


@torch.inference_mode()
def test_branches_equal_separate_forwards(vlm, small_pool):
    samples = [small_pool[row] for row in (0, 4, 6, 11, 17)]  # one image, none, two images; one to three turns
    assert {len(s.images) for s in samples} == {0, 1, 2} and len({len(s.turns) for s in samples}) == 3
    digits = check_tokenizer(vlm.tokenizer, QUERIES)
    examples = [vlm.renderer.branches(s, [(q, None) for q in QUERIES.capability]) for s in samples]
    assert len({len(e) for e in examples}) > 2
    together = branch_log_probs(vlm, examples, digits)
    apart = np.array([[last_log_probs(vlm, s, q)[digits].numpy() for q in QUERIES.capability] for s in samples])
    assert together.shape == (5, 14, 6)
    assert np.abs(together - apart).max() < 1e-5
    assert apart.std(axis=1).min() > 1e-3, "the queries must not all give the same answer"


def test_digit_scores_are_argmax_expectation_and_mass():
    p = np.array([[0.1, 0.2, 0.3, 0.0, 0.0, 0.2], [0.25, 0.0, 0.25, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        cap, expected, mass = digit_scores(np.log(p).astype(np.float32))
    assert cap.tolist() == [2, 0] and cap.dtype == np.int8
    assert expected.tolist() == pytest.approx([(0.2 + 0.6 + 1.0) / 0.8, 1.0]) and expected.dtype == np.float32
    assert mass.tolist() == pytest.approx([0.8, 0.5])


def test_the_expected_score_survives_a_vanishing_mass():
    _, expected, mass = digit_scores(np.float32([-900, -900, -2000, -2000, -2000, -2000]))
    assert expected == pytest.approx(0.5) and mass == 0


def test_the_capability_signal_has_a_row_for_each_sample(capability, small_pool, vlm):
    out, summary = capability
    table = read_signal(out, small_pool.hash)
    assert table["row"].to_pylist() == list(range(40))
    assert table.column_names[1:] == [f"{kind}_{key}" for kind in ("cap", "exp", "mass") for key in CAPABILITY_KEYS]
    assert summary["rows"] == 40 and summary["rows_missing"] == 0 and summary["samples_per_second"] > 0
    assert 0.5 < summary["padding_efficiency"] <= 1 and summary["low_mass_scores"] > 0
    digits = check_tokenizer(vlm.tokenizer, QUERIES)
    for row in (0, 4, 6, 39):
        log_probs = last_log_probs(vlm, small_pool[row], QUERIES.capability[13])[digits].numpy()
        cap, expected, mass = digit_scores(log_probs)
        assert table["cap_ocr"][row].as_py() == cap
        assert table["exp_ocr"][row].as_py() == pytest.approx(float(expected), abs=1e-5)
        assert table["mass_ocr"][row].as_py() == pytest.approx(float(mass), rel=1e-4)


def test_the_metadata_says_what_made_the_signal(capability, small_pool):
    meta = read_metadata(capability[0])
    assert meta["pool_hash"] == small_pool.hash and meta["prompt_hash"] == QUERIES.hash and meta["image_mode"] == "base"
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
    assert seen[0] == (16, 40) and seen[-1] == (40, 40)
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
    assert table.column_names == ["row", "nll", "el2n", "margin", "answer_tokens"] and summary["padding_efficiency"] > 0.85
    with torch.inference_mode():
        expected = [answer_losses(vlm, [vlm.renderer.encode(sample)])[0] for sample in small_pool.samples()]
    np.testing.assert_allclose(table["nll"].to_numpy(), [loss.nll for loss in expected], atol=1e-5)
    assert table["answer_tokens"].to_pylist() == [loss.tokens for loss in expected]
    assert summary["answer_tokens"] == sum(loss.tokens for loss in expected)


def test_styles_are_decoded_as_by_plain_greedy_search(left, vlm, small_pool):
    samples = [small_pool[row] for row in (0, 4, 6, 11)]
    examples = [left.renderer.branches(s, [(QUERIES.style, None)]) for s in samples]
    texts = decode(left, examples, max_new_tokens=6)
    for sample, text in zip(samples, texts, strict=True):
        batch = vlm.collator([vlm.renderer.prompt(replace(sample, turns=(*sample.turns, Turn(QUERIES.style, ""))))])
        del batch["labels"], batch["attention_mask"]
        prompt = batch["input_ids"].shape[1]
        with torch.inference_mode():
            for _ in range(6):
                token = vlm.model(**batch).logits[:, -1].argmax(dim=-1, keepdim=True)
                if token.item() == vlm.renderer.end_id:
                    break
                batch["input_ids"] = torch.cat([batch["input_ids"], token], dim=1)
        assert text == vlm.tokenizer.decode(batch["input_ids"][0, prompt:], skip_special_tokens=True)
    assert len(set(texts)) > 1


def test_a_random_styler_names_only_other_and_it_is_counted(small_pool, tiny_vlm_dir, tmp_path):
    summary = score_styles(small_pool, tiny_vlm_dir, tmp_path, batch_size=16, shard_rows=30)
    table = read_signal(tmp_path, small_pool.hash)
    assert summary["rows"] == 40 and summary["other_rows"] == sum("other" in s for s in table["styles"].to_pylist()) > 0
    assert all(styles for styles in table["styles"].to_pylist())


def test_the_longest_style_answer_fits(left):
    text = QUERIES.style_answer(list(QUERIES.styles))
    assert max_answer_tokens(left.tokenizer, QUERIES) == len(left.tokenizer.tokenize(text)) + 1


@pytest.fixture
def damaged_pool(small_pool, tmp_path):
    """The small pool, with the picture of row 3 overwritten after it was audited."""
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


def fake_tokenizer(encode, unk_token_id=None):
    return SimpleNamespace(encode=lambda text, add_special_tokens: encode(text), unk_token_id=unk_token_id)


@pytest.mark.parametrize(
    ("encode", "unknown", "message"),
    [
        (
            lambda text: [5, ord(text[0])] if text.isdigit() else [1],
            None,
            "not single tokens",
        ),  # a space token before each digit
        (lambda text: [0], None, "not single tokens"),  # all digits are the unknown token
        (lambda text: [ord(text[0])] if text.isdigit() else [7, 0], 0, "does not know a word of 'rate : object"),
    ],
)
def test_a_tokenizer_that_cannot_express_the_scores_is_refused(encode, unknown, message):
    with pytest.raises(PromptError, match=message):
        check_tokenizer(fake_tokenizer(encode, unknown), QUERIES)
