"""Images before and after an attack, judged: the one type and the one rule that all parts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine import images
from engine.attacks import noise
from engine.attacks.gradient import Classifier
from engine.models.network import predictions
from engine.specs import threat_model
from engine.specs.threat_model import Attack
from engine.types.core import Outcome, Prediction, Status


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images to attack: (batch, channels, height, width) float32 in [0, 1], (batch,) int64 labels, a key for each."""

    pictures: Tensor
    labels: Tensor
    samples: tuple[str, ...]

    def at(self, rows: Sequence[int]) -> Batch:
        """Return some of them."""
        chosen = torch.tensor(list(rows), dtype=torch.int64)
        places = chosen.to(self.labels.device)
        samples = tuple(self.samples[row] for row in rows)
        return Batch(self.pictures[chosen.to(self.pictures.device)], self.labels[places], samples)


@dataclass(frozen=True, slots=True)
class Fellows:
    """Where an attack on a whole class finds images of it to learn from."""

    key: str
    """Of the model and the images, so that what was learned from them is known again."""
    of_class: Callable[[int, int], Tensor]
    """From a class and a number to (up to as many, channels, height, width) images of it that are answered right."""


@dataclass(frozen=True, eq=False, slots=True)
class Subjects:
    """The correctly classified images of a batch."""

    images: Tensor
    """(batch, channels, height, width) float32 in [0, 1]."""
    clean: np.ndarray
    """The same as uint8."""
    labels: Tensor
    seeds: Tensor
    targets: Tensor | None = None
    """(batch,) class each image is to be mistaken for; None for any wrong one."""
    fellows: Fellows | None = None

    def at(self, rows: Tensor) -> Subjects:
        """Return some of them, by (rows,) indices."""
        places = rows.cpu()
        return replace(
            self,
            images=self.images[rows],
            clean=self.clean[places.numpy()],
            labels=self.labels[rows],
            seeds=self.seeds[places],
            targets=None if self.targets is None else self.targets[rows],
        )

    def restarted(self, start: int) -> Subjects:
        """Return the same images with other seeds, for their `start`-th start."""
        return replace(self, seeds=noise.restarted(self.seeds, start))


