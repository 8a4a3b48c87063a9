"""Where two datapaths part and merge, layer by layer, with intervals; which datapaths keep a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine import statistics
from engine.types.core import Datapath, Explanation
from engine.types.faithfulness import ClassDatapaths, Comparison, SiteComparison, SiteSpan

CLEAN, ADVERSARIAL, CLASS, NOISE = 1, 2, 4, 8
"""Bits of a membership."""


def kept_by(explanation: Explanation, share: float, site: int, classes: ClassDatapaths | None) -> np.ndarray:
    """Return per channel of a site the bits of the datapaths that keep it at `share`, (channels,) int64.

    Without the class datapaths, and where the attack left the class as it was, no map has the bit `CLASS`.
    """
    strengths = {CLEAN: explanation.clean.strength[site], ADVERSARIAL: explanation.adversarial.strength[site]}
    if explanation.has_noise_control:
        strengths[NOISE] = explanation.noise.strength[site]
    if classes is not None and explanation.clean.target != explanation.adversarial.target:
        strengths[CLASS] = classes.fooled[site]
    result = np.zeros(explanation.sites[site].channels, np.int64)
    for bit, strength in strengths.items():
        result[statistics.per_site((strength,), share)[0]] |= bit
    return result


RUNNING = 2
"""Sites in a row that must exceed the floor before the datapaths are said to part."""
LEVEL = 0.05
"""Of the family of all sites, by Holm's step-down procedure."""
DRAWS = 2000
MERGE_DRAWS = 400
"""Resamples of a whole datapath, each of which is ranked anew."""
EXACT_UP_TO = 12
"""Images up to which every sign is tried (4,096 at most); beyond, random signs."""
Kept = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Distances:
    """Per image and site, 1 - Jaccard of the clean datapath with another one."""

    attacked: np.ndarray
    """(images, sites): with the adversarial image's."""
    noise: np.ndarray
    """(images, draws, sites): with those of same-norm noisy copies; one draw of NaN while there is no noise control."""

    @property
    def excess(self) -> np.ndarray:
        """(images, sites): by how much the adversarial image's exceeds the mean over the noisy copies."""
        return self.attacked - self.noise.mean(axis=1)

    @property
    def has_floor(self) -> bool:
        """False while there is no noise control."""
        return not bool(np.isnan(self.noise).any())


def compare(explanation: Explanation, share: float, classes: ClassDatapaths | None = None) -> Comparison:
    """Return per site the sets, distances and floors of an explanation's datapaths at `share` kept maps per site.

    `target_only` is empty until the class datapaths are given. Distances are means over images with 95 % bootstrap
    intervals; a single pair has no interval, and its floor is the range over the noise draws. Floors are NaN, and the
    datapaths diverge nowhere, while there is no noise control.
    """
    return against(explanation, explanation.clean, share, classes)


def against(
    explanation: Explanation, reference: Datapath, share: float, classes: ClassDatapaths | None = None
) -> Comparison:
    """Return the same with another datapath of as many images in the clean run's place."""
    clean = statistics.per_site(reference.strength, share)
    adversarial = statistics.per_site(explanation.adversarial.strength, share)
    noise = _noise_kept(explanation, share)
    target = statistics.per_site(classes.fooled, share) if classes else tuple(np.empty(0, int) for _ in clean)
    distances = _distances(explanation, reference, share)
    centres, lows, highs = _intervals(distances.attacked)
    floor_low, floor_high = _floor(distances)
    flows, floors = _flows(explanation)
    p_values = _excess(distances)
    sites = tuple(
        SiteComparison(
            site=site.name,
            clean_only=_members(np.setdiff1d(clean[k], adversarial[k])),
            shared=_members(np.intersect1d(clean[k], adversarial[k])),
            adversarial_only=_members(np.setdiff1d(adversarial[k], clean[k])),
            distance=centres[k],
            floor_low=floor_low[k],
            floor_high=floor_high[k],
            flow=flows[k],
            flow_floor=floors[k],
            distance_low=lows[k],
            distance_high=highs[k],
            p_value=p_values[k] if p_values is not None else None,
            target_only=_members(np.setdiff1d(target[k], np.union1d(clean[k], adversarial[k]))),
            noise_also=_members(np.intersect1d(np.setdiff1d(adversarial[k], clean[k]), noise[k])),
            is_eligible=site.is_eligible,
        )
        for k, site in enumerate(explanation.sites)
    )
    return Comparison(
        share=share,
        sites=sites,
        diverges_at=diverges_at(sites),
        images=len(explanation.outcomes),
        divergence_span=_parts_span(sites, distances),
        diverges_from=diverges_from(sites),
    )


