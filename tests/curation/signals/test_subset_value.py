"""Values learned from probed subsets: balanced clusters, features, regressors, stored files, warnings."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from curation.signals.core.table import SignalError, read_signal
from curation.signals.core.vector_files import vector_array
from curation.signals.subset_value.features import fit_pca, sample_features
from curation.signals.subset_value.of_probes import answer_characters
from curation.signals.subset_value.producer import balanced_subsets, score_subset_value
from curation.signals.subset_value.regressors import REGRESSORS, leave_one_out, pad

DIMS = 12


class RangePool(SimpleNamespace):
    def __len__(self):
        return self.n


def world(n, seed=0, missing=0.0):
    """Signals of n samples, 30 subsets of 20, and planted values that are linear in the features."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((n, DIMS)) * np.linspace(3, 0.1, DIMS)
    image[:, 0] += 6 * (np.arange(n) % 5)
    clip = rng.standard_normal(n) + 0.3 * (np.arange(n) % 7)
    gone = rng.random(n) < missing
    table = pa.table(
        {
            "row": pa.array(np.arange(n), pa.int32()),
            "clip_score": pa.array(clip, pa.float32(), mask=gone),
            "answer_tokens": pa.array(rng.integers(1, 90, n), pa.int32()),
            "clip_image": vector_array(image.astype(np.float32), ~gone),
            "clip_text": vector_array(rng.standard_normal((n, DIMS)).astype(np.float32)),
        }
    )
    subsets = [np.sort(rows) for rows in np.array_split(rng.permutation(600), 30)]
    truth = 2.0 * (clip - clip.mean()) / clip.std() - 0.2 * image[:, 0]
    return table, subsets, truth


SETTINGS = {"indicators": ("clip_score", "answer_tokens"), "components": 2}


def test_planted_linear_truth_is_found_and_stored(tmp_path):
    table, subsets, truth = world(900)
    labels = [30 + truth[rows].mean() for rows in subsets]
    summary = score_subset_value(
        RangePool(n=900, hash="p"), table, subsets, labels, tmp_path, shard_rows=400, **SETTINGS
    )
    assert summary["loso_r2"] > 0.9 and summary["parts"] == 3
    signal = read_signal(tmp_path, "p")
    assert signal["value"].type == pa.float32()
    assert np.corrcoef(signal["value"].to_numpy(), truth)[0, 1] > 0.95
    stored = json.loads((tmp_path / "fit.json").read_text())
    assert stored["label_range"] == [min(labels), max(labels)] and stored["loso_r2"] == summary["loso_r2"]
    assert list(stored["coefficients"]) == [
        "clip_score",
        "answer_tokens",
        "clip_image_0",
        "clip_image_1",
        "clip_text_0",
        "clip_text_1",
    ]
    assert stored["coefficients"]["clip_score"] > 1 and set(stored["versions"]) == {"numpy", "torch"}
    assert np.load(tmp_path / "pca.npz")["clip_image_components"].shape == (2, DIMS)
    again = score_subset_value(
        RangePool(n=900, hash="p"), table, subsets, labels, tmp_path, shard_rows=400, **SETTINGS
    )
    assert again["rows_kept"] == 900 and score_other_labels(table, subsets, labels, tmp_path) == 0


def score_other_labels(table, subsets, labels, folder):
    """Number of rows kept by a run in which one label differs."""
    changed = [labels[0] + 1, *labels[1:]]
    return score_subset_value(
        RangePool(n=900, hash="p"), table, subsets, changed, folder, shard_rows=400, **SETTINGS
    )["rows_kept"]


def test_pure_noise_gives_a_warning(tmp_path):
    table, subsets, _ = world(700)
    labels = np.random.default_rng(5).standard_normal(30)
    with pytest.warns(UserWarning, match="no better than their mean"):
        summary = score_subset_value(RangePool(n=700, hash="p"), table, subsets, labels, tmp_path, **SETTINGS)
    assert summary["loso_r2"] <= 0
    with pytest.warns(UserWarning, match="R2 is -inf"):
        flat = score_subset_value(
            RangePool(n=700, hash="p"), table, subsets, [2.0] * 30, tmp_path, **SETTINGS
        )
    assert flat["loso_r2"] == float("-inf")


