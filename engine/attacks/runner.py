"""The one way to run an attack: inputs checked, network lent and given back, the stored 8-bit image judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import hashing
from engine.attacks import attacked, autoattack, gradient, guards, noise
from engine.attacks.attacked import AttackedImages, Batch, Fellows, Shown, Subjects, answers, rounded, unit
from engine.attacks.gradient import Classifier
from engine.attacks.guards import isolated
from engine.errors import BadInput, WorkFailed
from engine.models.network import predictions
from engine.specs import catalogue, threat_model
from engine.specs.catalogue import (
    Corruption,
    GradientAttack,
    LibraryAttack,
    NoiseGaussian,
    NoisePatch,
    NoiseShuffled,
    NoiseSign,
    NoiseSparse,
    PgdLinf,
    UniversalPatch,
)
from engine.specs.threat_model import Attack, Family
from engine.types.core import Outcome

__all__ = ["judged", "run", "unit"]

TOLERANCE = 1e-6
"""How far, in [0, 1] units, a measured norm may exceed its budget: float arithmetic only."""


def run(
    bundle: Classifier,
    pictures: Tensor,
    labels: Tensor,
    spec: Attack,
    seeds: Tensor,
    *,
    samples: tuple[str, ...],
    fellows: Fellows | None = None,
) -> AttackedImages:
    """Attack every correctly classified image of a batch.

    pictures: (batch, channels, height, width) float32, multiples of 1/255 in [0, 1]; labels, seeds: (batch,) int64, one
    seed per image. Of each image the point of the highest loss is kept; where that one, stored, does not fool, the first that does.
    Every stored image is predicted once: an image that was wrong is stored as it is, and a point that was tried as it would
    be stored is not tried again.

    fellows: what an attack on a whole class learns from; what it learned is kept for the next images.
    Raises BadInput for images, labels, seeds or logits that cannot be judged and for an attack that does not apply to so
    few classes, and WorkFailed if a budget is exceeded.
    """
    catalogue.check_applicable(spec, len(bundle.classes))
    clean = guards.check_images(pictures)
    guards.check_labels(labels, len(clean), len(bundle.classes))
    guards.check_seeds(seeds, samples, len(clean))
    # Copied into plain strides: what a convolution answers depends, in the last bits, on the layout of its input.
    plain = torch.empty(pictures.shape, device=bundle.device).copy_(pictures)
    labels = labels.to(bundle.device)
    stored, failed, targets = clean.copy(), np.zeros(len(clean), dtype=bool), np.full(len(clean), attacked.NOWHERE)
    with isolated(bundle.network):
        before = answers(bundle, plain)
        guards.check_logits(before, len(clean), len(bundle.classes))
        guards.check_form(partial(answers, bundle), plain, before)
        correct, subjects = _subjects(clean, plain, (labels, seeds, before), spec, fellows)
        after, is_judged = before.clone(), torch.from_numpy(~correct).to(bundle.device)
        if correct.any():
            result, rows = RUNNERS[spec.family](bundle, subjects, spec), (~is_judged).nonzero()[:, 0]
            stored[correct], failed[correct] = result.stored, result.broken
            after[rows], is_judged[rows] = result.logits.to(after.dtype), result.is_judged
        rows = (~is_judged).nonzero()[:, 0]
        if len(rows):
            after[rows] = answers(bundle, unit(stored[rows.cpu().numpy()], bundle.device))
    if subjects.targets is not None:
        targets[correct] = subjects.targets.cpu().numpy()
    failed |= ~after.isfinite().all(dim=1).cpu().numpy()
    stored[failed] = clean[failed]
    shown = Shown(
        samples=samples,
        labels=labels.tolist(),
        clean=clean,
        stored=stored,
        before=before,
        after=after,
        failed=failed,
        targets=targets,
    )
    outcomes = attacked.judge(shown)
    _verify(spec, outcomes, (clean, stored))
    return AttackedImages.of(plain, unit(stored, bundle.device), seeds, outcomes)


def judged(bundle: Classifier, asked: Batch, stored: Tensor) -> tuple[Outcome, ...]:
    """Judge images that nobody attacks here; raises BadInput for clean ones that are answered with what is not finite."""
    with torch.no_grad():
        before, after = bundle.logits(asked.pictures), bundle.logits(stored)
    guards.check_logits(before, len(asked.samples), len(bundle.classes))
    return attacked.judge(
        Shown(
            samples=asked.samples,
            labels=asked.labels.tolist(),
            clean=attacked.pixels(asked.pictures),
            stored=attacked.pixels(stored),
            before=before,
            after=after,
            failed=~after.isfinite().all(dim=1).cpu().numpy(),
            targets=np.full(len(asked.samples), attacked.NOWHERE),
        )
    )


def _subjects(
    clean: np.ndarray,
    plain: Tensor,
    known: tuple[Tensor, Tensor, Tensor],
    spec: Attack,
    fellows: Fellows | None,
) -> tuple[np.ndarray, Subjects]:
    """Return which images of a batch are right, and those; known: (batch,) labels and seeds, (batch, classes) logits."""
    labels, seeds, before = known
    correct = torch.tensor([p.label for p in predictions(before)], device=labels.device) == labels
    rows = correct.cpu()
    targets = gradient.targets_of(spec.target, labels[correct], before[correct], seeds[rows])
    subjects = Subjects(plain[correct], clean[rows.numpy()], labels[correct], seeds[rows], targets, fellows)
    return rows.numpy(), subjects


@dataclass(frozen=True, eq=False, slots=True)
class _Made:
    """What an attack made of each image, and what the network says of those that were predicted as they are stored."""

    stored: np.ndarray
    """(batch, channels, height, width) uint8."""
    broken: np.ndarray
    """(batch,) bool: given up."""
    logits: Tensor
    """(batch, classes) float64, of no meaning where the stored image was not predicted."""
    is_judged: Tensor
    """(batch,) bool."""

    @classmethod
    def unjudged(cls, bundle: Classifier, stored: np.ndarray, broken: np.ndarray) -> _Made:
        count = len(stored)
        logits = torch.zeros(count, len(bundle.classes), dtype=torch.float64, device=bundle.device)
        return cls(stored, broken, logits, torch.zeros(count, dtype=torch.bool, device=bundle.device))


def _from_library(bundle: Classifier, subjects: Subjects, spec: LibraryAttack) -> _Made:
    return _Made.unjudged(bundle, *autoattack.attack(bundle, subjects, spec))


def _sign_noise(bundle: Classifier, subjects: Subjects, spec: NoiseSign) -> _Made:
    return _painted(bundle, subjects, spec, noise.sign_noise(subjects.images, float(spec.epsilon), subjects.seeds))


def _noise_patch(bundle: Classifier, subjects: Subjects, spec: NoisePatch) -> _Made:
    return _painted(bundle, subjects, spec, noise.patched(subjects.images, spec.epsilon, subjects.seeds))


def _sparse_noise(bundle: Classifier, subjects: Subjects, spec: NoiseSparse) -> _Made:
    return _painted(bundle, subjects, spec, noise.sparse_noise(subjects.images, float(spec.epsilon), subjects.seeds))


def _universal(bundle: Classifier, subjects: Subjects, spec: UniversalPatch) -> _Made:
    """Put the patch of each image's class on it, at the place of its seed."""
    _, where = noise.squares(subjects.images, spec.epsilon, subjects.seeds)
    points = subjects.images.clone()
    if where.any():
        for label in subjects.labels.unique().tolist():
            rows = (subjects.labels == label).nonzero()[:, 0]
            square = _square_of(bundle, subjects.fellows, label, spec)
            points[rows] = subjects.images[rows] * (1 - where[rows]) + noise.placed(square, where[rows])
    return _painted(bundle, subjects, spec, points)


