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

from engine import selection, tracing
from engine.datapaths import choosing, draws, scores
from engine.datapaths.cases import Case
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.tracing import PerMap

STEPS = 20
LEARNING_RATE = 0.03
SHARES = (0.05, 0.5)
"""Smallest and largest share of maps drawn."""
SHAKE = 0.1
"""Largest seeded change of a starting rank in [-1, 1]: maps that are as good as each other then change places with the
seed, so the seed check can tell that the choice between them means nothing."""
PASSES = STEPS + 2
"""Per image: the contributions it starts from, the answer to keep, and the steps."""


def train(bundle: ModelBundle, case: Case, *, seed: int, aim: Tensor | None = None) -> PerMap:
    """Return per site (images, channels) scores whose top shares keep the network's answer, everything else zeroed.

    aim: (images,) classes to reach instead of the case's targets (the wrong-class control). Images do not influence
    each other: the losses are summed, and the sizes drawn depend on `seed` alone.
    """
    case = case if aim is None else Case(case.images, aim)
    return tracing.batched_maps(bundle, len(case.images), lambda rows: _train(bundle, case.rows(rows), seed))


@torch.no_grad()
def wanted(bundle: ModelBundle, case: Case) -> Tensor:
    """Return (images, classes) the distributions to keep.

    The network's own where it answers the case's target; elsewhere the target alone, so that a method can be aimed.
    """
    own = bundle.logits(case.images).softmax(1)
    aimed = F.one_hot(case.targets, own.shape[1]).to(own)
    return torch.where((own.argmax(1) == case.targets)[:, None], own, aimed)


def divergence(bundle: ModelBundle, images: Tensor, gates: PerMap, distributions: Tensor) -> Tensor:
    """Return (images,) the Kullback-Leibler divergence of the gated network's answers from the distributions."""
    with bundle.visiting(tracing.Gates(gates, None)):
        logits = bundle.logits(images)
    return F.kl_div(logits.log_softmax(1), distributions, reduction="none").sum(dim=1)


def _train(bundle: ModelBundle, case: Case, seed: int) -> PerMap:
    values = _start(bundle, case, seed)
    network, distributions = precision.folded(bundle), wanted(bundle, case)
    optimiser = torch.optim.Adam(values, lr=LEARNING_RATE, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        low, high = (math.log(share) for share in SHARES)
        share = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        with torch.enable_grad():
            loss = _loss(network, case.images, values, share, distributions)
            gradients = torch.autograd.grad(loss, values)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient
        optimiser.step()
    return tuple(value.detach() - value.detach().amin(dim=1, keepdim=True) for value in values)


def _start(bundle: ModelBundle, case: Case, seed: int) -> list[Tensor]:
    """Per site (images, channels): the rank by sum |gradient x activation|, slightly shaken by the seed."""
    alone = torch.full_like(case.targets, -1)
    ranked = [_rank(site) for site in scores.at_once(bundle, scores.Question(case.images, case.targets, alone)).scores]
    shaken = tracing.split(draws.uniform(case.images, sum(s.channels for s in bundle.sites), seed=seed), bundle)
    return [(rank + SHAKE * (2 * drawn - 1)).requires_grad_() for rank, drawn in zip(ranked, shaken, strict=True)]


def _rank(site: Tensor) -> Tensor:
    """Ranks of (images, channels) scores >= 0 within the site, scaled to [-1, 1]; equal ones share their mean rank."""
    ordered = site.sort(dim=1).values
    below = torch.searchsorted(ordered, site * (1 - selection.EQUAL))
    upto = torch.searchsorted(ordered, site * (1 + selection.EQUAL), right=True)
    return (below + upto - 1).float() / max(1, site.shape[1] - 1) - 1.0


def _loss(bundle: ModelBundle, images: Tensor, values: list[Tensor], share: float, wanted: Tensor) -> Tensor:
    hard = choosing.share_of_each_site(tuple(value.detach() for value in values), share)
    # Straight-through: the forward pass sees the hard choice, the gradient goes to the scores.
    gates = tuple(kept.float() + value - value.detach() for kept, value in zip(hard, values, strict=True))
    return divergence(bundle, images, gates, wanted).sum()
