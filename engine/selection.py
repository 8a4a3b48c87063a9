"""Choosing maps by score: numpy only, so that a share slider needs no worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIZES = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EQUAL = 1e-3
"""Scores that differ by less than this share of themselves are equal: copies of a map differ by rounding alone."""


def quota(channels: int, share: float) -> int:
    """Return how many of `channels` maps a share keeps: rounded, at least one."""
    return max(1, round(channels * share))


def strength(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return per site (channels,): mean over images of |score|, each image scaled to sum to one over all sites.

    scores: per site (images, channels), signed.
    """
    totals = sum(np.abs(site).sum(axis=1) for site in scores)
    scale = 1.0 / np.maximum(totals, 1e-12)
    return tuple((np.abs(site) * scale[:, None]).mean(axis=0) for site in scores)


def per_site(strength: Sequence[np.ndarray], share: float) -> tuple[np.ndarray, ...]:
    """Return per site the sorted indices of the strongest `share` of its maps (ties go to the lower index)."""
    return tuple(np.sort(np.argsort(-site, kind="stable")[: quota(len(site), share)]) for site in strength)


def per_site_drawn(strength: Sequence[np.ndarray], share: float, seed: int) -> tuple[np.ndarray, ...]:
    """Return per site the sorted indices of the strongest `share` of its maps; which of equal ones, is drawn by seed.

    Two draws of a datapath tell how far its choice is one at all: copies of a map change places, others do not.
    """
    generator = np.random.default_rng(seed)
    return tuple(_drawn(site, quota(len(site), share), generator) for site in strength)


def _drawn(site: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    least = np.sort(site)[-count]
    above = np.flatnonzero(site > least * (1 + EQUAL))
    tied = np.flatnonzero((site >= least * (1 - EQUAL)) & (site <= least * (1 + EQUAL)))
    return np.sort(np.concatenate([above, generator.permutation(tied)[: count - len(above)]]))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Return the size of the intersection over the size of the union of two index sets; 1 for two empty ones."""
    union = len(np.union1d(first, second))
    return len(np.intersect1d(first, second)) / union if union else 1.0