def _square_of(bundle: Classifier, fellows: Fellows | None, label: int, spec: UniversalPatch) -> Tensor:
    """Return the patch of a class, learned once for a model, a data set and its settings; raises BadInput."""
    if fellows is None:
        raise BadInput(
            f"Not applicable: {spec.name} learns from other images of a class, and here there is no data set."
        )
    key = fellows.key, spec.text, label
    if key not in LEARNED:
        images = fellows.of_class(label, spec.images)
        seed = int(hashing.content_key((spec.text, label))[:15], 16)
        while len(LEARNED) >= MOST_LEARNED:
            LEARNED.pop(next(iter(LEARNED)))
        LEARNED[key] = gradient.learned_square(bundle, images, label, spec, seed)
    return LEARNED[key].to(bundle.device)


LEARNED: dict[tuple[str, str, int], Tensor] = {}
"""Patches by model and data, attack and class: each block of an audit, and each pair, needs those of its classes again."""
MOST_LEARNED = 256


def _corrupted(bundle: Classifier, subjects: Subjects, spec: Corruption) -> _Made:
    return _painted(bundle, subjects, spec, noise.corrupted(spec, subjects.images, subjects.seeds))


def _painted(bundle: Classifier, subjects: Subjects, spec: Attack, points: Tensor) -> _Made:
    """Store what was made of the images without the network, which gives up none of them."""
    return _Made.unjudged(bundle, rounded(subjects.clean, points, spec), np.zeros(len(points), dtype=bool))


