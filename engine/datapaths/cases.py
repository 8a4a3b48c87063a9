"""What is to be explained (images and classes) and the other-class runs it is explained against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import images, tracing
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset
from engine.tracing import Trace

REFERENCES = 4
CANDIDATES = 24
"""Images drawn to find `REFERENCES` that are classified correctly."""


@dataclass(frozen=True, eq=False, slots=True)
class References:
    """Correctly classified images of classes that play no part in the question."""

    images: Tensor
    labels: Tensor
    trace: Trace
    samples: tuple[str, ...]
    kind: str
    """`references`, or `blur` where the data set has no third class."""


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """Images, and the class whose evidence is sought in each."""

    images: Tensor
    """(images, channels, height, width) in [0, 1]."""
    targets: Tensor
    """(images,) int64."""

    def pairs(self, references: References) -> tuple[Tensor, Tensor]:
        """Return row numbers (images * references,) into the images and into the references, image-major."""
        n, r = len(self.images), len(references.images)
        return torch.arange(n).repeat_interleave(r), torch.arange(r).repeat(n)

    def blocks(self, bundle: ModelBundle, references: References) -> Iterator[tuple[Case, Tensor]]:
        """Yield as many images at a time as go through together with their references, and their row numbers (images,).

        Only the maps of one block need to be kept: those of 16 images of 224 pixels take 0.6 GB in ResNet-50.
        """
        at_once = max(1, tracing.batch_limit(bundle) // len(references.images))
        for rows in torch.arange(len(self.images)).split(at_once):
            yield Case(self.images[rows], self.targets[rows]), rows


def load(bundle: ModelBundle, dataset: Dataset, samples: tuple[str, ...]) -> Tensor:
    """Return samples as (images, channels, height, width) float32 in [0, 1], fitted to the model's input."""
    fitted = images.fit(dataset.images(samples), bundle.channels, bundle.size, bundle.resize)
    pictures = torch.from_numpy(images.to_float(fitted)).permute(0, 3, 1, 2)
    # Copied into plain strides: one-channel images count as channels-last after `contiguous`, and there torch 2.15
    # crashes on weight gradients of odd batches on the CPU.
    return torch.empty(pictures.shape, device=bundle.device).copy_(pictures)


def labels(bundle: ModelBundle, dataset: Dataset) -> np.ndarray:
    """Return (images,) int64: the model's class index of every image of the data set."""
    return np.array(dataset.labels_for(bundle))


def references(bundle: ModelBundle, dataset: Dataset, case: Case, *, avoid: frozenset[int], seed: int) -> References:
    """Return reference images of classes outside `avoid`, drawn by `seed`, one per class as far as there are classes.

    Falls back to a blurred copy of the first image where no such image exists.
    """
    every = labels(bundle, dataset)
    generator = np.random.default_rng([seed, *sorted(avoid)])
    order = generator.permutation(len(every))
    eligible = [int(k) for k in order if int(every[k]) not in avoid][: CANDIDATES * 4]
    drawn = _one_per_class_first(eligible, every)[:CANDIDATES]
    if not drawn:
        return _blurred(bundle, case)
    correct = _correct(bundle, dataset, drawn, every)
    if not correct:
        return _blurred(bundle, case)
    chosen = tuple(dataset.keys[k] for k in correct)
    pictures = load(bundle, dataset, chosen)
    truth = torch.as_tensor(every[correct], device=bundle.device)
    return References(pictures, truth, tracing.record(bundle, pictures), chosen, "references")


@torch.no_grad()
def _correct(bundle: ModelBundle, dataset: Dataset, drawn: list[int], every: np.ndarray) -> list[int]:
    """The first `REFERENCES` of the drawn images that the network answers correctly; no more are looked at than needed."""
    found: list[int] = []
    for start in range(0, len(drawn), REFERENCES):
        part = drawn[start : start + REFERENCES]
        answers = bundle.logits(load(bundle, dataset, tuple(dataset.keys[k] for k in part))).argmax(1).tolist()
        found += [k for k, answer in zip(part, answers, strict=True) if answer == int(every[k])]
        if len(found) >= REFERENCES:
            break
    return found[:REFERENCES]


def _one_per_class_first(order: list[int], every: np.ndarray) -> list[int]:
    rounds: dict[int, int] = {}
    ranked = []
    for k in order:
        rounds[int(every[k])] = rounds.get(int(every[k]), -1) + 1
        ranked.append((rounds[int(every[k])], k))
    return [k for _, k in sorted(ranked, key=lambda pair: pair[0])]


def _blurred(bundle: ModelBundle, case: Case) -> References:
    width = max(3, bundle.size[0] // 4 * 2 + 1)
    blurred = torch.nn.functional.avg_pool2d(case.images[:1], width, 1, width // 2, count_include_pad=False)
    trace = tracing.record(bundle, blurred)
    return References(blurred, trace.logits.argmax(1), trace, (), "blur")
