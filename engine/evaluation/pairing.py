"""Which images an evaluation looks at, and which other image and third class go with each. All drawn by seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine import examination, tracing
from engine.attacks import noise
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
    strangers: Tensor
    """Per image the index of an image of neither its own nor its partner's class."""
    thirds: Tensor
    """Per image a class that is neither its own nor its partner's: where the wrong-class control aims."""


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """The images that were fooled, beside their clean originals."""

    clean: Tensor
    adversarial: Tensor
    noisy: Tensor
    """The adversarial image with Gaussian noise as long as its own perturbation."""
    before: Tensor
    after: Tensor
    strangers: Tensor
    """Clean images (images, channels, height, width) of neither answer's class."""
    stranger_labels: Tensor
    thirds: Tensor
    """Per image a class that is neither answer."""


def choose(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int, seed: int) -> Subjects:
    """Return the first `count` correctly classified images from index `first` on, fewer where there are no more.

    Raises BadInput where fewer than two are left or they are of fewer than three classes.
    """
    truth = torch.as_tensor(cases.labels(bundle, dataset))
    kept: list[int] = []
    pictures: list[Tensor] = []
    for rows in torch.arange(first, max(first, dataset.card.count)).split(tracing.batch_limit(bundle)):
        loaded = cases.load(bundle, dataset, tuple(dataset.keys[k] for k in rows.tolist()))
        with torch.no_grad():
            right = (bundle.logits(loaded).argmax(1).cpu() == truth[rows]).nonzero()[:, 0][: count - len(kept)]
        kept += rows[right].tolist()
        pictures.append(loaded[right.to(bundle.device)])
        if len(kept) >= count:
            break
    labels = truth[kept]
    if len(kept) < FEWEST or len(labels.unique()) < 3:
        raise BadInput(
            f"Data set '{dataset.card.name}' has {len(kept)} correctly classified images of {len(labels.unique())} "
            f"classes from index {first} on; at least {FEWEST} of 3 classes are needed."
        )
    return matched(bundle, tuple(dataset.keys[k] for k in kept), torch.cat(pictures), labels, seed=seed)


def matched(bundle: ModelBundle, samples: tuple[str, ...], pictures: Tensor, labels: Tensor, *, seed: int) -> Subjects:
    """Return images with their partners, strangers and third classes; another seed draws other ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    partners = _drawn(labels, labels[:, None], generator)
    barred = torch.stack([labels, labels[partners]], dim=1)
    strangers = _drawn(labels, barred, generator)
    thirds = _drawn(torch.arange(len(bundle.classes)), barred, generator)
    on = (tensor.to(bundle.device) for tensor in (labels, partners, strangers, thirds))
    return Subjects(samples, pictures, *on)


def fooled(bundle: ModelBundle, dataset: Dataset, subjects: Subjects, attack: str, seed: int) -> Pairs:
    """Return the subjects that an attack fools. Raises BadInput where fewer than two are fooled."""
    generator = torch.Generator().manual_seed(seed + 1)
    clean, adversarial, seeds, answers = _attacked(bundle, dataset, subjects, attack, seed)
    if len(answers) < FEWEST:
        raise BadInput(
            f"{attack} fools {len(answers)} of {len(subjects.samples)} images; at least {FEWEST} are needed. "
            "Name a stronger attack or more images."
        )
    labels = subjects.labels.cpu()
    strangers = _drawn(labels, answers, generator).to(bundle.device)
    before, after = answers.to(bundle.device).unbind(1)
    return Pairs(
        clean=clean,
        adversarial=adversarial,
        noisy=noise.same_norm_noise(adversarial, adversarial - clean, seeds, draws=1),
        before=before,
        after=after,
        strangers=subjects.images[strangers],
        stranger_labels=subjects.labels[strangers],
        thirds=_drawn(torch.arange(len(bundle.classes)), answers, generator).to(bundle.device),
    )


def _attacked(
    bundle: ModelBundle, dataset: Dataset, subjects: Subjects, attack: str, seed: int
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
    allowed = (candidates[None, :, None] != barred[:, None, :]).all(dim=2)
    if not bool(allowed.any(dim=1).all()):
        raise BadInput(
            "Every control needs an image and a class beyond the two in question; add images of more classes."
        )
    return torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, -1.0).argmax(dim=1)