def _climbed(bundle: Classifier, subjects: Subjects, spec: GradientAttack) -> _Made:
    """Attack by gradient ascent from every start of the attack, and keep of each image what harms it most."""
    climbed_once = _climbed_once(bundle, subjects, spec)
    for start in range(1, spec.restarts):
        other = _climbed_once(bundle, subjects.restarted(start), spec)
        climbed_once = _stronger(bundle, _task(subjects, spec), (climbed_once, other))
    return climbed_once


def _stronger(bundle: Classifier, task: gradient.Task, sides: tuple[_Made, _Made]) -> _Made:
    """Return of each image the side that does what the attack wants; of two that do, or do not, the one that gains more."""
    one, other = (_judged(bundle, side) for side in sides)
    rows = torch.arange(len(task.labels), device=task.labels.device)
    reached, gains = [], []
    for side in (one, other):
        is_sound = side.logits.isfinite().all(dim=1) & ~torch.from_numpy(side.broken).to(rows.device)
        reached.append(is_sound & task.is_reached(rows, side.logits.argmax(dim=1)))
        gains.append(torch.where(is_sound, task.gains(rows, side.logits), -torch.inf))
    is_other = (reached[1] & ~reached[0]) | ((reached[1] == reached[0]) & (gains[1] > gains[0]))
    chosen = is_other.cpu().numpy()
    return _Made(
        stored=np.where(chosen[:, None, None, None], other.stored, one.stored),
        broken=np.where(chosen, other.broken, one.broken),
        logits=torch.where(is_other[:, None], other.logits, one.logits),
        is_judged=one.is_judged,
    )


def _judged(bundle: Classifier, perturbed: _Made) -> _Made:
    """Predict the stored images that were not."""
    rows = (~perturbed.is_judged).nonzero()[:, 0]
    if not len(rows):
        return perturbed
    logits, is_judged = perturbed.logits.clone(), torch.ones_like(perturbed.is_judged)
    logits[rows] = answers(bundle, unit(perturbed.stored[rows.cpu().numpy()], bundle.device)).to(logits)
    return _Made(perturbed.stored, perturbed.broken, logits, is_judged)


