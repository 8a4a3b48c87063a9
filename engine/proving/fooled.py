"""Images that an attack fools, with what an intervention on their runs and its controls need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine import controls, examination, tracing
from engine.attacks import attacked
from engine.attacks.attacked import AttackedImages
from engine.datapaths import cases
from engine.errors import BadInput
from engine.models.bundle import ModelBundle
from engine.proving.evidence import Evidence
from engine.records.restoration import FooledRequest, Group
from engine.store.dataset import Dataset

OTHERS = 4
"""Clean images of other classes that go with each image, at most."""
CANDIDATES = 24
"""Images drawn to find those that are classified correctly."""


@dataclass(frozen=True, eq=False, slots=True)
class Others:
    """Correctly classified clean images, and which of them go with each fooled image: none of its two classes."""

    images: Tensor
    """(others, channels, height, width)."""
    labels: Tensor
    """(others,)."""
    rows: Tensor
    """(images, draws) int64 into the others; no draws where some image has none."""


@dataclass(frozen=True, eq=False, slots=True)
class FooledGroup:
    """Images that an attack fools, with what an intervention on their runs and its controls need."""

    bundle: ModelBundle
    images: AttackedImages
    others: Others
    seed: int
    """Of everything drawn for the group as a whole."""

    @property
    def true(self) -> Tensor:
        """(images,) int64: what the network said before the attack."""
        return self.images.before

    @property
    def into(self) -> Tensor:
        """(images,) int64: what it says after it."""
        return self.images.after

    def rows(self, index: Tensor) -> FooledGroup:
        """Return some of the images."""
        others = Others(self.others.images, self.others.labels, self.others.rows[index])
        return FooledGroup(self.bundle, self.images.rows(index), others, self.seed)


def attack(bundle: ModelBundle, dataset: Dataset, request: FooledRequest) -> AttackedImages:
    """Return the attacked images of a request that the network got right before; raises UnknownName, BadSetting."""
    parts = []
    for samples in _blocks(request.samples, tracing.batch_limit(bundle)):
        found = examination.attacked(bundle, dataset, request.attack, samples, request.seed)
        right = [k for k, outcome in enumerate(found.outcomes) if outcome.before.label == outcome.label]
        parts.append(found.rows(torch.tensor(right, dtype=torch.int64, device=bundle.device)))
    return attacked.joined(parts)


def gather(bundle: ModelBundle, dataset: Dataset, request: FooledRequest) -> FooledGroup:
    """Return the images of a request that the attack fools, attacked anew by their seeds.

    Raises BadInput where it fools none, and UnknownName and BadSetting for what the request names.
    """
    return of_attacked(bundle, dataset, request, attack(bundle, dataset, request))


def of_attacked(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, images: AttackedImages) -> FooledGroup:
    """Return those of some attacked images that were fooled; raises BadInput for none."""
    fooled = images.rows((images.before != images.after).nonzero()[:, 0])
    if not fooled.count:
        raise BadInput(
            f"{request.attack} fools none of the {len(request.samples)} images, so there is nothing to put back; "
            "name a stronger attack or other images."
        )
    return FooledGroup(bundle, fooled, _others(bundle, dataset, fooled, request.seed), request.seed)


def of_examination(evidence: Evidence) -> FooledGroup:
    """Return the images of an examination; raises BadInput where the attack left the class of one as it was."""
    images, seed = evidence.attacked, evidence.seed
    if bool((images.before == images.after).any()):
        raise BadInput(
            "The attack left the class of an image as it was, so there is nothing to put back; choose fooled images."
        )
    return FooledGroup(evidence.bundle, images, _others(evidence.bundle, evidence.dataset, images, seed), seed)


def group(fooled: FooledGroup, attempted: int) -> Group:
    """Return what a record says of the images and of the maps that can be chosen."""
    sites = fooled.bundle.sites
    total = sum(site.channels for site in sites if site.is_claimable)
    return Group(attempted, fooled.images.samples, total, tuple(site.name for site in sites if not site.is_claimable))


def _blocks(samples: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _others(bundle: ModelBundle, dataset: Dataset, fooled: AttackedImages, seed: int) -> Others:
    """Draw the other images by seed; an image gets only such as are of neither of its two classes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(dataset.card.count, generator=generator)[:CANDIDATES]
    known = cases.correct(bundle, dataset, drawn.tolist(), CANDIDATES, at_once=tracing.batch_limit(bundle))
    labels, barred = known.labels.to(bundle.device), torch.stack([fooled.before, fooled.after], dim=1)
    draws = min(OTHERS, int(controls.allowed(labels, barred).sum(1).min()))
    return Others(known.images, labels, controls.drawn(labels, barred, generator, draws))
