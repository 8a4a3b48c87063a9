"""One random stream per image and purpose, so that what is drawn for an image does not depend on its batch mates."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import torch
from torch import Generator, Tensor


class Purpose(IntEnum):
    """What numbers are drawn for; streams of different purposes are unrelated."""

    START = 0
    SIGNS = 0x1C69B3F74AC4AE35
    GAUSSIAN = 0x2545F4914F6CDD1D
    ORDER = 0x369DEA0F31A53F85
    TARGET = 0x5851F42D4C957F2D
    CORRUPTION = 0x14057B7EF767814F
    STRIPES = 0x27BB2EE687B0B0FD


def drawn(seeds: Tensor, purpose: Purpose, draw: Callable[[Generator], Tensor]) -> Tensor:
    """Return `draw` of each image's own generator, stacked: (batch, ...), on the CPU, the same on every device."""
    return torch.stack([draw(Generator().manual_seed(int(seed) ^ purpose)) for seed in seeds.tolist()])
