"""Intervals of what was counted or averaged: every figure carries its n and its 95 % interval. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats

from engine.errors import BadInput

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: np.ndarray) -> Estimate:
    """Return the share of (images,) bool that is true, with its Wilson interval. Raises BadInput for no images."""
    if not len(hits):
        raise BadInput("A share of no images has no value; at least one image is needed.")
    count = int(np.count_nonzero(hits))
    found = scipy.stats.binomtest(count, len(hits)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(count / len(hits), float(found.low), float(found.high), len(hits))


def mean(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Return the mean of (images,) values with the percentile interval of a bootstrap over images.

    Raises BadInput for fewer than two images, whose spread is not known, and for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise BadInput(f"An interval over images needs at least two, got {len(values)}.")
    if not np.isfinite(values).all():
        raise BadInput("A mean was asked for of values that are not finite numbers.")
    found = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(float(values.mean()), float(found.low), float(found.high), len(values))