def diverges_at(sites: tuple[SiteComparison, ...]) -> str | None:
    """Return the first site whose distance exceeds its floor for `RUNNING` sites in a row, or None.

    Of several images: in Holm-corrected one-sided tests over all sites. Of a single pair: beyond every noise draw. Sites of
    which nothing may be claimed never count.
    """
    place = int(_first_running(np.array([[_is_above(site) for site in sites]]))[0])
    return sites[place].site if place < len(sites) else None


def diverges_from(sites: tuple[SiteComparison, ...]) -> str | None:
    """Return the first claimable site from which on every one exceeds its floor, or None."""
    eligible = [site for site in sites if site.is_eligible]
    place = int(converges_at(np.array([[_is_above(site) for site in eligible]]))[0])
    return eligible[place].site if place < len(eligible) else None


def converges_at(nearer: np.ndarray) -> np.ndarray:
    """Return per row the first site from which on every one is nearer to the fooled-into class; the number of sites for none.

    nearer: (rows, sites) bool.
    """
    return nearer.shape[1] - np.cumprod(nearer[:, ::-1], axis=1).sum(axis=1)


def convergence_span(
    scores: Sequence[np.ndarray], true: Kept, fooled: Kept, *, share: float, names: Sequence[str]
) -> SiteSpan | None:
    """Return where the datapath of a group drawn anew from its images would merge with the fooled-into class.

    scores: per site (images, channels), signed; true, fooled: the maps kept of either class's datapath, held fixed. None for
    a single image and where hardly any resample merges.
    """
    images = len(scores[0])
    if images == 1:
        return None
    normalised = np.abs(np.concatenate(scores, axis=1))
    normalised /= np.maximum(normalised.sum(axis=1, keepdims=True), 1e-12)
    pooled = _weights(images, MERGE_DRAWS) @ normalised
    columns = np.cumsum([site.shape[1] for site in scores])[:-1]
    nearer = [
        _shared(site, into, share) > _shared(site, own, share)
        for site, own, into in zip(np.split(pooled, columns, axis=1), true, fooled, strict=True)
    ]
    return span(converges_at(np.stack(nearer, axis=1)), names)


def span(places: np.ndarray, names: Sequence[str]) -> SiteSpan | None:
    """Return the 95 % interval of site numbers found in resamples; the number of sites stands for "at none"."""
    low, high = np.quantile(places, (0.025, 0.975), method="inverted_cdf").astype(int)
    if low == len(names):
        return None
    return SiteSpan(names[low], names[high] if high < len(names) else None, float((places < len(names)).mean()))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return step-down adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    stepped = np.maximum.accumulate(p_values[order] * (count - np.arange(count)))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _members(indices: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in indices)


def _distances(explanation: Explanation, reference: Datapath, share: float) -> Distances:
    images = len(explanation.outcomes)
    draws = len(explanation.noise.scores[0]) // images
    attacked = np.empty((images, len(explanation.sites)))
    noise = np.full((images, max(1, draws), len(explanation.sites)), np.nan)
    for image in range(images):
        own = _kept(reference, image, share)
        attacked[image] = _apart(own, _kept(explanation.adversarial, image, share))
        for draw in range(draws):
            noise[image, draw] = _apart(own, _kept(explanation.noise, image * draws + draw, share))
    return Distances(attacked, noise)


def _noise_kept(explanation: Explanation, share: float) -> Kept:
    """The maps that the noise control keeps; none while there is none."""
    if not explanation.has_noise_control:
        return tuple(np.empty(0, int) for _ in explanation.sites)
    return statistics.per_site(explanation.noise.strength, share)


def _kept(datapath: Datapath, row: int, share: float) -> Kept:
    return statistics.per_site([np.abs(site[row]) for site in datapath.scores], share)


def _apart(first: Kept, second: Kept) -> list[float]:
    return [1.0 - statistics.jaccard(a, b) for a, b in zip(first, second, strict=True)]


def _intervals(values: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    """Mean over images and its 95 % bootstrap interval per site; values (images, sites)."""
    centre = values.mean(axis=0)
    if len(values) == 1:
        return centre.tolist(), centre.tolist(), centre.tolist()
    rows = np.random.default_rng(0).integers(0, len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), (0.025, 0.975), axis=0)
    return centre.tolist(), low.tolist(), high.tolist()


