"""Intervals: the textbook formula, known answers, and what cannot be answered."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
