"""Which images an evaluation looks at, and which other image and third class go with each. All drawn by seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import examination, tracing
from engine.attacks import noise
from engine.attacks.spec import Attack
from engine.datapaths import cases
from engine.errors import BadInput
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset

FEWEST = 2


@dataclass(frozen=True, eq=False, slots=True)
class Subjects:
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
class Pairs:
    """The images that were fooled, beside their clean originals."""

    clean: Tensor
    adversarial: Tensor
    noisy: Tensor
    """The adversarial image with Gaussian noise as long as its own perturbation."""
    before: Tensor
    after: Tensor
    strangers: Tensor | None
    """Clean images (images, channels, height, width) of neither answer's class; None where some image has none."""
    stranger_labels: Tensor | None
    thirds: Tensor | None
    """Per image a class that is neither answer; None of a network of two classes."""


@dataclass(frozen=True, eq=False, slots=True)
class Right:
    """Images that the network classifies correctly."""

    samples: tuple[str, ...]
    images: Tensor
    """(images, channels, height, width) in [0, 1]."""
    labels: Tensor


def choose(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int, seed: int) -> Subjects:
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


def right(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int) -> Right:
    """Return the first `count` correctly classified images from index `first` on; raises BadInput where there are none."""
    truth = torch.as_tensor(cases.labels(bundle, dataset))
    kept: list[int] = []
    pictures: list[Tensor] = []
    for rows in torch.arange(first, max(first, dataset.card.count)).split(tracing.batch_limit(bundle)):
        loaded = cases.load(bundle, dataset, tuple(dataset.keys[k] for k in rows.tolist()))
        with torch.no_grad():
            chosen = (bundle.logits(loaded).argmax(1).cpu() == truth[rows]).nonzero()[:, 0][: count - len(kept)]
        kept += rows[chosen].tolist()
        pictures.append(loaded[chosen.to(bundle.device)])
        if len(kept) >= count:
            break
    if not kept:
        raise BadInput(f"Data set '{dataset.card.name}' has no correctly classified image from index {first} on.")
    return Right(tuple(dataset.keys[k] for k in kept), torch.cat(pictures), truth[kept])


def matched(bundle: ModelBundle, samples: tuple[str, ...], pictures: Tensor, labels: Tensor, *, seed: int) -> Subjects:
    """Return images with their partners, strangers and third classes; another seed draws other ones.

    Raises BadInput where an image has no partner of another class.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    if not _all_have_one(labels, labels[:, None]):
        raise BadInput("Every image needs one of another class beside it; add images of another class.")
    partners = _drawn(labels, labels[:, None], generator)
    barred = torch.stack([labels, labels[partners]], dim=1)
    strangers, thirds = (
        _drawn(candidates, barred, generator).to(bundle.device) if _all_have_one(candidates, barred) else None
        for candidates in (labels, torch.arange(len(bundle.classes)))
    )
    return Subjects(samples, pictures, labels.to(bundle.device), partners.to(bundle.device), strangers, thirds)


def fooled(bundle: ModelBundle, dataset: Dataset, subjects: Subjects, attack: Attack, seed: int) -> Pairs:
    """Return the subjects that an attack fools. Raises BadInput where fewer than two are fooled."""
    generator = torch.Generator().manual_seed(seed + 1)
    clean, adversarial, seeds, answers = _attacked(bundle, dataset, subjects, attack, seed)
    if len(answers) < FEWEST:
        raise BadInput(
            f"{attack} fools {len(answers)} of {len(subjects.samples)} images; at least {FEWEST} are needed. "
            "Name a stronger attack or more images."
        )
    labels, classes = subjects.labels.cpu(), torch.arange(len(bundle.classes))
    has_strangers = _all_have_one(labels, answers)
    strangers = _drawn(labels, answers, generator).to(bundle.device) if has_strangers else None
    thirds = _drawn(classes, answers, generator).to(bundle.device) if _all_have_one(classes, answers) else None
    before, after = answers.to(bundle.device).unbind(1)
    return Pairs(
        clean=clean,
        adversarial=adversarial,
        noisy=noise.same_norm_noise(adversarial, adversarial - clean, seeds, draws=1),
        before=before,
        after=after,
        strangers=None if strangers is None else subjects.images[strangers],
        stranger_labels=None if strangers is None else subjects.labels[strangers],
        thirds=thirds,
    )


def _attacked(
    bundle: ModelBundle, dataset: Dataset, subjects: Subjects, attack: Attack, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean and adversarial images of those fooled, seeds (images,) and answers before and after (images, 2)."""
    sides: list[tuple[Tensor, Tensor]] = []
    seeds, answers = [], []
    for rows in torch.arange(len(subjects.samples)).split(tracing.batch_limit(bundle)):
        samples = tuple(subjects.samples[k] for k in rows.tolist())
        pairs = examination.attacked(bundle, dataset, attack, samples, seed)
        chosen = [k for k, outcome in enumerate(pairs.outcomes) if outcome.status == "fooled"]
        sides.append((pairs.clean[chosen], pairs.adversarial[chosen]))
        seeds += [examination.image_seed(attack, dataset.card.content_hash, samples[k], seed) for k in chosen]
        answers += [(pairs.outcomes[k].before.label, pairs.outcomes[k].after.label) for k in chosen]
    clean, adversarial = (torch.cat(side) for side in zip(*sides, strict=True))
    return clean, adversarial, torch.tensor(seeds), torch.tensor(answers).view(-1, 2)


def _drawn(candidates: Tensor, barred: Tensor, generator: torch.Generator) -> Tensor:
    """Return per row of `barred` (rows, classes) a random index into `candidates` (n,) whose class is not barred there."""
    allowed = _allowed(candidates, barred)
    return torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0).argmax(dim=1)


def _all_have_one(candidates: Tensor, barred: Tensor) -> bool:
    """Return whether every row of `barred` leaves some candidate."""
    return bool(_allowed(candidates, barred).any(dim=1).all())


def _allowed(candidates: Tensor, barred: Tensor) -> Tensor:
    """Return (rows, candidates) bool: the candidate's class is not barred in that row."""
    return (candidates[None, :, None] != barred[:, None, :]).all(dim=2)
