"""`digits_resnet`: the small residual network of the embedded demo."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEAN, STD = (0.5,), (0.5,)
"""What the weights of the demo were trained with: images in [0, 1] go in as values in [-1, 1]."""
STEM = 12
WIDTHS = (12, 24, 48)
BLOCKS = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; the addition stands before the second activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)."""
        inner = self.relu1(self.bn1(self.conv1(maps)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(maps))


class DigitsResNet(nn.Module):
    """Stem, three stages of two basic blocks with 12, 24 and 48 maps, global average pool, linear."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.relu = nn.ReLU()
        self.layer1 = _stage(STEM, WIDTHS[0], stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width), normalised -> logits (batch, classes)."""
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(torch.flatten(self.pool(maps), 1))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(inputs, outputs, stride)]
    blocks += [BasicBlock(outputs, outputs, 1) for _ in range(BLOCKS - 1)]
    return nn.Sequential(*blocks)
