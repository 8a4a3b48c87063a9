"""Images that an attack fools, with what an intervention on their runs and its controls need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import examination, tracing
from engine.attacks import noise
from engine.attacks.spec import Attack
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
class Fooled:
    """Fooled images beside their clean originals; one row per image, on the device."""

    bundle: ModelBundle
    samples: tuple[str, ...]
    clean: Tensor
    """(images, channels, height, width) in [0, 1]."""
    adversarial: Tensor
    true: Tensor
    """(images,) int64: what the network said before the attack."""
    into: Tensor
    """(images,) int64: what it says after it."""
    seeds: Tensor
    """(images,) int64, of each image's noise."""
    others: Others
    seed: int
    """Of everything drawn for the group as a whole."""

    def rows(self, index: Tensor) -> Fooled:
        """Return some of the images."""
        others = Others(self.others.images, self.others.labels, self.others.rows[index])
        return Fooled(
            self.bundle,
            tuple(self.samples[k] for k in index.tolist()),
            self.clean[index],
            self.adversarial[index],
            self.true[index],
            self.into[index],
            self.seeds[index.cpu()],
            others,
            self.seed,
        )

    def noisy(self, images: Tensor, draws: int) -> Tensor:
        """Return (images * draws, ...), image-major: images of these rows under noise as long as their attack."""
        return noise.same_norm_noise(images, self.adversarial - self.clean, self.seeds, draws=draws)


@dataclass(frozen=True, eq=False, slots=True)
class Attacked:
    """Attacked images of a request that were right before the attack, in its order, and which of them it fools."""

    attempted: int
    samples: tuple[str, ...]
    clean: Tensor
    adversarial: Tensor
    true: Tensor
    into: Tensor

    @property
    def is_fooled(self) -> Tensor:
        """(images,) bool."""
        return self.true != self.into


def attack(bundle: ModelBundle, dataset: Dataset, request: FooledRequest) -> Attacked:
    """Return the attacked images of a request that the network got right before; raises UnknownName, BadSetting."""
    sides: list[tuple[Tensor, Tensor]] = []
    answers: list[tuple[int, int]] = []
    kept: list[str] = []
    for samples in _blocks(request.samples, tracing.batch_limit(bundle)):
        pairs = examination.attacked(bundle, dataset, request.attack, samples, request.seed)
        rows = [k for k, outcome in enumerate(pairs.outcomes) if outcome.before.label == outcome.label]
        sides.append((pairs.clean[rows], pairs.adversarial[rows]))
        answers += [(pairs.outcomes[k].before.label, pairs.outcomes[k].after.label) for k in rows]
        kept += [samples[k] for k in rows]
    clean, adversarial = (torch.cat(side) for side in zip(*sides, strict=True))
    true, into = torch.tensor(answers, dtype=torch.int64).view(-1, 2).to(bundle.device).unbind(1)
    return Attacked(len(request.samples), tuple(kept), clean, adversarial, true, into)


def gather(bundle: ModelBundle, dataset: Dataset, request: FooledRequest) -> Fooled:
    """Return the images of a request that the attack fools, attacked anew by their seeds.

    Raises BadInput where it fools none, and UnknownName and BadSetting for what the request names.
    """
    return of_attacked(bundle, dataset, request, attack(bundle, dataset, request))


def of_attacked(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, attacked: Attacked) -> Fooled:
    """Return those of some attacked images that were fooled; raises BadInput for none."""
    rows = attacked.is_fooled.nonzero()[:, 0]
    if not len(rows):
        raise BadInput(
            f"{request.attack} fools none of the {attacked.attempted} images, so there is nothing to put back; "
            "name a stronger attack or other images."
        )
    samples = tuple(attacked.samples[k] for k in rows.tolist())
    true, into = attacked.true[rows], attacked.into[rows]
    return Fooled(
        bundle,
        samples,
        attacked.clean[rows],
        attacked.adversarial[rows],
        true,
        into,
        _seeds(dataset, request.attack, samples, request.seed),
        _others(bundle, dataset, (true, into), request.seed),
        request.seed,
    )


def of_examination(evidence: Evidence) -> Fooled:
    """Return the images of an examination; raises BadInput where the attack left the class of one as it was."""
    request, bundle = evidence.examination.request, evidence.bundle
    true, into = evidence.clean.targets, evidence.adversarial.targets
    if bool((true == into).any()):
        raise BadInput(
            "The attack left the class of an image as it was, so there is nothing to put back; choose fooled images."
        )
    return Fooled(
        bundle,
        request.samples,
        evidence.clean.images,
        evidence.adversarial.images,
        true,
        into,
        _seeds(evidence.dataset, request.attack, request.samples, request.seed),
        _others(bundle, evidence.dataset, (true, into), request.seed),
        request.seed,
    )


def group(fooled: Fooled, attempted: int) -> Group:
    """Return what a record says of the images and of the maps that can be chosen."""
    sites = fooled.bundle.sites
    total = sum(site.channels for site in sites if site.is_claimable)
    return Group(attempted, fooled.samples, total, tuple(site.name for site in sites if not site.is_claimable))


def _blocks(samples: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _seeds(dataset: Dataset, attack: Attack, samples: tuple[str, ...], seed: int) -> Tensor:
    content = dataset.card.content_hash
    return torch.tensor([examination.image_seed(attack, content, sample, seed) for sample in samples])


def _others(bundle: ModelBundle, dataset: Dataset, classes: tuple[Tensor, Tensor], seed: int) -> Others:
    """Draw the other images by seed; an image gets only such as are of neither of its two classes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(dataset.card.count, generator=generator)[:CANDIDATES]
    truth = torch.as_tensor(np.asarray(cases.labels(bundle, dataset)))[drawn].to(bundle.device)
    pictures = cases.load(bundle, dataset, tuple(dataset.keys[k] for k in drawn.tolist()))
    with torch.no_grad():
        said = torch.cat([bundle.logits(part).argmax(1) for part in pictures.split(tracing.batch_limit(bundle))])
    right = (said == truth).nonzero()[:, 0]
    labels = truth[right]
    allowed = (labels != classes[0][:, None]) & (labels != classes[1][:, None])
    draws = min(OTHERS, int(allowed.sum(1).min()))
    order = torch.rand(allowed.shape, generator=generator).to(bundle.device).masked_fill(~allowed, -1.0)
    return Others(pictures[right], labels, order.argsort(dim=1, descending=True)[:, :draws])
