"""Obvious mistakes at hand-in: what if the preprocessing or the numbering of classes were another one?

Each candidate is tried on labelled images; it counts as a suspicion only where it gives significantly more right answers on
the same images (exact McNemar, Bonferroni over the candidates).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from engine import statistics, tracing
from engine.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from engine.models.bundle import ModelBundle
from engine.records import ChannelOrder
from engine.records.intake import Suspicion

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


def suspicions(
    bundle: ModelBundle, images: Tensor, labels: Tensor, declared: Tensor | None = None
) -> tuple[Suspicion, ...]:
    """Return the mistakes that would explain wrong answers, the likeliest first.

    images: (images, channels, height, width) in [0, 1]; labels: (images,) int64; declared: the network's `predictions` of
    them, where they are known. One forward pass per preprocessing tried; where one helps, the others are tried again on top
    of it, for two mistakes made together.
    """
    declared = predictions(bundle, images) if declared is None else declared
    first = _significant(declared, bundle, images, labels, _candidates(bundle))
    if not first:
        return ()
    best = first[0][1]
    others = [one for one in _candidates(best.bundle) if one.kind != best.kind]
    undone = predictions(best.bundle, images)
    further = _significant(undone, best.bundle, images, labels + best.shift, others)[:1]
    together = _significant(declared, bundle, images, labels, [_joined(best, one) for _, one in further])
    return tuple(found for found, _ in (*together, *first))


def predictions(bundle: ModelBundle, images: Tensor) -> Tensor:
    """Return (images,) int64 class indices."""
    with torch.no_grad():
        return tracing.logits(bundle, images).argmax(1)


def _significant(
    declared: Tensor, bundle: ModelBundle, images: Tensor, labels: Tensor, candidates: list[Candidate]
) -> list[tuple[Suspicion, Candidate]]:
    right = (declared == labels).cpu().numpy()
    found = []
    for one in candidates:
        answers = declared if one.bundle is bundle else predictions(one.bundle, images)
        without = (answers == labels + one.shift).cpu().numpy()
        if without.sum() > right.sum() and _p_value(without, right) < SIGNIFICANCE / len(candidates):
            found.append((_suspicion(one, without, right), one))
    return sorted(found, key=lambda pair: -pair[0].after.value)


def _p_value(without: np.ndarray, right: np.ndarray) -> float:
    return statistics.mcnemar(int((without & ~right).sum()), int((right & ~without).sum()))


def _suspicion(one: Candidate, without: np.ndarray, right: np.ndarray) -> Suspicion:
    counts = [int(part.sum()) for part in (without & right, without & ~right, right & ~without, ~right & ~without)]
    gain = statistics.paired_difference(*counts)
    before, after = statistics.proportion(right), statistics.proportion(without)
    told = (
        f"{one.mistake} Right: {_percent(before)} as declared, {_percent(after)} otherwise, of {gain.n} images; difference "
        f"{100 * gain.value:+.0f} [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}] points."
    )
    return Suspicion(told, one.remedy, before, after, gain)


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
