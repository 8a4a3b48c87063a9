"""The sign-gradient family: FGSM, PGD in both norms and MI-FGSM as ascents of one loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks.catalogue import Fgsm, GradientAttack, MiFgsm, PgdL2
from engine.attacks.seeding import Purpose, drawn

TINIEST = torch.finfo(torch.float32).tiny
"""Guards divisions by a gradient's size: without it one zero gradient makes MI-FGSM's momentum NaN for good."""
STRIDE = Fraction(5, 2)
"""A PGD step is this many times epsilon / steps (Madry et al. 2018): enough to cross the whole budget."""


class Classifier(Protocol):
    """What an attack needs of a model."""

    @property
    def network(self) -> torch.nn.Module: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def device(self) -> torch.device: ...

    def logits(self, images: Tensor) -> Tensor: ...


class Ascent(Protocol):
    """How one gradient moves the change of an image."""

    @property
    def steps(self) -> int: ...

    def advance(self, images: Tensor, change: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next (change, momentum), all (batch, channels, height, width); images + change in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True)
class SignAscent:
    """Steps of one size along the sign of the gradient, within epsilon of every pixel."""

    epsilon: float
    size: float
    steps: int

    def advance(self, images: Tensor, change: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        moved = (change + self.size * gradient.sign()).clamp(-self.epsilon, self.epsilon)
        return _visible(images, moved), momentum


@dataclass(frozen=True, slots=True)
class MomentumAscent:
    """MI-FGSM, algorithm 1 of Dong et al. 2018: gradients are scaled to mean size one and summed before the sign."""

    epsilon: float
    size: float
    steps: int
    decay: float

    def advance(self, images: Tensor, change: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(TINIEST)
        momentum = self.decay * momentum + gradient / scale
        moved = (change + self.size * momentum.sign()).clamp(-self.epsilon, self.epsilon)
        return _visible(images, moved), momentum


@dataclass(frozen=True, slots=True)
class LengthAscent:
    """Steps of one length along the gradient, within a ball of radius epsilon."""

    epsilon: float
    size: float
    steps: int

    def advance(self, images: Tensor, change: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        moved = change + self.size * gradient / _length(gradient).clamp_min(TINIEST)
        shrink = (self.epsilon / _length(moved).clamp_min(TINIEST)).clamp_max(1.0)
        return _visible(images, moved * shrink), momentum


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Images to attack and where the ascent starts: (batch, channels, height, width), labels (batch,)."""

    images: Tensor
    labels: Tensor
    start: Tensor
    """Change of each image at the outset."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What an ascent found for each image."""

    points: Tensor
    """The point of the highest loss; where only others were accepted, the first of those."""
    last: Tensor
    """Where the ascent ended."""
    broken: Tensor
    """(batch,) bool: logits or gradient were not finite, and the image was given up."""


Accept = Callable[[Tensor, Tensor], Tensor]
"""Given (rows,) indices into the task and their points, returns (rows,) bool: the attack has succeeded there."""


def ascend(bundle: Classifier, task: Task, ascent: Ascent, accept: Accept) -> Found:
    """Climb the cross-entropy from `task.start` for all steps, also beyond the first success: the strongest point counts."""
    climb = _Climb.at(task)
    momentum = torch.zeros_like(task.start)
    for step in range(ascent.steps + 1):
        rows = (~climb.broken).nonzero()[:, 0]
        if not len(rows):
            break
        points = task.images[rows] + climb.change[rows]
        logits, losses, gradient = _differentiate(bundle, points, task.labels[rows])
        sound = logits.isfinite().all(dim=1) & gradient.flatten(1).isfinite().all(dim=1)
        climb.broken[rows[~sound]] = True
        climb.note_success(rows, sound & (logits.argmax(dim=1) != task.labels[rows]), points, accept)
        # The loss of the start does not count: a masked gradient must not pass off a clean image as an attacked one.
        climb.note_loss(rows, sound & (step > 0), losses)
        if step < ascent.steps:
            going = rows[sound]
            climb.change[going], momentum[going] = ascent.advance(
                task.images[going], climb.change[going], momentum[going], gradient[sound]
            )
    return Found(task.images + climb.chosen(task, accept), task.images + climb.change, climb.broken)


