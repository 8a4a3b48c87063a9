"""Random starts, noise controls and corruptions, each image by a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from fractions import Fraction
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as transforms

from engine.specs import catalogue, threat_model
from engine.specs.catalogue import Corruption


class Purpose(IntEnum):
    """What numbers are drawn for; streams of different purposes are unrelated."""

    START = 0
    SIGNS = 0x1C69B3F74AC4AE35
    GAUSSIAN = 0x2545F4914F6CDD1D
    ORDER = 0x369DEA0F31A53F85
    TARGET = 0x5851F42D4C957F2D
    CORRUPTION = 0x14057B7EF767814F
    STRIPES = 0x27BB2EE687B0B0FD
    SQUARE = 0x4C957F2D6A09E667
    SPARSE = 0x3C6EF372FE94F82B


def drawn(seeds: Tensor, purpose: Purpose, draw: Callable[[Generator], Tensor]) -> Tensor:
    """Return `draw` of each image's own generator, stacked: (batch, ...), on the CPU, the same on every device."""
    return torch.stack([draw(Generator().manual_seed(int(seed) ^ purpose)) for seed in seeds.tolist()])


RESTART = 0x1E3779B97F4A7C15
"""Odd and without a pattern: its multiples leave no two seeds of a data set the same."""


def restarted(seeds: Tensor, start: int) -> Tensor:
    """Return seeds that are unrelated to these, for the `start`-th start of an attack; start 0 has these."""
    return seeds ^ (start * RESTART & torch.iinfo(torch.int64).max)


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


def sparse_noise(images: Tensor, epsilon: float, seeds: Tensor) -> Tensor:
    """Return images with values in random order made black or white at random, the last one in part, of L1 length epsilon.

    It falls short only where every value is at its end before.
    """
    both = drawn(seeds, Purpose.SPARSE, partial(_ordered_signs, images[0].numel())).to(images.device)
    order, signs = both[:, 0], both[:, 1]
    values = images.flatten(1).double().gather(1, order)
    room = torch.where(signs > 0, 1 - values, values)
    spent = (epsilon - (room.cumsum(dim=1) - room)).clamp_min(0.0).minimum(room)
    change = torch.zeros_like(values).scatter(1, order, signs * spent)
    return (images + change.view_as(images).to(images.dtype)).clamp(0.0, 1.0)


