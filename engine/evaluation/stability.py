"""How alike a method's datapaths are: under another seed, small noise, another class, and shuffled weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine import controls, statistics
from engine.datapaths import choosing
from engine.evaluation import pairing, rankings
from engine.evaluation.pairing import MatchedImages
from engine.methods import RANDOM, Method
from engine.models import shuffled
from engine.models.bundle import ModelBundle
from engine.statistics import Estimate
from engine.tracing import PerMap

SHARE = 0.2


@dataclass(frozen=True, slots=True)
class ClassJaccard:
    """Similarity of datapaths of images of one class, and of images of two."""

    within: Estimate | None
    """None where fewer than two images have another one of their class."""
    between: Estimate


@dataclass(frozen=True, slots=True)
class Stability:
    """Means over images of the Jaccard similarity of the kept fifths, itself a mean over sites. Chance is about 0.11."""

    seed_jaccard: Estimate
    """Another seed, which also draws other partners as reference runs."""
    noise_jaccard: Estimate
    """The same image with a little Gaussian noise."""
    class_jaccard: ClassJaccard
    random_weights_jaccard: Estimate
    """The same network with shuffled weights: must fall to chance."""


def stability(bundle: ModelBundle, method: Method, subjects: MatchedImages, own: PerMap, *, seed: int) -> Stability:
    """Return how a method's scores `own` of the clean images hold up."""
    ask = rankings.asked(subjects)
    redrawn = pairing.matched(bundle, subjects.samples, subjects.images, subjects.labels, seed=seed + 1)
    seeded, _ = rankings.score(bundle, method, rankings.asked(redrawn), seed=seed + 1)
    noisy = replace(ask, images=controls.shaken(subjects.images, seed))
    shaken, _ = rankings.score(bundle, method, noisy, seed=_fresh(method, seed, 2))
    with shuffled.weights(bundle, seed):
        scrambled, _ = rankings.score(bundle, method, ask, seed=_fresh(method, seed, 3))
    kept = _kept(own, seed)
    return Stability(
        seed_jaccard=_alike(kept, _kept(seeded, seed + 1)),
        noise_jaccard=_alike(kept, _kept(shaken, seed + 2)),
        class_jaccard=between_classes(kept, subjects.labels),
        random_weights_jaccard=_alike(kept, _kept(scrambled, seed + 3)),
    )


def between_classes(kept: PerMap, labels: Tensor) -> ClassJaccard:
    """Return the similarity of datapaths within and between classes, averaged per image over all others of the kind.

    kept: per site (images, channels) bool; labels: (images,).
    """
    alike = torch.stack([_pairwise(site.float()) for site in kept]).mean(0).cpu().numpy()
    same = (labels[:, None] == labels[None]).cpu().numpy()
    mates = same & ~np.eye(len(alike), dtype=bool)
    has_mate = mates.any(axis=1)
    within = (alike * mates).sum(axis=1)[has_mate] / mates.sum(axis=1)[has_mate]
    between = (alike * ~same).sum(axis=1) / (~same).sum(axis=1)
    return ClassJaccard(statistics.mean_of_several(within), statistics.mean(between))


def _kept(per_map: PerMap, seed: int) -> PerMap:
    """The strongest fifth of every site; which of equal ones, is drawn anew for each image.

    Dead maps and copies would else be kept at the same places by every score, and read as agreement.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for site in per_map:
        order = torch.rand(site.shape, generator=generator).argsort(1).to(site.device)
        (kept,) = choosing.share_of_each_site((site.abs().gather(1, order),), SHARE)
        found.append(torch.zeros_like(kept).scatter(1, order, kept))
    return tuple(found)


def _alike(kept: PerMap, there: PerMap) -> Estimate:
    """Similarity of each image's kept maps with those of other scores of the same images."""
    ratios = [(a & b).sum(1) / (a | b).sum(1) for a, b in zip(kept, there, strict=True)]
    return statistics.mean(torch.stack(ratios).mean(0).cpu().numpy())


def _pairwise(kept: Tensor) -> Tensor:
    """(images, images) Jaccard similarities of rows of (images, channels) zeros and ones."""
    shared, sizes = kept @ kept.T, kept.sum(1)
    return shared / (sizes[:, None] + sizes[None] - shared)


def _fresh(method: Method, seed: int, draw: int) -> int:
    """Random scores look at nothing but their seed: each comparison draws new ones, so that it shows chance."""
    return seed + draw if method == RANDOM else seed
