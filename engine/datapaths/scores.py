"""Contribution scores: what each feature map adds to a logit margin, for all sites in one backward pass.

Computed on the bundle's folded twin: the same function up to float32 rounding, with less time and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine import tracing
from engine.models import precision
from engine.models.bundle import ModelBundle
from engine.tracing import Maps, PerMap, Trace

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
    parts = [compute(rows) for rows in torch.arange(count).split(tracing.batch_limit(bundle))]
    joined = tuple(torch.cat(site) for site in zip(*(part.scores for part in parts), strict=True))
    return Contributions(joined, {}, sum(part.passes for part in parts))


def between_runs(
    bundle: ModelBundle, question: Question, reference: Trace, *, taps: frozenset[int] = frozenset(), steps: int = STEPS
) -> Contributions:
    """Return joint mask integrated gradients between the reference run and the run of the images.

    All gates move together from 0 (the reference's maps) to 1 (the images'); the sum over all maps is the difference of
    the margin between the two runs, up to the quadrature of `steps` midpoints.
    """
    network, batch = precision.folded(bundle), len(question.images)
    averaged = tracing.GradientMean(taps, steps)
    total: list[Tensor] = []
    for step in range(steps):
        gates = tracing.uniform_gates(network, batch, (step + 0.5) / steps)
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
    found = between_runs(bundle, asked, donor, taps=taps, steps=steps)
    return Contributions(tuple(-site for site in found.scores), found.gradients, found.passes)


def at_once(bundle: ModelBundle, question: Question) -> Contributions:
    """Return the sum over positions of |gradient x activation| with a zero baseline: one pass, unsigned."""
    maps, gradients = _maps_and_gradients(precision.folded(bundle), question.images, question)
    scores = tuple((a * g).abs().sum(dim=(2, 3)).float() for a, g in zip(maps, gradients, strict=True))
    return Contributions(scores, {}, len(question.images))


def conductance(bundle: ModelBundle, question: Question, starts: Tensor, *, steps: int = STEPS) -> Contributions:
    """Return the conductance of every map on the straight line from `starts` to the images of the question, signed.

    Dhamdhere et al., ICLR 2019: each step's change of a map times the mean of the gradients at the step's ends, all sites in
    the same passes (Shrikumar et al. 2018). At every cut site the maps sum to the whole change of the margin, up to the
    quadrature of `steps`. From the clean image to the adversarial one it is the attack flow.
    """
    network, areas = precision.folded(bundle), tracing.Trapezoids(len(bundle.sites))
    for step in range(steps + 1):
        images = torch.lerp(starts, question.images, step / steps).detach().requires_grad_()
        with torch.enable_grad(), network.visiting(areas):
            margin = tracing.margins(network.logits(images), question.targets, question.rivals).sum()
        torch.autograd.grad(margin, images)
    return Contributions(tuple(areas.totals[k] for k in range(areas.sites)), {}, (steps + 1) * len(starts))


def _gate_gradients(
    bundle: ModelBundle, question: Question, gates: PerMap, baseline: Maps | None, averaged: tracing.GradientMean
) -> PerMap:
    """Gradients of the summed margin with respect to the gates; those at other taps are added to `averaged`."""
    with torch.enable_grad():
        leaves = tuple(gate.clone().requires_grad_() for gate in gates)
        gating = tracing.Gates(leaves, baseline)
        with bundle.visiting(lambda number, tensor: gating(number, averaged(number, tensor))):
            logits = bundle.logits(question.images)
        margin = tracing.margins(logits, question.targets, question.rivals).sum()
    gradients = torch.autograd.grad(margin, (*leaves, *averaged.ungated.values()))
    averaged.add_ungated(gradients[len(leaves) :])
    return gradients[: len(leaves)]


def _maps_and_gradients(bundle: ModelBundle, images: Tensor, question: Question) -> tuple[list[Tensor], list[Tensor]]:
    """The maps at every site and the gradients of the summed margin there."""
    sites = range(len(bundle.sites))
    recorder = tracing.Recorder(frozenset(sites))
    with torch.enable_grad(), bundle.visiting(recorder):
        margin = tracing.margins(bundle.logits(images.detach().requires_grad_()), question.targets, question.rivals)
    maps = [recorder.seen[k] for k in sites]
    gradients = torch.autograd.grad(margin.sum(), maps)
    return [site.detach() for site in maps], list(gradients)
