"""What is to be explained (images and classes) and the other-class runs it is explained against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine import hashing, images
from engine.attacks.attacked import Fellows
from engine.models import hooks
from engine.models.hooks import Trace
from engine.models.network import ModelBundle
from engine.store.store import Dataset

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
class CorrectImages:
    """Images that the network classifies correctly."""

    samples: tuple[str, ...]
    images: Tensor
    """(images, channels, height, width) in [0, 1]."""
    labels: Tensor
    """(images,) int64, on the CPU."""


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """Images, and the class whose evidence is sought in each."""

    images: Tensor
    """(images, channels, height, width) in [0, 1]."""
    targets: Tensor
    """(images,) int64."""

    def rows(self, index: Tensor) -> Case:
        """Return some of the images."""
        return Case(self.images[index], self.targets[index])

    def pairs(self, references: References) -> tuple[Tensor, Tensor]:
        """Return row numbers (images * references,) into the images and into the references, image-major."""
        n, r = len(self.images), len(references.images)
        return torch.arange(n).repeat_interleave(r), torch.arange(r).repeat(n)

    def blocks(self, bundle: ModelBundle, references: References) -> Iterator[tuple[Case, Tensor]]:
        """Yield as many images at a time as go through together with their references, and their row numbers (images,).

        Only the maps of one block need to be kept: those of 16 images of 224 pixels take 0.6 GB in ResNet-50.
        """
        at_once = max(1, hooks.batch_limit(bundle) // len(references.images))
        for rows in torch.arange(len(self.images)).split(at_once):
            yield self.rows(rows), rows


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
    known = correct(bundle, dataset, drawn, REFERENCES, at_once=REFERENCES)
    if not known.samples:
        return _blurred(bundle, case)
    trace = hooks.record(bundle, known.images)
    return References(known.images, known.labels.to(bundle.device), trace, known.samples, "references")


@torch.no_grad()
def correct(
    bundle: ModelBundle, dataset: Dataset, candidates: Sequence[int], count: int, *, at_once: int
) -> CorrectImages:
    """Return the first `count` of some images, by their rows in the data set, that the network classifies correctly.

    Looks at `at_once` together, and at no more of them than needed; there are fewer images where too few are right.
    """
    truth = torch.as_tensor(labels(bundle, dataset))
    kept: list[int] = []
    pictures = [torch.empty(0, bundle.channels, *bundle.size, device=bundle.device)]
    for start in range(0, len(candidates), at_once):
        rows = torch.tensor(candidates[start : start + at_once])
        loaded = load(bundle, dataset, tuple(dataset.keys[k] for k in rows.tolist()))
        right = (bundle.logits(loaded).argmax(1).cpu() == truth[rows]).nonzero()[:, 0][: count - len(kept)]
        kept += rows[right].tolist()
        pictures.append(loaded[right.to(bundle.device)])
        if len(kept) >= count:
            break
    return CorrectImages(tuple(dataset.keys[k] for k in kept), torch.cat(pictures), truth[kept])


def fellows(bundle: ModelBundle, dataset: Dataset) -> Fellows:
    """Return where an attack on a whole class learns: from the first images of the class that the network answers right."""

    def of_class(label: int, count: int) -> Tensor:
        rows = np.flatnonzero(labels(bundle, dataset) == label).tolist()
        return correct(bundle, dataset, rows, count, at_once=hooks.batch_limit(bundle)).images

    return Fellows(hashing.content_key(bundle.content_hash, dataset.card.content_hash, str(bundle.device)), of_class)


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
    trace = hooks.record(bundle, blurred)
    return References(blurred, trace.logits.argmax(1), trace, (), "blur")