@dataclass(slots=True)
class _Climb:
    """Where every image of an ascent is and the best it has seen, as changes (batch, channels, height, width)."""

    change: Tensor
    best: Tensor
    best_loss: Tensor
    success: Tensor
    succeeded: Tensor
    broken: Tensor

    @classmethod
    def at(cls, task: Task) -> _Climb:
        never = torch.zeros_like(task.labels, dtype=torch.bool)
        lowest = torch.full_like(task.labels, -torch.inf, dtype=torch.float64)
        return cls(task.start.clone(), task.start.clone(), lowest, task.start.clone(), never, never.clone())

    def note_success(self, rows: Tensor, fooled: Tensor, points: Tensor, accept: Accept) -> None:
        """Keep the first point of an image that is accepted."""
        new = fooled & ~self.succeeded[rows]
        if new.any():
            accepted = rows[new][accept(rows[new], points[new])]
            self.success[accepted] = self.change[accepted]
            self.succeeded[accepted] = True

    def note_loss(self, rows: Tensor, counts: Tensor, losses: Tensor) -> None:
        """Keep the point of an image whose loss is the highest so far."""
        better = rows[counts & (losses > self.best_loss[rows])]
        self.best[better] = self.change[better]
        self.best_loss[rows] = torch.where(counts, losses.maximum(self.best_loss[rows]), self.best_loss[rows])

    def chosen(self, task: Task, accept: Accept) -> Tensor:
        """The strongest change, unless only another one succeeds."""
        rows = self.succeeded.nonzero()[:, 0]
        result = self.best.clone()
        if len(rows):
            lost = rows[~accept(rows, task.images[rows] + self.best[rows])]
            result[lost] = self.success[lost]
        return result


def ascent_of(spec: GradientAttack) -> Ascent:
    """Return the ascent an attack of the catalogue stands for."""
    epsilon = float(spec.epsilon)
    if isinstance(spec, Fgsm):
        return SignAscent(epsilon, epsilon, 1)
    if isinstance(spec, MiFgsm):
        return MomentumAscent(epsilon, float(spec.epsilon / spec.steps), spec.steps, spec.decay)
    size = float(STRIDE * spec.epsilon / spec.steps)
    if isinstance(spec, PgdL2):
        return LengthAscent(epsilon, size, spec.steps)
    return SignAscent(epsilon, size, spec.steps)


def start_of(spec: GradientAttack, images: Tensor, seeds: Tensor) -> Tensor:
    """Return the change each image starts from: none, or for PGD a random one within its budget."""
    if isinstance(spec, (Fgsm, MiFgsm)):
        return torch.zeros_like(images)
    draw = _in_ball if isinstance(spec, PgdL2) else _in_box
    start = drawn(seeds, Purpose.START, partial(draw, images.shape[1:]))
    return _visible(images, float(spec.epsilon) * start.to(images.device))


def _differentiate(bundle: Classifier, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (batch, classes), losses (batch,) and the gradient of their sum by the points."""
    points = points.detach().requires_grad_()
    logits = bundle.logits(points)
    losses = F.cross_entropy(logits, labels, reduction="none")
    # The sum, not the mean: the gradient of an image must not depend on how many others there are.
    (gradient,) = torch.autograd.grad(losses.sum(), points)
    return logits.detach(), losses.detach().double(), gradient


def _visible(images: Tensor, change: Tensor) -> Tensor:
    """Return the change with which the images stay in [0, 1]."""
    return (images + change).clamp(0.0, 1.0) - images


def _length(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _in_box(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return one uniform draw from [-1, 1] per pixel."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _in_ball(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return one change of random direction and of a length uniform in [0, 1]."""
    direction = torch.randn(shape, generator=generator)
    return torch.rand((), generator=generator) * direction / direction.norm()
