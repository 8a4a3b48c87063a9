"""One network written in many ways: families of modules with the same weights and the same answers.

A reader that knows what operations do, not what they are called, finds the same sites and links in all members of a family.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from tests import toys

CLASSES = len(toys.CLASSES)
SIDE = 12
"""Pixels of the pictures."""

Elementwise = Callable[[Tensor], Tensor]


def called(layer: nn.Module, x: Tensor) -> Tensor:
    """Call a layer as a module."""
    return layer(x)


def gated(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Squeeze-and-excitation with kept axes."""
    return x * torch.sigmoid(layers[1](F.relu(layers[0](x.mean((2, 3), keepdim=True)))))


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the steps of a network are written."""

    convolution: Callable[[nn.Conv2d, Tensor], Tensor] = called
    pointwise: Callable[[nn.Conv2d, Tensor], Tensor] = called
    norm: Callable[[nn.BatchNorm2d, Tensor], Tensor] = called
    activation: Elementwise = F.relu
    pooling: Elementwise = lambda x: x.mean((2, 3))
    no_op: Elementwise = lambda x: x
    addition: Callable[[Tensor, Tensor], Tensor] = lambda x, y: x + y
    shortcut: Elementwise = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    concatenation: Callable[[Sequence[Tensor]], Tensor] = lambda parts: torch.cat(tuple(parts), dim=1)
    halves: Callable[[Tensor], Sequence[Tensor]] = lambda x: x.chunk(2, dim=1)
    gate: Callable[[nn.ModuleList, Tensor], Tensor] = gated


class Written(nn.Module):
    """A network whose steps are written as a spelling says."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        # A copy: readers may change a module. As attributes of its own, for a module must be a part of the network.
        own = copy.deepcopy(spelling)
        self.convolution, self.pointwise, self.norm = own.convolution, own.pointwise, own.norm
        self.activation, self.pooling, self.no_op = own.activation, own.pooling, own.no_op
        self.addition, self.shortcut, self.gate = own.addition, own.shortcut, own.gate
        self.concatenation, self.halves = own.concatenation, own.halves


class Chain(Written):
    """Three layers in a row, two of them with batch norm."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.a, self.n = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.m = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.p, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.no_op(self.activation(self.norm(self.n, self.convolution(self.a, x))))
        x = self.activation(self.no_op(self.norm(self.m, self.convolution(self.b, x))))
        x = self.activation(self.pointwise(self.p, self.no_op(x)))
        return self.fc(self.pooling(x))


class Residual(Written):
    """A stem and two blocks, the first with a shortcut that is made smaller and padded with channels of zeros."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a, self.n = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b, self.m = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.p, self.q = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.no_op(self.activation(self.convolution(self.stem, x)))
        y = self.activation(self.norm(self.n, self.convolution(self.a, x)))
        y = self.norm(self.m, self.convolution(self.b, y))
        x = self.activation(self.addition(y, self.shortcut(x)))
        y = self.convolution(self.q, self.no_op(self.activation(self.pointwise(self.p, x))))
        return self.fc(self.pooling(self.activation(self.addition(y, x))))


