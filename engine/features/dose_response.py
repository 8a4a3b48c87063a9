"""How feature maps answer to an attack at growing strength, beside noise of the same length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from engine.attacks import attacked
from engine.attribution import explain
from engine.attribution.explain import Report
from engine.errors import BadSetting, Unsupported
from engine.models import hooks
from engine.models.network import ModelBundle
from engine.specs.threat_model import Attack
from engine.store.store import Dataset
from engine.types.checks import Responses
from engine.types.core import Explanation

STRENGTHS = tuple(Fraction(eighths, 8) for eighths in (0, 1, 2, 4, 6, 8, 12))


@dataclass(frozen=True, eq=False, slots=True)
class _Answers:
    """How the maps answer to a batch, per site (channels,), and what the network says of each image, (images,)."""

    mean: tuple[Tensor, ...]
    peak: tuple[Tensor, ...]
    labels: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class _Row:
    """One strength."""

    strength: Fraction
    lengths: Tensor
    attacked: _Answers
    noise: _Answers


def respond(bundle: ModelBundle, dataset: Dataset, explained: Explanation, report: Report) -> Responses:
    """Return the responses of an explanation's images.

    At strength 1 the stored adversarial images and noise copies are read again, at 0 the clean ones; every other
    strength is what an explanation at that epsilon would attack with. Raises Unsupported for an attack without epsilon.
    """
    spec = explained.request.attack
    if spec.epsilon is None:
        raise Unsupported(f"{spec.name} has no epsilon to vary, so there is no dose-response.")
    rows = list(_rows(bundle, dataset, explained, spec, report))
    is_right = np.array([outcome.before.label == outcome.label for outcome in explained.outcomes])
    truth = np.array([outcome.label for outcome in explained.outcomes])
    copies = len(explained.images["noise"]) // len(truth)
    labels, noise_labels = _stacked([row.attacked.labels for row in rows]), _stacked([row.noise.labels for row in rows])
    return Responses(
        explanation=explained.key,
        strengths=tuple(str(row.strength) for row in rows),
        epsilons=tuple(spec.at(spec.budget * row.strength).epsilon_text for row in rows),
        mean=_per_site([row.attacked.mean for row in rows]),
        peak=_per_site([row.attacked.peak for row in rows]),
        noise_mean=_per_site([row.noise.mean for row in rows]),
        noise_peak=_per_site([row.noise.peak for row in rows]),
        lengths=_stacked([row.lengths for row in rows]),
        labels=labels,
        fooled=_read_only(is_right & (labels != truth)),
        noise_labels=noise_labels,
        noise_fooled=_read_only(np.repeat(is_right, copies) & (noise_labels != np.repeat(truth, copies))),
    )


def _rows(
    bundle: ModelBundle, dataset: Dataset, explained: Explanation, spec: Attack, report: Report
) -> Iterator[_Row]:
    stored = {
        side: attacked.pictures(explained.images[side], bundle.device) for side in ("clean", "adversarial", "noise")
    }
    copies = len(stored["noise"]) // len(stored["clean"])
    for done, strength in enumerate(STRENGTHS):
        report(done, len(STRENGTHS), "Attacking at growing epsilon")
        if strength == 0:
            sides = stored["clean"], stored["clean"].repeat_interleave(copies, dim=0)
        elif strength == 1:
            sides = stored["adversarial"], stored["noise"]
        else:
            try:
                other = spec.at(spec.budget * strength)
            except BadSetting:
                continue
            sides = _attacked(bundle, dataset, explained, (other, copies))
        lengths = (sides[0] - stored["clean"]).flatten(1).norm(dim=1)
        yield _Row(strength, lengths, *(_answers(bundle, side) for side in sides))


def _attacked(
    bundle: ModelBundle, dataset: Dataset, explained: Explanation, wanted: tuple[Attack, int]
) -> tuple[Tensor, Tensor]:
    """Attacked images and noise at another strength, with as many noise copies as the stored explanation has."""
    request, (spec, copies) = explained.request, wanted
    pairs = explain.attacked(bundle, dataset, spec, request.samples, request.seed)
    return pairs.adversarial, explain.noise_copies(pairs, copies)


def _answers(bundle: ModelBundle, pictures: Tensor) -> _Answers:
    means, peaks, labels = [], [], []
    for part in pictures.split(hooks.batch_limit(bundle)):
        trace = hooks.record(bundle, part)
        means.append([site.mean(dim=(2, 3)) for site in trace.maps])
        peaks.append([site.amax(dim=(2, 3)) for site in trace.maps])
        labels.append(trace.logits.argmax(dim=1))
    return _Answers(_over_images(means), _over_images(peaks), torch.cat(labels))


def _over_images(batches: list[list[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(site).mean(dim=0) for site in zip(*batches, strict=True))


def _per_site(rows: list[tuple[Tensor, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(_stacked(list(site)) for site in zip(*rows, strict=True))


def _stacked(rows: list[Tensor]) -> np.ndarray:
    return _read_only(torch.stack(rows).cpu().numpy())


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
