"""How much each channel contributes: gradients integrated between runs and along images, conductance, trained masks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from engine import hashing, statistics
from engine.attribution.baselines import Case
from engine.models import hooks
from engine.models import network as bundles
from engine.models.hooks import Maps, PerMap, Trace
from engine.models.network import ModelBundle
from engine.statistics import quota


def uniform(images: Tensor, count: int, *, seed: int) -> Tensor:
    """Return (images, count) float32 in [0, 1), each row drawn from `seed` and the pixels of its own image."""
    drawn = torch.empty(len(images), count)
    for row, image in enumerate(images.cpu().numpy()):
        own = int(hashing.content_key((seed, hashing.array_hash(image)))[:15], 16)
        drawn[row].uniform_(generator=torch.Generator().manual_seed(own))
    return drawn.to(images.device)


def eligible(bundle: ModelBundle) -> Tensor:
    """Return (all maps,) bool: False where a few maps carry any answer trivially (`Site.is_claimable`)."""
    flags = [torch.full((site.channels,), site.is_eligible) for site in bundle.sites]
    return torch.cat(flags).to(bundle.device)


def largest(bundle: ModelBundle, scores: PerMap, count: int) -> PerMap:
    """Return per site (batch, channels) bool: the `count` claimable maps with the largest |score| of each image."""
    flat = hooks.join(scores).abs().masked_fill(~eligible(bundle), -1.0)
    return hooks.split(_top(flat, count), bundle)


def ranks(bundle: ModelBundle, scores: PerMap) -> Tensor:
    """Return each map's place (images, all maps), 0 for the largest |score| among the maps that claims may use."""
    flat = hooks.join(scores).abs().masked_fill(~eligible(bundle), -1.0)
    return flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)


def at_random(bundle: ModelBundle, batch: int, count: int, generator: torch.Generator) -> PerMap:
    """Return per site (batch, channels) bool: `count` claimable maps drawn for each image."""
    total = sum(site.channels for site in bundle.sites)
    drawn = torch.rand(batch, total, generator=generator).to(bundle.device)
    return hooks.split(_top(drawn.masked_fill(~eligible(bundle), -1.0), count), bundle)


def share_of_each_site(scores: PerMap, share: float) -> PerMap:
    """Return per site (batch, channels) bool: the largest share of every site, at least one map."""
    return tuple(_top(site, quota(site.shape[1], share)) for site in scores)


def _top(flat: Tensor, count: int) -> Tensor:
    order = torch.sort(flat, dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)


STEPS = 5
"""Midpoints of an integrated path; ten change the restored share by less than three points (measured)."""


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """What a score answers: which maps carry `target` against `rival` in `images`, away from a reference run."""

    images: Tensor
    """(batch, channels, height, width) in [0, 1]."""
    targets: Tensor
    """(batch,) int64."""
    rivals: Tensor
    """(batch,) int64; -1 for the plain logit."""

    def rows(self, index: Tensor) -> Question:
        """Return some of the rows."""
        return Question(self.images[index], self.targets[index], self.rivals[index])


@dataclass(frozen=True, eq=False, slots=True)
class Contributions:
    """Scores of all maps and, where asked for, the path-averaged gradients at other taps."""

    scores: PerMap
    gradients: dict[int, Tensor]
    """By tap of the folded twin (`precision.folded`), which numbers its taps as the bundle does."""
    passes: int
    """Image-passes used: one forward and backward of one image."""


def batched(bundle: ModelBundle, count: int, compute: Callable[[Tensor], Contributions]) -> Contributions:
    """Return what `compute` makes of row numbers (rows,), as many at once as go through; gradients are not kept."""
    parts = [compute(rows) for rows in torch.arange(count).split(hooks.batch_limit(bundle))]
    joined = tuple(torch.cat(site) for site in zip(*(part.scores for part in parts), strict=True))
    return Contributions(joined, {}, sum(part.passes for part in parts))


def between_runs(
    bundle: ModelBundle, question: Question, reference: Trace, *, taps: frozenset[int] = frozenset(), steps: int = STEPS
) -> Contributions:
    """Return joint mask integrated gradients between the reference run and the run of the images.

    All gates move together from 0 (the reference's maps) to 1 (the images'); the sum over all maps is the difference of
    the margin between the two runs, up to the quadrature of `steps` midpoints.
    """
    network, batch = bundles.folded(bundle), len(question.images)
    averaged = hooks.GradientMean(taps, steps)
    total: list[Tensor] = []
    for step in range(steps):
        gates = hooks.uniform_gates(network, batch, (step + 0.5) / steps)
        gradients = _gate_gradients(network, question, gates, reference.maps, averaged)
        total = [a + g for a, g in zip(total, gradients, strict=True)] if total else list(gradients)
    return Contributions(tuple(site / steps for site in total), averaged.means, steps * batch)