class Dense(Written):
    """Concatenation, squeeze-and-excitation, and a block on one half of the maps."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.stem, self.a = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.excite = nn.ModuleList([nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)])
        self.b, self.n = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.p, self.fc = nn.Conv2d(10, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.convolution(self.stem, x))
        x = self.concatenation([x, self.activation(self.convolution(self.a, x))])
        left, right = self.halves(self.gate(self.excite, self.no_op(x)))
        left = self.activation(self.norm(self.n, self.convolution(self.b, left)))
        x = self.concatenation([left, self.no_op(right)])
        return self.fc(self.pooling(self.activation(self.pointwise(self.p, x))))


def _functional(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def _with_named_arguments(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return torch.conv2d(input=x, weight=layer.weight, bias=layer.bias, stride=layer.stride, padding=layer.padding)


def _padded_before(layer: nn.Conv2d, x: Tensor) -> Tensor:
    (high, wide) = layer.padding
    return F.conv2d(F.pad(x, (wide, wide, high, high)), layer.weight, layer.bias, layer.stride)


def _bias_added(layer: nn.Conv2d, x: Tensor) -> Tensor:
    x = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
    return x if layer.bias is None else x + layer.bias.view(1, -1, 1, 1)


def _columns(layer: nn.Conv2d, x: Tensor) -> Tensor:
    columns = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    side = -(-x.shape[2] // layer.stride[0])
    x = (layer.weight.flatten(1) @ columns).unflatten(2, (side, side))
    return x if layer.bias is None else x + layer.bias[:, None, None]


def _linear(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.linear(x.permute(0, 2, 3, 1), layer.weight.flatten(1), layer.bias).permute(0, 3, 1, 2)


def _einsum(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return torch.einsum("bchw,oc->bohw", x, layer.weight[:, :, 0, 0]) + layer.bias.view(-1, 1, 1)


def _matmul(layer: nn.Conv2d, x: Tensor) -> Tensor:
    mixed = torch.matmul(layer.weight.flatten(1), x.flatten(2)) + layer.bias[:, None]
    return mixed.view(-1, len(layer.weight), *x.shape[2:])


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.training, 0.1, layer.eps
    )


def _affine(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, spread = layer.running_mean, torch.sqrt(layer.running_var + layer.eps)
    maps = (-1, 1, 1)
    return (x - mean.view(maps)) / spread.view(maps) * layer.weight.view(maps) + layer.bias.view(maps)


def _scale_and_shift(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    scale = (layer.weight * (layer.running_var + layer.eps).rsqrt()).reshape(1, -1, 1, 1)
    return x * scale + (layer.bias.reshape(1, -1, 1, 1) - layer.running_mean.reshape(1, -1, 1, 1) * scale)


def _added_in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def _zeros_beside(x: Tensor) -> Tensor:
    x = F.avg_pool2d(x, 1, 2)
    zeros = torch.zeros_like(x[:, :2])
    return torch.cat([zeros, x, zeros], 1)


def _written_into(parts: Sequence[Tensor]) -> Tensor:
    first, second = parts
    together = first.new_zeros(first.shape[0], first.shape[1] + second.shape[1], *first.shape[2:])
    together[:, : first.shape[1]] = first
    together[:, first.shape[1] :] = second
    return together


def _in_a_list(parts: Sequence[Tensor]) -> Tensor:
    kept = []
    for part in parts:
        kept.append(part)
    return torch.cat(kept, dim=-3)


def _excited(layers: nn.ModuleList, squeezed: Tensor) -> Tensor:
    (first, second) = (layer.weight.flatten(1) for layer in layers)
    return torch.sigmoid(F.linear(F.relu(F.linear(squeezed, first, layers[0].bias)), second, layers[1].bias))


def _gate_by_view(layers: nn.ModuleList, x: Tensor) -> Tensor:
    batch, channels, _, _ = x.size()
    return x * _excited(layers, F.adaptive_avg_pool2d(x, 1).view(batch, channels)).view(batch, channels, 1, 1)


def _gate_expanded(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return x * _excited(layers, x.mean(-1).mean(-1))[:, :, None, None].expand_as(x)


def _gate_first(layers: nn.ModuleList, x: Tensor) -> Tensor:
    return torch.mul(layers[1](F.relu(layers[0](F.adaptive_avg_pool2d(x, (1, 1))))).sigmoid(), x)


def _gate_in_place(layers: nn.ModuleList, x: Tensor) -> Tensor:
    gate = torch.sigmoid(layers[1](F.relu(layers[0](x.mean((2, 3), keepdim=True)), inplace=True)))
    return x.clone().mul_(gate)


WAYS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "convolution": (
        "convolution",
        (called, _functional, _with_named_arguments, _padded_before, _bias_added, _columns),
    ),
    "pointwise": ("pointwise", (called, _functional, _linear, _einsum, _matmul)),
    "norm": ("norm", (called, _batch_norm, _affine, _scale_and_shift)),
    "relu": (
        "activation",
        (
            F.relu,
            torch.relu,
            nn.ReLU(),
            nn.ReLU(inplace=True),
            F.relu_,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            lambda x: F.relu(x, True),
            lambda x: x.clamp(min=0),
            lambda x: x.clamp_(0),
            lambda x: torch.maximum(x, torch.zeros_like(x)),
            lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
            lambda x: x * (x > 0),
            lambda x: (x + x.abs()) / 2,
        ),
    ),
    "silu": (
        "activation",
        (
            F.silu,
            nn.SiLU(),
            nn.SiLU(inplace=True),
            lambda x: x * torch.sigmoid(x),
            lambda x: x.sigmoid() * x,
            lambda x: x.mul(x.sigmoid()),
            lambda x: x / (1 + torch.exp(-x)),
        ),
    ),
    "hardswish": (
        "activation",
        (
            F.hardswish,
            nn.Hardswish(inplace=True),
            lambda x: x * F.relu6(x + 3) / 6,
            lambda x: x * F.hardsigmoid(x),
            lambda x: x * torch.clamp(x + 3, 0, 6) * (1 / 6),
        ),
    ),
    "relu6": (
        "activation",
        (
            F.relu6,
            nn.ReLU6(inplace=True),
            nn.Hardtanh(0.0, 6.0),
            lambda x: F.hardtanh(x, 0.0, 6.0),
            lambda x: x.clamp(0, 6),
            lambda x: torch.clamp(x, min=0, max=6),
            lambda x: F.relu(x) - F.relu(x - 6),
        ),
    ),
    "leaky relu": (
        "activation",
        (
            lambda x: F.leaky_relu(x, 0.1),
            nn.LeakyReLU(0.1),
            nn.LeakyReLU(0.1, inplace=True),
            lambda x: F.leaky_relu_(x, 0.1),
            lambda x: torch.max(x, 0.1 * x),
            lambda x: torch.where(x >= 0, x, x * 0.1),
        ),
    ),
    "gelu": ("activation", (F.gelu, nn.GELU(), lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))),
    "pooling": (
        "pooling",
        (
            lambda x: x.mean((2, 3)),
            lambda x: x.mean([-1, -2]),
            lambda x: x.mean(3).mean(2),
            lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
            lambda x: torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            lambda x: F.avg_pool2d(x, x.shape[2:]).view(x.size(0), -1),
            lambda x: F.avg_pool2d(x, x.size()[3]).reshape(x.shape[0], -1),
            lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2),
            lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
            lambda x: x.flatten(2).mean(-1),
            lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
        ),
    ),
    "no-op": (
        "no_op",
        (
            lambda x: x,
            nn.Identity(),
            nn.Sequential(),
            nn.Dropout(0.5),
            nn.Dropout2d(0.2, inplace=True),
            lambda x: F.dropout(x, 0.5, training=False),
            lambda x: stochastic_depth(x, 0.2, "row", training=False),
            lambda x: x.contiguous(),
            lambda x: x.clone(),
            lambda x: x.view(x.shape),
            lambda x: x.flatten(2).unflatten(2, x.shape[2:]),
            lambda x: x * 1.0,
            lambda x: x + 0,
            lambda x: x.to(torch.float32),
            lambda x: x[:],
            lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        ),
    ),
    "addition": (
        "addition",
        (
            lambda x, y: x + y,
            lambda x, y: y + x,
            torch.add,
            lambda x, y: x.add(y),
            lambda x, y: x.add_(y),
            _added_in_place,
            lambda x, y: sum([x, y]),
            lambda x, y: torch.add(x, y, alpha=1),
            lambda x, y: torch.stack([x, y]).sum(0),
            lambda x, y: x - (-y),
            lambda x, y: x + 1.0 * y,
        ),
    ),
    "shortcut": (
        "shortcut",
        (
            lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
            lambda x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0.0),
            lambda x: F.pad(F.avg_pool2d(x, 1, stride=2), [0, 0, 0, 0, 2, 2]),
            lambda x: F.pad(F.max_pool2d(x, 1, 2), (0, 0, 0, 0, 2, 2), value=0),
            _zeros_beside,
        ),
    ),
    "concatenation": (
        "concatenation",
        (
            lambda parts: torch.cat(tuple(parts), dim=1),
            lambda parts: torch.cat(parts, 1),
            lambda parts: torch.cat(parts, dim=-3),
            lambda parts: torch.concatenate(parts, dim=1),
            lambda parts: torch.concat(parts, 1),
            torch.hstack,
            _in_a_list,
            _written_into,
        ),
    ),
    "halves": (
        "halves",
        (
            lambda x: x.chunk(2, dim=1),
            lambda x: torch.chunk(x, 2, 1),
            lambda x: x.split(x.shape[1] // 2, dim=1),
            lambda x: torch.split(x, [5, 5], 1),
            lambda x: torch.tensor_split(x, 2, dim=1),
            lambda x: (x[:, :5], x[:, 5:]),
            lambda x: (x[:, :-5], x[:, -5:]),
            lambda x: (x.narrow(1, 0, 5), x.narrow(1, 5, 5)),
            lambda x: x.unflatten(1, (2, 5)).unbind(1),
            lambda x: (x.index_select(1, torch.arange(5)), x.index_select(1, torch.arange(5, 10))),
        ),
    ),
    "gate": ("gate", (gated, _gate_by_view, _gate_expanded, _gate_first, _gate_in_place)),
}
"""What is written in several ways: the field of a spelling, and its ways, the plainest first."""

BASES = {"chain": Chain, "residual": Residual, "dense": Dense}
ONLY = {
    "addition": ("residual",),
    "shortcut": ("residual",),
    "concatenation": ("dense",),
    "halves": ("dense",),
    "gate": ("dense",),
}
"""The bases that have such a step; all others are in every one."""


class Wrapped(nn.Module):
    """The network inside another module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


