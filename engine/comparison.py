"""Where two datapaths part and merge: numpy only, from a stored examination, for any share of kept maps."""

from __future__ import annotations

import numpy as np

from engine import selection
from engine.records import Comparison, Examination, SiteComparison

RUNNING = 2
"""Sites in a row that must exceed the floor before the datapaths are said to part."""


def compare(examination: Examination, share: float) -> Comparison:
    """Return per site the sets, distance and floor of an examination's datapaths at `share` kept maps per site."""
    clean = selection.per_site(examination.clean.strength, share)
    adversarial = selection.per_site(examination.adversarial.strength, share)
    low, high = _noise_distances(examination, clean, share)
    flows, floors = _flows(examination)
    sites = tuple(
        SiteComparison(
            site=site.name,
            clean_only=_members(np.setdiff1d(clean[k], adversarial[k])),
            shared=_members(np.intersect1d(clean[k], adversarial[k])),
            adversarial_only=_members(np.setdiff1d(adversarial[k], clean[k])),
            distance=1.0 - selection.jaccard(clean[k], adversarial[k]),
            floor_low=low[k],
            floor_high=high[k],
            flow=flows[k],
            flow_floor=floors[k],
        )
        for k, site in enumerate(examination.sites)
    )
    return Comparison(share, sites, parts_at(sites))


def parts_at(sites: tuple[SiteComparison, ...]) -> str | None:
    """Return the first site whose distance exceeds its floor for `RUNNING` sites in a row, or None."""
    above = [site.distance > site.floor_high for site in sites]
    for k in range(len(sites) - RUNNING + 1):
        if all(above[k : k + RUNNING]):
            return sites[k].site
    return None


def _members(indices: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in indices)


def _noise_distances(
    examination: Examination, clean: tuple[np.ndarray, ...], share: float
) -> tuple[list[float], list[float]]:
    """Range over the draws of the distance between the clean datapath and that of its noisy copies."""
    images = len(examination.outcomes)
    draws = len(examination.noise.scores[0]) // images
    distances = np.empty((draws, len(clean)))
    for draw in range(draws):
        rows = np.arange(images) * draws + draw
        kept = selection.per_site(selection.strength([site[rows] for site in examination.noise.scores]), share)
        distances[draw] = [1.0 - selection.jaccard(a, b) for a, b in zip(clean, kept, strict=True)]
    return distances.min(axis=0).tolist(), distances.max(axis=0).tolist()


def _flows(examination: Examination) -> tuple[list[float], list[float]]:
    """Attack flow per site and the largest of its noise control, as shares of the margin the attack took."""
    last = examination.flow[-1].sum(axis=1).mean()
    scale = 1.0 / last if abs(last) > 1e-9 else 0.0
    flows = [float(site.sum(axis=1).mean() * scale) for site in examination.flow]
    floors = [float(np.abs(site.sum(axis=1)).max() * abs(scale)) for site in examination.noise_flow]
    return flows, floors
