"""Corruptions of images: what a camera, a file format or a careless export does to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as transforms

from engine.attacks import corruption_specs as specs
from engine.attacks.corruption_specs import Corruption
from engine.attacks.seeding import Purpose, drawn

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
    coded = torch.stack([transforms.jpeg(one, QUALITIES[level]) for one in stored])
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
    specs.GaussianNoise: _gaussian_noise,
    specs.ShotNoise: _shot_noise,
    specs.ImpulseNoise: _impulse_noise,
    specs.Blur: _blur,
    specs.Brightness: _brightness,
    specs.Contrast: _contrast,
    specs.Jpeg: _jpeg,
    specs.Pixelate: _pixelate,
}
