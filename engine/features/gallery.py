"""What a feature map looks for: the data-set patches it contributes most to, and those it responds to most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import cases
from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.records import Gallery
from engine.store.dataset import Dataset

TOP = 16
MOST = 1000
"""Images looked at; a larger data set is sampled evenly."""


def build(bundle: ModelBundle, dataset: Dataset, report: Report) -> Gallery:
    """Return the top patches of every feature map of every site: one pass over the images for all maps at once."""
    labels = cases.labels(bundle, dataset)
    rows = np.linspace(0, len(labels) - 1, min(MOST, len(labels))).astype(int)
    samples = tuple(dataset.keys[k] for k in rows)
    best = {kind: [_Best.empty(site.channels) for site in bundle.sites] for kind in ("relevance", "activation")}
    for first, maps, gradients in _passes(bundle, dataset, samples, report):
        for k, (activation, gradient) in enumerate(zip(maps, gradients, strict=True)):
            relevance = activation * gradient
            best["relevance"][k] = best["relevance"][k].with_batch(
                first, relevance.abs().sum(dim=(2, 3)), relevance.abs()
            )
            best["activation"][k] = best["activation"][k].with_batch(first, activation.amax(dim=(2, 3)), activation)
    return Gallery(
        samples,
        _frozen(labels[rows]),
        *(
            tuple(_frozen(getattr(one, what)) for one in best[kind])
            for kind in best
            for what in ("images", "positions")
        ),
    )


def _passes(
    bundle: ModelBundle, dataset: Dataset, samples: tuple[str, ...], report: Report
) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """Per batch: its first image's number, the maps of every site, and the gradients of the predicted logits there."""
    step = tracing.batch_limit(bundle)
    for first in range(0, len(samples), step):
        report(first, len(samples), "Looking for the patches each feature map responds to")
        pictures = cases.load(bundle, dataset, samples[first : first + step])
        recorder = tracing.Recorder(frozenset(range(len(bundle.sites))))
        with torch.enable_grad(), bundle.visiting(recorder):
            logits = bundle.logits(pictures.requires_grad_())
            predicted = logits.amax(dim=1).sum()
        maps = [recorder.seen[k] for k in range(len(bundle.sites))]
        gradients = torch.autograd.grad(predicted, maps)
        yield first, [site.detach() for site in maps], list(gradients)


class _Best:
    """The `TOP` images of each map so far."""

    def __init__(self, values: np.ndarray, images: np.ndarray, positions: np.ndarray) -> None:
        self.values, self.images, self.positions = values, images, positions

    @classmethod
    def empty(cls, channels: int) -> _Best:
        """Return a table (channels, 0)."""
        nothing = np.zeros((channels, 0), dtype=np.int32)
        return cls(nothing.astype(np.float32), nothing, nothing)

    def with_batch(self, first: int, values: Tensor, where: Tensor) -> _Best:
        """Return the table after a batch: values (batch, channels) to rank by, `where` (batch, channels, h, w) to peak in."""
        peaks = where.flatten(2).argmax(dim=2)
        numbers = np.arange(first, first + len(values), dtype=np.int32)
        pool = np.concatenate([self.values, values.T.cpu().numpy()], axis=1)
        images = np.concatenate([self.images, np.broadcast_to(numbers, (len(pool), len(numbers)))], axis=1)
        spots = np.concatenate([self.positions, peaks.T.to(torch.int32).cpu().numpy()], axis=1)
        order = np.argsort(-pool, axis=1, kind="stable")[:, :TOP]
        return _Best(*(np.take_along_axis(table, order, axis=1) for table in (pool, images, spots)))


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
