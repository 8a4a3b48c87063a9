"""The project's own architectures: ResNets for CIFAR, with and without pre-activation, and for the digits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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


DIGITS_MEAN, DIGITS_STD = (0.5,), (0.5,)
"""What the weights of the demo were trained with: images in [0, 1] go in as values in [-1, 1]."""
STEM = 12
WIDTHS = (12, 24, 48)
DIGITS_BLOCKS = 2


class DigitsBlock(nn.Module):
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
        self.layer1 = _digits_resnet_stage(STEM, WIDTHS[0], stride=1)
        self.layer2 = _digits_resnet_stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _digits_resnet_stage(WIDTHS[1], WIDTHS[2], stride=2)
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


def _digits_resnet_stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    blocks = [DigitsBlock(inputs, outputs, stride)]
    blocks += [DigitsBlock(outputs, outputs, 1) for _ in range(DIGITS_BLOCKS - 1)]
    return nn.Sequential(*blocks)


PREACT_MEAN, PREACT_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""What pytorch-cifar's training normalises with; its standard deviations are means over pictures, not over all pixels."""
WIDTH, STAGES, PREACT_BLOCKS = 64, 4, 2


class PreActBlock(nn.Module):
    """Norm and activation stand before each of two 3x3 convolutions; where the shape changes, a 1x1 convolution is the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, is_shortcut_activated: bool) -> None:
        """is_shortcut_activated: the 1x1 convolution takes the block's input behind norm and activation, else as it is."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.is_shortcut_activated = is_shortcut_activated
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if changes else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) -> (batch, outputs, height / stride, width / stride)."""
        activated = F.relu(self.bn1(x))
        # Unchanged, it is the block's input itself that is added.
        is_activated = self.is_shortcut_activated and len(self.shortcut) > 0
        shortcut = self.shortcut(activated if is_activated else x)
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + shortcut


class PreActResNet(nn.Module):
    """Stem, stages of two blocks each twice as wide as the one before, average over each map, linear."""

    def __init__(
        self,
        classes: int = 10,
        *,
        width: int = WIDTH,
        stages: int = STAGES,
        channels: int = 3,
        has_last_norm: bool = False,
        is_shortcut_activated: bool = True,
    ) -> None:
        """width: maps of the first stage; has_last_norm: `bn` and an activation stand behind the last stage."""
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        widths = [width, *(width * 2**stage for stage in range(stages))]
        for stage in range(stages):
            inputs, outputs, stride = widths[stage], widths[stage + 1], 1 if stage == 0 else 2
            first = PreActBlock(inputs, outputs, stride, is_shortcut_activated=is_shortcut_activated)
            others = (PreActBlock(outputs, outputs, 1, is_shortcut_activated=True) for _ in range(PREACT_BLOCKS - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *others))
        self.bn = nn.BatchNorm2d(widths[-1]) if has_last_norm else None
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), normalised -> logits (batch, classes)."""
        out = self.conv1(x)
        for stage in range(self.stages):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        if self.bn is not None:
            out = F.relu(self.bn(out))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def preact_resnet18(tensors: Mapping[str, Tensor], classes: int) -> PreActResNet:
    """Return the network whose 1x1 shortcuts take activated maps (pytorch-cifar, Rice et al. 2020).

    The names of the weights say whether a last norm `bn` is there, as in RobustBench's.
    """
    return PreActResNet(classes, has_last_norm=has_last_norm(tensors))


def preact_resnet18_raw(tensors: Mapping[str, Tensor], classes: int) -> PreActResNet:
    """Return the network whose 1x1 shortcuts take maps before norm and activation (Wong et al. 2020, RobustBench's PreActBlock).

    Its weights have the same names and shapes as those of `preact_resnet18`: only the answers tell them apart.
    """
    return PreActResNet(classes, has_last_norm=has_last_norm(tensors), is_shortcut_activated=False)


def has_last_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether weights have the norm behind the last stage."""
    return "bn.weight" in tensors
