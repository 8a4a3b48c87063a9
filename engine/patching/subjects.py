"""Images of causal tests: those of an explanation, of a group the attack fools, and of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from engine.attacks import attacked as attacks
from engine.attacks.attacked import AttackedImages
from engine.attribution import baselines, explain
from engine.attribution.baselines import Case, CorrectImages, References
from engine.errors import BadInput
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls
from engine.specs.methods import Method
from engine.specs.threat_model import Attack
from engine.store.store import Dataset
from engine.types.core import Datapath, Explanation
from engine.types.patching import FEWEST, FooledRequest, Group


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """An explanation's images back on the device, with what every check needs."""

    bundle: ModelBundle
    dataset: Dataset
    explanation: Explanation
    attacked: AttackedImages
    references: References

    @property
    def clean(self) -> Case:
        """The clean images, each with what the network says of it."""
        return Case(self.attacked.clean, self.attacked.before)

    @property
    def adversarial(self) -> Case:
        """The adversarial images, each with what the network says of it."""
        return Case(self.attacked.adversarial, self.attacked.after)

    def side(self, name: str) -> tuple[Case, Datapath]:
        """Return the case and datapath of `clean` or `adversarial`."""
        return (
            (self.clean, self.explanation.clean)
            if name == "clean"
            else (self.adversarial, self.explanation.adversarial)
        )

    @property
    def method(self) -> Method:
        """The method of the explanation."""
        return self.explanation.request.method

    @property
    def played(self) -> frozenset[int]:
        """The classes that play a part in the question and must not serve as references."""
        return attacks.played(self.explanation.outcomes)

    @property
    def seed(self) -> int:
        """The seed of the explanation."""
        return self.explanation.request.seed

    def noise(self) -> Case:
        """Return the same-norm noisy copies, image-major, each with what the network says of it."""
        pictures = attacks.pictures(self.explanation.images["noise"], self.bundle.device)
        return Case(pictures, hooks.logits(self.bundle, pictures).argmax(1))

    def scores(self, datapath: Datapath) -> PerMap:
        """Return the stored scores of a datapath on the device, per site (images, channels)."""
        return tuple(torch.from_numpy(np.array(site)).to(self.bundle.device) for site in datapath.scores)


def gather_evidence(bundle: ModelBundle, dataset: Dataset, explanation: Explanation) -> Evidence:
    """Return the evidence of a stored explanation; the references are drawn again, by the same seed."""
    request, outcomes = explanation.request, explanation.outcomes
    attacked = AttackedImages.of(
        clean=attacks.pictures(explanation.images["clean"], bundle.device),
        adversarial=attacks.pictures(explanation.images["adversarial"], bundle.device),
        seeds=explain.image_seeds(request.attack, dataset.card.content_hash, request.samples, request.seed),
        outcomes=outcomes,
    )
    clean, avoid = Case(attacked.clean, attacked.before), attacks.played(outcomes)
    references = baselines.references(bundle, dataset, clean, avoid=avoid, seed=request.seed)
    return Evidence(bundle, dataset, explanation, attacked, references)


@final
class Shared:
    """Keeps the evidence gathered last: the parts of a certificate come one after the other and all need the same."""

    def __init__(self) -> None:
        self._last: Evidence | None = None

    def __call__(self, bundle: ModelBundle, dataset: Dataset, explanation: Explanation) -> Evidence:
        """Return what `gather` returns, gathered anew only for another explanation, network or data set."""
        last = self._last
        if last is None or not _is_of(last, bundle, dataset, explanation):
            last = self._last = gather_evidence(bundle, dataset, explanation)
        return last


def _is_of(evidence: Evidence, bundle: ModelBundle, dataset: Dataset, explanation: Explanation) -> bool:
    known = evidence.explanation
    is_same = known is explanation or bool(explanation.key and known.key == explanation.key)
    return is_same and evidence.bundle is bundle and evidence.dataset.card == dataset.card


shared: Final = Shared()
"""Of this process. An explanation that is not stored has no key and is known by itself."""


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
    for samples in _blocks(request.samples, hooks.batch_limit(bundle)):
        attacked = explain.attacked(bundle, dataset, request.attack, samples, request.seed)
        right = [k for k, outcome in enumerate(attacked.outcomes) if outcome.before.label == outcome.label]
        parts.append(attacked.rows(torch.tensor(right, dtype=torch.int64, device=bundle.device)))
    return attacks.joined(parts)


def gather_group(bundle: ModelBundle, dataset: Dataset, request: FooledRequest) -> FooledGroup:
    """Return the images of a request that the attack fools, attacked anew by their seeds.

    Raises BadInput where it fools none, and UnknownName and BadSetting for what the request names.
    """
    return of_attacked(bundle, dataset, request, attack(bundle, dataset, request))