def _floor(distances: Distances) -> tuple[list[float], list[float]]:
    """Of one image the range over its noise draws; of several the interval of the mean over their draws."""
    if len(distances.noise) == 1:
        return distances.noise[0].min(axis=0).tolist(), distances.noise[0].max(axis=0).tolist()
    _, low, high = _intervals(distances.noise.mean(axis=1))
    return low, high


def _excess(distances: Distances) -> np.ndarray | None:
    """Holm-adjusted one-sided p-values per site that attacked images lie further off than their noisy copies.

    Sign-flip permutation test of the mean difference over images; None for a single image and without a noise control.
    """
    if len(distances.attacked) == 1 or not distances.has_floor:
        return None
    means = _flipped(distances.excess)
    return holm((means >= means[0] - 1e-12).mean(axis=0))


def _flipped(excess: np.ndarray) -> np.ndarray:
    """(flips, sites) the mean excess over images under flipped signs, the first row as it is; excess (images, sites)."""
    images = len(excess)
    if images <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**images)[:, None] >> np.arange(images)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, size=(2**EXACT_UP_TO - 1, images))
        signs = np.concatenate([np.ones((1, images)), 1.0 - 2.0 * drawn])
    # The first row flips nothing: it is the sample itself, which always counts as one of the possible outcomes.
    return signs @ excess / images


def _parts_span(sites: tuple[SiteComparison, ...], distances: Distances) -> SiteSpan | None:
    """Where a group drawn anew from these images would part, by the excess that each site needed here to count."""
    excess = distances.excess
    if len(excess) == 1 or not distances.has_floor:
        return None
    needed = _needed(_flipped(excess))
    # Of the sample itself the span tells what `parts_at` tells, whatever ties and the order of Holm's steps decided.
    above, mean = np.array([_is_above(site) for site in sites]), excess.mean(axis=0)
    needed = np.where(above, np.minimum(needed, mean - 1e-12), np.maximum(needed, mean + 1e-12))
    needed[[not site.is_eligible for site in sites]] = np.inf
    return span(_first_running(_weights(len(excess), DRAWS) @ excess > needed), [site.site for site in sites])


def _needed(means: np.ndarray) -> np.ndarray:
    """(sites,) the mean excess beyond which a site counts at its step of Holm's procedure; infinite for too few images."""
    flips, sites = means.shape
    steps = np.argsort(np.argsort((means >= means[0] - 1e-12).mean(axis=0), kind="stable"), kind="stable")
    allowed = np.floor(LEVEL / (sites - steps) * flips).astype(int)
    ordered = -np.sort(-means, axis=0)
    return np.where(allowed > 0, ordered[allowed, np.arange(sites)], np.inf)


def _is_above(site: SiteComparison) -> bool:
    if not site.is_eligible:
        return False
    if site.p_value is None:
        return site.distance > site.floor_high
    return site.p_value < LEVEL and site.distance > site.floor_low


def _first_running(above: np.ndarray) -> np.ndarray:
    """Per row of (rows, sites) the first of `RUNNING` true sites in a row; the number of sites for none."""
    rows, sites = above.shape
    running = np.ones((rows, sites - RUNNING + 1), dtype=bool)
    for step in range(RUNNING):
        running &= above[:, step : step + running.shape[1]]
    return np.where(running.any(axis=1), running.argmax(axis=1), sites)


def _weights(images: int, draws: int) -> np.ndarray:
    """(draws, images) the share that each image has in a sample drawn with replacement."""
    rows = np.random.default_rng(0).integers(0, images, size=(draws, images))
    return (rows[:, :, None] == np.arange(images)).mean(axis=1)


def _shared(pooled: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """(draws,) how many of the strongest share of (draws, channels) maps are among other ones, as many of them in each."""
    count = statistics.quota(pooled.shape[1], share)
    kept = np.argsort(-pooled, axis=1, kind="stable")[:, :count]
    return np.isin(kept, other).sum(axis=1)


def _flows(explanation: Explanation) -> tuple[list[float], list[float]]:
    """Attack conductance per site and the largest of its noise control, as shares of the margin the attack took.

    NaN where there is none yet.
    """
    last = explanation.flow[-1].sum(axis=1).mean()
    scale = 1.0 / last if abs(last) > 1e-9 else 0.0
    flows = [float(site.sum(axis=1).mean() * scale) for site in explanation.flow]
    floors = [
        float(np.abs(site.sum(axis=1)).max(initial=0.0 if len(site) else np.nan) * abs(scale))
        for site in explanation.noise_flow
    ]
    return flows, floors