def into_runs(
    bundle: ModelBundle,
    question: Question,
    starts: Tensor,
    donor: Trace,
    *,
    taps: frozenset[int] = frozenset(),
    steps: int = STEPS,
) -> Contributions:
    """Return the same for the transplant that is claimed: maps of the images' run copied into the live runs of `starts`.

    All gates move from the runs of `starts` (batch, channels, height, width) to the recorded maps of `donor`, the trace of
    the question's images. The other direction, replacing maps of the images' run, ranks worse for the transplant:
    ResNet-20, 16 maps, 100 pairs: 74 instead of 99 labels carried.
    """
    asked = Question(starts, question.targets, question.rivals)
    result = between_runs(bundle, asked, donor, taps=taps, steps=steps)
    return Contributions(tuple(-site for site in result.scores), result.gradients, result.passes)


def at_once(bundle: ModelBundle, question: Question) -> Contributions:
    """Return the sum over positions of |gradient x activation| with a zero baseline: one pass, unsigned."""
    maps, gradients = _maps_and_gradients(bundles.folded(bundle), question.images, question)
    scores = tuple((a * g).abs().sum(dim=(2, 3)).float() for a, g in zip(maps, gradients, strict=True))
    return Contributions(scores, {}, len(question.images))


def conductance(
    bundle: ModelBundle,
    question: Question,
    starts: Tensor,
    *,
    steps: int = STEPS,
    held: hooks.Transplant | None = None,
) -> Contributions:
    """Return the conductance of every map on the straight line from `starts` to the images of the question, signed.

    Dhamdhere et al., ICLR 2019: each step's change of a map times the mean of the gradients at the step's ends, all sites in
    the same passes (Shrikumar et al. 2018). At every cut site the maps sum to the whole change of the margin, up to the
    quadrature of `steps`. From the clean image to the adversarial one it is the attack conductance.

    held: maps that stay what they are in another run all along the way, so that nothing flows through them.
    """
    network, areas = bundles.folded(bundle), hooks.Trapezoids(len(bundle.sites))
    visit = areas if held is None else lambda number, tensor: areas(number, held(number, tensor))
    for step in range(steps + 1):
        images = torch.lerp(starts, question.images, step / steps).detach().requires_grad_()
        with torch.enable_grad(), network.visiting(visit):
            margin = hooks.margins(network.logits(images), question.targets, question.rivals).sum()
        torch.autograd.grad(margin, images)
    return Contributions(tuple(areas.totals[k] for k in range(areas.sites)), {}, (steps + 1) * len(starts))


def _gate_gradients(
    bundle: ModelBundle, question: Question, gates: PerMap, baseline: Maps | None, averaged: hooks.GradientMean
) -> PerMap:
    """Gradients of the summed margin with respect to the gates; those at other taps are added to `averaged`."""
    with torch.enable_grad():
        leaves = tuple(gate.clone().requires_grad_() for gate in gates)
        gating = hooks.Gates(leaves, baseline)
        with bundle.visiting(lambda number, tensor: gating(number, averaged(number, tensor))):
            logits = bundle.logits(question.images)
        margin = hooks.margins(logits, question.targets, question.rivals).sum()
    gradients = torch.autograd.grad(margin, (*leaves, *averaged.ungated.values()))
    averaged.add_ungated(gradients[len(leaves) :])
    return gradients[: len(leaves)]


def _maps_and_gradients(bundle: ModelBundle, images: Tensor, question: Question) -> tuple[list[Tensor], list[Tensor]]:
    """The maps at every site and the gradients of the summed margin there."""
    sites = range(len(bundle.sites))
    recorder = hooks.Recorder(frozenset(sites))
    with torch.enable_grad(), bundle.visiting(recorder):
        margin = hooks.margins(bundle.logits(images.detach().requires_grad_()), question.targets, question.rivals)
    maps = [recorder.seen[k] for k in sites]
    gradients = torch.autograd.grad(margin.sum(), maps)
    return [site.detach() for site in maps], list(gradients)


