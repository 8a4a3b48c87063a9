"""The one way to run an attack: inputs checked, network lent and given back, the stored 8-bit image judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import images
from engine.attacks import gradient, inspection, noise, rounding
from engine.attacks.catalogue import Attack, GradientAttack, NoiseGaussian, NoiseShuffled, NoiseSign, PgdL2, PgdLinf
from engine.attacks.gradient import Classifier
from engine.attacks.isolation import isolated
from engine.errors import WorkFailed
from engine.models.prediction import predictions
from engine.records import Outcome, Prediction, Status

TOLERANCE = 1e-6
"""How far, in [0, 1] units, a measured norm may exceed its budget: float arithmetic only."""


@dataclass(frozen=True, eq=False, slots=True)
class Attacked:
    """Attacked images as stored, with how each fared."""

    images: np.ndarray
    """(batch, channels, height, width) uint8; the clean image where the status is `clean_wrong` or `failed`."""
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Subjects:
    """The correctly classified images of a batch."""

    images: Tensor
    """(batch, channels, height, width) float32 in [0, 1]."""
    clean: np.ndarray
    """The same as uint8."""
    labels: Tensor
    seeds: Tensor


def run(
    bundle: Classifier, pictures: Tensor, labels: Tensor, spec: Attack, seeds: Tensor, *, samples: tuple[str, ...]
) -> Attacked:
    """Attack every correctly classified image of a batch.

    pictures: (batch, channels, height, width) float32, multiples of 1/255 in [0, 1]; labels, seeds: (batch,) int64, one
    seed per image. Of each image the point of the highest loss is kept; where that one, stored, does not fool, the first that does.
    Raises BadInput for images, labels, seeds or logits that cannot be judged, and WorkFailed if a budget is exceeded.
    """
    clean = inspection.check_images(pictures)
    inspection.check_labels(labels, len(clean), len(bundle.classes))
    inspection.check_seeds(seeds, samples, len(clean))
    # Copied into plain strides: what a convolution answers depends, in the last bits, on the layout of its input.
    plain = torch.empty(pictures.shape, device=bundle.device).copy_(pictures)
    with isolated(bundle.network):
        before = _answers(bundle, plain)
        inspection.check_logits(before, len(clean), len(bundle.classes))
        stored, failed = _perturbed(bundle, Subjects(plain, clean, labels.to(bundle.device), seeds), spec, before)
        after = _answers(bundle, unit(stored, bundle.device))
    failed |= ~after.isfinite().all(dim=1).cpu().numpy()
    stored[failed] = clean[failed]
    after[torch.from_numpy(failed).to(after.device)] = before[torch.from_numpy(failed).to(after.device)]
    outcomes = _outcomes(samples, labels.tolist(), (clean, stored), (predictions(before), predictions(after)), failed)
    _verify(spec, outcomes, stored[0].size)
    stored.setflags(write=False)
    return Attacked(stored, outcomes)


def unit(pictures: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 images as float32 in [0, 1] on a device."""
    return torch.from_numpy(images.to_float(pictures)).to(device)


