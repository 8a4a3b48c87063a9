"""Whom a datapath resembles: the true and the fooled-into class, and itself with the question or the input exchanged."""

from __future__ import annotations

import numpy as np
import torch

from engine import class_names, comparison, selection, tracing
from engine.datapaths import cases, extraction
from engine.datapaths.cases import Case
from engine.errors import BadInput
from engine.proving.evidence import Evidence
from engine.records import Certificates, ClassDatapaths, Cross, Datapath, Kinship, SiteSpan
from engine.tracing import PerMap

IMAGES = 8
"""Clean images behind the datapath of a class."""
SHARE = 0.2
"""Share of maps kept per site wherever two datapaths are compared."""
Kept = tuple[np.ndarray, ...]
Strength = tuple[np.ndarray, ...]


def of_classes(evidence: Evidence) -> Certificates:
    """Return per site how alike the adversarial datapath is to those of the true and of the fooled-into class, and both."""
    examination = evidence.examination
    found = [_of_class(evidence, int(case.targets.mode().values)) for case in (evidence.clean, evidence.adversarial)]
    true, fooled = (_kept(strength) for strength, _ in found)
    clean, adversarial, noise = (
        _kept(path.strength) for path in (examination.clean, examination.adversarial, examination.noise)
    )
    return Certificates(
        kinship=Kinship(
            true_class=_jaccards(adversarial, true),
            fooled_into=_jaccards(adversarial, fooled),
            images=min(images for _, images in found),
            merges_at=_merges_at(evidence, _jaccards(adversarial, true), _jaccards(adversarial, fooled)),
            clean_true=_jaccards(clean, true),
            clean_fooled=_jaccards(clean, fooled),
            noise_true=_jaccards(noise, true),
            noise_fooled=_jaccards(noise, fooled),
            classes=_jaccards(true, fooled),
            merges_span=_merges_span(evidence, true, fooled),
        ),
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
        each_its_own=_jaccards(clean_true, adversarial_fooled),
        exchanged=_jaccards(clean_fooled, adversarial_true),
    )


def similarity(datapath: Datapath, per_map: PerMap, seed: int) -> float:
    """Return the mean Jaccard over sites of the kept shares of a datapath and of other scores of the same images.

    Which of equally strong maps are kept is drawn for each of the two: a choice between copies is none, and reads unstable.
    """
    own = selection.per_site_drawn(datapath.strength, SHARE, seed)
    return float(np.mean(_jaccards(own, selection.per_site_drawn(_strength(per_map), SHARE, seed + 1))))


def _of_class(evidence: Evidence, label: int) -> tuple[Strength, int]:
    """The mean strength of clean, correctly classified images of a class, the examined ones left out; and their number.

    Raises BadInput where there is none, as often with a thousand classes and a small data set.
    """
    bundle, dataset = evidence.bundle, evidence.dataset
    every = np.flatnonzero(cases.labels(bundle, dataset) == label)
    own = set(evidence.examination.request.samples)
    rows = [int(k) for k in every if dataset.keys[k] not in own][: 3 * IMAGES]
    pictures = cases.correct(bundle, dataset, rows, IMAGES, at_once=tracing.batch_limit(bundle)).images
    if not len(pictures):
        name = class_names.handles(bundle.classes)[label]
        raise BadInput(
            f"The data set holds no other correctly classified image of class '{name}', so likeness to it is unknown."
        )
    case = Case(pictures, torch.full((len(pictures),), label, device=bundle.device))
    return _strength(_scores(evidence, case)), len(pictures)


def _scored(evidence: Evidence, case: Case) -> Kept:
    return _kept(_strength(_scores(evidence, case)))


def _scores(evidence: Evidence, case: Case) -> PerMap:
    references = evidence.references
    return extraction.score(evidence.bundle, case, references, method=evidence.method, seed=evidence.seed)[0]


def _merges_at(evidence: Evidence, true: tuple[float, ...], fooled: tuple[float, ...]) -> str | None:
    sites = evidence.bundle.sites
    place = int(comparison.merges_at(np.array([[b > a for a, b in zip(true, fooled, strict=True)]]))[0])
    return None if place == len(sites) or _keeps_class(evidence) else sites[place].name


def _merges_span(evidence: Evidence, true: Kept, fooled: Kept) -> SiteSpan | None:
    names, scores = [site.name for site in evidence.bundle.sites], evidence.examination.adversarial.scores
    return None if _keeps_class(evidence) else comparison.merges_span(scores, true, fooled, share=SHARE, names=names)


def _keeps_class(evidence: Evidence) -> bool:
    """Whether the attack changed no answer, so that there is no other class to merge with."""
    return evidence.clean.targets.equal(evidence.adversarial.targets)


def _strength(per_map: PerMap) -> Strength:
    found = selection.strength([site.cpu().numpy() for site in per_map])
    for site in found:
        site.setflags(write=False)
    return found


def _kept(strength: Strength) -> Kept:
    return selection.per_site(strength, SHARE)


def _jaccards(first: Kept, second: Kept) -> tuple[float, ...]:
    return tuple(selection.jaccard(a, b) for a, b in zip(first, second, strict=True))