ENOUGH = 0.98
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Decision:
    """How well and how fast the reduced twin scored in one comparison; JSON-able, to be kept with the model."""

    content_hash: str
    device: str
    rank_correlation: float
    """Spearman over the unsigned scores of all maps, mean over the images."""
    speed: float
    """Time of float32 over time of bfloat16, median of rounds in turn."""

    @property
    def is_reduced(self) -> bool:
        """Whether scores should come from the reduced twin."""
        return self.rank_correlation >= ENOUGH and self.speed > 1.0


def decide(bundle: ModelBundle, question: Question, starts: Tensor, *, references: int) -> Decision:
    """Return the comparison of float32 and bfloat16 two-run scores, each image's averaged over its references.

    question, starts: rows of images against reference images, image-major, `references` rows for each image.
    """
    pair = bundle, bundles.reduced(bundle)
    runs = [hooks.record(each, starts) for each in pair]
    results = [between_runs(each, question, run) for each, run in zip(pair, runs, strict=True)]
    speeds = []
    for _ in range(ROUNDS):
        seconds = []
        for each, run in zip(pair, runs, strict=True):
            started = time.perf_counter()
            # Copying one score to the host waits for the device.
            float(between_runs(each, question, run).scores[0].sum())
            seconds.append(time.perf_counter() - started)
        speeds.append(seconds[0] / seconds[1])
    return Decision(
        content_hash=bundle.content_hash,
        device=str(bundle.device),
        rank_correlation=rank_correlation(*(_averaged(each.scores, references) for each in results)),
        speed=float(np.median(speeds)),
    )