def _climbed_once(bundle: Classifier, subjects: Subjects, spec: GradientAttack) -> _Made:
    """Attack by gradient ascent; climb again, minding the rounding, where only rounding undid a success."""
    ascent, points_of = gradient.ascent_of(spec), partial(gradient.ascend, bundle)
    task = _task(subjects, spec)
    result = points_of(task, ascent, gradient.accept_none)
    unjudged = _Made.unjudged(bundle, rounded(subjects.clean, result.points, spec), result.broken.cpu().numpy())
    rows = result.crossed.nonzero()[:, 0]
    if len(rows):
        unjudged.logits[rows] = answers(bundle, unit(unjudged.stored[rows.cpu().numpy()], bundle.device)).to(
            unjudged.logits
        )
        unjudged.is_judged[rows] = task.is_reached(rows, unjudged.logits[rows].argmax(dim=1))
        lost = rows[~unjudged.is_judged[rows]]
        if len(lost):
            again = subjects.at(lost)
            points = points_of(_task(again, spec), ascent, _accept(bundle, again, spec)).points
            unjudged.stored[lost.cpu().numpy()] = rounded(again.clean, points, spec)
    return unjudged


def _task(subjects: Subjects, spec: GradientAttack) -> gradient.Task:
    outset = gradient.outset_of(spec, subjects.images, subjects.seeds)
    return gradient.Task(subjects.images, subjects.labels, outset.change, subjects.targets, outset.where)


def _accept(bundle: Classifier, subjects: Subjects, spec: GradientAttack) -> gradient.Accept:
    """Return the judge of points as they would be stored."""
    task = _task(subjects, spec)

    def succeeds(rows: Tensor, points: Tensor) -> Tensor:
        kept = rounded(subjects.clean[rows.cpu().numpy()], points, spec)
        return task.is_reached(rows, answers(bundle, unit(kept, points.device)).argmax(dim=1))

    return succeeds


def _matched(bundle: Classifier, subjects: Subjects, spec: NoiseGaussian | NoiseShuffled) -> _Made:
    """Return the noise that is matched, image by image, to the stored PGD perturbation of the same seed."""
    climbed = _climbed(bundle, subjects, PgdLinf(spec.epsilon, spec.steps))
    return _Made.unjudged(bundle, MATCHED[type(spec)](subjects, climbed.stored, spec), climbed.broken)


def _shuffled(subjects: Subjects, attacked: np.ndarray, spec: NoiseShuffled) -> np.ndarray:
    delta = unit(attacked, subjects.images.device) - subjects.images
    return rounded(subjects.clean, noise.shuffled(subjects.images, delta, subjects.seeds), spec)


def _as_long(subjects: Subjects, attacked: np.ndarray, _spec: NoiseGaussian) -> np.ndarray:
    delta = unit(attacked, subjects.images.device) - subjects.images
    noisy = noise.same_norm_noise(subjects.images, delta, subjects.seeds, draws=1)
    reach = ((attacked.astype(np.int64) - subjects.clean) ** 2).sum(axis=(1, 2, 3))
    return threat_model.within_l2(subjects.clean, noisy.cpu().numpy(), reach)


MATCHED: dict[type[NoiseGaussian | NoiseShuffled], Callable[[Subjects, np.ndarray, Any], np.ndarray]] = {
    NoiseGaussian: _as_long,
    NoiseShuffled: _shuffled,
}
"""How each matched noise follows from the subjects and their stored PGD images."""
RUNNERS: dict[Family, Callable[[Classifier, Subjects, Any], _Made]] = {
    "ascent": _climbed,
    "universal": _universal,
    "library": _from_library,
    "sign noise": _sign_noise,
    "matched noise": _matched,
    "noise patch": _noise_patch,
    "sparse noise": _sparse_noise,
    "corruption": _corrupted,
}


def _verify(spec: Attack, outcomes: tuple[Outcome, ...], sides: tuple[np.ndarray, np.ndarray]) -> None:
    """Raise WorkFailed if a stored image lies outside its budget, which no setting can make happen."""
    limit = spec.limit(sides[0][0].size)
    if limit is None:
        return
    sizes = spec.norm.sizes(sides[1].astype(np.int64) - sides[0])
    for outcome, size in zip(outcomes, sizes.tolist(), strict=True):
        if size > limit + TOLERANCE:
            raise WorkFailed(f"{spec.name} left its budget on sample {outcome.sample}: {size:.6f} of {limit:.6f}.")
