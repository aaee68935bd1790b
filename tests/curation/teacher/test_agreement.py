"""Agreement of two labels against scikit-learn and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.taxonomy import CAPABILITY_KEYS
from curation.teacher.agreement import agreement, in_words, jaccard, quadratic_kappa
from curation.teacher.rubric import Label, missing_label

RATINGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=60)


@settings(deadline=None)  # scikit-learn is imported in the first
@given(RATINGS)
def test_kappa_is_that_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = np.array(pairs).T
    own = quadratic_kappa(first, second, 6)
    if own is None:
        assert len({*first, *second}) == 1
        return
    theirs = metrics.cohen_kappa_score(first, second, weights="quadratic", labels=range(6))
    assert own == pytest.approx(theirs)


def test_kappa_in_closed_form():
    assert quadratic_kappa(np.array([0, 5]), np.array([0, 5]), 6) == 1
    assert quadratic_kappa(np.array([0, 5]), np.array([5, 0]), 6) == -1
    assert quadratic_kappa(np.array([0, 0, 5, 5]), np.array([0, 5, 0, 5]), 6) == pytest.approx(0)
    assert quadratic_kappa(np.array([3, 3]), np.array([3, 3]), 6) is None
    assert quadratic_kappa(np.array([], int), np.array([], int), 6) is None


def test_overlap_of_styles():
    assert jaccard(["a", "b"], ["b", "c"]) == pytest.approx(1 / 3)
    assert jaccard([], []) == 1 and jaccard(["a"], []) == 0


def label(row, score, styles=(), **other):
    return Label(row, f"s{row}", {**dict.fromkeys(CAPABILITY_KEYS, score), **other}, styles)


def test_agreement_counts_pairs_without_both_labels_as_missing():
    first = [label(0, 1, ("word",)), label(1, 4), missing_label(2, "s2", "timeout"), label(3, 2)]
    second = [label(0, 1, ("word",), ocr=3), label(1, 5), label(2, 0), missing_label(3, "s3", "timeout")]
    found = agreement(first, second)
    assert (found["n"], found["missing"], found["styles"]) == (2, 2, 1.0)
    ocr, stem = found["capabilities"]["ocr"], found["capabilities"]["stem"]
    assert (ocr["exact"], ocr["within_1"]) == (0.0, 0.5) and (stem["exact"], stem["within_1"]) == (0.5, 1.0)
    assert found["exact"] == pytest.approx(0.5 * (len(CAPABILITY_KEYS) - 1) / len(CAPABILITY_KEYS))


def test_agreement_of_nothing_is_none():
    found = agreement([missing_label(0, "s0", "timeout")], [label(0, 1)])
    assert (found["n"], found["missing"], found["kappa"], found["styles"]) == (0, 1, None, None)
    assert in_words(found) == "0 samples labelled twice (1 without both labels): no agreement can be computed"


def test_agreement_in_words():
    first, second = [label(0, 1), label(1, 4)], [label(0, 1, ocr=3), label(1, 4)]
    words = in_words(agreement(first, second))
    assert (
        words.startswith("2 samples labelled twice: kappa 0.") and "ocr 0." in words and "stem 1.00" in words
    )
    assert "within one point 0." in words and "styles 1.00" in words
