"""Connections as they are kept: without their zeros, and read as if they stood there whole."""

from __future__ import annotations

import numpy as np
import pytest

from engine.types.core import SIDES, Connection

TARGETS, SOURCES = 24, 32


def matrices(fill: str) -> tuple[np.ndarray, np.ndarray]:
    """A clean and an adversarial matrix: full, or with a few entries in every row, or with none at all."""
    rng = np.random.default_rng(0)
    found = [rng.normal(size=(TARGETS, SOURCES)).astype(np.float32) for _ in SIDES]
    if fill != "full":
        used = np.zeros((TARGETS, SOURCES), bool)
        for row in range(TARGETS if fill == "sparse" else 0):
            used[row, rng.choice(SOURCES, 1 + row % 3, replace=False)] = True
        found = [matrix * used for matrix in found]
    # What contributes in one run alone is kept in both.
    found[0][0] = 0
    return found[0], found[1]


@pytest.mark.parametrize("fill", ["full", "sparse", "empty"])
@pytest.mark.parametrize("side", SIDES)
def test_what_is_kept_says_what_the_whole_matrix_says(fill, side):
    both = matrices(fill)
    whole = both[SIDES.index(side)]
    kept = Connection.of((0, 1), *both, 1e-6)
    assert (kept.sources is None) == (fill == "full")
    assert np.array_equal(kept.whole(side, SOURCES), whole)
    for target in range(TARGETS):
        rows, values = kept.into(side, target)
        again = np.zeros(SOURCES, np.float32)
        again[rows] = values
        assert np.array_equal(again, whole[target])
    for source in range(SOURCES):
        assert np.array_equal(kept.out_of(side, source), whole[:, source])
    shares = np.random.default_rng(1).random((SOURCES, 3))
    assert kept.carried_back(side, shares) == pytest.approx(np.abs(whole) @ shares)
    some = np.array([1, 5])
    assert kept.carried_back(side, shares, some) == pytest.approx(np.abs(whole[some]) @ shares)


def test_few_entries_take_little_room():
    kept = Connection.of((0, 1), *matrices("sparse"), 1e-6)
    assert kept.clean.shape == (TARGETS, 3)
    assert kept.sources.dtype == np.int32
