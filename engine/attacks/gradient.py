"""The sign-gradient family: FGSM, PGD in three norms and MI-FGSM as ascents of one loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attacks import noise
from engine.attacks.noise import Purpose, drawn, restarted
from engine.specs import threat_model
from engine.specs.catalogue import (
    LEAST_LIKELY,
    NEXT,
    Fgsm,
    GradientAttack,
    MiFgsm,
    Patch,
    PgdL1,
    PgdL2,
    PgdLinf,
    UniversalPatch,
)
from engine.specs.threat_model import NO_TARGET

TINIEST = torch.finfo(torch.float32).tiny
"""Guards divisions by a gradient's size: without it one zero gradient makes MI-FGSM's momentum NaN for good."""
STRIDE = Fraction(5, 2)
"""A PGD step is this many times epsilon / steps (Madry et al. 2018): enough to cross the whole budget."""


MOVED = Fraction(3, 2)
"""Values that an L1 step moves, per unit of epsilon. Moving a value to its end takes up to 1, so that the best change moves that
many or somewhat more. On linear networks of 1024 values, with one or two of them it gains up to 4 % less, with four up to 26 %."""
HALVINGS = 30
"""Of the amount that is searched for: down to the precision of float32."""


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


@dataclass(frozen=True, slots=True)
class SparseAscent:
    """Steps of one L1 length along the signs of the largest gradients, within an L1 ball of radius epsilon."""

    epsilon: float
    size: float
    steps: int
    most: int
    """How many values a step moves."""

    def advance(self, images: Tensor, change: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        points, uphill = (images + change).flatten(1), gradient.flatten(1)
        # A value at its end that is to go further would take a place among the few, and then go nowhere.
        slopes = torch.where(uphill > 0, points < 1, points > 0) * uphill.abs()
        steepest = slopes >= slopes.topk(min(self.most, slopes.shape[1])).values[:, -1:]
        signs = uphill.sign() * (steepest & (slopes > 0))
        moved = change.flatten(1) + self.size * signs / signs.abs().sum(dim=1, keepdim=True).clamp_min(1.0)
        return _nearest_in_l1(images.flatten(1), moved, self.epsilon).view_as(change), momentum


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Images to attack and where the ascent starts: (batch, channels, height, width), labels (batch,)."""

    images: Tensor
    labels: Tensor
    start: Tensor
    """Change of each image at the outset."""
    targets: Tensor | None = None
    """(batch,) class each image is to be mistaken for; None for any wrong one."""
    where: Tensor | None = None
    """(batch, 1, height, width): 1 at pixels that may change, 0 elsewhere; None for all."""

    def is_reached(self, rows: Tensor, answers: Tensor) -> Tensor:
        """Return (rows,) bool: answering these labels is what the attack wants of the images `rows`."""
        if self.targets is None:
            return answers != self.labels[rows]
        return answers == self.targets[rows]

    def gains(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Return (rows,) what the ascent climbs: cross-entropy away from the label, or towards the target."""
        if self.targets is None:
            return F.cross_entropy(logits, self.labels[rows], reduction="none")
        return -F.cross_entropy(logits, self.targets[rows], reduction="none")


@dataclass(frozen=True, eq=False, slots=True)
class Outset:
    """Where an ascent starts."""

    change: Tensor
    """(batch, channels, height, width): from each image to its start."""
    where: Tensor | None = None
    """(batch, 1, height, width): 1 at pixels that may change, 0 elsewhere; None for all."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What an ascent found for each image."""

    points: Tensor
    """The point of the highest gain; where only others were accepted, the first of those."""
    last: Tensor
    """Where the ascent ended."""
    crossed: Tensor
    """(batch,) bool: some point before the last step did what the attack wants, before it was rounded."""
    broken: Tensor
    """(batch,) bool: logits or gradient were not finite, and the image was given up."""


Accept = Callable[[Tensor, Tensor], Tensor]
"""Given (rows,) indices into the task and their points, returns (rows,) bool: the attack has succeeded there."""


def accept_none(rows: Tensor, _points: Tensor) -> Tensor:
    """Accept no point, so that the strongest one is kept whether or not it succeeds."""
    return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)