def squares(images: Tensor, share: Fraction, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Return random content for one square of each image, anywhere on it, of at most a share of its area.

    Content: (batch, channels, height, width), uniform in [0, 1], 0 outside of the square. Where the square is: (batch, 1,
    height, width), 1 or 0; nowhere for a share below one pixel.
    """
    side = threat_model.square_side(share, *images.shape[2:])
    both = drawn(seeds, Purpose.SQUARE, partial(_square, images.shape[1:], side)).to(images.device)
    return both[:, :-1], both[:, -1:]


def patched(images: Tensor, share: Fraction, seeds: Tensor) -> Tensor:
    """Return images with `squares` of random content on them."""
    content, where = squares(images, share, seeds)
    return torch.where(where > 0, content, images)


def placed(square: Tensor, where: Tensor) -> Tensor:
    """Return a square (channels, side, side) at the places of `squares`, (batch, channels, height, width), 0 elsewhere."""
    height, width = where.shape[2:]
    side = square.shape[1]
    corners = [(int(row), int(column)) for row, column in (place[0].nonzero()[0].tolist() for place in where)]
    return torch.stack(
        [F.pad(square, (column, width - side - column, row, height - side - row)) for row, column in corners]
    )


def _square(shape: torch.Size, side: int, generator: Generator) -> Tensor:
    """Return (channels + 1, height, width): content, and at last where it is."""
    channels, height, width = shape
    row, column = (int(torch.randint(0, length - side + 1, (), generator=generator)) for length in (height, width))
    result = torch.zeros(channels + 1, height, width)
    result[:-1, row : row + side, column : column + side] = torch.rand(channels, side, side, generator=generator)
    result[-1, row : row + side, column : column + side] = 1.0
    return result


def _signs(shape: torch.Size, generator: Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0


def _directions(shape: tuple[int, ...], generator: Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    return noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _ordered_signs(count: int, generator: Generator) -> Tensor:
    """Return (2, count) int64: a random order, and -1 or 1 at random."""
    order = torch.randperm(count, generator=generator)
    return torch.stack((order, 2 * torch.randint(0, 2, (count,), generator=generator) - 1))


def _order(count: int, generator: Generator) -> Tensor:
    return torch.randperm(count, generator=generator)


DEVIATIONS = (0.04, 0.08, 0.16)
PHOTONS = (60.0, 25.0, 12.0)
IMPULSES = (0.03, 0.06, 0.12)
BLURS = (0.0125, 0.02, 0.03)
SHORTEST = 32
"""Pixels: the side that blur is measured by at least; below it a share of the side is no blur at all."""
LIGHTS = (0.1, 0.2, 0.3)
CONTRASTS = (0.6, 0.4, 0.2)
QUALITIES = (50, 25, 10)
SHARES = (0.6, 0.45, 0.3)


def corrupted(spec: Corruption, images: Tensor, seeds: Tensor) -> Tensor:
    """Return images (batch, channels, height, width) in [0, 1] damaged as `spec` says, each by its own seed, in [0, 1]."""
    return CORRUPTERS[type(spec)](images, seeds, spec.strength - 1).clamp(0.0, 1.0)


def _gaussian_noise(images: Tensor, seeds: Tensor, level: int) -> Tensor:
    noise = drawn(seeds, Purpose.CORRUPTION, partial(_normal, images.shape[1:]))
    return images + DEVIATIONS[level] * noise.to(images.device)


def _shot_noise(images: Tensor, seeds: Tensor, level: int) -> Tensor:
    rates = iter((images * PHOTONS[level]).cpu())
    counts = drawn(seeds, Purpose.CORRUPTION, lambda generator: torch.poisson(next(rates), generator))
    return counts.to(images.device) / PHOTONS[level]


def _impulse_noise(images: Tensor, seeds: Tensor, level: int) -> Tensor:
    draws = drawn(seeds, Purpose.CORRUPTION, partial(_uniform, images.shape[1:])).to(images.device)
    share = IMPULSES[level]
    return torch.where(draws < share, (draws < share / 2).to(images.dtype), images)


def _blur(images: Tensor, _seeds: Tensor, level: int) -> Tensor:
    side = min(images.shape[2:])
    deviation = BLURS[level] * max(side, SHORTEST)
    # Reflected borders must be narrower than the image.
    reach = min(math.ceil(3 * deviation), side - 1)
    return transforms.gaussian_blur(images, [2 * reach + 1] * 2, [deviation] * 2)


def _brightness(images: Tensor, _seeds: Tensor, level: int) -> Tensor:
    return images + LIGHTS[level]


def _contrast(images: Tensor, _seeds: Tensor, level: int) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + CONTRASTS[level] * (images - mean)


def _jpeg(images: Tensor, _seeds: Tensor, level: int) -> Tensor:
    stored = (images * 255).round().to(torch.uint8).cpu()
    coded = torch.stack([transforms.jpeg(item, QUALITIES[level]) for item in stored])
    return (coded.to(images.dtype) / 255).to(images.device)


def _pixelate(images: Tensor, _seeds: Tensor, level: int) -> Tensor:
    size = images.shape[2:]
    small = [max(1, round(SHARES[level] * side)) for side in size]
    return F.interpolate(F.interpolate(images, size=small, mode="area"), size=size, mode="nearest")


def _normal(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


CORRUPTERS: dict[type[Corruption], Callable[[Tensor, Tensor, int], Tensor]] = {
    catalogue.GaussianNoise: _gaussian_noise,
    catalogue.ShotNoise: _shot_noise,
    catalogue.ImpulseNoise: _impulse_noise,
    catalogue.Blur: _blur,
    catalogue.Brightness: _brightness,
    catalogue.Contrast: _contrast,
    catalogue.Jpeg: _jpeg,
    catalogue.Pixelate: _pixelate,
}
