"""Three published ways to a sufficient datapath, each in its own form: sigmoid mask, routing gates, quadratic choice.

All three zero what they drop, at all sites at once. That criterion is met by meaningless masks too: always show the swap
control beside them. One mask per image: losses are summed, so images do not influence each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import draws, masks
from engine.datapaths.cases import Case
from engine.datapaths.scores import Contributions
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.selection import quota
from engine.tracing import PerMap

# Sigmoid mask: a size penalty as in Cao et al. (TVCG 2021), whose text could not be retrieved. The settings are those we
# measured; a penalty of 20 is better at 5 % kept maps and much worse from 20 % on.
SIGMOID_STEPS = 100
SIGMOID_LEARNING_RATE = 0.2
SIGMOID_PENALTY = 5.0
"""Weight of the mean of an image's mask."""
SIGMOID_START = 2.0
"""Before the sigmoid: 0.88 open. From 0 on, masks shrink to 5 % of the maps and rank nothing beyond that (measured)."""
SIGMOID_SHAKE = 0.1
"""Largest seeded change of a starting value."""

# Distillation-guided routing, Wang et al., CVPR 2018 ("Interpret neural networks by identifying critical data routing
# paths"), section 3.2 and the settings of section 4.1.
GATE_STEPS = 30
GATE_LEARNING_RATE = 0.1
GATE_MOMENTUM = 0.9
GATE_PENALTY = 0.05
"""Weight of the sum of an image's gates."""
GATE_HIGHEST = 10.0

# Liu et al., VAST 2018 ("Analyzing the noise robustness of deep neural networks"): quadratic loss of each layer, Frank-Wolfe.
QUADRATIC_CLASSES = 10
"""The most probable classes whose probabilities must be kept; one backward pass each."""
QUADRATIC_STEPS = 50
QUADRATIC_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of a site's maps for which the problem is solved; the mean of the solutions ranks the maps for every size."""


def sigmoid(bundle: ModelBundle, case: Case, *, seed: int) -> Contributions:
    """Return masks in (0, 1) that keep the answer and are small: divergence + penalty * mean of the mask, by Adam."""
    network, distributions = precision.folded(bundle), masks.wanted(bundle, case)
    drawn = draws.uniform(case.images, sum(site.channels for site in bundle.sites), seed=seed)
    values = (SIGMOID_START + SIGMOID_SHAKE * (2 * drawn - 1)).requires_grad_()
    optimiser = torch.optim.Adam([values], lr=SIGMOID_LEARNING_RATE)
    for _ in range(SIGMOID_STEPS):
        with torch.enable_grad():
            mask = values.sigmoid()
            kept = masks.divergence(network, case.images, tracing.split(mask, bundle), distributions)
            loss = kept.sum() + SIGMOID_PENALTY * mask.mean(dim=1).sum()
            values.grad = torch.autograd.grad(loss, values)[0]
        optimiser.step()
    return _found(tracing.split(values.detach().sigmoid(), bundle), case, SIGMOID_STEPS + 1)


def gates(bundle: ModelBundle, case: Case) -> Contributions:
    """Return gates in [0, 10] that keep the answer and have a small sum, started at 1, by gradient descent.

    Of each image the gates of least loss among those under which the target is still the answer; where there are none
    (a wrong class that was never reached) those of least loss.
    """
    network, distributions = precision.folded(bundle), masks.wanted(bundle, case)
    values = tracing.join(tracing.uniform_gates(bundle, len(case.images), 1.0))
    velocity = torch.zeros_like(values)
    best, least = values.clone(), values.new_full((len(values),), torch.inf)
    reached = torch.zeros_like(case.targets, dtype=torch.bool)
    for _ in range(GATE_STEPS):
        losses, answers, gradient = _routed(network, case, values, distributions)
        keeps = answers == case.targets
        better = (keeps & ~reached) | ((keeps == reached) & (losses < least))
        best, least, reached = torch.where(better[:, None], values, best), losses.where(better, least), reached | keeps
        velocity = GATE_MOMENTUM * velocity + gradient
        values = (values - GATE_LEARNING_RATE * velocity).clamp(0.0, GATE_HIGHEST)
    return _found(tracing.split(best, bundle), case, GATE_STEPS + 1)


def quadratic(bundle: ModelBundle, case: Case) -> Contributions:
    """Return how readily each map is kept when a site's dropped maps must not change the class probabilities, 0 to 1.

    Within each site min |C'(1 - z)|^2 over 0 <= z <= 1 with a fixed sum, C the first-order contributions to the
    probabilities of the most probable classes. It keeps what the network says of the image; the case's target plays
    no part.
    """
    rows = _probability_contributions(precision.folded(bundle), case.images)
    return _found(tuple(_mean_choice(site) for site in rows), case, rows[0].shape[1])


def frank_wolfe(contributions: Tensor, count: int) -> Tensor:
    """Return z (images, channels) in [0, 1] with sum `count` and least |C'(1 - z)|^2; C (images, classes, channels).

    From equal shares; every step goes towards the best set of `count` maps, as far as makes the loss least.
    """
    images, _, channels = contributions.shape
    kept = contributions.new_full((images, channels), count / channels)
    for _ in range(QUADRATIC_STEPS):
        lost = torch.einsum("icn,in->ic", contributions, 1 - kept)
        gain = torch.einsum("icn,ic->in", contributions, lost)
        order = gain.sort(dim=1, descending=True, stable=True).indices[:, :count]
        direction = torch.zeros_like(kept).scatter_(1, order, 1.0) - kept
        won = torch.einsum("icn,in->ic", contributions, direction)
        length = (lost * won).sum(dim=1) / (won * won).sum(dim=1)
        # Nothing to win in that direction (0/0): stay.
        kept = kept + direction * length.nan_to_num(0.0).clamp(0, 1)[:, None]
    return kept


def _routed(bundle: ModelBundle, case: Case, values: Tensor, distributions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (images,), answers (images,) and the gradient (images, all maps) under the gates."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        with bundle.visiting(tracing.Gates(tracing.split(leaf, bundle), None)):
            logits = bundle.logits(case.images)
        losses = -(distributions * logits.log_softmax(1)).sum(dim=1) + GATE_PENALTY * leaf.sum(dim=1)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), logits.detach().argmax(1), gradient


def _probability_contributions(bundle: ModelBundle, images: Tensor) -> tuple[Tensor, ...]:
    """Per site (images, classes, channels): gradient of each of the most probable classes' probability at open gates."""
    with torch.enable_grad():
        leaves = tuple(gate.requires_grad_() for gate in tracing.uniform_gates(bundle, len(images), 1.0))
        with bundle.visiting(tracing.Gates(leaves, None)):
            # In double precision: the probabilities of a confident network differ from 0 and 1 by less than float32 shows.
            probabilities = bundle.logits(images).double().softmax(1)
        likeliest = probabilities.topk(min(QUADRATIC_CLASSES, probabilities.shape[1]), dim=1).values
        rows = [torch.autograd.grad(column.sum(), leaves, retain_graph=True) for column in likeliest.unbind(dim=1)]
    return tuple(torch.stack(site, dim=1) for site in zip(*rows, strict=True))


def _mean_choice(contributions: Tensor) -> Tensor:
    channels = contributions.shape[2]
    chosen = [frank_wolfe(contributions, quota(channels, share)) for share in QUADRATIC_SHARES]
    return torch.stack(chosen).mean(dim=0)


def _found(per_map: PerMap, case: Case, passes: int) -> Contributions:
    return Contributions(per_map, {}, passes * len(case.images))
