"""Pre-activation residual networks for CIFAR (He et al. 2016, Identity Mappings), with the names of kuangliu/pytorch-cifar."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""What pytorch-cifar's training normalises with; its standard deviations are means over pictures, not over all pixels."""
WIDTH, STAGES, BLOCKS = 64, 4, 2


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
            others = (PreActBlock(outputs, outputs, 1, is_shortcut_activated=True) for _ in range(BLOCKS - 1))
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
