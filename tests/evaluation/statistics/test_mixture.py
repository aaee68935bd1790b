"""The distribution of a difference: Student's t and the normal at its ends, a drawn sum between them."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from evaluation.statistics.mixture import SATTERTHWAITE, Mixture


def of(units, df, question) -> Mixture:
    return Mixture.of(np.array([units], dtype=float), np.array([df], dtype=float), np.array([question]))


@pytest.mark.parametrize("df", [1, 2, 3.7, 8, 50, 999])
@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.0027, 1e-6])
def test_one_part_alone_is_students_t(df, alpha):
    error = of([4.0, 0.0], [df, 1], 0.0)
    quantile = 2 * student.isf(alpha / 2, df)
    assert error.half_width(alpha) == pytest.approx(quantile, rel=2e-4)
    assert error.p([quantile]) == pytest.approx(alpha, rel=2e-4)
    assert error.scale == 2.0


def test_questions_alone_are_normal():
    error = of([0.0, 0.0], [2, 2], 9.0)
    assert error.half_width(0.05) == pytest.approx(3 * norm.isf(0.025), rel=1e-3)


def test_between_is_the_stated_mixture_of_drawn_numbers():
    rng, n = np.random.default_rng(0), 2_000_000
    t2, t9, z = rng.standard_t(2, n), rng.standard_t(9, n), rng.standard_normal(n)
    units, df, question = (0.3, 0.2), (2, 9), 0.5
    whole_df = 1 / (0.3**2 / 2 + 0.2**2 / 9)
    weights = np.sqrt(units) / df / np.sum(np.sqrt(units) / df)
    first = np.abs(np.sqrt(0.3) * t2 + np.sqrt(0.7) * z) > 2.5
    second = np.abs(np.sqrt(0.2) * t9 + np.sqrt(0.8) * z) > 2.5
    turns = weights[0] * first.mean() + weights[1] * second.mean()
    expected = SATTERTHWAITE * 2 * student.sf(2.5, whole_df) + (1 - SATTERTHWAITE) * turns
    assert of(units, df, question).p([2.5])[0] == pytest.approx(expected, rel=0.02)


def test_tested_together_each_part_is_taken_in_turn():
    parts = [np.array([[0.3, 0.2]]), np.array([[2.0, 9.0]]), np.array([0.5])]
    alone, together = Mixture.of(*parts), Mixture.of(*parts, alone=False)
    assert (together.half_width(0.003) > alone.half_width(0.003)).all()
    one = [np.array([[4.0, 0.0]]), np.array([[2.0, 1.0]]), np.array([0.0])]
    assert Mixture.of(*one, alone=False).half_width(0.003) == pytest.approx(
        Mixture.of(*one).half_width(0.003), rel=1e-3
    )


def test_p_of_the_half_width_is_its_level():
    for alpha in (0.2, 0.05, 0.001):
        error = of([0.4, 1.1], [2, 4], 0.7)
        assert error.p(error.half_width(alpha)) == pytest.approx(alpha, rel=1e-9)


def test_fewer_degrees_of_freedom_are_never_narrower():
    widths = [of([1.0, 0.5], [df, 4], 0.5).half_width(0.05)[0] for df in (1, 2, 4, 8, 100)]
    assert widths == sorted(widths, reverse=True)


def test_without_variance_and_without_knowledge():
    error = Mixture.of(np.array([[0.0, 0], [0, 0], [np.nan] * 2]), np.ones((3, 2)), np.array([0, 0, np.nan]))
    assert error.p([0.0, 1.0, 1.0]) == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert error.half_width(0.05) == pytest.approx([0.0, 0.0, np.nan], nan_ok=True)
