"""Conductance (Dhamdhere et al., ICLR 2019): what passes through each map on the way from a starting image to the image."""

from __future__ import annotations

import torch
from torch import Tensor

from engine import tracing
from engine.datapaths.scores import Contributions, Question
from engine.models import precision
from engine.models.bundle import ModelBundle

STEPS = 10


def along(bundle: ModelBundle, question: Question, starts: Tensor, *, steps: int = STEPS) -> Contributions:
    """Return the conductance of every map on the straight line from `starts` to the images of the question, signed.

    Each step's change of a map times the mean of the gradients at the step's ends, all sites in the same passes (Shrikumar
    et al. 2018). At every cut site the maps sum to the whole change of the margin, up to the quadrature of `steps`.
    """
    network, areas = precision.folded(bundle), tracing.Trapezoids(len(bundle.sites))
    for step in range(steps + 1):
        images = torch.lerp(starts, question.images, step / steps).detach().requires_grad_()
        with torch.enable_grad(), network.visiting(areas):
            margin = tracing.margins(network.logits(images), question.targets, question.rivals).sum()
        torch.autograd.grad(margin, images)
    return Contributions(tuple(areas.totals[k] for k in range(areas.sites)), {}, (steps + 1) * len(starts))
