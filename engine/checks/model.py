"""The validation report of a model: every check, and the usual mistakes of preprocessing."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from engine import statistics
from engine.attacks import guards
from engine.attribution import baselines
from engine.checks import attacks, equality
from engine.jobs.worker import Report
from engine.models import hooks, register
from engine.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from engine.models.network import ModelBundle
from engine.models.register import Agreement
from engine.store import Dataset, Store
from engine.types.checks import (
    VALIDATION_CHECKS,
    CheckOutcome,
    CheckResult,
    Figure,
    InexactLink,
    Suspicion,
    ValidationReport,
)
from engine.types.core import ChannelOrder, ModelCard

SIGNIFICANCE = 0.05
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A mistake that may have been made, and the network as it answers without it."""

    kind: Literal["normalisation", "order", "numbering"]
    mistake: str
    remedy: str
    bundle: ModelBundle
    shift: int = 0
    """Added to the labels: 1 where they count from one class too low."""


def find_suspicions(
    bundle: ModelBundle, images: Tensor, labels: Tensor, declared: Tensor | None = None
) -> tuple[Suspicion, ...]:
    """Return the mistakes that would explain wrong answers, the likeliest first.

    images: (images, channels, height, width) in [0, 1]; labels: (images,) int64; declared: the network's `predictions` of
    them, where they are known. One forward pass per preprocessing tried; where one helps, the others are tried again on top
    of it, for two mistakes made together.
    """
    declared = predict(bundle, images) if declared is None else declared
    first = _significant(declared, bundle, images, labels, _candidates(bundle))
    if not first:
        return ()
    best = first[0][1]
    others = [candidate for candidate in _candidates(best.bundle) if candidate.kind != best.kind]
    undone = predict(best.bundle, images)
    further = _significant(undone, best.bundle, images, labels + best.shift, others)[:1]
    together = _significant(declared, bundle, images, labels, [_joined(best, one) for _, one in further])
    return tuple(result for result, _ in (*together, *first))


def predict(bundle: ModelBundle, images: Tensor) -> Tensor:
    """Return (images,) int64 class indices."""
    with torch.no_grad():
        return hooks.logits(bundle, images).argmax(1)


def _significant(
    declared: Tensor, bundle: ModelBundle, images: Tensor, labels: Tensor, candidates: list[Candidate]
) -> list[tuple[Suspicion, Candidate]]:
    right = (declared == labels).cpu().numpy()
    results = []
    for candidate in candidates:
        answers = declared if candidate.bundle is bundle else predict(candidate.bundle, images)
        without = (answers == labels + candidate.shift).cpu().numpy()
        if without.sum() > right.sum() and _p_value(without, right) < SIGNIFICANCE / len(candidates):
            results.append((_suspicion(candidate, without, right), candidate))
    return sorted(results, key=lambda pair: -pair[0].after.value)


def _p_value(without: np.ndarray, right: np.ndarray) -> float:
    return statistics.mcnemar(int((without & ~right).sum()), int((right & ~without).sum()))


def _suspicion(one: Candidate, without: np.ndarray, right: np.ndarray) -> Suspicion:
    counts = [int(part.sum()) for part in (without & right, without & ~right, right & ~without, ~right & ~without)]
    gain = statistics.paired_difference(*counts)
    before, after = statistics.proportion(right), statistics.proportion(without)
    result = (
        f"{one.mistake} Right: {_percent(before)} as declared, {_percent(after)} otherwise, of {gain.n} images; difference "
        f"{100 * gain.value:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}] points."
    )
    return Suspicion(result, one.remedy, before, after, gain)


def _percent(share: statistics.Estimate) -> str:
    return f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _candidates(bundle: ModelBundle) -> list[Candidate]:
    """The network with each other preprocessing and numbering of classes that is often meant."""
    return [*_other_normalisations(bundle), *_other_orders(bundle), *_other_numberings(bundle)]


def _joined(first: Candidate, second: Candidate) -> Candidate:
    """Both mistakes undone; `second` was made on top of `first`."""
    texts = f"{first.mistake} {second.mistake}", f"{first.remedy} together with {second.remedy}"
    return Candidate(second.kind, *texts, second.bundle, first.shift + second.shift)


def _other_normalisations(bundle: ModelBundle) -> Iterator[Candidate]:
    for mistake, remedy, mean, std in _normalisations(bundle):
        other = replace(bundle, mean=_like(mean, bundle.mean), std=_like(std, bundle.std))
        if not (torch.allclose(other.mean, bundle.mean) and torch.allclose(other.std, bundle.std)):
            yield Candidate("normalisation", mistake, remedy, other)


def _other_orders(bundle: ModelBundle) -> Iterator[Candidate]:
    if bundle.channels == 3:
        order: ChannelOrder = "bgr" if bundle.order == "rgb" else "rgb"
        mistake = "The network takes its channels in the other order."
        yield Candidate("order", mistake, f"--channels {order}", replace(bundle, order=order))


def _normalisations(bundle: ModelBundle) -> Iterator[tuple[str, str, tuple[float, ...], tuple[float, ...]]]:
    """(mistake, remedy, mean, standard deviation) per channel, on a scale on which white is 1."""
    channels = bundle.channels
    zero, one = (0.0,) * channels, (1.0,) * channels
    twice = "The network normalises its input itself, so that it is done twice."
    yield twice, f"--mean {_listed(zero)} --std {_listed(one)}", zero, one
    yield "The network takes pixels from 0 to 255.", "--range 255", zero, (1 / 255,) * channels
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), (HALF, HALF)) if channels == 3 else (((0.5,), (0.5,)),):
        missing = "The network was trained on another normalisation than is declared."
        yield missing, f"--mean {_listed(mean)} --std {_listed(std)}", mean, std
    if channels == 3:
        scaled = tuple(255 * value for value in IMAGENET_MEAN)
        caffe = "The network takes pixels from 0 to 255 less their mean."
        remedy = f"--range 255 --mean {_listed(scaled)} --std {_listed(one)}"
        yield caffe, remedy, IMAGENET_MEAN, (1 / 255,) * channels


