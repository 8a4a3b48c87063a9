"""Which images an evaluation looks at, and which other image and third class go with each. All drawn by seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import controls, examination, tracing
from engine.attacks import attacked
from engine.attacks.attacked import AttackedImages
from engine.attacks.spec import Attack
from engine.datapaths import cases
from engine.datapaths.cases import CorrectImages
from engine.errors import BadInput
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset

FEWEST = 2


@dataclass(frozen=True, eq=False, slots=True)
class MatchedImages:
    """Correctly classified clean images. Images are (images, channels, height, width) in [0, 1], classes (images,)."""

    samples: tuple[str, ...]
    images: Tensor
    labels: Tensor
    """What the network answers, which is also the truth."""
    partners: Tensor
    """Per image the index of an image of another class: the reference run, and the foreign image of the swap control."""
    strangers: Tensor | None
    """Per image the index of an image of neither its own nor its partner's class; None where some image has none."""
    thirds: Tensor | None
    """Per image a class that is neither its own nor its partner's: where the wrong-class control aims. None of two classes."""


@dataclass(frozen=True, eq=False, slots=True)
class FooledPairs:
    """The images that were fooled, with what their controls are made of."""

    images: AttackedImages
    noisy: Tensor
    """The adversarial image with Gaussian noise as long as its own perturbation."""
    strangers: Tensor | None
    """Clean images (images, channels, height, width) of neither answer's class; None where some image has none."""
    stranger_labels: Tensor | None
    thirds: Tensor | None
    """Per image a class that is neither answer; None of a network of two classes."""


def choose(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int, seed: int) -> MatchedImages:
    """Return the first `count` correctly classified images from index `first` on, fewer where there are no more.

    Raises BadInput where fewer than two are left or they are all of one class.
    """
    found = right(bundle, dataset, count, first=first)
    classes = len(found.labels.unique())
    if len(found.samples) < FEWEST or classes < FEWEST:
        raise BadInput(
            f"Data set '{dataset.card.name}' has {len(found.samples)} correctly classified images of "
            f"{classes} class{'' if classes == 1 else 'es'} from index {first} on; at least {FEWEST} images of {FEWEST} "
            "classes are needed."
        )
    return matched(bundle, found.samples, found.images, found.labels, seed=seed)


def right(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int) -> CorrectImages:
    """Return the first `count` correctly classified images from index `first` on; raises BadInput where there are none."""
    rows = range(first, max(first, dataset.card.count))
    found = cases.correct(bundle, dataset, rows, count, at_once=tracing.batch_limit(bundle))
    if not found.samples:
        raise BadInput(f"Data set '{dataset.card.name}' has no correctly classified image from index {first} on.")
    return found


def matched(
    bundle: ModelBundle, samples: tuple[str, ...], pictures: Tensor, labels: Tensor, *, seed: int
) -> MatchedImages:
    """Return images with their partners, strangers and third classes; another seed draws other ones.

    Raises BadInput where an image has no partner of another class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    if not controls.all_have_one(labels, labels[:, None]):
        raise BadInput("Every image needs one of another class beside it; add images of another class.")
    partners = _drawn(labels, labels[:, None], generator)
    barred = torch.stack([labels, labels[partners]], dim=1)
    strangers, thirds = (
        _drawn(candidates, barred, generator).to(bundle.device) if controls.all_have_one(candidates, barred) else None
        for candidates in (labels, torch.arange(len(bundle.classes)))
    )
    return MatchedImages(samples, pictures, labels.to(bundle.device), partners.to(bundle.device), strangers, thirds)


def fooled(bundle: ModelBundle, dataset: Dataset, subjects: MatchedImages, attack: Attack, seed: int) -> FooledPairs:
    """Return the subjects that an attack fools. Raises BadInput where fewer than two are fooled."""
    generator = torch.Generator().manual_seed(seed + 1)
    found = _attacked(bundle, dataset, subjects.samples, attack, seed)
    if found.count < FEWEST:
        raise BadInput(
            f"{attack} fools {found.count} of {len(subjects.samples)} images; at least {FEWEST} are needed. "
            "Name a stronger attack or more images."
        )
    labels, classes = subjects.labels.cpu(), torch.arange(len(bundle.classes))
    answers = torch.stack([found.before, found.after], dim=1).cpu()
    has_strangers = controls.all_have_one(labels, answers)
    strangers = _drawn(labels, answers, generator).to(bundle.device) if has_strangers else None
    thirds = _drawn(classes, answers, generator).to(bundle.device) if controls.all_have_one(classes, answers) else None
    return FooledPairs(
        images=found,
        noisy=found.noisy(found.adversarial, draws=1),
        strangers=None if strangers is None else subjects.images[strangers],
        stranger_labels=None if strangers is None else subjects.labels[strangers],
        thirds=thirds,
    )


def _attacked(
    bundle: ModelBundle, dataset: Dataset, samples: tuple[str, ...], attack: Attack, seed: int
) -> AttackedImages:
    """Return those that are fooled."""
    parts = []
    for rows in torch.arange(len(samples)).split(tracing.batch_limit(bundle)):
        found = examination.attacked(bundle, dataset, attack, tuple(samples[k] for k in rows.tolist()), seed)
        chosen = [k for k, outcome in enumerate(found.outcomes) if outcome.status == "fooled"]
        parts.append(found.rows(torch.tensor(chosen, dtype=torch.int64, device=bundle.device)))
    return attacked.joined(parts)


def _drawn(candidates: Tensor, barred: Tensor, generator: torch.Generator) -> Tensor:
    """Return per row of `barred` (rows, classes) a random index into `candidates` (n,) whose class is not barred there."""
    return controls.drawn(candidates, barred, generator, draws=1)[:, 0]
