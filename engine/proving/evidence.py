"""An examination taken up again: its images on the device, with what every check of it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch

from engine import examination as examinations
from engine import tracing
from engine.attacks import attacked as attacks
from engine.attacks.attacked import AttackedImages
from engine.datapaths import cases
from engine.datapaths.cases import Case, References
from engine.methods import Method
from engine.models.bundle import ModelBundle
from engine.records import Datapath, Examination
from engine.store.dataset import Dataset
from engine.tracing import PerMap


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """An examination's images back on the device, with what every check needs."""

    bundle: ModelBundle
    dataset: Dataset
    examination: Examination
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
            (self.clean, self.examination.clean)
            if name == "clean"
            else (self.adversarial, self.examination.adversarial)
        )

    @property
    def method(self) -> Method:
        """The method of the examination."""
        return self.examination.request.method

    @property
    def played(self) -> frozenset[int]:
        """The classes that play a part in the question and must not serve as references."""
        return attacks.played(self.examination.outcomes)

    @property
    def seed(self) -> int:
        """The seed of the examination."""
        return self.examination.request.seed

    def noise(self) -> Case:
        """Return the same-norm noisy copies, image-major, each with what the network says of it."""
        pictures = attacks.pictures(self.examination.images["noise"], self.bundle.device)
        return Case(pictures, tracing.logits(self.bundle, pictures).argmax(1))

    def scores(self, datapath: Datapath) -> PerMap:
        """Return the stored scores of a datapath on the device, per site (images, channels)."""
        return tuple(torch.from_numpy(np.array(site)).to(self.bundle.device) for site in datapath.scores)


def gather(bundle: ModelBundle, dataset: Dataset, examination: Examination) -> Evidence:
    """Return the evidence of a stored examination; the references are drawn again, by the same seed."""
    request, outcomes = examination.request, examination.outcomes
    attacked = AttackedImages.of(
        clean=attacks.pictures(examination.images["clean"], bundle.device),
        adversarial=attacks.pictures(examination.images["adversarial"], bundle.device),
        seeds=examinations.image_seeds(request.attack, dataset.card.content_hash, request.samples, request.seed),
        outcomes=outcomes,
    )
    clean, avoid = Case(attacked.clean, attacked.before), attacks.played(outcomes)
    references = cases.references(bundle, dataset, clean, avoid=avoid, seed=request.seed)
    return Evidence(bundle, dataset, examination, attacked, references)


@final
class Shared:
    """Keeps the evidence gathered last: the parts of a certificate come one after the other and all need the same."""

    def __init__(self) -> None:
        self._last: Evidence | None = None

    def __call__(self, bundle: ModelBundle, dataset: Dataset, examination: Examination) -> Evidence:
        """Return what `gather` returns, gathered anew only for another examination, network or data set."""
        last = self._last
        if last is None or not _is_of(last, bundle, dataset, examination):
            last = self._last = gather(bundle, dataset, examination)
        return last


def _is_of(evidence: Evidence, bundle: ModelBundle, dataset: Dataset, examination: Examination) -> bool:
    known = evidence.examination
    is_same = known is examination or bool(examination.key and known.key == examination.key)
    return is_same and evidence.bundle is bundle and evidence.dataset.card == dataset.card


shared: Final = Shared()
"""Of this process. An examination that is not stored has no key and is known by itself."""