def ascend(bundle: Classifier, task: Task, ascent: Ascent, accept: Accept) -> Found:
    """Climb the task's gain from its start for all steps, also beyond the first success: the strongest point counts.

    Costs `ascent.steps` forward and backward passes and, where there is more than one point to choose from, one forward
    pass more.
    """
    climb = _Climb.at(task)
    momentum = torch.zeros_like(task.start)
    for step in range(ascent.steps):
        rows = climb.going()
        if not len(rows):
            break
        points = task.images[rows] + climb.change[rows]
        logits, gains, gradient = _differentiate(bundle, task, rows, points)
        sound = logits.isfinite().all(dim=1) & gradient.flatten(1).isfinite().all(dim=1)
        # The gain of the start does not count: a masked gradient must not pass off a clean image as an attacked one.
        climb.note(task, rows, (points, logits, gains), (sound, step > 0), accept)
        rows, gradient = rows[sound], gradient[sound]
        climb.change[rows], momentum[rows] = ascent.advance(
            task.images[rows], climb.change[rows], momentum[rows], gradient
        )
    _arrive(bundle, task, climb, ascent, accept)
    return Found(task.images + climb.chosen(task, accept), task.images + climb.change, climb.crossed, climb.broken)


def _arrive(bundle: Classifier, task: Task, climb: _Climb, ascent: Ascent, accept: Accept) -> None:
    """Take the last point into account."""
    if ascent.steps == 1:  # It is the only one that counts: asking what it gains would double the price of FGSM.
        climb.best = climb.change.clone()
        return
    rows = climb.going()
    if len(rows):
        points = task.images[rows] + climb.change[rows]
        with torch.no_grad():
            logits = bundle.logits(points)
        gains = task.gains(rows, logits).double()
        climb.note(task, rows, (points, logits, gains), (logits.isfinite().all(dim=1), True), accept)


@dataclass(slots=True)
class _Climb:
    """Where every image of an ascent is and the best it has seen, as changes (batch, channels, height, width)."""

    change: Tensor
    best: Tensor
    best_gain: Tensor
    success: Tensor
    succeeded: Tensor
    crossed: Tensor
    broken: Tensor

    @classmethod
    def at(cls, task: Task) -> _Climb:
        never = torch.zeros_like(task.labels, dtype=torch.bool)
        lowest = torch.full_like(task.labels, -torch.inf, dtype=torch.float64)
        start = task.start
        return cls(start.clone(), start.clone(), lowest, start.clone(), never, never.clone(), never.clone())

    def going(self) -> Tensor:
        """(rows,) the images that have not been given up."""
        return (~self.broken).nonzero()[:, 0]

    def note(
        self,
        task: Task,
        rows: Tensor,
        seen: tuple[Tensor, Tensor, Tensor],
        counts: tuple[Tensor, bool],
        accept: Accept,
    ) -> None:
        """Give up what is not sound; keep the first point that is accepted and, where gains count, the highest."""
        (points, logits, gains), (sound, gains_count) = seen, counts
        self.broken[rows[~sound]] = True
        reached = sound & task.is_reached(rows, logits.argmax(dim=1))
        self.crossed[rows] |= reached
        self._note_success(rows, reached, points, accept)
        if gains_count:
            self._note_gain(rows[sound], gains[sound])

    def _note_success(self, rows: Tensor, reached: Tensor, points: Tensor, accept: Accept) -> None:
        new = reached & ~self.succeeded[rows]
        if new.any():
            accepted = rows[new][accept(rows[new], points[new])]
            self.success[accepted] = self.change[accepted]
            self.succeeded[accepted] = True

    def _note_gain(self, rows: Tensor, gains: Tensor) -> None:
        better = rows[gains > self.best_gain[rows]]
        self.best[better] = self.change[better]
        self.best_gain[rows] = gains.maximum(self.best_gain[rows])

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
    return CLIMBERS[type(spec)].ascent(spec)


def outset_of(spec: GradientAttack, images: Tensor, seeds: Tensor) -> Outset:
    """Return where each image starts from, and where it may change."""
    return CLIMBERS[type(spec)].outset(spec, images, seeds)


