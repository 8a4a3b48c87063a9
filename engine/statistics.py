"""Selections of the strongest channels, and estimates with their intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import scipy  # its `stats` is loaded at first use: it takes most of a second, and the web process rarely needs it

from engine.errors import BadInput

SIZES = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
EQUAL = 1e-3
"""Scores that differ by less than this share of themselves are equal: copies of a map differ by rounding alone."""

SILENT: Final = 1e-12
"""Mean |score| of a layer below which none of its channels stands out."""


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


def standing_out(scores: np.ndarray) -> np.ndarray:
    """Return |scores| of a layer, (..., channels), divided by their mean: how far each channel stands out in its layer.

    The default ranking of activation patching divides so, image by image. A layer without any score gives zeros.
    """
    size = np.abs(scores)
    mean = size.mean(axis=-1, keepdims=True)
    result: np.ndarray = np.divide(size, mean, out=np.zeros_like(size), where=mean > SILENT)
    return result


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


CONFIDENCE = 0.95
RESAMPLES = 2000
Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int


def proportion(hits: np.ndarray) -> Estimate:
    """Return the share of (images,) bool that is true, with its Wilson interval. Raises BadInput for no images."""
    return wilson(int(np.count_nonzero(hits)), len(hits))


def wilson(count: int, n: int) -> Estimate:
    """Return count / n with its Wilson interval, the one of explanations. Raises BadInput for n of 0.

    By the closed form of Wilson (1927), as `scipy.stats.binomtest` has it: that package would take 50 MB of the web process.
    """
    if not n:
        raise BadInput("A share of no images has no value; at least one image is needed.")
    share, z = count / n, float(scipy.special.ndtri(0.5 + CONFIDENCE / 2))
    scale = 2 * (n + z**2)
    centre, reach = (2 * n * share + z**2) / scale, z / scale * math.sqrt(4 * n * share * (1 - share) + z**2)
    low, high = (centre - reach if count else 0.0), (centre + reach if count < n else 1.0)
    return Estimate(share, low, high, n)


def clopper_pearson(count: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return count / n with its exact interval, the one of audits: shown and decided by. Raises BadInput for n of 0.

    By the beta quantiles of Clopper and Pearson (1934): a thousand classes under ten attacks take 0.1 s, and `scipy.stats` a
    minute.
    """
    if not n:
        raise BadInput("A share of no images has no value; at least one image is needed.")
    tail = (1 - confidence) / 2
    low = scipy.special.betaincinv(count, n - count + 1, tail) if count else 0.0
    high = scipy.special.betaincinv(count + 1, n - count, 1 - tail) if count < n else 1.0
    return Estimate(count / n, float(low), float(high), n)


def reach(error: np.ndarray, images: float) -> np.ndarray:
    """Return by how much means over so many images may be off: Student's t interval of `CONFIDENCE`, NaN below two images.

    error: standard error of each mean.
    """
    if images < 2:
        return np.full_like(error, np.nan)
    result: np.ndarray = scipy.special.stdtrit(images - 1, (1 + CONFIDENCE) / 2) * error
    return result


def decide(count: int, n: int, at_least: float, confidence: float) -> Outcome:
    """Say whether a share reaches a threshold: only where the whole Clopper-Pearson interval lies on one side of it."""
    if not n:
        return "inconclusive"
    result = clopper_pearson(count, n, confidence)
    if result.low >= at_least:
        return "pass"
    return "fail" if result.high < at_least else "inconclusive"


def needed(n: int, at_least: float, confidence: float) -> int | None:
    """Return how many of n images must be right for `decide` to pass a threshold; None where not even all are enough."""
    if decide(n, n, at_least, confidence) != "pass":
        return None
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decide(middle, n, at_least, confidence) == "pass" else (middle + 1, high)
    return low


HALF = 0.5
Weighed = Literal["below", "above", "too few"]


def against_half(count: int, n: int) -> Weighed:
    """Say on which side of one half a share lies: only where its whole Wilson interval does; else n is too few to tell."""
    share = wilson(count, n)
    if share.high < HALF:
        return "below"
    return "above" if share.low > HALF else "too few"


