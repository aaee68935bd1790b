"""Formulas on loss columns against numbers worked out by hand."""

import math

import numpy as np
import pytest

from curation.selectors.contract import SelectorError
from curation.selectors.formulas import ifd, ifd_text, irs, necessity, perplexity, visual_necessity

NAN = math.nan


def test_perplexity_is_the_exponential_of_the_mean_loss():
    values = perplexity(np.array([0.0, math.log(2), NAN, 800.0], np.float64))
    assert values.dtype == np.float64
    assert values.tolist()[:2] == [1.0, 2.0] and math.isnan(values[2]) and values[3] == math.inf


def test_visual_necessity_tells_helpful_idle_and_misleading_images():
    assert visual_necessity(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 4.0])).tolist() == [2.0, 0.0, -3.0]


def test_quotients_keep_what_they_say_they_keep():
    full, noimg, noq, alone = (np.array([x]) for x in (1.0, 3.0, 4.0, 6.0))
    assert ifd(full, noq).tolist() == irs(full, noq).tolist() == [0.25]
    assert ifd_text(noimg, alone).tolist() == [0.5]


@pytest.mark.parametrize("below", [0.0, -1.0, NAN])
def test_a_quotient_without_a_positive_denominator_is_missing(below):
    with np.errstate(all="raise"):
        assert np.isnan(ifd(np.array([1.0]), np.array([below]))).all()


def test_missing_losses_stay_missing():
    known, missing = np.array([1.0]), np.array([NAN])
    assert all(np.isnan(f(missing, known)).all() for f in (visual_necessity, ifd, ifd_text, irs))
    assert np.isnan(necessity("delta", {"nll": missing, "base_nll": known})).all()


def test_the_four_necessities():
    losses = {"nll": np.array([2.0], np.float32), "base_nll": np.array([5.0]), "nll_noimg": np.array([3.5])}
    losses["answer_score"] = np.array([0.25])
    assert necessity("nll", losses).tolist() == [2.0] and necessity("nll", losses).dtype == np.float64
    assert necessity("delta", losses).tolist() == [-3.0]
    assert necessity("visual", losses).tolist() == [1.5]
    assert necessity("answer", losses).tolist() == [0.75]  # the worse the answer, the more needed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("loss", "must be one of nll, delta, visual, answer"),
        ("delta", "base_nll"),
        ("visual", "nll_noimg"),
        ("answer", "answer_score"),
    ],
)
def test_a_necessity_that_cannot_be_computed_is_refused(kind, message):
    with pytest.raises(SelectorError, match=message):
        necessity(kind, {"nll": np.array([1.0])})
