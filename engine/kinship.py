"""Whom a datapath resembles: the true and the fooled-into class, and itself with the question or the input exchanged."""

from __future__ import annotations

import numpy as np
import torch

from engine import selection
from engine.datapaths import cases, extraction
from engine.datapaths.cases import Case
from engine.evidence import Evidence
from engine.records import Certificates, ClassDatapaths, Cross, Datapath, Kinship
from engine.tracing import PerMap

IMAGES = 8
"""Clean images behind the datapath of a class."""
SHARE = 0.2
"""Share of maps kept per site wherever two datapaths are compared."""
Kept = tuple[np.ndarray, ...]
Strength = tuple[np.ndarray, ...]


def of_classes(evidence: Evidence) -> Certificates:
    """Return per site how alike the adversarial datapath is to those of the true and of the fooled-into class, and both."""
    own = _kept(evidence.examination.adversarial.strength)
    found = [_of_class(evidence, int(case.targets.mode().values)) for case in (evidence.clean, evidence.adversarial)]
    true, fooled = (_jaccards(own, _kept(strength)) for strength, _ in found)
    images = min(images for _, images in found)
    return Certificates(
        kinship=Kinship(true, fooled, images, _merges_at(evidence, true, fooled)),
        classes=ClassDatapaths(found[0][0], found[1][0]),
    )


def crossed(evidence: Evidence) -> Cross:
    """Return the 2 x 2 design: input clean or adversarial, evidence sought for the true or the fooled-into class.

    Two datapaths that must give different answers differ from the first site on for any attack; this tells how much of
    the difference is the answer's and how much the input's.
    """
    true, fooled = evidence.clean.targets, evidence.adversarial.targets
    clean_true = _kept(evidence.examination.clean.strength)
    adversarial_fooled = _kept(evidence.examination.adversarial.strength)
    clean_fooled = _scored(evidence, Case(evidence.clean.images, fooled))
    adversarial_true = _scored(evidence, Case(evidence.adversarial.images, true))
    return Cross(
        same_input_clean=_jaccards(clean_true, clean_fooled),
        same_input_adversarial=_jaccards(adversarial_fooled, adversarial_true),
        same_answer_true=_jaccards(clean_true, adversarial_true),
        same_answer_fooled=_jaccards(clean_fooled, adversarial_fooled),
    )


def similarity(datapath: Datapath, per_map: PerMap) -> float:
    """Return the mean Jaccard over sites of the kept shares of a datapath and of other scores of the same images."""
    return float(np.mean(_jaccards(_kept(datapath.strength), _kept(_strength(per_map)))))


def _of_class(evidence: Evidence, label: int) -> tuple[Strength, int]:
    """The mean strength of clean, correctly classified images of a class, the examined ones left out; and their number."""
    bundle, dataset = evidence.bundle, evidence.dataset
    every = np.flatnonzero(cases.labels(bundle, dataset) == label)
    own = set(evidence.examination.request.samples)
    samples = [dataset.keys[k] for k in every if dataset.keys[k] not in own][: 3 * IMAGES]
    pictures = cases.load(bundle, dataset, tuple(samples))
    with torch.no_grad():
        right = bundle.logits(pictures).argmax(1) == label
    pictures = pictures[right][:IMAGES]
    case = Case(pictures, torch.full((len(pictures),), label, device=bundle.device))
    return _strength(_scores(evidence, case)), len(pictures)


def _scored(evidence: Evidence, case: Case) -> Kept:
    return _kept(_strength(_scores(evidence, case)))


def _scores(evidence: Evidence, case: Case) -> PerMap:
    references = evidence.references
    return extraction.score(evidence.bundle, case, references, method=evidence.method, seed=evidence.seed)[0]


def _merges_at(evidence: Evidence, true: tuple[float, ...], fooled: tuple[float, ...]) -> str | None:
    nearer = [b > a for a, b in zip(true, fooled, strict=True)]
    if not nearer[-1] or evidence.clean.targets.equal(evidence.adversarial.targets):
        return None
    first = len(nearer)
    while first and nearer[first - 1]:
        first -= 1
    return evidence.bundle.sites[first].name


def _strength(per_map: PerMap) -> Strength:
    found = selection.strength([site.cpu().numpy() for site in per_map])
    for site in found:
        site.setflags(write=False)
    return found


def _kept(strength: Strength) -> Kept:
    return selection.per_site(strength, SHARE)


def _jaccards(first: Kept, second: Kept) -> tuple[float, ...]:
    return tuple(selection.jaccard(a, b) for a, b in zip(first, second, strict=True))
