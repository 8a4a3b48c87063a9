"""Small networks with known answers, and bundles of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models import network as bundles
from engine.models.network import Identity, ModelBundle, Preprocessing

CLASSES = ("ant", "bee", "cat")


class Residual(nn.Module):
    """Four channels, one reused in-place ReLU, a padded parameter-free shortcut and a concatenation."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.outer = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        out = self.relu(self.norm(self.inner(x)))
        out = self.outer(out)
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        out = F.relu(out, inplace=True)
        out = torch.cat([F.relu(self.left(out)), F.relu(self.right(out))], dim=1)
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


class Chain(nn.Module):
    """Stem and two convolutions without bias or shortcut, linear between its ReLUs."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.c = nn.Conv2d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.linear(x.mean((2, 3)))


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every weight, bias and batch-norm statistic anew from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.5
                tensor.copy_(drawn.abs() + 0.5 if "var" in name else drawn)
    return network.eval()


def bundle(network: nn.Module, side: int = 8, classes: tuple[str, ...] = CLASSES) -> ModelBundle:
    """Return the bundle of a toy on the CPU."""
    return bundles.bundle(network, Preprocessing(3, (side, side), (0.5,) * 3, (0.25,) * 3), Identity(classes, "toy"))


def pictures(count: int, side: int = 8, seed: int = 1) -> Tensor:
    """Return random images (count, 3, side, side) of 8-bit values in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).float() / 255