def planted_sets(m=24, s=6, f=3, seed=0):
    rng = np.random.default_rng(seed)
    sets, valid = pad([rng.standard_normal((s + k % 3, f)) + rng.standard_normal(f) for k in range(m)])
    labels = 3 + (sets[:, :, 0] * valid).sum(1) / valid.sum(1)
    return sets, valid, labels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "set_attention"])
def test_networks_learn_a_planted_truth_and_are_the_same_for_a_seed(name):
    sets, valid, labels = planted_sets(m=30)
    fitted = REGRESSORS[name](sets[:20], valid[:20], labels[:20], 0)
    guess = fitted.predict(sets[20:], valid[20:])
    assert np.corrcoef(guess, labels[20:])[0, 1] > 0.8
    assert np.array_equal(
        guess, REGRESSORS[name](sets[:20], valid[:20], labels[:20], 0).predict(sets[20:], valid[20:])
    )
    assert not np.array_equal(
        guess, REGRESSORS[name](sets[:20], valid[:20], labels[:20], 1).predict(sets[20:], valid[20:])
    )


@pytest.mark.parametrize("name", list(REGRESSORS))
def test_a_subset_is_judged_by_its_own_samples_in_any_order(name):
    sets, valid, labels = planted_sets()
    fitted = REGRESSORS[name](sets, valid, labels, 0)
    whole = fitted.predict(sets, valid)
    alone = np.concatenate([fitted.predict(sets[k : k + 1], valid[k : k + 1]) for k in range(len(sets))])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(sets.shape[1])
    np.testing.assert_allclose(fitted.predict(sets[:, order], valid[:, order]), whole, atol=1e-5)
    unpadded = [
        fitted.predict(sets[k : k + 1, : valid[k].sum()], valid[k : k + 1, : valid[k].sum()])[0]
        for k in range(len(sets))
    ]
    np.testing.assert_allclose(unpadded, whole, atol=1e-5)
    assert np.ptp(whole) > 0.5


def test_leave_one_out_is_zero_for_the_mean_of_the_others_and_one_for_the_truth():
    sets, valid, labels = planted_sets()

    def mean_of_all(sets, valid, labels, seed):
        return SimpleNamespace(predict=lambda sets, valid: np.full(len(sets), labels.mean()))

    assert leave_one_out(mean_of_all, sets, valid, labels, 0)[0] == pytest.approx(0.0, abs=1e-12)
    r2, guesses = leave_one_out(
        lambda *data: REGRESSORS["ridge"](*data, penalty=1e-9), sets, valid, labels, 0
    )
    assert r2 == pytest.approx(1.0) and np.allclose(guesses, labels, atol=1e-4)


def test_ridge_is_the_closed_form():
    sets, valid, labels = planted_sets(f=2)
    pooled = np.stack([one[here].mean(axis=0) for one, here in zip(sets, valid, strict=True)]).astype(float)
    z = (pooled - pooled.mean(0)) / pooled.std(0)
    # Equal to least squares with two more rows that pull the weights towards zero.
    stacked = np.vstack([np.c_[z, np.ones(len(z))], [[np.sqrt(3), 0, 0], [0, np.sqrt(3), 0]]])
    expected = np.linalg.lstsq(stacked, np.append(labels, [0, 0]), rcond=None)[0]
    fitted = REGRESSORS["ridge"](sets, valid, labels, 0, penalty=3.0)
    np.testing.assert_allclose(fitted.coefficients * pooled.std(0), expected[:2], atol=1e-6)


def test_pca_is_fitted_once_with_fixed_signs_and_missing_vectors_lie_at_the_mean():
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((400, 3)) @ np.diag([5.0, 2.0, 0.1]) + 7).astype(np.float16)
    known = rng.random(400) < 0.8
    values[~known] = 1000
    pca = fit_pca(values, known, 2)
    exact = values[known].astype(float)
    _, singular, axes = np.linalg.svd(exact - exact.mean(0), full_matrices=False)
    np.testing.assert_allclose(pca.variance, singular[:2] ** 2 / known.sum(), rtol=1e-9)
    np.testing.assert_allclose(np.abs(pca.components @ axes[:2].T), np.eye(2), atol=1e-9)
    assert (pca.components[np.arange(2), np.abs(pca.components).argmax(1)] > 0).all()
    scores = pca.transform(values, known)
    assert (scores[~known] == 0).all() and scores[known][:, 0].std() == pytest.approx(1.0)
    assert scores[known][:, 1].std() == pytest.approx(np.sqrt(pca.variance[1] / pca.variance[0]))


