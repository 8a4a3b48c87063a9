"""An examination taken up again: its images on the device, with what every check of it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from engine import tracing
from engine.attacks import run as attack_run
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
    clean: Case
    adversarial: Case
    references: References

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
    def seed(self) -> int:
        """The seed of the examination."""
        return self.examination.request.seed

    def noise(self) -> Case:
        """Return the same-norm noisy copies, image-major, each with what the network says of it."""
        pictures = _pictures(self.examination.images["noise"], self.bundle)
        with torch.no_grad():
            labels = [self.bundle.logits(part).argmax(1) for part in pictures.split(tracing.batch_limit(self.bundle))]
        return Case(pictures, torch.cat(labels))

    def scores(self, datapath: Datapath) -> PerMap:
        """Return the stored scores of a datapath on the device, per site (images, channels)."""
        return tuple(torch.from_numpy(np.array(site)).to(self.bundle.device) for site in datapath.scores)


def played(evidence: Evidence) -> frozenset[int]:
    """Return the classes that play a part in the question and must not serve as references."""
    return frozenset(
        label
        for outcome in evidence.examination.outcomes
        for label in (outcome.label, outcome.before.label, outcome.after.label)
    )


def gather(bundle: ModelBundle, dataset: Dataset, examination: Examination) -> Evidence:
    """Return the evidence of a stored examination; the references are drawn again, by the same seed."""
    sides = {}
    for name in ("clean", "adversarial"):
        pictures = _pictures(examination.images[name], bundle)
        found = [(o.before if name == "clean" else o.after).label for o in examination.outcomes]
        sides[name] = Case(pictures, torch.tensor(found, device=bundle.device))
    blank = Evidence(bundle, dataset, examination, sides["clean"], sides["adversarial"], None)  # type: ignore[arg-type]
    references = cases.references(bundle, dataset, sides["clean"], avoid=played(blank), seed=examination.request.seed)
    return replace(blank, references=references)


def _pictures(stored: np.ndarray, bundle: ModelBundle) -> torch.Tensor:
    return attack_run.unit(np.ascontiguousarray(np.moveaxis(stored, 3, 1)), bundle.device)