def of_attacked(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, images: AttackedImages) -> FooledGroup:
    """Return those of some attacked images that were fooled; raises BadInput for none."""
    fooled = images.rows((images.before != images.after).nonzero()[:, 0])
    if not fooled.count:
        raise BadInput(
            f"{request.attack} fools none of the {len(request.samples)} images, so there is nothing to patch; "
            "name a stronger attack or other images."
        )
    return FooledGroup(bundle, fooled, _others(bundle, dataset, fooled, request.seed), request.seed)


def of_explanation(evidence: Evidence) -> FooledGroup:
    """Return the images of an explanation; raises BadInput where the attack left the class of one as it was."""
    images, seed = evidence.attacked, evidence.seed
    if bool((images.before == images.after).any()):
        raise BadInput(
            "The attack left the class of an image as it was, so there is nothing to patch; choose fooled images."
        )
    return FooledGroup(evidence.bundle, images, _others(evidence.bundle, evidence.dataset, images, seed), seed)


def group(fooled: FooledGroup, attempted: int) -> Group:
    """Return what a record says of the images and of the maps that can be chosen."""
    sites = fooled.bundle.sites
    total = sum(site.channels for site in sites if site.is_eligible)
    return Group(attempted, fooled.images.samples, total, tuple(site.name for site in sites if not site.is_eligible))


def _blocks(samples: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _others(bundle: ModelBundle, dataset: Dataset, fooled: AttackedImages, seed: int) -> Others:
    """Draw the other images by seed; an image gets only such as are of neither of its two classes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(dataset.card.count, generator=generator)[:CANDIDATES]
    known = baselines.correct(bundle, dataset, drawn.tolist(), CANDIDATES, at_once=hooks.batch_limit(bundle))
    labels, barred = known.labels.to(bundle.device), torch.stack([fooled.before, fooled.after], dim=1)
    draws = min(OTHERS, int(controls.allowed(labels, barred).sum(1).min()))
    return Others(known.images, labels, controls.drawn(labels, barred, generator, draws))


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
    result = right(bundle, dataset, count, first=first)
    classes = len(result.labels.unique())
    if len(result.samples) < FEWEST or classes < FEWEST:
        raise BadInput(
            f"Data set '{dataset.card.name}' has {len(result.samples)} correctly classified images of "
            f"{classes} class{'' if classes == 1 else 'es'} from index {first} on; at least {FEWEST} images of {FEWEST} "
            "classes are needed."
        )
    return matched(bundle, result.samples, result.images, result.labels, seed=seed)


def right(bundle: ModelBundle, dataset: Dataset, count: int, *, first: int) -> CorrectImages:
    """Return the first `count` correctly classified images from index `first` on; raises BadInput where there are none."""
    rows = range(first, max(first, dataset.card.count))
    correct = baselines.correct(bundle, dataset, rows, count, at_once=hooks.batch_limit(bundle))
    if not correct.samples:
        raise BadInput(f"Data set '{dataset.card.name}' has no correctly classified image from index {first} on.")
    return correct


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
    attacked = _attacked(bundle, dataset, subjects.samples, attack, seed)
    if attacked.count < FEWEST:
        raise BadInput(
            f"{attack} fools {attacked.count} of {len(subjects.samples)} images; at least {FEWEST} are needed. "
            "Name a stronger attack or more images."
        )
    labels, classes = subjects.labels.cpu(), torch.arange(len(bundle.classes))
    answers = torch.stack([attacked.before, attacked.after], dim=1).cpu()
    has_strangers = controls.all_have_one(labels, answers)
    strangers = _drawn(labels, answers, generator).to(bundle.device) if has_strangers else None
    thirds = _drawn(classes, answers, generator).to(bundle.device) if controls.all_have_one(classes, answers) else None
    return FooledPairs(
        images=attacked,
        noisy=attacked.noisy(attacked.adversarial, draws=1),
        strangers=None if strangers is None else subjects.images[strangers],
        stranger_labels=None if strangers is None else subjects.labels[strangers],
        thirds=thirds,
    )


def _attacked(
    bundle: ModelBundle, dataset: Dataset, samples: tuple[str, ...], attack: Attack, seed: int
) -> AttackedImages:
    """Return those that are fooled."""
    parts = []
    for rows in torch.arange(len(samples)).split(hooks.batch_limit(bundle)):
        attacked = explain.attacked(bundle, dataset, attack, tuple(samples[k] for k in rows.tolist()), seed)
        chosen = [k for k, outcome in enumerate(attacked.outcomes) if outcome.status == "fooled"]
        parts.append(attacked.rows(torch.tensor(chosen, dtype=torch.int64, device=bundle.device)))
    return attacks.joined(parts)


def _drawn(candidates: Tensor, barred: Tensor, generator: torch.Generator) -> Tensor:
    """Return per row of `barred` (rows, classes) a random index into `candidates` (n,) whose class is not barred there."""
    return controls.drawn(candidates, barred, generator, draws=1)[:, 0]