def test_missing_indicators_take_the_mean_and_are_counted():
    table, _, _ = world(700, missing=0.3)
    features = sample_features(table, ("clip_score",), ("clip_image",), 2)
    gone = np.asarray(table["clip_score"].is_null())
    assert features.imputed == {"clip_score": gone.sum(), "clip_image": gone.sum()} and gone.sum() > 100
    assert (features.values[gone] == 0).all()
    assert features.values[~gone, 0].mean() == pytest.approx(0, abs=1e-6) and features.values[
        ~gone, 0
    ].std() == pytest.approx(1, abs=1e-5)
    with pytest.raises(SignalError, match="reward, judge"):
        sample_features(table)


def test_the_published_scaling_multiplies_by_its_factors_and_leaves_components_as_they_are():
    vectors = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], np.float32)
    table = pa.table(
        {
            "clip_score": pa.array([30.0, 32.0, None, 31.0], pa.float32()),
            "answer_characters": pa.array([1009, 0, 100, 200], pa.int32()),
            "reward": pa.array([0.5, -1.0, 0.0, 2.0], pa.float32()),
            "clip_image": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2),
        }
    )
    indicators = ("clip_score", "answer_characters", "reward")
    found = sample_features(table, indicators, ("clip_image",), 2, "published")
    np.testing.assert_allclose(found.values[:, 0], [30.0, 32.0, 31.0, 31.0])
    np.testing.assert_allclose(found.values[:, 1], np.array([1009, 0, 100, 200]) * 10 / 1009 * 10, rtol=1e-6)
    np.testing.assert_allclose(found.values[:, 2], [5.0, -10.0, 0.0, 20.0])
    np.testing.assert_allclose(found.values[:, 3:], vectors, atol=1e-6)
    assert found.imputed == {"clip_score": 1, "answer_characters": 0, "reward": 0, "clip_image": 0}
    with pytest.raises(SignalError, match="scaling must be one of standard, published, got 'raw'"):
        sample_features(table, indicators, ("clip_image",), 2, "raw")


def test_characters_of_the_answers_are_counted_over_all_turns(small_pool):
    counted = answer_characters(small_pool).to_pylist()
    assert counted == [sum(len(turn.answer) for turn in sample.turns) for sample in small_pool.samples()]
    assert max(len(sample.turns) for sample in small_pool.samples()) > 1


@pytest.mark.parametrize("size", [10, 40, 50])
def test_balanced_subsets_are_disjoint_equal_and_follow_the_clusters(size):
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1, 2, 3], [90, 70, 50, 30])
    vectors = (np.eye(DIMS)[group] + 0.05 * rng.standard_normal((240, DIMS))).astype(np.float16)
    known = np.ones(240, bool)
    known[::6] = False
    subsets = balanced_subsets(vectors, known, 4, size, seed=0)
    assert [len(rows) for rows in subsets] == [size] * 4
    taken = np.concatenate(subsets)
    assert (
        len(set(taken.tolist())) == 4 * size
        and known[taken].all()
        and all((np.diff(rows) > 0).all() for rows in subsets)
    )
    own = [np.bincount(group[rows], minlength=4).max() for rows in subsets]
    assert sorted(own) == sorted(min(size, n) for n in np.bincount(group[known]))
    again = balanced_subsets(vectors, known, 4, size, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(subsets, again, strict=True))
    with pytest.raises(SignalError, match="200 samples have a vector"):
        balanced_subsets(vectors, known, 4, 51, seed=0)


def test_bad_probes_are_refused(tmp_path):
    table, subsets, truth = world(700)
    labels = [truth[rows].mean() for rows in subsets]
    pool = RangePool(n=700, hash="p")
    for message, args in (
        ("at least three", (table, subsets[:2], labels[:2])),
        ("30 subsets with 29 labels", (table, subsets, labels[:-1])),
        ("finite", (table, subsets, [float("nan"), *labels[1:]])),
        ("subset 0 is empty or names a row", (table, [np.array([700]), *subsets[1:]], labels)),
        ("must be those of all 700 rows", (table.slice(1), subsets, labels)),
    ):
        with pytest.raises(SignalError, match=message):
            score_subset_value(pool, *args, tmp_path, **SETTINGS)
    with pytest.raises(SignalError, match="regressor must be one of ridge, mlp, set_attention, got 'lasso'"):
        score_subset_value(pool, table, subsets, labels, tmp_path, regressor="lasso", **SETTINGS)