def targets_of(rule: str, labels: Tensor, logits: Tensor, seeds: Tensor) -> Tensor | None:
    """Return (batch,) the class each image is to be mistaken for by a rule of the catalogue; None where it has no target.

    labels, seeds: (batch,); logits: (batch, classes) of the clean images. A target is never the label itself.
    """
    classes = logits.shape[1]
    if rule == NO_TARGET:
        return None
    if rule == NEXT:
        return (labels + 1) % classes
    if rule == LEAST_LIKELY:
        others = logits.clone()
        others[torch.arange(len(labels), device=labels.device), labels] = torch.inf
        return others.argmin(dim=1)
    steps = drawn(seeds, Purpose.TARGET, partial(_one_of, classes - 1))
    return (labels + 1 + steps.to(labels.device)) % classes


def reached(bundle: Classifier, points: Tensor) -> Tensor:
    """Return (batch, classes) logits to which autograd finds a way from `points`, of gradient zero where there is none."""
    logits = bundle.logits(points)
    if logits.requires_grad or not points.requires_grad:
        return logits
    return logits + 0 * points.flatten(1).sum(dim=1, keepdim=True)


def _differentiate(bundle: Classifier, task: Task, rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (rows, classes), gains (rows,) and the gradient of their sum by the points."""
    points = points.detach().requires_grad_()
    logits = reached(bundle, points)
    gains = task.gains(rows, logits)
    # The sum, not the mean: the gradient of an image must not depend on how many others there are.
    (gradient,) = torch.autograd.grad(gains.sum(), points)
    if task.where is not None:
        gradient = gradient * task.where[rows]
    return logits.detach(), gains.detach().double(), gradient


def _visible(images: Tensor, change: Tensor) -> Tensor:
    """Return the change with which the images stay in [0, 1]."""
    return (images + change).clamp(0.0, 1.0) - images


def _nearest_in_l1(images: Tensor, change: Tensor, epsilon: float) -> Tensor:
    """Return the change nearest to `change` of L1 length epsilon at most with which images stay in [0, 1]; (batch, values).

    It is every value's change less one amount, as far as there is so much, cut to [0, 1]; the amount is found by halving.
    """
    low, high = torch.zeros_like(change[:, :1]), change.abs().amax(dim=1, keepdim=True)
    result = _visible(images, change)
    is_inside = result.abs().sum(dim=1, keepdim=True) <= epsilon
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_short = _less(images, change, middle).abs().sum(dim=1, keepdim=True) <= epsilon
        low, high = torch.where(is_short, low, middle), torch.where(is_short, middle, high)
    return torch.where(is_inside, result, _less(images, change, high))


def _less(images: Tensor, change: Tensor, amount: Tensor) -> Tensor:
    return _visible(images, change.sign() * (change.abs() - amount).clamp_min(0.0))


def _length(tensor: Tensor) -> Tensor:
    return tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _still(_spec: GradientAttack, images: Tensor, _seeds: Tensor) -> Outset:
    return Outset(torch.zeros_like(images))


def _in_box(spec: PgdLinf, images: Tensor, seeds: Tensor) -> Outset:
    return _within(spec, images, drawn(seeds, Purpose.START, partial(_box, images.shape[1:])))


def _in_ball(spec: PgdL2, images: Tensor, seeds: Tensor) -> Outset:
    return _within(spec, images, drawn(seeds, Purpose.START, partial(_ball, images.shape[1:])))


def _in_cross(spec: PgdL1, images: Tensor, seeds: Tensor) -> Outset:
    return _within(spec, images, drawn(seeds, Purpose.START, partial(_cross, images.shape[1:])))


def _in_square(spec: Patch, images: Tensor, seeds: Tensor) -> Outset:
    content, where = noise.squares(images, spec.epsilon, seeds)
    return Outset((content - images) * where, where)


def _within(spec: PgdLinf | PgdL2 | PgdL1, images: Tensor, start: Tensor) -> Outset:
    """Start from a change that was drawn for a budget of 1."""
    return Outset(_visible(images, float(spec.epsilon) * start.to(images.device)))


def _box(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return one uniform draw from [-1, 1] per pixel."""
    return 2 * torch.rand(shape, generator=generator) - 1


def _ball(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return one change of random direction and of a length uniform in [0, 1]."""
    direction = torch.randn(shape, generator=generator)
    return torch.rand((), generator=generator) * direction / direction.norm()


def _cross(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return one change of random direction and of an L1 length uniform in [0, 1]."""
    direction = torch.rand(shape, generator=generator).log() * (2 * torch.randint(0, 2, shape, generator=generator) - 1)
    return torch.rand((), generator=generator) * direction / direction.abs().sum()


def _one_of(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, count, (), generator=generator)


def _one_step(spec: Fgsm) -> Ascent:
    return SignAscent(float(spec.epsilon), float(spec.epsilon), 1)


def _signs(spec: PgdLinf) -> Ascent:
    return SignAscent(float(spec.epsilon), float(STRIDE * spec.epsilon / spec.steps), spec.steps)


def _lengths(spec: PgdL2) -> Ascent:
    return LengthAscent(float(spec.epsilon), float(STRIDE * spec.epsilon / spec.steps), spec.steps)


def _few(spec: PgdL1) -> Ascent:
    most = max(1, math.ceil(MOVED * spec.epsilon))
    return SparseAscent(float(spec.epsilon), float(STRIDE * spec.epsilon / spec.steps), spec.steps, most)


def _contents(spec: Patch) -> Ascent:
    """Within a patch, a pixel may take any value."""
    return SignAscent(1.0, float(STRIDE / spec.steps), spec.steps)


def _momentum(spec: MiFgsm) -> Ascent:
    return MomentumAscent(float(spec.epsilon), float(spec.epsilon / spec.steps), spec.steps, spec.decay)


@dataclass(frozen=True, slots=True)
class Climber:
    """How an attack of the sign-gradient family climbs, and from where."""

    ascent: Callable[[Any], Ascent]
    """Of its spec."""
    outset: Callable[[Any, Tensor, Tensor], Outset] = _still
    """Of its spec, the images and their seeds."""


def learned_square(bundle: Classifier, images: Tensor, label: int, spec: UniversalPatch, seed: int) -> Tensor:
    """Return the content (channels, side, side), multiples of 1/255 in [0, 1], of one patch for a class.

    images: (batch, channels, height, width) of the class. Costs `spec.steps` forward and backward passes of each.
    """
    channels, height, width = images.shape[1:]
    side = threat_model.square_side(spec.epsilon, height, width)
    square = torch.full((channels, side, side), 0.5, device=images.device)
    seeds = restarted(torch.arange(len(images)), 1) ^ seed
    labels = torch.full((len(images),), label, device=images.device)
    targets = targets_of(spec.target, labels, reached(bundle, images).detach(), seeds)
    task = Task(images, labels, torch.zeros_like(images), targets)
    for step in range(spec.steps):
        _, where = noise.squares(images, spec.epsilon, restarted(seeds, step))
        slopes = torch.zeros_like(square)
        for rows in torch.arange(len(images), device=images.device).split(LEARNED_AT_ONCE):
            slopes += _slope(bundle, task, rows, square, where[rows])
        square = (square + float(STRIDE / spec.steps) * slopes.nan_to_num(0.0).sign()).clamp(0.0, 1.0)
    return (square * 255).round() / 255


def _slope(bundle: Classifier, task: Task, rows: Tensor, square: Tensor, where: Tensor) -> Tensor:
    """The gradient of the summed gain of some images by the content that all of them bear."""
    square = square.detach().requires_grad_()
    with torch.enable_grad():
        points = task.images[rows] * (1 - where) + noise.placed(square, where)
        gain = task.gains(rows, reached(bundle, points)).sum()
    return torch.autograd.grad(gain, square)[0]


LEARNED_AT_ONCE = 8
"""Images that a universal patch goes through the network on at once."""


CLIMBERS: dict[type[GradientAttack], Climber] = {
    Fgsm: Climber(_one_step),
    MiFgsm: Climber(_momentum),
    PgdLinf: Climber(_signs, _in_box),
    PgdL2: Climber(_lengths, _in_ball),
    PgdL1: Climber(_few, _in_cross),
    Patch: Climber(_contents, _in_square),
}
