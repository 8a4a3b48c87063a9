"""The noise controls: as large as an attack, but without looking at the network."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from engine.attacks.seeding import Purpose, drawn

HALVINGS = 22
LONGEST = 8.0
"""How much longer than wanted noise is drawn at most, to make up for what is cut off at black and white."""


def sign_noise(images: Tensor, epsilon: float, seeds: Tensor) -> Tensor:
    """Return images (batch, channels, height, width) with every pixel moved up or down by epsilon, cut to [0, 1]."""
    signs = drawn(seeds, Purpose.SIGNS, partial(_signs, images.shape[1:])).to(images.device)
    return (images + epsilon * signs).clamp(0.0, 1.0)


def same_norm_noise(images: Tensor, delta: Tensor, seeds: Tensor, draws: int) -> Tensor:
    """Return noisy copies of each image, in [0, 1], as far (L2) from it as its own perturbation `delta` is long.

    images, delta: (batch, channels, height, width); seeds: (batch,) int64. Returns (batch * draws, channels, height,
    width), image-major. The length is that after cutting to [0, 1], which takes 30 % of it from a mostly black image;
    it falls short only where even noise eight times as long does not reach it.
    """
    unit = drawn(seeds, Purpose.GAUSSIAN, partial(_directions, (draws, *images.shape[1:]))).flatten(0, 1)
    unit = unit.to(images.device)
    copies = images.repeat_interleave(draws, dim=0)
    wanted = delta.flatten(1).norm(dim=1).repeat_interleave(draws).view(-1, 1, 1, 1)
    low, high = wanted.clone(), LONGEST * wanted
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        reached = ((copies + middle * unit).clamp(0.0, 1.0) - copies).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        low, high = torch.where(reached <= wanted, middle, low), torch.where(reached <= wanted, high, middle)
    return (copies + low * unit).clamp(0.0, 1.0)


def shuffled(images: Tensor, delta: Tensor, seeds: Tensor) -> Tensor:
    """Return images with their perturbation's pixels (all channels together) in random order, cut to [0, 1]."""
    height, width = images.shape[2:]
    orders = drawn(seeds, Purpose.ORDER, partial(_order, height * width)).to(images.device)
    flat = delta.flatten(2)
    moved = flat.gather(2, orders[:, None].expand_as(flat)).view_as(delta)
    return (images + moved).clamp(0.0, 1.0)


def _signs(shape: torch.Size, generator: Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0


def _directions(shape: tuple[int, ...], generator: Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    return noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _order(count: int, generator: Generator) -> Tensor:
    return torch.randperm(count, generator=generator)