def excess(hits: np.ndarray, control: np.ndarray) -> Estimate:
    """Return by how much a share exceeds its control, paired on images.

    hits: (images,) bool; control: (draws, images) bool. Of several images the wider one of a bootstrap over images, which
    degenerates where all images agree, and of Newcombe's interval of two shares with the images as trials (Statistics in
    Medicine 17 (1998) 873, method 10). Of one image its own hit is a fact, and the draws alone are a sample: Wilson.
    """
    per_image = hits.astype(float) - control.mean(axis=0)
    if len(hits) == 1:
        drawn = wilson(int(control.sum()), len(control))
        return Estimate(float(per_image[0]), float(hits[0]) - drawn.high, float(hits[0]) - drawn.low, len(control))
    spread, own, other = mean(per_image), proportion(hits), wilson(round(float(control.mean() * len(hits))), len(hits))
    below = _joint(own.value - own.low, other.high - other.value, 0.0)
    above = _joint(own.high - own.value, other.value - other.low, 0.0)
    return Estimate(
        spread.value, min(spread.low, spread.value - below), max(spread.high, spread.value + above), len(hits)
    )


def exchanged(values: np.ndarray, *, seed: int = 0) -> float:
    """Return the one-sided p-value that the first of several exchangeable draws is as small as this by chance.

    values: (draws, images). Under the null any draw of an image could have been the first; the mean over images is compared
    with that of draws picked image by image: all of them where they are few, else some at random, the observed one among
    them. It is never below draws ** -images: few images decide nothing.
    """
    draws, images = values.shape
    if draws**images <= RESAMPLES:
        picked = np.indices((draws,) * images).reshape(images, -1).T
    else:
        picked = np.random.default_rng(seed).integers(draws, size=(RESAMPLES, images))
        picked[0] = 0
    by_chance = values[picked, np.arange(images)].mean(axis=1)
    return float(np.mean(by_chance <= values[0].mean() + 1e-12))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two paired shares are equal, from the pairs that differ."""
    n = only_first + only_second
    return float(scipy.stats.binomtest(only_first, n).pvalue) if n else 1.0


def paired_difference(both: int, only_first: int, only_second: int, neither: int) -> Estimate:
    """Return the difference of two paired shares, first minus second, with Newcombe's score interval.

    Newcombe, Statistics in Medicine 17 (1998) 2635, method 10. Raises BadInput for no pairs.
    """
    n = both + only_first + only_second + neither
    first, second = wilson(both + only_first, n), wilson(both + only_second, n)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    excess = both * neither - only_first * only_second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    phi = corrected / math.sqrt(margins) if margins else 0.0
    value = first.value - second.value
    below = _joint(first.value - first.low, second.high - second.value, phi)
    above = _joint(first.high - first.value, second.value - second.low, phi)
    return Estimate(value, value - below, value + above, n)


def _joint(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0))


def mean(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """Return the mean of (images,) values with the percentile interval of a bootstrap over images.

    Raises BadInput for fewer than two images, whose spread is not known, and for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        raise BadInput(f"An interval over images needs at least two, got {len(values)}.")
    if not np.isfinite(values).all():
        raise BadInput("A mean was asked for of values that are not finite numbers.")
    confidence_interval = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=seed
    ).confidence_interval
    return Estimate(float(values.mean()), float(confidence_interval.low), float(confidence_interval.high), len(values))


def mean_of_several(values: np.ndarray) -> Estimate | None:
    """Return the same, or None for fewer than two images."""
    return mean(values) if len(values) > 1 else None


def largest_mean(values: np.ndarray) -> Estimate:
    """Return the largest of several means over the same images with the interval of a bootstrap over images.

    values: (means, images). Each resample takes its own largest mean, as the value does.
    """
    largest_of_resamples = _largest_of_resamples(values)
    return _between(float(values.mean(axis=1).max()), largest_of_resamples, values.shape[1])


def largest_mean_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Return the largest mean of the first values less that of the second, paired on images; both (means, images)."""
    value = first.mean(axis=1).max() - second.mean(axis=1).max()
    return _between(float(value), _largest_of_resamples(first) - _largest_of_resamples(second), first.shape[1])


def _largest_of_resamples(values: np.ndarray) -> np.ndarray:
    """(resamples,) largest of the means; the same resamples for all values of as many images."""
    images = values.shape[1]
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    return (drawn @ values.T / images).max(axis=1)


def _between(value: float, resamples: np.ndarray, n: int) -> Estimate:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resamples, [tail, 100 - tail])
    return Estimate(value, float(low), float(high), n)
