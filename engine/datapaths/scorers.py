"""The methods of `engine.methods` as functions of a bundle, a case, its references and a seed."""

from __future__ import annotations

import torch

from engine import tracing
from engine.datapaths import draws, masks, published, scores
from engine.datapaths.cases import Case, References
from engine.datapaths.scores import Contributions
from engine.models.bundle import ModelBundle

CONDUCTANCE_STEPS = 10


def mask(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return the trained mask that keeps the output."""
    return Contributions(masks.train(bundle, case, seed=seed), {}, masks.PASSES * len(case.images))


def sigmoid(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return the mask that is trained with a penalty on its size."""
    return published.sigmoid(bundle, case, seed=seed)


def gates(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the gates of distillation-guided routing."""
    return published.gates(bundle, case)


def quadratic(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the shares of the quadratic choice."""
    return published.quadratic(bundle, case)


def conductance(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the conductance from the mean colour."""
    # Zero at the network's own input, where captum starts too; from black it finds worse datapaths (measured).
    starts = torch.zeros_like(case.images) + bundle.mean
    return scores.conductance(bundle, _alone(case), starts, steps=CONDUCTANCE_STEPS)


def gradient(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the sum of |gradient x activation|."""
    return scores.at_once(bundle, _alone(case))


def activation(bundle: ModelBundle, case: Case, _references: References, _seed: int) -> Contributions:
    """Return the mean of |activation|."""
    maps = tracing.record(bundle, case.images).maps
    return Contributions(tuple(site.abs().mean(dim=(2, 3)) for site in maps), {}, len(case.images))


def random(bundle: ModelBundle, case: Case, _references: References, seed: int) -> Contributions:
    """Return a random order, each image's own."""
    drawn = draws.uniform(case.images, sum(site.channels for site in bundle.sites), seed=seed)
    return Contributions(tracing.split(drawn, bundle), {}, 0)


def _alone(case: Case) -> scores.Question:
    """The plain logit of each image's target."""
    return scores.Question(case.images, case.targets, torch.full_like(case.targets, -1))
