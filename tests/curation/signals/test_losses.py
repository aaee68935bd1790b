"""The loss producer: ablated terms, EL2N and margin, the chunked head, padding, and missing values."""

import json
import math
import multiprocessing
import os
import shutil
import signal as signals
from dataclasses import replace

import numpy as np
import pytest

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from curation.signals.core.batches import batches_by_tokens, padded_tokens
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.losses import ablate, answer_losses, check_terms, score_losses

torch = pytest.importorskip("torch")
ALL = ("full", "noimg", "noq", "a")
NAMES = {"full": "nll", "noimg": "nll_noimg", "noq": "nll_noq", "a": "nll_a"}


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir):
    return Vlm(tiny_vlm_dir, device="cpu")


@pytest.fixture(scope="module")
def scored(small_pool, tiny_vlm_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("losses")
    summary = score_losses(
        small_pool, tiny_vlm_dir, out, terms=ALL, max_tokens=600, shard_rows=25, device="cpu"
    )
    return read_signal(out, small_pool.hash), summary


def make(question, images=1, answer="dog"):
    return Sample(
        0,
        "s",
        "src",
        tuple(f"{i}.png" for i in range(images)),
        (Turn(question, answer), Turn("and ?", "yes")),
    )


def test_ablated_samples_keep_the_answers_and_lose_questions_or_images():
    sample = make("<image>\nwhat is <image> this ?", images=2)
    texts = {term: [turn.question for turn in ablate(sample, term).turns] for term in ALL}
    assert ablate(sample, "full") is sample
    assert texts["noimg"] == ["what is  this ?", "and ?"] and ablate(sample, "noimg").images == ()
    assert texts["noq"] == ["<image>\n<image>", ""] and ablate(sample, "noq").images == sample.images
    assert texts["a"] == ["", ""] and ablate(sample, "a").images == ()
    for term in ALL:
        assert [turn.answer for turn in ablate(sample, term).turns] == ["dog", "yes"]


def test_without_an_image_two_terms_equal_the_other_two():
    sample = make("what ? ", images=0)
    assert ablate(sample, "noimg") is sample and ablate(sample, "noq") == ablate(sample, "a")


@torch.inference_mode()
def plain_loss(vlm, sample):
    """The model's own loss on one sample alone."""
    return vlm.model(**vlm.collator([vlm.renderer.encode(sample)])).loss.item()


@pytest.mark.parametrize("row", [0, 4, 6, 39])  # one image, none, two; one to three turns
def test_every_term_is_the_loss_of_the_sample_without_that_part(scored, vlm, small_pool, row):
    sample = small_pool[row]
    bare = [turn.question.replace("<image>", "").strip() for turn in sample.turns]
    marks = ["\n".join(["<image>"] * turn.question.count("<image>")) for turn in sample.turns]
    for column, questions, images in [
        ("nll", [turn.question for turn in sample.turns], sample.images),
        ("nll_noimg", bare, ()),
        ("nll_noq", marks, sample.images),
        ("nll_a", ["" for _ in bare], ()),
    ]:
        turns = tuple(replace(turn, question=q) for turn, q in zip(sample.turns, questions, strict=True))
        expected = plain_loss(vlm, replace(sample, turns=turns, images=images))
        assert scored[0][column][row].as_py() == pytest.approx(expected, abs=1e-5), column


def test_text_only_samples_are_computed_once_a_term_and_counted_as_rows(scored, small_pool):
    table, summary = scored
    text_only = np.array([n == 0 for n in small_pool.table["n_images"].to_pylist()])
    assert 0 < text_only.sum() < 40
    for one, other in (("nll", "nll_noimg"), ("nll_noq", "nll_a")):
        same = table[one].to_numpy() == table[other].to_numpy()
        assert same[text_only].all() and not same[~text_only].any()
    assert summary["forwards"] == 4 * 40 - 2 * text_only.sum() and summary["samples"] == 40
    assert summary["rows_missing"] == 0 and set(summary["nulls"].values()) == {0}


def test_terms_computed_apart_equal_those_computed_together_and_carry_the_prefix(
    scored, small_pool, tiny_vlm_dir, tmp_path
):
    score_losses(
        small_pool, tiny_vlm_dir, tmp_path, terms=("a", "noimg", "noq"), prefix="base_", device="cpu"
    )
    table = read_signal(tmp_path)
    assert table.column_names == ["row", "base_nll_noimg", "base_nll_noq", "base_nll_a"]
    for term in ("noimg", "noq", "a"):
        ours, theirs = table[f"base_{NAMES[term]}"].to_numpy(), scored[0][NAMES[term]].to_numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert read_metadata(tmp_path)["terms"] == ["noimg", "noq", "a"]


@torch.inference_mode()
def test_el2n_and_margin_are_exact_over_the_vocabulary(scored, vlm, small_pool):
    for row in (0, 6, 38):
        example = vlm.renderer.encode(small_pool[row])
        p = vlm.model(**vlm.collator([example])).logits[0, :-1].double().softmax(dim=-1)
        at = np.flatnonzero(example.labels[1:] != -100)
        distances, margins = [], []
        for t in at:
            target = int(example.labels[t + 1])
            wanted = torch.nn.functional.one_hot(torch.tensor(target), p.shape[1])
            distances.append((p[t] - wanted).norm().item())
            margins.append((p[t, target] - p[t][wanted == 0].max()).item())
        assert scored[0]["el2n"][row].as_py() == pytest.approx(np.mean(distances), abs=1e-5)
        assert scored[0]["margin"][row].as_py() == pytest.approx(np.mean(margins), abs=1e-5)


@torch.inference_mode()
def test_the_chunked_head_gives_what_the_whole_head_gives_with_bounded_logits(vlm, small_pool, monkeypatch):
    examples = [vlm.renderer.encode(small_pool[row]) for row in range(12)]
    whole = np.array(answer_losses(vlm, examples, head_elements=1 << 30))
    seen = []
    plain = vlm.log_probs
    monkeypatch.setattr(vlm, "log_probs", lambda hidden: seen.append(plain(hidden)) or seen[-1])
    vocabulary = vlm.head.weight.shape[0]
    chunked = np.array(answer_losses(vlm, examples, head_elements=7 * vocabulary + 3))
    np.testing.assert_allclose(chunked, whole, atol=1e-6)
    positions = [len(log_probs) for log_probs in seen]
    assert max(positions) == 7 and sum(positions) == whole[:, 3].sum() > 7 * 5


def test_padding_is_small_on_long_tailed_lengths_within_a_shard():
    """Text log-normal (median 150 tokens), bare and after 730 image tokens; a shard of the default size."""
    text = np.random.default_rng(0).lognormal(5, 1.0, 8192).astype(int) + 8
    for lengths in (text, 730 + text, np.concatenate([text, 730 + text])):
        for budget in (2048, 16_384):
            assert lengths.sum() / padded_tokens(lengths, batches_by_tokens(lengths, budget)) >= 0.97


@pytest.fixture(scope="module")
def long_tailed(tmp_path_factory):
    """240 text-only samples whose answers have 3 to 500 words, log-normally distributed."""
    folder = tmp_path_factory.mktemp("long")
    words = np.minimum(np.random.default_rng(1).lognormal(3, 1.1, 240).astype(int) + 3, 500)
    turns = [
        [
            {"from": "human", "value": "describe the image ."},
            {"from": "gpt", "value": " ".join(["dog"] * int(n))},
        ]
        for n in words
    ]
    (folder / "data.json").write_text(
        json.dumps([{"id": str(i), "conversations": turn} for i, turn in enumerate(turns)])
    )
    build_pool(folder / "data.json", folder, folder / "pool")
    return Pool.open(folder / "pool")


def test_the_producer_reports_the_padding_efficiency_it_reached(long_tailed, tiny_vlm_dir, tmp_path):
    together = score_losses(long_tailed, tiny_vlm_dir, tmp_path / "a", max_tokens=256, device="cpu")
    apart = score_losses(
        long_tailed, tiny_vlm_dir, tmp_path / "b", max_tokens=256, shard_rows=25, device="cpu"
    )
    assert together["padding_efficiency"] >= 0.97 > apart["padding_efficiency"]
    np.testing.assert_allclose(
        read_signal(tmp_path / "a")["nll"], read_signal(tmp_path / "b")["nll"], atol=1e-5
    )


def test_progress_counts_rows_whatever_the_terms(small_pool, tiny_vlm_dir, tmp_path):
    seen = []
    score_losses(
        small_pool,
        tiny_vlm_dir,
        tmp_path,
        terms=ALL,
        max_tokens=300,
        shard_rows=16,
        device="cpu",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    done = [d for d, _ in seen]
    assert done == sorted(done) and done[-1] == 40 and {t for _, t in seen} == {40} and len(set(done)) > 10


def test_a_broken_image_costs_only_the_terms_that_look_at_it(small_pool, tiny_vlm_dir, tmp_path):
    shutil.copytree(small_pool.folder.parent, tmp_path / "copy")
    pool = Pool.open(tmp_path / "copy" / small_pool.folder.name)
    pool[3].images[0].write_bytes(b"no picture any more")
    summary = score_losses(pool, tiny_vlm_dir, tmp_path / "s", terms=ALL, device="cpu")
    table = read_signal(tmp_path / "s")
    for column in table.column_names[1:]:
        lost = [row for row, value in enumerate(table[column].to_pylist()) if value is None]
        assert lost == ([] if column in ("nll_noimg", "nll_a") else [3]), column
    assert (
        summary["missing"] == {"broken_image": 2}
        and summary["rows_missing"] == 1
        and summary["nulls"]["nll"] == 1
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_null_and_counted(
    small_pool, tiny_vlm_dir, tmp_path, monkeypatch, value
):
    plain = Vlm.log_probs

    def spoiled(self, hidden):
        log_probs = plain(self, hidden)
        log_probs[0] = -value
        return log_probs

    monkeypatch.setattr(Vlm, "log_probs", spoiled)
    summary = score_losses(
        small_pool, tiny_vlm_dir, tmp_path, max_tokens=1_000_000, shard_rows=20, device="cpu"
    )
    table = read_signal(tmp_path)
    # The first sample of each shard's only batch.
    assert summary["missing"] == {"not_finite": 2} and summary["rows_missing"] == 2
    lost = table["nll"].is_null().to_pylist()
    assert sum(lost) == 2
    assert all(table[name].is_null().to_pylist() == lost for name in ("el2n", "margin", "answer_tokens"))
    assert np.isfinite(table["nll"].drop_null().to_numpy()).all()


@pytest.mark.parametrize(("terms", "message"), [(("full", "noimage"), "noimage"), ((), "terms is empty")])
def test_unknown_terms_are_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        check_terms(terms)


def test_half_precision_gives_another_signal(small_pool, tiny_vlm_dir, scored, tmp_path):
    score_losses(small_pool, tiny_vlm_dir, tmp_path, dtype="bfloat16", device="cpu")
    difference = np.abs(read_signal(tmp_path)["nll"].to_numpy() - scored[0]["nll"].to_numpy())
    assert 0 < difference.max() < 0.1 and read_metadata(tmp_path)["dtype"] == "bfloat16"


def score_and_die(pool, model_dir, out):
    """Kill this process in the middle of the third of four shards."""

    def die(done, total):
        if done > 24:
            os.kill(os.getpid(), signals.SIGKILL)

    score_losses(pool, model_dir, out, max_tokens=200, shard_rows=10, device="cpu", on_progress=die)


def test_a_producer_killed_inside_a_shard_resumes_after_the_last_complete_one(
    small_pool, tiny_vlm_dir, scored, tmp_path
):
    killed = multiprocessing.get_context("fork").Process(
        target=score_and_die, args=(small_pool, tiny_vlm_dir, tmp_path / "s")
    )
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signals.SIGKILL
    assert sorted(p.name for p in (tmp_path / "s").glob("part-*.parquet")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert not (tmp_path / "s" / "signal.json").exists()
    summary = score_losses(
        small_pool, tiny_vlm_dir, tmp_path / "s", max_tokens=200, shard_rows=10, device="cpu"
    )
    assert (summary["rows_kept"], summary["rows_computed"]) == (20, 20)
    np.testing.assert_allclose(read_signal(tmp_path / "s")["nll"], scored[0]["nll"], atol=1e-5)
