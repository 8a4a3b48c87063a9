"""Makes the intake report of a stored model: what must hold before an attack on it proves anything."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from engine import statistics
from engine.attacks import forms
from engine.credibility import checking
from engine.credibility import verdicts as verdicts
from engine.datapaths import cases
from engine.intake import mistakes, proofs
from engine.jobs.notes import Report
from engine.models import load, same_function
from engine.models.bundle import ModelBundle
from engine.models.same_function import Agreement
from engine.records import ModelCard
from engine.records.credibility import CheckOutcome, CheckResult, Figure
from engine.records.intake import INTAKE_CHECKS, InexactLink, IntakeReport, Suspicion
from engine.store import Dataset, Store

MOST_IMAGES = 500
"""Labelled images behind the clean accuracy, drawn by a fixed seed."""
TRIED_ON = 100
"""Of those, the ones on which other preprocessings are tried: a mistake that matters shows on so many.

At most so many are held in memory at once."""
LOOKED_AT = 8
NOISES = 4
SAME = 1e-4
"""Largest difference of two answers, as a share of the largest logit, that another order of adding may explain."""


@dataclass(frozen=True, eq=False, slots=True)
class Labelled:
    """Some images as the network takes them, with their labels as it counts classes."""

    labels: Tensor
    predictions: Tensor
    images: Tensor
    """The first `TRIED_ON` of them, (images, channels, height, width) in [0, 1]: all would take gigabytes at 600 pixels."""


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """A model that is checked, stored already or not yet."""

    card: ModelCard
    bundle: ModelBundle
    network: nn.Module
    """The module as it was handed in."""
    found_hash: str
    """Content hash of the weights as they lie there now."""
    agreement: Agreement | None = None
    """How both networks agree, where that was measured already."""


def stored(store: Store, bundle: ModelBundle) -> Subject:
    """Return a stored model, to be checked. Raises UnknownName."""
    card = store.model_card(bundle.name)
    return Subject(card, bundle, load.network(store, card.name), load.stored_hash(store, card.name))


def check(subject: Subject, dataset: Dataset | None, report: Report) -> IntakeReport:
    """Return the intake report of a model, on made-up pictures where no labelled data set is given.

    Raises BadInput where the classes of the data set are not the model's.
    """
    card, bundle = subject.card, subject.bundle
    report(0, 4, f"Checking '{card.name}'")
    labelled = None if dataset is None else _drawn(bundle, dataset)
    found = [_loads(bundle, card), _hash(subject), _sites(card), *_of_answers(bundle, labelled)]
    report(1, 4, "Proving that the network is the one handed in, and that it is read exactly")
    proofs, inexact = _proofs(subject, None if labelled is None else labelled.images)
    found += proofs
    report(2, 4, "Counting right answers")
    suspicions: tuple[Suspicion, ...] = ()
    if labelled is not None:
        found.append(_accuracy(labelled, card))
        report(3, 4, "Trying other preprocessings")
        tried = len(labelled.images)
        suspicions = mistakes.suspicions(bundle, labelled.images, labelled.labels[:tried], labelled.predictions[:tried])
        found.append(_preprocessing(suspicions, tried))
    name = "" if dataset is None else dataset.card.name
    images = 0 if labelled is None else len(labelled.labels)
    return IntakeReport(card.name, card.content_hash, name, images, _complete(found), suspicions, inexact)


def _proofs(subject: Subject, images: Tensor | None) -> tuple[list[CheckResult], tuple[InexactLink, ...]]:
    """That the network is the one handed in, that its edges are exact and its receptive fields right."""
    bundle = subject.bundle
    pictures = same_function.pictures(bundle, same_function.LEAST, images)
    edges, inexact = proofs.of_edges(bundle, pictures)
    function = proofs.of_function(subject.agreement or subject.network, bundle, pictures)
    return [function, edges, proofs.of_fields(bundle)], inexact


def some(bundle: ModelBundle, dataset: Dataset) -> Tensor:
    """Return pictures of a data set, spread over it, on which two networks are compared."""
    rows = np.linspace(0, len(dataset.keys) - 1, min(same_function.LEAST, len(dataset.keys))).astype(int)
    return cases.load(bundle, dataset, tuple(dataset.keys[row] for row in rows))


def _drawn(bundle: ModelBundle, dataset: Dataset) -> Labelled:
    every = cases.labels(bundle, dataset)
    rows = np.random.default_rng(0).permutation(len(every))[:MOST_IMAGES]
    samples = [dataset.keys[row] for row in rows]
    parts = [tuple(samples[start : start + TRIED_ON]) for start in range(0, len(samples), TRIED_ON)]
    first = cases.load(bundle, dataset, parts[0])
    predictions = [mistakes.predictions(bundle, first)]
    predictions += [mistakes.predictions(bundle, cases.load(bundle, dataset, part)) for part in parts[1:]]
    return Labelled(torch.as_tensor(every[rows], device=bundle.device), torch.cat(predictions), first)


def _complete(found: list[CheckResult]) -> tuple[CheckResult, ...]:
    """Every check in order, its figures finite; what was not run says so."""
    by_name = {result.check: replace(result, figures=_finite_only(result.figures)) for result in found}
    missing = "It needs labelled images: name a data set with the model's classes."
    return tuple(by_name.get(check.name, CheckResult(check.name, "not run", missing)) for check in INTAKE_CHECKS)


def _finite_only(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    """What can be stored: of answers that are not finite the sentence tells."""
    return tuple(figure for figure in figures if math.isfinite(figure.value))


def _result(check: str, fails: bool, sentence: str, **figures: float) -> CheckResult:
    shown = tuple(Figure(name.replace("_", " "), float(value)) for name, value in figures.items())
    return CheckResult(check, "fail" if fails else "pass", sentence, shown)


def _loads(bundle: ModelBundle, card: ModelCard) -> CheckResult:
    blank = torch.zeros(1, bundle.channels, *bundle.size, device=bundle.device)
    with torch.no_grad():
        shape = tuple(bundle.logits(blank).shape)
    wanted = (1, len(card.classes))
    text = (
        f"{card.architecture} with {card.parameters:,} parameters answers {shape[-1]} logits for {wanted[1]} classes."
    )
    return _result("loads", shape != wanted, text, parameters=card.parameters, logits=shape[-1])


def _hash(subject: Subject) -> CheckResult:
    found, card = subject.found_hash, subject.card
    same = found == card.content_hash
    text = f"Content {found}." if same else f"The stored weights are {found}, checked were {card.content_hash}."
    return _result("hash", not same, text)


def _sites(card: ModelCard) -> CheckResult:
    maps, claimable = sum(site.channels for site in card.sites), sum(site.is_claimable for site in card.sites)
    text = f"{len(card.sites)} sites with {maps:,} feature maps and {len(card.links)} links between them."
    return _result("sites", claimable < 1, text, sites=len(card.sites), maps=maps, links=len(card.links))


def _of_answers(bundle: ModelBundle, labelled: Labelled | None) -> list[CheckResult]:
    """What a look at a few answers decides, on noise where there are no images."""
    extremes = _extremes(bundle)
    pictures = extremes if labelled is None else labelled.images[:LOOKED_AT]
    labels = mistakes.predictions(bundle, pictures)
    look = checking.look_at(bundle, pictures, labels)
    repeats, _, gradients = verdicts.without_attacks(look)
    return [
        _evaluation(bundle, pictures) if look.are_finite else _incomparable("evaluation"),
        replace(repeats, check="deterministic") if look.are_finite else _incomparable("deterministic"),
        _finite(bundle, pictures if labelled is None else torch.cat([pictures, extremes])),
        _logits(bundle, pictures if labelled is None else torch.cat([pictures, extremes])),
        replace(gradients, check="gradients"),
    ]


def _incomparable(check: str) -> CheckResult:
    return CheckResult(check, "not run", "Answers that are not finite cannot be compared.")


def _extremes(bundle: ModelBundle) -> Tensor:
    """Return a black and a white image and noise, in steps of 1/255."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (NOISES, bundle.channels, *bundle.size), generator=generator) / 255
    plain = torch.stack([torch.zeros_like(noise[0]), torch.ones_like(noise[0])])
    return torch.cat([plain, noise]).to(bundle.device)