class WithOptions(Wrapped):
    """Options with defaults, questions about the batch, and a message that names shapes."""

    def forward(self, x: Tensor, *, mirrored: bool = False, mask: Tensor | None = None) -> Tensor:
        assert x.shape[1] == 3, f"pictures of {x.shape[1]} channels"
        if not len(x) or not isinstance(x, Tensor):
            return x
        if mask is not None:
            x = x * mask
        return self.backbone(x.flip(3) if mirrored else x)


class LayerByLayer(Wrapped):
    """A chain's layers called in a loop."""

    def forward(self, x: Tensor) -> Tensor:
        for layers in (("a", "n"), ("b", "m"), ("p",)):
            for name in layers:
                x = self.backbone.get_submodule(name)(x)
            x = F.relu(x)
        return self.backbone.fc(x.mean((2, 3)))


class AffineByHand(nn.Module):
    """Batch norm at rest, as some implementations freeze it."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.register_buffer("mean", norm.running_mean.clone())
        self.register_buffer("deviation", torch.sqrt(norm.running_var + norm.eps))
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean[None, :, None, None]) / self.deviation[None, :, None, None]
        return self.weight[None, :, None, None] * x + self.bias[None, :, None, None]


def _sequential(chain: Chain) -> nn.Module:
    """A chain without a `forward` of its own."""
    convolutions = (chain.a, chain.n, nn.ReLU(), chain.b, chain.m, nn.ReLU(inplace=True), chain.p, nn.ReLU())
    return nn.Sequential(nn.Sequential(*convolutions), nn.AdaptiveAvgPool2d(1), nn.Flatten(), chain.fc)


def _replaced(network: nn.Module, kind: type[nn.Module], replacement: Callable[[Any], nn.Module]) -> nn.Module:
    """Replace every layer of a kind."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                parent.register_module(name, replacement(child))
    return network


