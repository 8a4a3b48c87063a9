"""Where two datapaths part: numpy only, from a stored examination, for any share of kept maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine import selection
from engine.records import ClassDatapaths, Comparison, Datapath, Examination, SiteComparison

RUNNING = 2
"""Sites in a row that must exceed the floor before the datapaths are said to part."""
LEVEL = 0.05
"""Of the family of all sites, by Holm's step-down procedure."""
DRAWS = 2000
EXACT_UP_TO = 12
"""Images up to which every sign is tried (4,096 at most); beyond, random signs."""
Kept = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Distances:
    """Per image and site, 1 - Jaccard of the clean datapath with another one."""

    attacked: np.ndarray
    """(images, sites): with the adversarial image's."""
    noise: np.ndarray
    """(images, draws, sites): with those of same-norm noisy copies."""


def compare(examination: Examination, share: float, classes: ClassDatapaths | None = None) -> Comparison:
    """Return per site the sets, distances and floors of an examination's datapaths at `share` kept maps per site.

    `target_only` is empty until the class datapaths are given. Distances are means over images with 95 % bootstrap
    intervals; a single pair has no interval, and its floor is the range over the noise draws.
    """
    clean = selection.per_site(examination.clean.strength, share)
    adversarial = selection.per_site(examination.adversarial.strength, share)
    noise = selection.per_site(examination.noise.strength, share)
    target = selection.per_site(classes.fooled, share) if classes else tuple(np.empty(0, int) for _ in clean)
    distances = _distances(examination, share)
    centres, lows, highs = _intervals(distances.attacked)
    floor_low, floor_high = _floor(distances)
    flows, floors = _flows(examination)
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
        )
        for k, site in enumerate(examination.sites)
    )
    return Comparison(share, sites, parts_at(sites), len(examination.outcomes))


def parts_at(sites: tuple[SiteComparison, ...]) -> str | None:
    """Return the first site whose distance exceeds its floor for `RUNNING` sites in a row, or None.

    Of several images: in Holm-corrected one-sided tests over all sites. Of a single pair: beyond every noise draw.
    """
    above = [
        site.distance > site.floor_high
        if site.p_value is None
        else site.p_value < LEVEL and site.distance > site.floor_low
        for site in sites
    ]
    for k in range(len(sites) - RUNNING + 1):
        if all(above[k : k + RUNNING]):
            return sites[k].site
    return None


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


def _distances(examination: Examination, share: float) -> Distances:
    images = len(examination.outcomes)
    draws = len(examination.noise.scores[0]) // images
    attacked = np.empty((images, len(examination.sites)))
    noise = np.empty((images, draws, len(examination.sites)))
    for image in range(images):
        own = _kept(examination.clean, image, share)
        attacked[image] = _apart(own, _kept(examination.adversarial, image, share))
        for draw in range(draws):
            noise[image, draw] = _apart(own, _kept(examination.noise, image * draws + draw, share))
    return Distances(attacked, noise)


def _kept(datapath: Datapath, row: int, share: float) -> Kept:
    return selection.per_site([np.abs(site[row]) for site in datapath.scores], share)


def _apart(first: Kept, second: Kept) -> list[float]:
    return [1.0 - selection.jaccard(a, b) for a, b in zip(first, second, strict=True)]


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

    Sign-flip permutation test of the mean difference over images; None for a single image.
    """
    excess = distances.attacked - distances.noise.mean(axis=1)
    images = len(excess)
    if images == 1:
        return None
    if images <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**images)[:, None] >> np.arange(images)) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, size=(2**EXACT_UP_TO - 1, images))
        signs = np.concatenate([np.ones((1, images)), 1.0 - 2.0 * drawn])
    # The first row flips nothing: it is the sample itself, which always counts as one of the possible outcomes.
    means = signs @ excess
    return holm((means >= means[0] - 1e-12).mean(axis=0))


def _flows(examination: Examination) -> tuple[list[float], list[float]]:
    """Attack flow per site and the largest of its noise control, as shares of the margin the attack took."""
    last = examination.flow[-1].sum(axis=1).mean()
    scale = 1.0 / last if abs(last) > 1e-9 else 0.0
    flows = [float(site.sum(axis=1).mean() * scale) for site in examination.flow]
    floors = [float(np.abs(site.sum(axis=1)).max() * abs(scale)) for site in examination.noise_flow]
    return flows, floors