def scorer(bundle: ModelBundle, decision: Decision) -> ModelBundle:
    """Return the bundle to score with, which must record the reference runs too; claims are evaluated on `bundle`."""
    return bundles.reduced(bundle) if decision.is_reduced else bundle


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return the mean Spearman correlation of |first| and |second| over the images, each (images, all maps)."""
    pairs = zip(first.abs().float().cpu().numpy(), second.abs().float().cpu().numpy(), strict=True)
    return float(np.mean([stats.spearmanr(a, b).statistic for a, b in pairs]))


def _averaged(per_map: hooks.PerMap, references: int) -> Tensor:
    joined = hooks.join(per_map)
    return joined.view(-1, references, joined.shape[1]).mean(dim=1)


MASK_STEPS = 20
LEARNING_RATE = 0.03
SHARES = (0.05, 0.5)
"""Smallest and largest share of maps drawn."""
SHAKE = 0.1
"""Largest seeded change of a starting rank in [-1, 1]: maps that are as good as each other then change places with the
seed, so the seed check can tell that the choice between them means nothing."""
PASSES = MASK_STEPS + 2
"""Per image: the contributions it starts from, the answer to keep, and the steps."""


def train(bundle: ModelBundle, case: Case, *, seed: int, aim: Tensor | None = None) -> PerMap:
    """Return per site (images, channels) scores whose top shares keep the network's answer, everything else zeroed.

    aim: (images,) classes to reach instead of the case's targets (the wrong-class control). Images do not influence
    each other: the losses are summed, and the sizes drawn depend on `seed` alone.
    """
    case = case if aim is None else Case(case.images, aim)
    return hooks.batched_maps(bundle, len(case.images), lambda rows: _train(bundle, case.rows(rows), seed))


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
    with bundle.visiting(hooks.Gates(gates, None)):
        logits = bundle.logits(images)
    return F.kl_div(logits.log_softmax(1), distributions, reduction="none").sum(dim=1)


def _train(bundle: ModelBundle, case: Case, seed: int) -> PerMap:
    values = _start(bundle, case, seed)
    network, distributions = bundles.folded(bundle), wanted(bundle, case)
    optimiser = torch.optim.Adam(values, lr=LEARNING_RATE, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(MASK_STEPS):
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
    ranked = [_rank(site) for site in at_once(bundle, Question(case.images, case.targets, alone)).scores]
    shaken = hooks.split(uniform(case.images, sum(s.channels for s in bundle.sites), seed=seed), bundle)
    return [(rank + SHAKE * (2 * drawn - 1)).requires_grad_() for rank, drawn in zip(ranked, shaken, strict=True)]


def _rank(site: Tensor) -> Tensor:
    """Ranks of (images, channels) scores >= 0 within the site, scaled to [-1, 1]; equal ones share their mean rank."""
    ordered = site.sort(dim=1).values
    below = torch.searchsorted(ordered, site * (1 - statistics.EQUAL))
    upto = torch.searchsorted(ordered, site * (1 + statistics.EQUAL), right=True)
    return (below + upto - 1).float() / max(1, site.shape[1] - 1) - 1.0


def _loss(bundle: ModelBundle, images: Tensor, values: list[Tensor], share: float, wanted: Tensor) -> Tensor:
    hard = share_of_each_site(tuple(value.detach() for value in values), share)
    # Straight-through: the forward pass sees the hard choice, the gradient goes to the scores.
    gates = tuple(kept.float() + value - value.detach() for kept, value in zip(hard, values, strict=True))
    return divergence(bundle, images, gates, wanted).sum()


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
    network, distributions = bundles.folded(bundle), wanted(bundle, case)
    drawn = uniform(case.images, sum(site.channels for site in bundle.sites), seed=seed)
    values = (SIGMOID_START + SIGMOID_SHAKE * (2 * drawn - 1)).requires_grad_()
    optimiser = torch.optim.Adam([values], lr=SIGMOID_LEARNING_RATE)
    for _ in range(SIGMOID_STEPS):
        with torch.enable_grad():
            mask = values.sigmoid()
            kept = divergence(network, case.images, hooks.split(mask, bundle), distributions)
            loss = kept.sum() + SIGMOID_PENALTY * mask.mean(dim=1).sum()
            values.grad = torch.autograd.grad(loss, values)[0]
        optimiser.step()
    return _of_all_images(hooks.split(values.detach().sigmoid(), bundle), case, SIGMOID_STEPS + 1)


def gates(bundle: ModelBundle, case: Case) -> Contributions:
    """Return gates in [0, 10] that keep the answer and have a small sum, started at 1, by gradient descent.

    Of each image the gates of least loss among those under which the target is still the answer; where there are none
    (a wrong class that was never reached) those of least loss.
    """
    network, distributions = bundles.folded(bundle), wanted(bundle, case)
    values = hooks.join(hooks.uniform_gates(bundle, len(case.images), 1.0))
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
    return _of_all_images(hooks.split(best, bundle), case, GATE_STEPS + 1)


def quadratic(bundle: ModelBundle, case: Case) -> Contributions:
    """Return how readily each map is kept when a site's dropped maps must not change the class probabilities, 0 to 1.

    Within each site min |C'(1 - z)|^2 over 0 <= z <= 1 with a fixed sum, C the first-order contributions to the
    probabilities of the most probable classes. It keeps what the network says of the image; the case's target plays
    no part.
    """
    rows = _probability_contributions(bundles.folded(bundle), case.images)
    return _of_all_images(tuple(_mean_choice(site) for site in rows), case, rows[0].shape[1])


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
        with bundle.visiting(hooks.Gates(hooks.split(leaf, bundle), None)):
            logits = bundle.logits(case.images)
        losses = -(distributions * logits.log_softmax(1)).sum(dim=1) + GATE_PENALTY * leaf.sum(dim=1)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), logits.detach().argmax(1), gradient


def _probability_contributions(bundle: ModelBundle, images: Tensor) -> tuple[Tensor, ...]:
    """Per site (images, classes, channels): gradient of each of the most probable classes' probability at open gates."""
    with torch.enable_grad():
        leaves = tuple(gate.requires_grad_() for gate in hooks.uniform_gates(bundle, len(images), 1.0))
        with bundle.visiting(hooks.Gates(leaves, None)):
            # In double precision: the probabilities of a confident network differ from 0 and 1 by less than float32 shows.
            probabilities = bundle.logits(images).double().softmax(1)
        likeliest = probabilities.topk(min(QUADRATIC_CLASSES, probabilities.shape[1]), dim=1).values
        rows = [torch.autograd.grad(column.sum(), leaves, retain_graph=True) for column in likeliest.unbind(dim=1)]
    return tuple(torch.stack(site, dim=1) for site in zip(*rows, strict=True))


def _mean_choice(contributions: Tensor) -> Tensor:
    channels = contributions.shape[2]
    chosen = [frank_wolfe(contributions, quota(channels, share)) for share in QUADRATIC_SHARES]
    return torch.stack(chosen).mean(dim=0)


def _of_all_images(per_map: PerMap, case: Case, passes: int) -> Contributions:
    return Contributions(per_map, {}, passes * len(case.images))