def _zero_padded(layer: nn.Conv2d) -> nn.Module:
    (high, wide), layer.padding = layer.padding, (0, 0)
    return nn.Sequential(nn.ZeroPad2d((wide, wide, high, high)), layer)


def _padded_in_words(layer: nn.Conv2d) -> nn.Module:
    layer.padding = "same" if layer.padding != (0, 0) and layer.stride == (1, 1) else layer.padding
    return layer


def _structures(base: nn.Module) -> tuple[nn.Module, ...]:
    """The same layers in other modules."""
    of_chains = (_sequential, LayerByLayer) if isinstance(base, Chain) else ()
    changes: tuple[Callable[[Any], nn.Module], ...] = (
        Wrapped,
        WithOptions,
        nn.Sequential,
        lambda network: Wrapped(nn.ModuleDict({"model": Wrapped(network)})["model"]),
        lambda network: _replaced(network, nn.Conv2d, _zero_padded),
        lambda network: _replaced(network, nn.Conv2d, _padded_in_words),
        lambda network: _replaced(network, nn.BatchNorm2d, AffineByHand),
        lambda network: _replaced(network, nn.BatchNorm2d, lambda norm: nn.Sequential(norm, nn.Identity())),
        *of_chains,
    )
    return (base, *(change(copy.deepcopy(base)).eval() for change in changes))


FAMILIES = (
    *(f"{base}: {step}" for base in BASES for step in WAYS if base in ONLY.get(step, BASES)),
    *(f"{base}: structure" for base in BASES),
)
"""`base: what is written in several ways`."""


def family(name: str, seed: int = 0) -> tuple[nn.Module, ...]:
    """Return new members of a family, the plainest first; a seed's weights are the same in every family of a base."""
    base, written_otherwise = name.split(": ")
    plain = toys.seeded(BASES[base](Spelling()), seed)
    if written_otherwise == "structure":
        return _structures(plain)
    step, ways = WAYS[written_otherwise]
    return tuple(_like(plain, Spelling(**{step: way})) for way in ways)


def _like(network: nn.Module, spelling: Spelling) -> nn.Module:
    """A network of the same kind and weights in another spelling."""
    other = type(network)(spelling)
    other.load_state_dict(network.state_dict())
    return other.eval()