def _answers(bundle: ModelBundle, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return bundle.logits(pictures)


def _evaluation(bundle: ModelBundle, pictures: Tensor) -> CheckResult:
    together, alone = _answers(bundle, pictures), torch.cat([_answers(bundle, one[None]) for one in pictures[:2]])
    difference = float((together[: len(alone)] - alone).abs().max() / together.abs().max().clamp(min=1.0))
    training = sum(module.training for module in bundle.network.modules())
    text = f"Answers in a batch and alone differ by {difference:.1e} of the largest logit; {training} parts are in training mode."
    return _result("evaluation", training > 0 or not difference <= SAME, text, difference=difference, training=training)


def _finite(bundle: ModelBundle, pictures: Tensor) -> CheckResult:
    count = int((~_answers(bundle, pictures).isfinite().all(dim=1)).sum())
    text = f"{count} of {len(pictures)} images, black, white and noise among them, get an answer that is not finite."
    return _result("finite", count > 0, text, images=len(pictures), not_finite=count)


def _logits(bundle: ModelBundle, pictures: Tensor) -> CheckResult:
    """Probabilities, percentages and their logarithms fail, however they were made; black, white and noise help to tell."""
    found = forms.form_of(functools.partial(_answers, bundle), pictures, _answers(bundle, pictures))
    return _result("logits", bool(found), f"The answers {found or 'are not probabilities'}.")


def _accuracy(labelled: Labelled, card: ModelCard) -> CheckResult:
    share = statistics.proportion((labelled.predictions == labelled.labels).cpu().numpy())
    chance, declared = 1 / len(card.classes), card.declared_accuracy
    text = (
        f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n} images are right; chance is {chance:.1%}"
    )
    text += "." if declared is None else f", declared were {declared:.1%}."
    fails = share.low <= chance or (declared is not None and share.high < declared)
    figures = {"accuracy": share.value, "low": share.low, "high": share.high, "images": share.n, "chance": chance}
    return _result("accuracy", fails, text, **figures, **({} if declared is None else {"declared": declared}))


def _preprocessing(suspicions: tuple[Suspicion, ...], images: int) -> CheckResult:
    text = f"On {images} images {len(suspicions)} of the usual mistakes would explain wrong answers."
    outcome: CheckOutcome = "fail" if suspicions else "pass"
    return CheckResult(
        "preprocessing", outcome, text, (Figure("images", images), Figure("suspicions", len(suspicions)))
    )
