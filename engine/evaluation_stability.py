"""How alike a method's datapaths are: under another seed, small noise, another class, and shuffled weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import certificates, evaluation_rankings, evaluation_subjects, statistics
from engine.datapaths import choosing
from engine.errors import BadInput
from engine.evaluation_rankings import Ask
from engine.evaluation_subjects import Subjects
from engine.models import shuffled
from engine.models.bundle import ModelBundle
from engine.statistics import Estimate
from engine.tracing import PerMap


@dataclass(frozen=True, slots=True)
class ClassJaccard:
    """Similarity of datapaths of images of one class, and of images of two."""

    within: Estimate | None
    """None where no two images share a class."""
    between: Estimate


@dataclass(frozen=True, slots=True)
class Stability:
    """Mean over images of the Jaccard similarity of the kept fifths, itself the mean over sites. Chance is 0.11."""

    seed_jaccard: Estimate
    """Another seed, which also draws other partners as reference runs."""
    noise_jaccard: Estimate
    """The same image with a little Gaussian noise."""
    class_jaccard: ClassJaccard
    random_weights_jaccard: Estimate
    """The same network with shuffled weights: must fall to chance."""


def stability(bundle: ModelBundle, method: str, subjects: Subjects, own: PerMap, *, seed: int) -> Stability:
    """Return how a method's scores `own` for the clean images hold up."""
    ask = evaluation_rankings.asked(subjects)
    redrawn = evaluation_subjects.matched(bundle, subjects.samples, subjects.images, subjects.labels, seed=seed + 1)
    noisy = Ask(_shaken(subjects.images, seed), ask.targets, ask.starts, ask.rivals)
    seeded = evaluation_rankings.score(bundle, method, evaluation_rankings.asked(redrawn), seed=seed + 1)[0]
    shaken = evaluation_rankings.score(bundle, method, noisy, seed=seed)[0]
    with shuffled.weights(bundle, seed):
        # The scores of `random` do not look at the weights: another draw stands for them.
        drawn = seed + 2 if method == "random" else seed
        scrambled = evaluation_rankings.score(bundle, method, ask, seed=drawn)[0]
    if method == "random":
        shaken = evaluation_rankings.score(bundle, method, ask, seed=seed + 3)[0]
    kept = _kept(own)
    return Stability(
        seed_jaccard=statistics.mean(_jaccard(kept, _kept(seeded))),
        noise_jaccard=statistics.mean(_jaccard(kept, _kept(shaken))),
        class_jaccard=between_classes(kept, subjects.labels),
        random_weights_jaccard=statistics.mean(_jaccard(kept, _kept(scrambled))),
    )
