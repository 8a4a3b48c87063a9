"""What arrives at one site, read without running the rest of the network."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import cases
from engine.models.bundle import ModelBundle
from engine.store.dataset import Dataset


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
    step = tracing.batch_limit(bundle)
    found = []
    for first in range(0, len(samples), step):
        part = slice(first, first + step)
        maps = arrival(bundle, cases.load(bundle, dataset, samples[part]), site).flatten(2)
        where = torch.as_tensor(np.array(positions[part]), dtype=torch.int64, device=maps.device)
        found.append(maps.gather(2, where[:, None, None].expand(-1, maps.shape[1], 1))[:, :, 0])
    return torch.cat(found)


@torch.no_grad()
def spread(bundle: ModelBundle, pictures: Tensor, site: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation, both (channels,) float64, of what arrives at a site over all positions.

    pictures: (images, channels, height, width) in [0, 1].
    """
    sums, squares, count = [], [], 0
    for part in pictures.split(tracing.batch_limit(bundle)):
        maps = arrival(bundle, part, site).double()
        sums.append(maps.sum(dim=(0, 2, 3)))
        squares.append(maps.square().sum(dim=(0, 2, 3)))
        count += maps.numel() // maps.shape[1]
    mean = torch.stack(sums).sum(dim=0) / count
    return mean, (torch.stack(squares).sum(dim=0) / count - mean.square()).clamp(min=0.0).sqrt()
