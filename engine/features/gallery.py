"""The crops that each channel contributes most on, measured by what arrives at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from engine.attribution import baselines
from engine.attribution.explain import Report
from engine.models import hooks
from engine.models.network import ModelBundle
from engine.store.store import Dataset
from engine.types.core import Gallery


class _Arrived(Exception):
    """Ends a pass at the tap it was made for."""


class _Stop:
    """Keeps the tensor of one tap and ends the pass there: layers behind it are not run, nor need they fit."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen: list[Tensor] = []

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number == self.number:
            self.seen.append(tensor)
            raise _Arrived
        return tensor


def arrival(bundle: ModelBundle, images: Tensor, site: int) -> Tensor:
    """Return what enters the activation of a site, or the site itself where it has none; differentiable.

    images: (batch, channels, height, width) in [0, 1], of any size the layers up to the site can take.
    """
    stop = _Stop(bundle.inputs[site])
    with bundle.visiting(stop), contextlib.suppress(_Arrived):
        bundle.logits(images)
    return stop.seen[0]


@torch.no_grad()
def at_positions(
    bundle: ModelBundle, dataset: Dataset, site: int, samples: tuple[str, ...], positions: np.ndarray
) -> Tensor:
    """Return (samples, channels): what arrives at a site at one flat position of each sample; positions: (samples,)."""
    step = hooks.batch_limit(bundle)
    results = []
    for first in range(0, len(samples), step):
        part = slice(first, first + step)
        maps = arrival(bundle, baselines.load(bundle, dataset, samples[part]), site).flatten(2)
        where = torch.as_tensor(np.array(positions[part]), dtype=torch.int64, device=maps.device)
        results.append(maps.gather(2, where[:, None, None].expand(-1, maps.shape[1], 1))[:, :, 0])
    return torch.cat(results)


@torch.no_grad()
def spread(bundle: ModelBundle, pictures: Tensor, site: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation, both (channels,) float64, of what arrives at a site over all positions.

    pictures: (images, channels, height, width) in [0, 1].
    """
    sums, squares, count = [], [], 0
    for part in pictures.split(hooks.batch_limit(bundle)):
        maps = arrival(bundle, part, site).double()
        sums.append(maps.sum(dim=(0, 2, 3)))
        squares.append(maps.square().sum(dim=(0, 2, 3)))
        count += maps.numel() // maps.shape[1]
    mean = torch.stack(sums).sum(dim=0) / count
    return mean, (torch.stack(squares).sum(dim=0) / count - mean.square()).clamp(min=0.0).sqrt()


TOP = 16
MOST = 1000
"""Images looked at; a larger data set is sampled evenly."""


def build(bundle: ModelBundle, dataset: Dataset, report: Report) -> Gallery:
    """Return the top patches of every feature map of every site: one pass over the images for all maps at once."""
    labels = baselines.labels(bundle, dataset)
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
            tuple(_frozen(getattr(item, what)) for item in best[kind])
            for kind in best
            for what in ("images", "positions")
        ),
    )


def _passes(
    bundle: ModelBundle, dataset: Dataset, samples: tuple[str, ...], report: Report
) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """Per batch: its first image's number, the maps of every site, and the gradients of the predicted logits there."""
    step = hooks.batch_limit(bundle)
    for first in range(0, len(samples), step):
        report(first, len(samples), "Looking for the patches each feature map responds to")
        pictures = baselines.load(bundle, dataset, samples[first : first + step])
        recorder = hooks.Recorder(frozenset(range(len(bundle.sites))))
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