def _other_numberings(bundle: ModelBundle) -> Iterator[Candidate]:
    high = "The labels are one higher than the network's classes."
    yield Candidate("numbering", high, "--first-label 1, or a class list that begins one later", bundle, -1)
    low = "The labels are one lower than the network's classes."
    yield Candidate("numbering", low, "a class list that begins with one more class", bundle, 1)


def _like(values: tuple[float, ...], tensor: Tensor) -> Tensor:
    return torch.tensor(values, dtype=tensor.dtype, device=tensor.device).view(tensor.shape)


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


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
    return Subject(card, bundle, register.network(store, card.name), register.stored_hash(store, card.name))


def check(subject: Subject, dataset: Dataset | None, report: Report) -> ValidationReport:
    """Return the intake report of a model, on made-up pictures where no labelled data set is given.

    Raises BadInput where the classes of the data set are not the model's.
    """
    card, bundle = subject.card, subject.bundle
    report(0, 4, f"Checking '{card.name}'")
    labelled = None if dataset is None else _drawn(bundle, dataset)
    results = [_loads(bundle, card), _hash(subject), _sites(card), *_of_answers(bundle, labelled)]
    report(1, 4, "Checking that the network is the one handed in, and that it is read exactly")
    checks_of_equality, inexact = _equality_checks(subject, None if labelled is None else labelled.images)
    results += checks_of_equality
    report(2, 4, "Counting right answers")
    suspicions: tuple[Suspicion, ...] = ()
    if labelled is not None:
        results.append(_accuracy(labelled, card))
        report(3, 4, "Trying other preprocessings")
        tried = len(labelled.images)
        suspicions = find_suspicions(bundle, labelled.images, labelled.labels[:tried], labelled.predictions[:tried])
        results.append(_preprocessing(suspicions, tried))
    name = "" if dataset is None else dataset.card.name
    images = 0 if labelled is None else len(labelled.labels)
    return ValidationReport(card.name, card.content_hash, name, images, _complete(results), suspicions, inexact)


def _equality_checks(subject: Subject, images: Tensor | None) -> tuple[list[CheckResult], tuple[InexactLink, ...]]:
    """That the network is the one handed in, that its edges are exact and its receptive fields right."""
    bundle = subject.bundle
    pictures = register.pictures_to_compare(bundle, register.LEAST, images)
    edges, inexact = equality.of_edges(bundle, pictures)
    function = equality.of_function(subject.agreement or subject.network, bundle, pictures)
    return [function, edges, equality.of_fields(bundle)], inexact


def some(bundle: ModelBundle, dataset: Dataset) -> Tensor:
    """Return pictures of a data set, spread over it, on which two networks are compared."""
    rows = np.linspace(0, len(dataset.keys) - 1, min(register.LEAST, len(dataset.keys))).astype(int)
    return baselines.load(bundle, dataset, tuple(dataset.keys[row] for row in rows))


def _drawn(bundle: ModelBundle, dataset: Dataset) -> Labelled:
    every = baselines.labels(bundle, dataset)
    rows = np.random.default_rng(0).permutation(len(every))[:MOST_IMAGES]
    samples = [dataset.keys[row] for row in rows]
    parts = [tuple(samples[start : start + TRIED_ON]) for start in range(0, len(samples), TRIED_ON)]
    first = baselines.load(bundle, dataset, parts[0])
    predictions = [predict(bundle, first)]
    predictions += [predict(bundle, baselines.load(bundle, dataset, part)) for part in parts[1:]]
    return Labelled(torch.as_tensor(every[rows], device=bundle.device), torch.cat(predictions), first)


def _complete(check_results: list[CheckResult]) -> tuple[CheckResult, ...]:
    """Every check in order, its figures finite; what was not run says so."""
    by_name = {result.check: replace(result, figures=_finite_only(result.figures)) for result in check_results}
    missing = "It needs labelled images: name a data set with the model's classes."
    return tuple(by_name.get(check.name, CheckResult(check.name, "not run", missing)) for check in VALIDATION_CHECKS)


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
    result, card = subject.found_hash, subject.card
    same = result == card.content_hash
    text = f"Content {result}." if same else f"The stored weights are {result}, checked were {card.content_hash}."
    return _result("hash", not same, text)


def _sites(card: ModelCard) -> CheckResult:
    maps, eligible = sum(site.channels for site in card.sites), sum(site.is_eligible for site in card.sites)
    text = f"{len(card.sites)} layers with {maps:,} feature maps and {len(card.links)} links between them."
    return _result("sites", eligible < 1, text, sites=len(card.sites), maps=maps, links=len(card.links))


def _of_answers(bundle: ModelBundle, labelled: Labelled | None) -> list[CheckResult]:
    """What a look at a few answers decides, on noise where there are no images."""
    extremes = _extremes(bundle)
    pictures = extremes if labelled is None else labelled.images[:LOOKED_AT]
    labels = predict(bundle, pictures)
    look = attacks.look_at(bundle, pictures, labels)
    repeats, _, gradients = attacks.without_attacks(look)
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
    together, alone = (
        _answers(bundle, pictures),
        torch.cat([_answers(bundle, picture[None]) for picture in pictures[:2]]),
    )
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
    form_of = guards.form_of(functools.partial(_answers, bundle), pictures, _answers(bundle, pictures))
    return _result("logits", bool(form_of), f"The answers {form_of or 'are not probabilities'}.")


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
