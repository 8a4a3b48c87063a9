"""From a point an attack found to the 8-bit image that is stored, without ever leaving the attack's budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from engine import images


def linf_reach(epsilon: Fraction) -> int:
    """Return by how many of 255 steps a stored pixel may differ; below 1/255 none can."""
    return math.floor(epsilon * 255)


def l2_reach(epsilon: Fraction) -> int:
    """Return the largest sum of squared differences, counted in 255 steps, that a budget allows."""
    return math.floor((epsilon * 255) ** 2)


def within_linf(clean: np.ndarray, wanted: np.ndarray, reach: int) -> np.ndarray:
    """Return the uint8 image nearest to `wanted` (floats in [0, 1]) of which no pixel is over `reach` from `clean`."""
    change = images.to_bytes(wanted).astype(np.int16) - clean
    return (clean + np.clip(change, -reach, reach)).astype(np.uint8)


def within_l2(clean: np.ndarray, wanted: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return `wanted` (floats in [0, 1]) rounded, with a sum of squared differences from `clean` of at most `reach`.

    clean, wanted: (batch, channels, height, width); reach: (batch,) int64. Where rounding to nearest leaves the ball,
    the pixels that were rounded away from `clean` by most are rounded towards it instead, as few as will do.
    """
    shape = clean.shape
    exact = (np.clip(wanted, 0.0, 1.0).astype(np.float64) * 255 - clean).reshape(len(clean), -1)
    nearest = (images.to_bytes(wanted).astype(np.int64) - clean).reshape(len(clean), -1)
    rows = [_shrunk(*row) for row in zip(exact, nearest, reach, strict=True)]
    return (clean + np.stack(rows).reshape(shape)).astype(np.uint8)


def _shrunk(exact: np.ndarray, nearest: np.ndarray, reach: int) -> np.ndarray:
    """Return the integer change `nearest` with as few entries as possible moved one step towards zero."""
    excess = int((nearest**2).sum()) - int(reach)
    if excess <= 0:
        return nearest
    order = np.argsort(np.abs(exact) - np.abs(nearest), kind="stable")
    order = order[np.abs(nearest[order]) > np.abs(exact[order])]
    gained = np.cumsum(2 * np.abs(nearest[order]) - 1)
    moved = order[: np.searchsorted(gained, excess) + 1]
    shrunk = nearest.copy()
    shrunk[moved] -= np.sign(nearest[moved])
    return shrunk


@dataclass(frozen=True, slots=True)
class Norm:
    """How large a change is, and how points are stored within a budget of it."""

    name: str
    sizes: Callable[[np.ndarray], np.ndarray]
    """From (batch, values) int64 changes, counted in 255 steps, to (batch,) sizes in [0, 1] units."""
    nearest: Callable[[np.ndarray, np.ndarray, Fraction], np.ndarray]
    """From clean uint8 images, points in [0, 1] near them, both (batch, channels, height, width), and a budget to uint8."""


def _largest(change: np.ndarray) -> np.ndarray:
    return np.abs(change).max(axis=1) / 255


def _length(change: np.ndarray) -> np.ndarray:
    return np.sqrt((change**2).sum(axis=1)) / 255


def _nearest_linf(clean: np.ndarray, wanted: np.ndarray, epsilon: Fraction) -> np.ndarray:
    return within_linf(clean, wanted, linf_reach(epsilon))


def _nearest_l2(clean: np.ndarray, wanted: np.ndarray, epsilon: Fraction) -> np.ndarray:
    return within_l2(clean, wanted, np.full(len(clean), l2_reach(epsilon)))


def _nearest(_clean: np.ndarray, wanted: np.ndarray, _epsilon: Fraction) -> np.ndarray:
    return images.to_bytes(wanted)


LINF = Norm("linf", _largest, _nearest_linf)
L2 = Norm("l2", _length, _nearest_l2)
NO_NORM = Norm("none", _largest, _nearest)
"""Of everyday damage, which has no budget."""