def _answers(bundle: Classifier, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return bundle.logits(pictures)


def _perturbed(bundle: Classifier, batch: Subjects, spec: Attack, before: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored images (batch, channels, height, width) uint8 and (batch,) bool: given up."""
    correct = torch.tensor([p.label for p in predictions(before)], device=batch.labels.device) == batch.labels
    chosen = correct.cpu().numpy()
    stored, failed = batch.clean.copy(), np.zeros(len(chosen), dtype=bool)
    if chosen.any():
        subjects = Subjects(
            batch.images[correct], batch.clean[chosen], batch.labels[correct], batch.seeds[torch.from_numpy(chosen)]
        )
        stored[chosen], failed[chosen] = _dispatched(bundle, subjects, spec)
    return stored, failed


def _dispatched(bundle: Classifier, subjects: Subjects, spec: Attack) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(spec, NoiseSign):
        noisy = noise.sign_noise(subjects.images, float(spec.epsilon), subjects.seeds)
        return _rounded(subjects.clean, noisy, spec), np.zeros(len(noisy), dtype=bool)
    if isinstance(spec, (NoiseGaussian, NoiseShuffled)):
        return _matched(bundle, subjects, spec)
    return _climbed(bundle, subjects, spec)


def _climbed(bundle: Classifier, subjects: Subjects, spec: GradientAttack) -> tuple[np.ndarray, np.ndarray]:
    """Attack by gradient ascent."""

    def fools_when_stored(rows: Tensor, points: Tensor) -> Tensor:
        stored = _rounded(subjects.clean[rows.cpu().numpy()], points, spec)
        return _answers(bundle, unit(stored, points.device)).argmax(dim=1) != subjects.labels[rows]

    task = gradient.Task(subjects.images, subjects.labels, gradient.start_of(spec, subjects.images, subjects.seeds))
    found = gradient.ascend(bundle, task, gradient.ascent_of(spec), fools_when_stored)
    return _rounded(subjects.clean, found.points, spec), found.broken.cpu().numpy()


def _matched(
    bundle: Classifier, subjects: Subjects, spec: NoiseGaussian | NoiseShuffled
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise that is matched, image by image, to the stored PGD perturbation of the same seed."""
    attacked, failed = _climbed(bundle, subjects, PgdLinf(spec.epsilon, spec.steps))
    delta = unit(attacked, subjects.images.device) - subjects.images
    if isinstance(spec, NoiseShuffled):
        return _rounded(subjects.clean, noise.shuffled(subjects.images, delta, subjects.seeds), spec), failed
    noisy = noise.same_norm_noise(subjects.images, delta, subjects.seeds, draws=1)
    reach = ((attacked.astype(np.int64) - subjects.clean) ** 2).sum(axis=(1, 2, 3))
    return rounding.within_l2(subjects.clean, noisy.cpu().numpy(), reach), failed


def _rounded(clean: np.ndarray, points: Tensor, spec: Attack) -> np.ndarray:
    """Return points as they are stored: nearest 8-bit values within the budget of `spec`."""
    wanted = points.detach().cpu().numpy()
    if isinstance(spec, PgdL2):
        return rounding.within_l2(clean, wanted, np.full(len(clean), rounding.l2_reach(spec.epsilon)))
    return rounding.within_linf(clean, wanted, rounding.linf_reach(spec.epsilon))


def _outcomes(
    samples: tuple[str, ...],
    labels: list[int],
    sides: tuple[np.ndarray, np.ndarray],
    answers: tuple[list[Prediction], list[Prediction]],
    failed: np.ndarray,
) -> tuple[Outcome, ...]:
    change = np.abs(sides[1].astype(np.int64) - sides[0]).reshape(len(labels), -1)
    linf, l2 = change.max(axis=1) / 255, np.sqrt((change**2).sum(axis=1)) / 255
    found = []
    for k, (sample, label) in enumerate(zip(samples, labels, strict=True)):
        before, after = answers[0][k], answers[1][k]
        status = "failed" if failed[k] else _status(label, before, after, is_changed=bool(linf[k]))
        found.append(Outcome(sample, label, status, before, after, float(linf[k]), float(l2[k])))
    return tuple(found)


def _status(label: int, before: Prediction, after: Prediction, *, is_changed: bool) -> Status:
    if before.label != label:
        return "clean_wrong"
    if not is_changed:
        return "unperturbed"
    return "fooled" if after.label != label else "resisted"


def _verify(spec: Attack, outcomes: tuple[Outcome, ...], pixels: int) -> None:
    """Raise WorkFailed if a stored image lies outside its budget, which no setting can make happen."""
    epsilon = float(spec.epsilon)
    limit = epsilon * np.sqrt(pixels) if isinstance(spec, NoiseGaussian) else epsilon
    for outcome in outcomes:
        size = outcome.linf if spec.norm == "linf" else outcome.l2
        if size > limit + TOLERANCE:
            raise WorkFailed(f"{spec.name} left its budget on sample {outcome.sample}: {size:.6f} of {limit:.6f}.")
