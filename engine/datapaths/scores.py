"""Contribution scores: what each feature map adds to a logit margin, for all sites in one backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import tracing
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


@dataclass(frozen=True, eq=False, slots=True)
class Contributions:
    """Scores of all maps and, where asked for, the path-averaged gradients at other taps."""

    scores: PerMap
    gradients: dict[int, Tensor]
    passes: int
    """Image-passes used: one forward and backward of one image."""


def between_runs(
    bundle: ModelBundle, question: Question, reference: Trace, *, taps: frozenset[int] = frozenset()
) -> Contributions:
    """Return joint mask integrated gradients between the reference run and the run of the images.

    All gates move together from 0 (the reference's maps) to 1 (the images'); the sum over all maps is the difference of
    the margin between the two runs, up to the quadrature of `STEPS` midpoints.
    """
    batch = len(question.images)
    total: list[Tensor] = []
    averaged: dict[int, Tensor] = {}
    for step in range(STEPS):
        gates = tracing.uniform_gates(bundle, batch, (step + 0.5) / STEPS)
        gradients, seen = _gate_gradients(bundle, question, gates, reference.maps, taps)
        total = [a + g for a, g in zip(total, gradients, strict=True)] if total else list(gradients)
        for number, gradient in seen.items():
            averaged[number] = averaged.get(number, 0) + gradient / STEPS
    return Contributions(tuple(site / STEPS for site in total), averaged, STEPS * batch)


def at_once(bundle: ModelBundle, question: Question) -> Contributions:
    """Return the sum over positions of |gradient x activation| with a zero baseline: one pass, unsigned."""
    maps, gradients = _maps_and_gradients(bundle, question.images, question)
    scores = tuple((a * g).abs().sum(dim=(2, 3)) for a, g in zip(maps, gradients, strict=True))
    return Contributions(scores, {}, len(question.images))


def attack_flow(bundle: ModelBundle, question: Question, start: Tensor) -> Contributions:
    """Return per map what its change from the run of `start` to the run of `question.images` does to the margin.

    Integrated over the straight line between the two images: each step's change of the maps times the mean of the
    gradients at its ends (trapezoids). Signed; at every cut site the sum over maps is the whole change of the margin, up
    to the quadrature of `STEPS` steps.
    """
    total: list[Tensor] = []
    previous: tuple[list[Tensor], list[Tensor]] | None = None
    for step in range(STEPS + 1):
        current = _maps_and_gradients(bundle, torch.lerp(start, question.images, step / STEPS), question)
        if previous is not None:
            areas = [
                ((a - b) * (g + h)).sum(dim=(2, 3)) / 2
                for a, b, g, h in zip(current[0], previous[0], current[1], previous[1], strict=True)
            ]
            total = [a + b for a, b in zip(total, areas, strict=True)] if total else areas
        previous = current
    return Contributions(tuple(total), {}, (STEPS + 1) * len(start))


def _gate_gradients(
    bundle: ModelBundle, question: Question, gates: PerMap, baseline: Maps | None, taps: frozenset[int]
) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
    """Gradients of the summed margin with respect to the gates and to the tensors at `taps`."""
    recorder = tracing.Recorder(taps)
    with torch.enable_grad():
        leaves = tuple(gate.clone().requires_grad_() for gate in gates)
        gating = tracing.Gates(leaves, baseline)
        with bundle.visiting(lambda number, tensor: gating(number, recorder(number, tensor))):
            logits = bundle.logits(question.images)
        margin = tracing.margins(logits, question.targets, question.rivals).sum()
    # Before the first gate nothing needs a gradient, so taps there were recorded without one.
    live = {number: tensor for number, tensor in recorder.seen.items() if tensor.requires_grad}
    gradients = torch.autograd.grad(margin, [*leaves, *live.values()])
    return gradients[: len(leaves)], dict(zip(live, gradients[len(leaves) :], strict=True))


def _maps_and_gradients(bundle: ModelBundle, images: Tensor, question: Question) -> tuple[list[Tensor], list[Tensor]]:
    """The maps at every site and the gradients of the summed margin there."""
    sites = range(len(bundle.sites))
    recorder = tracing.Recorder(frozenset(sites))
    with torch.enable_grad(), bundle.visiting(recorder):
        margin = tracing.margins(bundle.logits(images.detach().requires_grad_()), question.targets, question.rivals)
    maps = [recorder.seen[k] for k in sites]
    gradients = torch.autograd.grad(margin.sum(), maps)
    return [site.detach() for site in maps], list(gradients)
