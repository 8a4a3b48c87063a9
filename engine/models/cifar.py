"""The CIFAR residual networks and the small robust networks whose weights circulate with plain state_dict keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (He et al. 2016, section 4.2, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.padding = (outputs - inputs) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """Residual network of depth 6n + 2 for 32 x 32 images, widths 16, 32, 64."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class RobustBlock(nn.Module):
    """Residual block with biases and without batch norm, 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride)) if changes else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class RobustResNet(nn.Module):
    """The 2b and 4b residual networks of the verification literature (Linf 2/255 training on CIFAR-10)."""

    def __init__(self, stem: int, width: int, stages: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1)
        self.layer1 = nn.Sequential(RobustBlock(stem, width, 2), RobustBlock(width, width, 1))
        self.layer2 = (
            nn.Sequential(RobustBlock(width, width, 2), RobustBlock(width, width, 1))
            if stages == 2
            else nn.Sequential()
        )
        side = 32 // 2 ** (stages + 1)
        self.linear1 = nn.Linear(width * side * side, 100)
        self.linear2 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer2(self.layer1(F.relu(self.conv1(x))))
        return self.linear2(F.relu(self.linear1(out.flatten(1))))


def small_cnn(inputs: int, classes: int, *, padding: int, flat: int) -> nn.Sequential:
    """Return the two-convolution network of the robust-training literature; keys are 0, 2, 5 and 7."""
    return nn.Sequential(
        nn.Conv2d(inputs, 16, 4, 2, padding),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
