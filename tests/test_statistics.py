"""Intervals: the textbook formula, known answers, and what cannot be answered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from engine import statistics
from engine.errors import BadInput


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 10), (5, 10), (98, 100), (100, 100)])
def test_a_proportion_has_wilsons_interval(count, n):
    z, share = 1.959963984540054, count / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    found = statistics.proportion(np.arange(n) < count)
    assert (found.value, found.n) == (share, n)
    assert (found.low, found.high) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-12)


def test_the_interval_of_a_mean_is_that_of_the_normal_law_for_many_values():
    values = np.random.default_rng(3).normal(5, 2, 400)
    found = statistics.mean(values)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1 * half)


def test_the_interval_of_a_mean_is_repeatable_and_shrinks_to_a_point_without_spread():
    values = np.arange(20.0)
    assert statistics.mean(values) == statistics.mean(values)
    assert statistics.mean(values, seed=1) != statistics.mean(values)
    assert statistics.mean(np.ones(5)) == statistics.Estimate(1.0, 1.0, 1.0, 5)


def test_what_has_no_interval_is_refused():
    with pytest.raises(BadInput, match="no images"):
        statistics.proportion(np.zeros(0, dtype=bool))
    with pytest.raises(BadInput, match="at least two, got 1"):
        statistics.mean(np.ones(1))
    with pytest.raises(BadInput, match="not finite"):
        statistics.mean(np.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("count", "n", "wilson", "exact"),
    [(25, 50, (36.6, 63.4), (35.5, 64.5)), (50, 50, (92.9, 100), (92.9, 100)), (50, 100, (40.4, 59.6), (39.8, 60.2))],
)
def test_intervals_are_the_tabled_ones(count, n, wilson, exact):
    shown, decisive = statistics.wilson(count, n), statistics.clopper_pearson(count, n)
    assert [round(100 * item, 1) for item in (shown.low, shown.high)] == list(wilson)
    assert [round(100 * item, 1) for item in (decisive.low, decisive.high)] == list(exact)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.9999])
@pytest.mark.parametrize(
    ("count", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 40), (96, 100), (919, 1000), (49_990, 50_000)]
)
def test_the_exact_interval_is_the_one_that_scipy_finds_by_search(count, n, confidence):
    found = statistics.clopper_pearson(count, n, confidence)
    sought = scipy.stats.binomtest(count, n).proportion_ci(confidence, method="exact")
    assert (found.low, found.high) == pytest.approx((sought.low, sought.high), abs=1e-10)


@pytest.mark.parametrize("at_least", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 7, 50, 100, 500])
def test_what_is_needed_passes_and_one_less_does_not(n, at_least):
    passing = [k for k in range(n + 1) if statistics.decide(k, n, at_least, 0.95) == "pass"]
    assert statistics.needed(n, at_least, 0.95) == (passing[0] if passing else None)


def test_nine_of_ten_need_the_numbers_of_the_form():
    assert [statistics.needed(n, 0.9, 0.95) for n in (50, 100, 200, 1000)] == [50, 96, 189, 919]


@pytest.mark.parametrize(
    ("first", "second", "p_value"), [(300, 220, 0.00052), (30, 18, 0.111), (12, 4, 0.077), (0, 0, 1)]
)
def test_mcnemar_is_the_tabled_one(first, second, p_value):
    assert statistics.mcnemar(first, second) == pytest.approx(p_value, abs=5e-4)


def test_the_paired_difference_is_the_published_one():
    """Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850: Newcombe's interval of 1, 1, 7, 12 pairs."""
    found = statistics.paired_difference(1, 1, 7, 12)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.507, -0.026)
    turned = statistics.paired_difference(1, 7, 1, 12)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert statistics.paired_difference(10, 0, 0, 0).low < 0


@pytest.mark.parametrize(("images", "most"), [(1, 0.09), (2, 0.09), (4, 0.09), (16, 0.09)])
def test_a_random_order_passes_for_the_ranking_no_more_often_than_stated(images, most):
    """Nine exchangeable draws: the first is no ranking, so at 5 % it must not be told apart in more than about 5 %."""
    rng = np.random.default_rng(images)
    p_values = [statistics.exchanged(rng.integers(6, 17, size=(9, images)) / 16) for _ in range(300)]
    assert np.mean(np.array(p_values) <= 0.05) <= most


def test_few_images_can_never_be_told_apart_and_many_can():
    first = np.array([[0.1], *([[0.9]] * 8)])
    assert statistics.exchanged(first) == pytest.approx(1 / 9)
    assert statistics.exchanged(first.repeat(4, axis=1)) < 0.01


@pytest.mark.parametrize(("count", "n"), [(k, n) for n in (1, 2, 7, 100, 10_000) for k in {0, 1, n // 3, n - 1, n}])
def test_wilsons_closed_form_is_scipys_to_the_last_digit(count, n):
    expected = scipy.stats.binomtest(count, n).proportion_ci(statistics.CONFIDENCE, method="wilson")
    found = statistics.wilson(count, n)
    assert (found.low, found.high) == (expected.low, expected.high)