def unit(pictures: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 images as float32 in [0, 1] on a device."""
    return torch.from_numpy(images.to_float(pictures)).to(device)


def answers(bundle: Classifier, pictures: Tensor) -> Tensor:
    """Return (batch, classes) logits, without gradients."""
    with torch.no_grad():
        return bundle.logits(pictures)


def rounded(clean: np.ndarray, points: Tensor, spec: Attack) -> np.ndarray:
    """Return points as they are stored: nearest 8-bit values within the budget of `spec`."""
    return spec.stored(clean, points.detach().cpu().numpy())


NOWHERE = -1
"""Target of an image that the attack aims at no class."""


@dataclass(frozen=True, eq=False, slots=True)
class AttackedImages:
    """Images beside what an attack made of them, with how each fared; one row per image, on the device."""

    clean: Tensor
    """(images, channels, height, width) float32 in [0, 1]."""
    adversarial: Tensor
    """The same, 8-bit values; the clean image where the status is `clean_wrong` or `failed`."""
    seeds: Tensor
    """(images,) int64, on the CPU: of what is drawn for each image."""
    before: Tensor
    """(images,) int64: what the network says of the clean image."""
    after: Tensor
    """(images,) int64: what it says of the adversarial one."""
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(cls, clean: Tensor, adversarial: Tensor, seeds: Tensor, outcomes: tuple[Outcome, ...]) -> AttackedImages:
        """Return images with the answers that their outcomes tell."""
        said = [(outcome.before.label, outcome.after.label) for outcome in outcomes]
        before, after = torch.tensor(said, dtype=torch.int64, device=clean.device).view(-1, 2).unbind(1)
        return cls(clean, adversarial, seeds, before, after, outcomes)

    @property
    def count(self) -> int:
        """Images in all."""
        return len(self.clean)

    @property
    def samples(self) -> tuple[str, ...]:
        """The keys of the images in their data set."""
        return tuple(outcome.sample for outcome in self.outcomes)

    @property
    def stored(self) -> np.ndarray:
        """(images, channels, height, width) uint8, read-only: the adversarial images as they are stored."""
        result = images.to_bytes(self.adversarial.cpu().numpy())
        result.setflags(write=False)
        return result

    def rows(self, index: Tensor) -> AttackedImages:
        """Return some of the images, by (n,) int64 index."""
        return AttackedImages(
            clean=self.clean[index],
            adversarial=self.adversarial[index],
            seeds=self.seeds[index.cpu()],
            before=self.before[index],
            after=self.after[index],
            outcomes=tuple(self.outcomes[k] for k in index.tolist()),
        )

    def noisy(self, pictures: Tensor, draws: int) -> Tensor:
        """Return (images * draws, ...), image-major: pictures of these rows under noise as long (L2) as their attack."""
        return noise.same_norm_noise(pictures, self.adversarial - self.clean, self.seeds, draws=draws)


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """What was shown to a network, clean and as it is stored, and what it said."""

    samples: tuple[str, ...]
    labels: list[int]
    clean: np.ndarray
    """(images, ...) uint8."""
    stored: np.ndarray
    before: Tensor
    """(images, classes) logits of the clean images."""
    after: Tensor
    failed: np.ndarray
    """(images,) bool: given up, or answered with what is not finite; then the answer before stands for the one after."""
    targets: np.ndarray
    """(images,) int64, `NOWHERE` where nothing aimed at a class."""


def judge(shown: Shown) -> tuple[Outcome, ...]:
    """Return how each image fared: what the network says, the status, and the size of the change in every norm."""
    change = shown.stored.astype(np.int64) - shown.clean
    sizes = {name: norm.sizes(change).tolist() for name, norm in threat_model.BUDGETED.items()}
    failed = torch.from_numpy(shown.failed).to(shown.after.device)
    before = predictions(shown.before)
    after = predictions(torch.where(failed[:, None], shown.before, shown.after))
    return tuple(
        Outcome(
            sample=sample,
            label=label,
            status="failed" if shown.failed[k] else status(label, before[k], after[k], is_changed=sizes["linf"][k] > 0),
            before=before[k],
            after=after[k],
            target=None if shown.targets[k] == NOWHERE else int(shown.targets[k]),
            **{name: sizes[name][k] for name in sizes},
        )
        for k, (sample, label) in enumerate(zip(shown.samples, shown.labels, strict=True))
    )


def status(label: int, before: Prediction, after: Prediction, *, is_changed: bool) -> Status:
    """Return how an image of a class fared that the network could answer."""
    if before.label != label:
        return "clean_wrong"
    if not is_changed:
        return "unperturbed"
    return "fooled" if after.label != label else "resisted"


def joined(parts: Sequence[AttackedImages]) -> AttackedImages:
    """Return the images of several batches, one after the other."""
    return AttackedImages(
        clean=torch.cat([part.clean for part in parts]),
        adversarial=torch.cat([part.adversarial for part in parts]),
        seeds=torch.cat([part.seeds for part in parts]),
        before=torch.cat([part.before for part in parts]),
        after=torch.cat([part.after for part in parts]),
        outcomes=tuple(outcome for part in parts for outcome in part.outcomes),
    )


def played(outcomes: Iterable[Outcome]) -> frozenset[int]:
    """Return the classes that play a part in a question about these images, none of which may serve as a reference."""
    return frozenset(label for one in outcomes for label in (one.label, one.before.label, one.after.label))


def rival(outcome: Outcome) -> int:
    """Return the class an image was fooled into; where it resisted, the runner-up of the adversarial image."""
    return next(label for label, _ in outcome.after.top if label != outcome.before.label)


def pixels(pictures: Tensor) -> np.ndarray:
    """Return images (batch, channels, height, width) in [0, 1] as (batch, height, width, channels) uint8, read-only."""
    ascontiguousarray = np.ascontiguousarray(images.to_bytes(pictures.permute(0, 2, 3, 1).cpu().numpy()))
    ascontiguousarray.setflags(write=False)
    return ascontiguousarray


def pictures(stored: np.ndarray, device: torch.device) -> Tensor:
    """Return what `pixels` returned as (batch, channels, height, width) float32 in [0, 1] on a device."""
    return unit(np.ascontiguousarray(np.moveaxis(stored, 3, 1)), device)


def eight_bit(pictures: Tensor) -> Tensor:
    """Return images in [0, 1] with every value a multiple of 1/255."""
    return (pictures * 255).round() / 255
