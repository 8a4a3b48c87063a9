"""The sufficient datapath (Cao et al. 2021, subset selection by training a network of masks): one mask per image.

Our any-budget form: sizes are drawn anew every step and the forward pass uses the hard top share of every site, so one
short training ranks the maps for every size. The published criterion is met by meaningless masks too: always show the
swap control beside it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import tracing
from engine.datapaths import choosing, scores
from engine.datapaths.cases import Case
from engine.models.bundle import ModelBundle
from engine.tracing import PerMap

STEPS = 20
LEARNING_RATE = 0.03
SHARES = (0.05, 0.5)
"""Smallest and largest share of maps drawn."""


def train(bundle: ModelBundle, case: Case, *, seed: int, aim: Tensor | None = None) -> PerMap:
    """Return per site (images, channels) scores whose top shares keep the network's answer, everything else zeroed.

    aim: (images,) classes to reach instead of the network's own distribution (the wrong-class control). Images do not
    influence each other: the losses are summed, and the sizes drawn depend on `seed` alone.
    """
    start = scores.at_once(bundle, scores.Question(case.images, case.targets, torch.full_like(case.targets, -1))).scores
    values = [_rank(site).requires_grad_() for site in start]
    with torch.no_grad():
        wanted = bundle.logits(case.images).softmax(1)
    if aim is not None:
        wanted = F.one_hot(aim, len(bundle.classes)).to(wanted)
    optimiser = torch.optim.Adam(values, lr=LEARNING_RATE, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        low, high = (math.log(share) for share in SHARES)
        share = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        with torch.enable_grad():
            loss = _loss(bundle, case.images, values, share, wanted)
            gradients = torch.autograd.grad(loss, values)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        optimiser.step()
    return tuple(value.detach() - value.detach().amin(dim=1, keepdim=True) for value in values)


def _rank(site: Tensor) -> Tensor:
    """Ranks of (images, channels) within the site, scaled to [-1, 1]."""
    ranks = site.argsort(dim=1, stable=True).argsort(dim=1, stable=True).float()
    return ranks * (2.0 / max(1, site.shape[1] - 1)) - 1.0


def _loss(bundle: ModelBundle, images: Tensor, values: list[Tensor], share: float, wanted: Tensor) -> Tensor:
    hard = choosing.share_of_each_site(tuple(value.detach() for value in values), share)
    # Straight-through: the forward pass sees the hard choice, the gradient goes to the scores.
    gates = tuple(kept.float() + value - value.detach() for kept, value in zip(hard, values, strict=True))
    with bundle.visiting(tracing.Gates(gates, None)):
        logits = bundle.logits(images)
    return F.kl_div(logits.log_softmax(1), wanted, reduction="sum")
