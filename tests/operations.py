"""The operations that generated networks are drawn from, as source text: many things, each in the spellings that people use.

In the texts `$x` is the tensor of maps an operation takes, `$y` a second one of the same shape, `$v` what it gives, `$image`
the picture, `$k` a number of its own, `$c`, `$h`, `$w` the channels, height and width of `$x`, `$o` an even number of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Template

LARGEST_SIDE, MOST_CHANNELS = 36, 16
CALL = "self.m$k($x)"

PREAMBLE = """
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision.ops import stochastic_depth
from torchvision.transforms import v2


def weight(*shape):
    return nn.Parameter(torch.randn(shape) * (2 / max(1, math.prod(shape[1:]))) ** 0.5)


def numbers(*shape, around=0.0):
    return nn.Parameter(around + 0.3 * torch.rand(shape))
"""
"""What every generated module begins with: the weights of layers written by hand are drawn here."""


@dataclass(frozen=True, slots=True)
class Maps:
    """The shape of one picture's feature maps."""

    channels: int
    height: int
    width: int

    def of(self, channels: int) -> Maps:
        """Return as many maps of the same size."""
        return Maps(channels, self.height, self.width)


Shape = Callable[[Maps, int], Maps]
"""Of what an operation gives, from the shape of what it takes and the drawn number of channels."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a network: lines for `__init__`, an expression or statements for `forward`, and the shape after it."""

    group: str
    forward: str
    setup: str = ""
    after: Shape = lambda maps, out: maps
    fits: Callable[[Maps], bool] = lambda maps: True

    @property
    def name(self) -> str:
        """What the operation does, in the words of its own text."""
        text = self.setup.split(" = ", 1)[1] if self.forward == CALL else f"{self.setup} | {self.forward}".strip(" |")
        return f"{self.group}: {text.replace('$', '').replace(chr(10), '; ')}"

    @property
    def is_join(self) -> bool:
        """Whether it takes a second tensor."""
        return "$y" in self.forward

    def lines(self, names: dict[str, object]) -> tuple[str, str]:
        """Return its lines of `__init__` and of `forward`, the names filled in."""
        forward = self.forward if "$v" in self.forward else f"$v = {self.forward}"
        return Template(self.setup).substitute(names), Template(forward).substitute(names)


def _widened(maps: Maps, out: int) -> Maps:
    return maps.of(out)


def _half_up(maps: Maps, out: int) -> Maps:
    return Maps(maps.channels, (maps.height + 1) // 2, (maps.width + 1) // 2)


def _half_down(maps: Maps, out: int) -> Maps:
    return Maps(maps.channels, maps.height // 2, maps.width // 2)


def _doubled(maps: Maps, out: int) -> Maps:
    return Maps(maps.channels, 2 * maps.height, 2 * maps.width)


def _grown(maps: Maps, out: int) -> Maps:
    return Maps(maps.channels, maps.height + 2, maps.width + 2)


def _cropped(maps: Maps, out: int) -> Maps:
    return Maps(maps.channels, maps.height - 2, maps.width - 2)


def _twice(maps: Maps, out: int) -> Maps:
    return maps.of(2 * maps.channels)


def _half_channels(maps: Maps, out: int) -> Maps:
    return maps.of(maps.channels // 2)


def _two_more(maps: Maps, out: int) -> Maps:
    return maps.of(maps.channels + 2)


def _image_more(maps: Maps, out: int) -> Maps:
    return maps.of(maps.channels + 3)


def _then(first: Shape, second: Shape) -> Shape:
    return lambda maps, out: second(first(maps, out), out)


def _is_large(maps: Maps) -> bool:
    return min(maps.height, maps.width) >= 8


def _can_grow(maps: Maps) -> bool:
    return max(maps.height, maps.width) <= LARGEST_SIDE - 2


def _can_double(maps: Maps) -> bool:
    return max(maps.height, maps.width) <= LARGEST_SIDE // 2


def _is_even(maps: Maps) -> bool:
    return maps.channels % 2 == 0


def _is_wide(maps: Maps) -> bool:
    return maps.channels % 2 == 0 and maps.channels >= 4


def _can_widen(maps: Maps) -> bool:
    return 2 * maps.channels <= MOST_CHANNELS


def _halves_evenly(maps: Maps) -> bool:
    return _is_large(maps) and maps.height % 2 == 0 and maps.width % 2 == 0


def _group(
    group: str, *texts: str, after: Shape = lambda maps, out: maps, fits: Callable[[Maps], bool] = lambda maps: True
) -> tuple[Operation, ...]:
    """Operations of one shape: `nn...` (or another class) is a layer, `setup | forward` has weights of its own."""
    made = []
    for text in texts:
        setup, bar, forward = text.partition(" | ")
        if bar:
            made.append(Operation(group, forward, setup, after, fits))
        elif text.startswith(("nn.", "torchvision.", "parametrizations.", "v2.")):
            made.append(Operation(group, CALL, f"self.m$k = {text}", after, fits))
        else:
            made.append(Operation(group, text, "", after, fits))
    return tuple(made)


INPUTS = (
    *_group(
        "input",
        "2 * $x - 1",
        "($x - 0.5) / 0.25",
        "$x.sub(0.4).div(0.3)",
        "self.register_buffer('mean$k', torch.rand($c, 1, 1)) | ($x - self.mean$k) / 0.25",
        "self.register_buffer('mean$k', torch.rand(1, $c, 1, 1)) | ($x - self.mean$k).div(self.mean$k + 0.1)",
        "nn.BatchNorm2d($c)",
        "F.interpolate($x, size=($h, $w), mode='bilinear')",
        "$x if $x.shape[1] == $c else $x.repeat(1, $c, 1, 1)",
    ),
    *_group("input", "v2.Normalize([0.45] * 3, [0.25] * 3)", "v2.Grayscale(3)", fits=lambda maps: maps.channels == 3),
)

CONVOLUTIONS = (
    *_group(
        "convolution",
        "nn.Conv2d($c, $o, 3, padding=1)",
        "nn.Conv2d($c, $o, 3, padding=1, bias=False)",
        "nn.Conv2d($c, $o, (5, 3), padding=(2, 1))",
        "nn.Conv2d($c, $o, 3, padding='same')",
        "nn.Conv2d($c, $o, 4, padding='same')",
        "nn.Conv2d($c, $o, 3, padding='same', dilation=2)",
        "nn.Conv2d($c, $o, 3, padding=2, dilation=2)",
        "nn.Conv2d($c, $o, 3, padding=1, padding_mode='reflect')",
        "nn.Conv2d($c, $o, 3, padding='same', padding_mode='circular')",
        "nn.Conv2d($c, $o, 3, padding=1, padding_mode='replicate')",
        "nn.Conv2d($c, $o, 1)",
        "nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d($c, $o, 3))",
        "parametrizations.weight_norm(nn.Conv2d($c, $o, 3, padding=1))",
        "nn.utils.weight_norm(nn.Conv2d($c, $o, 3, padding=1))",
        "parametrizations.spectral_norm(nn.Conv2d($c, $o, 3, padding=1))",
        "nn.ConvTranspose2d($c, $o, 3, padding=1)",
        "nn.Sequential(nn.Conv2d($c, $c, 3, padding=1, groups=$c), nn.Conv2d($c, $o, 1))",
        "self.w$k = weight($o, $c, 3, 3) | F.conv2d($x, self.w$k, padding=1)",
        "self.w$k, self.b$k = weight($o, $c, 3, 3), numbers($o) | torch.conv2d($x, self.w$k, self.b$k, 1, 1)",
        "self.w$k = weight($o, $c, 3, 3) | F.conv2d(input=$x, weight=self.w$k, padding='same')",
        "self.w$k = weight($o, $c, 1, 1) | F.conv2d(F.pad($x, (1, 1, 1, 1)), self.w$k.expand(-1, -1, 3, 3) / 9)",
        "self.w$k = weight($o, $c, 3, 3) | F.conv2d("
        "$x, (self.w$k - self.w$k.mean((1, 2, 3), keepdim=True)) / self.w$k.std((1, 2, 3), keepdim=True) / 4, padding=1)",
        "self.w$k, self.s$k = weight($o, $c, 3, 3), (torch.rand(3, 3) > 0.3).float() | "
        "F.conv2d($x, self.w$k * self.s$k.to($x.device), padding=1)",
        "nn.Conv2d($c, $o, 3, padding=1, dtype=torch.float32, device='cpu')",
        "self.l$k = nn.Linear($c, $o) | self.l$k($x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
        "self.l$k = nn.Linear($c, $o) | self.l$k($x.movedim(1, -1)).movedim(-1, 1).contiguous()",
        "self.w$k = weight($o, $c) | torch.einsum('bchw,oc->bohw', $x, self.w$k)",
        "self.w$k = weight($o, $c) | (self.w$k @ $x.flatten(2)).view(-1, $o, $h, $w)",
        "self.w$k = weight($c, $o) | torch.matmul($x.transpose(1, 3), self.w$k).transpose(1, 3)",
        "self.w$k = weight($o, 9 * $c) | (self.w$k @ F.unfold($x, 3, padding=1)).view(len($x), $o, $h, $w)",
        "self.l$k = nn.Conv1d($c, $o, 1) | self.l$k($x.flatten(2)).unflatten(2, ($h, $w))",
        after=_widened,
    ),
    *_group(
        "convolution",
        "nn.Conv2d($c, $o, 3, stride=2, padding=1)",
        "nn.Conv2d($c, $o, 7, 2, 3)",
        "nn.Conv2d($c, $o, 1, stride=2)",
        "self.w$k = weight($o, $c, 5, 5) | F.conv2d($x, self.w$k, None, 2, 2)",
        "self.w$k = weight($o, $c, 3, 3) | F.conv2d(F.pad($x, (0, 2, 0, 2)), self.w$k, stride=(2, 2))",
        after=_then(_half_up, _widened),
        fits=_is_large,
    ),
    *_group("convolution", "nn.Conv2d($c, $o, 2, stride=2)", after=_then(_half_down, _widened), fits=_is_large),
    *_group(
        "convolution",
        "nn.Conv2d($c, $o, 3)",
        "nn.Conv2d($c, $o, 3, padding='valid')",
        after=_then(_cropped, _widened),
        fits=_is_large,
    ),
    *_group(
        "convolution",
        "nn.Conv2d($c, $o, 3, padding=1, groups=2)",
        "nn.Conv2d($c, $o, 3, padding=1, groups=2, padding_mode='circular')",
        "self.w$k = weight($o, $c // 2, 3, 3) | F.conv2d($x, self.w$k, padding=1, groups=2)",
        after=_widened,
        fits=_is_even,
    ),
    *_group(
        "convolution",
        "nn.Conv2d($c, $c, 5, padding=2, groups=$c)",
        "nn.Conv2d($c, $c, 3, padding=1, groups=$c, bias=False)",
        "self.m$k = nn.Conv2d($c, $c, 3, padding=1) | self.m$k(F.relu(self.m$k($x)))",
        "self.m$k = nn.Conv2d($c, $c, 3, padding=1) | for _ in range(2):\n    $x = F.relu(self.m$k($x))\n$v = $x",
        "nn.Linear($w, $w)",
        "self.register_buffer('f$k', torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16) | "
        "F.conv2d($x, self.f$k.expand($c, 1, 3, 3), padding=1, groups=$c)",
    ),
    *_group("convolution", "nn.Conv2d($c, 2 * $c, 3, padding=1, groups=$c)", after=_twice, fits=_can_widen),
    *_group(
        "convolution", "nn.ConvTranspose2d($c, $o, 2, stride=2)", after=_then(_doubled, _widened), fits=_can_double
    ),
)

NORMS = _group(
    "norm",
    "nn.BatchNorm2d($c)",
    "nn.BatchNorm2d($c, affine=False)",
    "nn.SyncBatchNorm($c)",
    "torchvision.ops.FrozenBatchNorm2d($c)",
    "nn.Sequential(nn.BatchNorm2d($c), nn.ReLU())",
    "self.register_buffer('r$k', torch.rand($c)) | F.batch_norm($x, self.r$k, self.r$k + 0.5)",
    "self.m$k = nn.BatchNorm2d($c) | F.batch_norm($x, self.m$k.running_mean, self.m$k.running_var, "
    "self.m$k.weight, self.m$k.bias, training=self.training)",
    "self.p$k = numbers(4, 1, $c, 1, 1, around=0.5) | "
    "($x - self.p$k[0]) / self.p$k[1].sqrt() * self.p$k[2] + self.p$k[3]",
    "self.p$k = numbers($c, around=1.0) | $x * self.p$k[:, None, None] + self.p$k.view(1, -1, 1, 1)",
)

NORMALISATIONS = (
    *_group(
        "normalisation",
        "nn.BatchNorm2d($c, track_running_stats=False)",
        "nn.GroupNorm(1, $c)",
        "nn.InstanceNorm2d($c, affine=True)",
        "nn.LocalResponseNorm(3)",
        "nn.LayerNorm([$c, $h, $w])",
        "self.m$k = nn.LayerNorm($c) | self.m$k($x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)",
        "F.layer_norm($x.permute(0, 2, 3, 1), ($c,)).permute(0, 3, 1, 2)",
        "($x - $x.mean(1, keepdim=True)) / torch.sqrt($x.var(1, keepdim=True, unbiased=False) + 1e-4)",
        "$x * torch.rsqrt($x.pow(2).mean(1, keepdim=True) + 1e-4)",
        "F.normalize($x, dim=1)",
        "F.instance_norm($x)",
        "($x - $x.mean()) / ($x.std() + 0.1)",
    ),
    *_group("normalisation", "nn.GroupNorm(2, $c)", "F.group_norm($x, 2)", fits=_is_wide),
)

ACTIVATIONS = (
    *_group(
        "activation",
        "nn.ReLU()",
        "nn.ReLU(inplace=True)",
        "F.relu($x)",
        "F.relu($x, inplace=True)",
        "F.relu_($x)",
        "torch.relu($x)",
        "$x.relu()",
        "$x.relu_()",
        "F.relu($x, True)\n$v = $x",
        "$x.clamp(min=0)",
        "$x.clamp_(min=0)\n$v = $x",
        "torch.clamp($x, 0, 6)",
        "$x.clip(-1, 1)",
        "torch.where($x > 0, $x, 0.1 * $x)",
        "torch.maximum($x, torch.zeros_like($x))",
        "torch.max($x, torch.tensor(0.0, device=$x.device))",
        "$x * ($x > 0)",
        "$x.masked_fill($x < 0, 0.0)",
        "F.threshold($x, 0.1, 0.0)",
        "nn.LeakyReLU(0.1, inplace=True)",
        "F.leaky_relu_($x, 0.1)",
        "nn.PReLU($c)",
        "nn.PReLU()",
        "self.p$k = numbers($c) | F.prelu($x, self.p$k)",
        "nn.RReLU()",
        "nn.ReLU6(inplace=True)",
        "F.hardtanh($x, 0.0, 6.0)",
        "nn.Hardtanh()",
        "nn.SiLU(inplace=True)",
        "F.silu($x)",
        "$x * torch.sigmoid($x)",
        "$x * $x.sigmoid()",
        "$x.mul($x.sigmoid())",
        "self.p$k = numbers(1, $c, 1, 1, around=1.0) | $x * torch.sigmoid(self.p$k * $x)",
        "nn.Hardswish()",
        "$x * F.relu6($x + 3) / 6",
        "F.hardsigmoid($x) * $x",
        "nn.GELU()",
        "F.gelu($x, approximate='tanh')",
        "0.5 * $x * (1 + torch.tanh(math.sqrt(2 / math.pi) * ($x + 0.044715 * torch.pow($x, 3))))",
        "$x * torch.sigmoid(1.702 * $x)",
        "nn.Mish()",
        "F.mish($x)",
        "$x * torch.tanh(F.softplus($x))",
        "F.softplus($x)",
        "nn.ELU()",
        "F.selu($x)",
        "F.celu($x)",
        "torch.tanh($x)",
        "$x.sigmoid()",
        "nn.LogSigmoid()",
        "F.softsign($x)",
        "$x / (1 + $x.abs())",
        "nn.Softshrink(0.1)",
        "$x.abs()",
        "torch.square($x)",
        "F.relu($x) ** 2",
        "torch.exp(-$x * $x)",
        "torch.sin($x) + $x",
        "torch.log1p($x.abs()) * torch.sign($x)",
        "torch.nan_to_num($x).relu()",
    ),
    *_group("activation", "torch.cat([F.relu($x), F.relu(-$x)], 1)", after=_twice, fits=_can_widen),
    *_group(
        "activation",
        "nn.GLU(dim=1)",
        "F.glu($x, 1)",
        "$x[:, : $c // 2] * torch.sigmoid($x[:, $c // 2 :])",
        "torch.max($x[:, ::2], $x[:, 1::2])",
        "torch.maximum(*$x.chunk(2, dim=1))",
        "$x.view(-1, $c // 2, 2, $h, $w).amax(2)",
        after=_half_channels,
        fits=_is_wide,
    ),
)

ADDITIONS = _group(
    "addition",
    "$x + $y",
    "$x += $y\n$v = $x",
    "$y += $x\n$v = $y",
    "$x.add_($y)",
    "$x.add($y)",
    "torch.add($x, $y)",
    "torch.add($x, $y, alpha=0.2)",
    "$x.add($y, alpha=-0.5)",
    "sum([$x, $y])",
    "torch.stack([$x, $y]).sum(0)",
    "torch.stack([$x, $y], dim=-1).mean(-1)",
    "$x - $y",
    "$x.sub_($y)",
    "$x + 0.2 * $y",
    "$x + $y / 2",
    "($x + $y) / math.sqrt(2)",
    "torch.lerp($x, $y, 0.3)",
    "F.relu($x + $y)",
    "F.relu($y.add_($x))",
    "$x + $y + $x",
    "$x + $x",
    "$x + F.relu($x)",
    "self.s$k = numbers(1, around=0.5) | $x + self.s$k * $y",
    "self.s$k = nn.Parameter(torch.tensor(0.4)) | $x + $y * self.s$k",
    "self.s$k = numbers($c, 1, 1) | $x + self.s$k * $y",
    "self.s$k = numbers($c) | $x + $y.permute(0, 2, 3, 1).mul(self.s$k).permute(0, 3, 1, 2)",
    "$x + stochastic_depth($y, 0.2, 'row', self.training)",
    "self.m$k = torchvision.ops.StochasticDepth(0.2, 'row') | $x + self.m$k($y)",
    "self.m$k = nn.quantized.FloatFunctional() | self.m$k.add($x, $y)",
)

NUMBERS = _group(
    "arithmetic",
    "$x + 1",
    "1 - $x",
    "-$x",
    "$x * 0.5",
    "$x.mul_(0.5)",
    "$x / 2",
    "$x.div(2.0).sub(0.1)",
    "torch.mul($x, 1.5)",
    "$x *= 0.5\n$v = $x",
    "self.b$k = numbers(1, $c, 1, 1) | $x + self.b$k",
    "self.b$k = numbers($c, $h, $w) | $x + self.b$k",
    "self.b$k = numbers($c, $h, $w, around=1.0) | $x * self.b$k",
    "self.s$k = nn.Parameter(torch.tensor(0.5)) | self.s$k * $x",
    "self.register_buffer('s$k', torch.rand(1, $c, 1, 1)) | $x * self.s$k",
    "torch.addcmul($x, $x, torch.tensor(0.5, device=$x.device))",
)

CONCATENATIONS = (
    *_group(
        "concatenation",
        "torch.cat([$x, $y], 1)",
        "torch.cat(($y, $x), dim=1)",
        "torch.concatenate([$x, $y], dim=1)",
        "torch.concat([$x, $y], dim=-3)",
        "torch.hstack([$x, $y])",
        "torch.stack([$x, $y], 1).flatten(1, 2)",
        "torch.stack([$x, $y], 2).view(-1, 2 * $c, $h, $w)",
        "torch.cat([$x, $x], 1)",
        "torch.cat([$x, F.relu($y)], 1)",
        "kept = [$x]\nkept.append($y)\n$v = torch.cat(kept, 1)",
        "$x.repeat(1, 2, 1, 1)",
        "$x.repeat_interleave(2, dim=1)",
        "$v = $x.new_zeros(len($x), 2 * $c, $h, $w)\n$v[:, :$c] = $x\n$v[:, $c:] = $y",
        "$v = torch.empty(len($x), 2 * $c, $h, $w, device=$x.device)\n$v[:, ::2], $v[:, 1::2] = $x, $y",
        after=_twice,
        fits=_can_widen,
    ),
    *_group(
        "concatenation",
        "torch.cat([$x, $y, $x], 1)",
        after=lambda maps, out: maps.of(3 * maps.channels),
        fits=lambda maps: 3 * maps.channels <= MOST_CHANNELS,
    ),
    *_group(
        "concatenation",
        "torch.cat([$x, F.interpolate($image, size=$x.shape[2:]).expand(-1, 3, -1, -1)], 1)",
        "torch.cat([$x, F.adaptive_avg_pool2d($image, ($h, $w)).expand(-1, 3, -1, -1)], dim=1)",
        after=_image_more,
    ),
    *_group(
        "concatenation",
        "torch.cat([$x, $y], dim=3)",
        after=lambda maps, out: Maps(maps.channels, maps.height, 2 * maps.width),
        fits=_can_double,
    ),
)

REARRANGEMENTS = (
    *_group(
        "rearranging",
        "$x.roll(1, dims=1)",
        "torch.roll($x, (1, -2), (2, 3))",
        "$x.flip(3)",
        "$x.flip(1)",
        "torch.fliplr($x)",
        "$x[:, torch.arange($c - 1, -1, -1)]",
        "$x[:, list(range(1, $c)) + [0]]",
        "torch.index_select($x, 1, torch.arange($c, device=$x.device).flip(0))",
        "torch.stack($x.unbind(1)[::-1], 1)",
        "$x.rot90(2, (2, 3))",
        "$x.unsqueeze(2).squeeze(2)",
        "$x.reshape(len($x), $c, -1).reshape($x.shape)",
        "$x.contiguous(memory_format=torch.channels_last)",
    ),
    *_group(
        "rearranging",
        "nn.ChannelShuffle(2)",
        "$x.view(len($x), 2, $c // 2, $h, $w).transpose(1, 2).reshape(len($x), $c, $h, $w)",
        "$x.unflatten(1, ($c // 2, 2)).transpose(1, 2).flatten(1, 2)",
        "torch.cat($x.chunk(2, dim=1)[::-1], 1)",
        "torch.cat([$x[:, 1::2], $x[:, ::2]], 1)",
        "self.m$k = nn.Conv2d($c // 2, $c // 2, 3, padding=1) | "
        "a, b = $x.chunk(2, dim=1)\n$v = torch.cat([a, F.relu(self.m$k(b))], 1)",
        "self.m$k = nn.Conv2d($c // 2, $c // 2, 3, padding=1) | "
        "a, b = $x.split($c // 2, dim=1)\n$v = torch.cat([self.m$k(a), b], 1)",
        "a, b = $x.split([1, $c - 1], 1)\n$v = torch.cat([b, a], 1)",
        "torch.cat([F.relu(part) for part in torch.tensor_split($x, 2, dim=1)], 1)",
        fits=_is_wide,
    ),
    *_group(
        "rearranging",
        "$x[:, : $c // 2]",
        "$x[:, $c // 2 :]",
        "$x[:, ::2]",
        "$x.chunk(2, 1)[1]",
        "torch.split($x, $c // 2, dim=1)[0]",
        "$x.narrow(1, 1, $c // 2)",
        "$x[:, : $c // 2] + $x[:, $c // 2 :]",
        after=_half_channels,
        fits=_is_wide,
    ),
    *_group(
        "rearranging",
        "$x[:, :, 1:-1, 1:-1]",
        "$x[..., 1:-1, 1:-1]",
        "F.pad($x, (-1, -1, -1, -1))",
        "v2.CenterCrop(($h - 2, $w - 2))",
        after=_cropped,
        fits=_is_large,
    ),
    *_group(
        "rearranging",
        "$x.transpose(2, 3)",
        "$x.permute(0, 1, 3, 2).contiguous()",
        "$x.mT",
        after=lambda maps, out: Maps(maps.channels, maps.width, maps.height),
    ),
    *_group(
        "rearranging",
        "nn.PixelUnshuffle(2)",
        "F.pixel_unshuffle($x, 2)",
        "torch.cat([$x[..., ::2, ::2], $x[..., 1::2, ::2], $x[..., ::2, 1::2], $x[..., 1::2, 1::2]], 1)",
        after=lambda maps, out: Maps(4 * maps.channels, maps.height // 2, maps.width // 2),
        fits=lambda maps: _halves_evenly(maps) and 4 * maps.channels <= MOST_CHANNELS,
    ),
    *_group(
        "rearranging",
        "nn.PixelShuffle(2)",
        "F.pixel_shuffle($x, 2)",
        after=lambda maps, out: Maps(maps.channels // 4, 2 * maps.height, 2 * maps.width),
        fits=lambda maps: _can_double(maps) and maps.channels % 4 == 0,
    ),
)

POOLINGS = (
    *_group(
        "pooling",
        "nn.MaxPool2d(2)",
        "F.max_pool2d($x, 2)",
        "torch.max_pool2d($x, 2)",
        "nn.AvgPool2d(2)",
        "F.avg_pool2d($x, kernel_size=2, stride=2)",
        "F.lp_pool2d(F.softplus($x), 2, 2)",
        "$x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))",
        "0.5 * (F.max_pool2d($x, 2) + F.avg_pool2d($x, 2))",
        "F.adaptive_avg_pool2d($x, ($h // 2, $w // 2))",
        "self.m$k = nn.AdaptiveAvgPool2d(($h // 2, None)) | self.m$k($x)[..., : 2 * ($w // 2) : 2]",
        after=_half_down,
        fits=_is_large,
    ),
    *_group(
        "pooling",
        "nn.MaxPool2d(3, 2, 1)",
        "F.max_pool2d($x, 3, stride=2, padding=1)",
        "nn.MaxPool2d(2, ceil_mode=True)",
        "nn.AvgPool2d(3, 2, 1, count_include_pad=False)",
        "F.avg_pool2d($x, 3, 2, 1)",
        "F.avg_pool2d($x, 2, ceil_mode=True)",
        "$x[:, :, ::2, ::2]",
        "$x[..., ::2, ::2]",
        "F.avg_pool2d($x, 1, 2)",
        "self.register_buffer('f$k', torch.ones(3, 3) / 9) | "
        "F.conv2d(F.pad($x, (1, 1, 1, 1), mode='reflect'), self.f$k.expand($c, 1, 3, 3), stride=2, groups=$c)",
        after=_half_up,
        fits=_is_large,
    ),
    *_group(
        "pooling",
        "$x.view(-1, $c, $h // 2, 2, $w // 2, 2).mean((3, 5))",
        "$x.reshape(-1, $c, $h // 2, 2, $w // 2, 2).amax((3, 5))",
        "F.max_pool2d($x, 2, return_indices=True)[0]",
        after=_half_down,
        fits=_halves_evenly,
    ),
    *_group(
        "pooling",
        "nn.MaxPool2d(3, 1, 1)",
        "nn.AvgPool2d(3, stride=1, padding=1)",
        "F.avg_pool2d($x, 3, 1, 1, count_include_pad=False) - $x",
        "-F.max_pool2d(-$x, 3, 1, 1)",
        "F.avg_pool2d($x, (1, 3), 1, (0, 1), divisor_override=2)",
    ),
    *_group(
        "pooling",
        "F.max_pool2d($x, 2, 1, 0, dilation=2)",
        "F.avg_pool2d($x, 3, 1)",
        after=_cropped,
        fits=_is_large,
    ),
    *_group(
        "pooling",
        "nn.AdaptiveMaxPool2d((5, 4))",
        "nn.AdaptiveAvgPool2d((5, 4))",
        "F.adaptive_max_pool2d($x, (5, 4))",
        after=lambda maps, out: Maps(maps.channels, 5, 4),
        fits=_is_large,
    ),
)

PADDINGS = (
    *_group(
        "padding",
        "nn.ZeroPad2d(1)",
        "nn.ReflectionPad2d(1)",
        "nn.ReplicationPad2d((1, 1, 1, 1))",
        "nn.ConstantPad2d(1, 0.5)",
        "F.pad($x, (1, 1, 1, 1))",
        "F.pad($x, (2, 0, 0, 2))",
        "F.pad($x, [1] * 4, mode='reflect')",
        "F.pad($x, (1, 1, 1, 1), mode='circular')",
        "F.pad($x, (1, 1, 1, 1), 'replicate')",
        "F.pad($x, (1, 1, 1, 1), value=-1.0)",
        after=_grown,
        fits=_can_grow,
    ),
    *_group(
        "padding",
        "F.pad($x, (0, 0, 0, 0, 1, 1))",
        "F.pad($x, (0, 0, 0, 0, 0, 2), 'constant', 0)",
        "torch.cat([$x, torch.zeros_like($x[:, :2])], 1)",
        "torch.cat([$x, $x.new_zeros(len($x), 2, $h, $w)], dim=1)",
        "torch.cat([$x.mean(1, keepdim=True), $x, $x.amax(1, keepdim=True)], 1)",
        "torch.cat([$x, torch.linspace(-1, 1, $w, device=$x.device).expand(len($x), 2, $h, $w)], 1)",
        after=_two_more,
        fits=lambda maps: maps.channels >= 2,
    ),
)

INTERPOLATIONS = (
    *_group(
        "interpolation",
        "F.interpolate($x, scale_factor=2)",
        "nn.Upsample(scale_factor=2, mode='bilinear')",
        "nn.UpsamplingNearest2d(scale_factor=2)",
        "F.interpolate($x, size=(2 * $h, 2 * $w), mode='bilinear', align_corners=True)",
        "$x.repeat_interleave(2, 2).repeat_interleave(2, 3)",
        after=_doubled,
        fits=_can_double,
    ),
    *_group(
        "interpolation",
        "F.interpolate($x, scale_factor=0.5, mode='bilinear', antialias=True)",
        "F.interpolate($x, size=($h // 2, $w // 2), mode='area')",
        "F.interpolate($x, ($h // 2, $w // 2))",
        after=_half_down,
        fits=_is_large,
    ),
    *_group(
        "interpolation",
        "F.interpolate(F.avg_pool2d($x, 2), size=$x.shape[-2:], mode='nearest')",
        "$x + F.interpolate(F.adaptive_avg_pool2d($x, 3), size=($h, $w), mode='bicubic')",
        fits=_is_large,
    ),
)

GATES = _group(
    "gate",
    "self.a$k, self.b$k = nn.Linear($c, 4), nn.Linear(4, $c) | b, c, _, _ = $x.size()\n"
    "y = torch.sigmoid(self.b$k(F.relu(self.a$k(F.adaptive_avg_pool2d($x, 1).view(b, c)))))\n"
    "$v = $x * y.view(b, c, 1, 1)",
    "self.a$k, self.b$k = nn.Linear($c, 4), nn.Linear(4, $c) | "
    "y = torch.sigmoid(self.b$k(F.relu(self.a$k($x.mean((2, 3))))))\n$v = $x * y[:, :, None, None].expand_as($x)",
    "self.a$k, self.b$k = nn.Conv2d($c, 4, 1), nn.Conv2d(4, $c, 1) | "
    "$x * F.hardsigmoid(self.b$k(F.silu(self.a$k($x.mean((2, 3), keepdim=True)))))",
    "self.a$k = nn.Conv2d($c, $c, 1) | $x.mul_(torch.sigmoid(self.a$k(F.adaptive_avg_pool2d($x, 1))))\n$v = $x",
    "self.a$k = nn.Conv2d($c, $c, 1) | torch.mul(self.a$k($x.amax((2, 3), True)).sigmoid(), $x)",
    "torchvision.ops.SqueezeExcitation($c, 4)",
    "self.a$k = nn.Conv1d(1, 1, 3, padding=1) | "
    "$x * torch.sigmoid(self.a$k($x.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1)",
    "$x * torch.sigmoid($x.mean((2, 3), keepdim=True)).expand_as($x)",
    "self.p$k = numbers(2, 1, $c, 1, 1) | g = torch.linalg.vector_norm($x, dim=(2, 3), keepdim=True)\n"
    "$v = $x + self.p$k[0] * $x * g / (g.mean(1, keepdim=True) + 1e-6) + self.p$k[1]",
    "$x / (1 + $x.abs().mean((2, 3), keepdim=True))",
    "self.a$k = nn.Linear($c, 2 * $c) | w = self.a$k(($x + $y).mean((2, 3))).view(-1, 2, $c, 1, 1).softmax(1)\n"
    "$v = (torch.stack([$x, $y], 1) * w).sum(1)",
    "self.a$k = nn.Conv2d($c, $c, 1) | $x * torch.softmax(self.a$k($x.mean((2, 3), keepdim=True)), dim=1)",
    "self.a$k = nn.Linear($c, 2 * $c) | s, t = self.a$k($x.mean((2, 3)))[..., None, None].chunk(2, 1)\n$v = $x * s + t",
)

FULL_GATES = _group(
    "full gate",
    "self.a$k = nn.Conv2d($c, 1, 3, padding=1) | $x * torch.sigmoid(self.a$k($x))",
    "self.a$k = nn.Conv2d(2, 1, 3, padding=1) | "
    "$x * torch.sigmoid(self.a$k(torch.cat([$x.mean(1, keepdim=True), $x.max(1, keepdim=True)[0]], 1)))",
    "self.a$k = nn.Conv2d($c, $c, 3, padding=1) | $x * torch.sigmoid(self.a$k($x))",
    "$x * $y",
    "$x * torch.tanh($y)",
    "F.relu($x) * F.relu($y)",
)

ATTENTIONS = (
    *_group(
        "attention",
        "self.a$k = nn.Conv2d($c, 3 * $c, 1) | q, k, v = self.a$k($x).flatten(2).transpose(1, 2).chunk(3, -1)\n"
        "$v = $x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape($x.shape)",
        "self.a$k = nn.MultiheadAttention($c, 1, batch_first=True) | t = $x.flatten(2).transpose(1, 2)\n"
        "$v = self.a$k(t, t, t)[0].transpose(1, 2).unflatten(2, ($h, $w))",
        "t = $x.flatten(2)\n$v = (torch.softmax(t @ t.transpose(1, 2) / ($h * $w), -1) @ t).view_as($x)",
        fits=lambda maps: maps.height * maps.width <= 400,
    ),
    *_group("attention", "torch.softmax($x, dim=1)", "$x * F.softmax($x, dim=1)", "$x.softmax(-1) * $w"),
)

CHANNEL_MIXES = (
    *_group("mixing", "$x.mean(1, keepdim=True)", "$x.sum(dim=1, keepdim=True)", after=lambda maps, out: maps.of(1)),
    *_group(
        "mixing",
        "torch.cat([$x.mean(1, keepdim=True), $x.amax(1, keepdim=True)], 1)",
        "$x.topk(2, dim=1)[0]",
        after=lambda maps, out: maps.of(2),
        fits=lambda maps: maps.channels >= 2,
    ),
    *_group(
        "mixing",
        "$x - $x.mean(1, keepdim=True)",
        "$x + $x.mean(dim=(2, 3), keepdim=True)",
        "$x.cumsum(1)",
        "$x.sort(dim=1)[0]",
        "torch.fft.ifft2(torch.fft.fft2($x)).real",
    ),
)

KEEPING = (
    *_group(
        "no-op",
        "nn.Identity()",
        "nn.Dropout(0.3)",
        "nn.Dropout2d(0.3)",
        "nn.Sequential()",
        "F.dropout($x, 0.3, self.training)",
        "F.dropout2d($x, p=0.2, training=self.training, inplace=True)",
        "$x.contiguous()",
        "$x.clone()",
        "$x * 1.0",
        "$x.to(torch.float32)",
        "$x.double().float()",
        "$x[:]",
        "$x.view_as($x)",
        "$x.expand(-1, $c, -1, -1)",
        "self.m$k = nn.Conv2d($c, $c, 1) | checkpoint(self.m$k, $x, use_reentrant=False)",
        "with torch.autocast('cpu', enabled=False):\n    $v = F.relu($x)",
        "self.kept = $x\n$v = $x",
        "self.register_buffer('calls$k', torch.zeros(())) | self.calls$k += 1\n$v = $x",
    ),
)

SLICES_IN_PLACE = _group(
    "slice in place",
    "$x[:, :1] += 1\n$v = $x",
    "$x[:, 0] = 0\n$v = $x",
    "$x[:, :, 0] = 0\n$v = $x",
    "$x[:, :1] = F.relu($x[:, :1])\n$v = $x",
    "$x[:, 1:].mul_(0.5)\n$v = $x",
    "$x[..., ::2].relu_()\n$v = $x",
    "$x[$x < 0] = 0\n$v = $x",
    "$x.masked_fill_($x < -0.2, 0.0)\n$v = $x",
    "$v = $x.clone()\n$v[:, -1] += $x[:, 0]",
    "$v = torch.zeros_like($x)\n$v.copy_($x)",
    "$v = $x\n$v = $v.neg_()",
)

DECISIONS = (
    *_group(
        "decision",
        "$v = F.relu($x) if isinstance($x, torch.Tensor) else $x",
        "$v = torch.tanh($x) if torch.is_tensor($x) and $x.ndim == 4 else $x",
        "$v = -$x if $x.shape[2] > 6 else $x",
        "$v = -$x if $x.size(1) % 2 else F.relu($x)",
        "$v = $x if not len($x) else F.relu($x)",
        "assert $x.shape[1] == $c, f'{$x.shape[1]} channels'\n$v = $x",
        "if self.training:\n    $x = -$x\n$v = $x",
        "$v = F.relu($x) if $x.dtype == torch.float32 and not torch.jit.is_scripting() else $x",
        "b, c, h, w = $x.shape\n$v = $x.view(b, c, h * w).view(b, c, h, w)",
        "$v = $x\nfor part in [F.relu, torch.tanh]:\n    $v = part($v)",
        "h, w = map(int, $x.shape[-2:])\n$v = F.interpolate($x, size=(h, w))",
        "def step(t, *, negative=False, scale=2.0):\n    return -t if negative else t * scale\n$v = step($x)",
        "try:\n    $v = $x.view(len($x), $c + 1, $h, $w)\nexcept RuntimeError:\n    $v = F.relu($x)",
    ),
)

BRANCHES_ON_DATA = _group(
    "branch on data",
    "$v = $x * 2 if $x.mean() > 0 else $x",
    "$v = $x / $x.shape[0]",
    "$v = $x if torch.isfinite($x).all() else torch.zeros_like($x)",
)

BLOCKS = (
    *_group(
        "block",
        "torchvision.models.resnet.BasicBlock($c, $c)",
        "torchvision.models.convnext.CNBlock($c, 0.5, 0.0)",
        "nn.Sequential(nn.Conv2d($c, $c, 3, padding=1), nn.BatchNorm2d($c), nn.ReLU(inplace=True))",
        "self.n$k, self.m$k = nn.BatchNorm2d($c), nn.Conv2d($c, $c, 3, padding=1) | $x + self.m$k(F.relu(self.n$k($x)))",
        "self.n$k, self.m$k = nn.BatchNorm2d($c), nn.Conv2d($c, $c, 3, padding=1) | "
        "out = F.relu(self.n$k(self.m$k($x)), inplace=True)\nout += $x\n$v = out",
        "self.m$k = nn.ModuleList([nn.Conv2d($c, $c, 3, padding=d, dilation=d) for d in (1, 2)]) | "
        "$v = $x\nfor layer in self.m$k:\n    $v = $v + F.relu(layer($v))",
        "self.m$k = nn.ModuleDict({'a': nn.Conv2d($c, $c, 1), 'b': nn.ReLU()}) | self.m$k['b'](self.m$k['a']($x))",
        "self.a$k, self.b$k = nn.Conv2d($c, $c, (1, 3), padding=(0, 1)), nn.Conv2d($c, $c, (3, 1), padding=(1, 0)) | "
        "self.a$k($x) + self.b$k($x)",
    ),
    *_group(
        "block",
        "torchvision.models.mobilenetv2.InvertedResidual($c, $o, 1, 2)",
        "torchvision.ops.Conv2dNormActivation($c, $o, 3)",
        after=_widened,
    ),
    *_group(
        "block",
        "self.m$k = torchvision.models.densenet._DenseLayer($c, 2, 1, 0.0) | torch.cat([$x, self.m$k($x)], 1)",
        "self.m$k = nn.Conv2d($c, 2, 3, padding=1) | torch.cat([$x, F.relu(self.m$k($x))], 1)",
        after=_two_more,
    ),
    *_group(
        "block",
        "self.m$k = nn.Conv2d($c, $c + 4, 3, 2, 1) | "
        "F.relu(self.m$k($x) + F.pad($x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))",
        "self.m$k = nn.Conv2d($c, $c + 4, 3, 2, 1) | "
        "y = F.avg_pool2d($x, 1, 2)\n$v = self.m$k($x) + torch.cat([y, torch.zeros_like(y)[:, :4]], 1)",
        after=_then(_half_up, lambda maps, out: maps.of(maps.channels + 4)),
        fits=lambda maps: _is_large(maps) and 4 <= maps.channels <= MOST_CHANNELS - 4,
    ),
    *_group(
        "block",
        "self.m$k, self.n$k = nn.Conv2d($c, $o, 3, 2, 1), nn.Conv2d($c, $o, 1) | "
        "F.relu(self.m$k($x) + self.n$k(F.avg_pool2d($x, 2)))",
        after=_then(_half_up, _widened),
        fits=_halves_evenly,
    ),
)

HEADS = _group(
    "head",
    "self.fc = nn.Linear($c, classes) | self.fc($x.mean((2, 3)))",
    "self.fc = nn.Linear($c, classes) | self.fc(F.adaptive_avg_pool2d($x, 1).flatten(1))",
    "self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear($c, classes) | "
    "$v = torch.flatten(self.pool($x), 1)\n$v = self.fc($v)",
    "self.fc = nn.Linear($c, classes) | self.fc(F.avg_pool2d($x, ($h, $w)).view($x.size(0), -1))",
    "self.fc = nn.Linear($c, classes) | self.fc(F.avg_pool2d($x, $x.shape[2:]).squeeze(-1).squeeze(-1))",
    "self.fc = nn.Linear($c, classes) | self.fc($x.amax((-1, -2)))",
    "self.fc = nn.Linear($c, classes) | self.fc($x.mean(-1).mean(-1))",
    "self.fc = nn.Linear($c, classes) | self.fc($x.flatten(2).mean(2))",
    "self.hidden, self.fc = nn.Linear($c, 10), nn.Linear(10, classes) | "
    "self.fc(F.dropout(F.relu(self.hidden($x.mean((2, 3)))), 0.5, self.training))",
    "self.fc = nn.Conv2d($c, classes, 1) | F.adaptive_avg_pool2d(self.fc($x), 1).flatten(1)",
    "self.fc = nn.Conv2d($c, classes, 1) | self.fc(F.relu($x)).mean((2, 3))",
    "self.fc = nn.Conv2d($c, classes, ($h, $w)) | self.fc($x).flatten(1)",
    "self.fc = nn.Linear($c * $h * $w, classes) | self.fc($x.flatten(1))",
    "self.fc = nn.Linear($c * $h * $w, classes) | self.fc($x.reshape(len($x), -1))",
    "self.fc = nn.Linear($c * 4, classes) | self.fc(F.adaptive_max_pool2d($x, 2).flatten(1))",
    "self.fc = nn.Linear(2 * $c, classes) | self.fc(torch.cat([$x.mean((2, 3)), $x.amax((2, 3))], 1))",
    "self.norm, self.fc = nn.LayerNorm($c), nn.Linear($c, classes) | self.fc(self.norm($x.mean((2, 3))))",
    "self.fc = nn.Linear($c, classes) | self.fc($x.clamp(min=1e-4).pow(3).mean((2, 3)).pow(1 / 3))",
    "self.fc = nn.Linear($c, classes) | $x.mean((2, 3)) @ self.fc.weight.t() + self.fc.bias",
    "self.fc = nn.Linear($c, classes) | 4 * F.linear(F.normalize($x.mean((2, 3))), F.normalize(self.fc.weight))",
    "self.fc, self.t = nn.Linear($c, classes), nn.Parameter(torch.tensor(2.0)) | self.fc($x.mean((2, 3))) * self.t",
    "self.fc = nn.Linear($c, classes) | (self.fc($x.mean((2, 3))) + self.fc($x.amax((2, 3)))) / 2",
)

ANSWERS = _group(
    "answer",
    "return $x",
    "return $x, $image",
    "return [$x]",
    "return {'logits': $x, 'image': $image}",
    "return $x[:, :, None, None]",
    "return $x.squeeze()",
)

STEPS: dict[str, tuple[Operation, ...]] = {
    "convolution": CONVOLUTIONS,
    "norm": NORMS,
    "normalisation": NORMALISATIONS,
    "activation": ACTIVATIONS,
    "addition": ADDITIONS,
    "arithmetic": NUMBERS,
    "concatenation": CONCATENATIONS,
    "rearranging": REARRANGEMENTS,
    "pooling": POOLINGS,
    "padding": PADDINGS,
    "interpolation": INTERPOLATIONS,
    "gate": GATES,
    "full gate": FULL_GATES,
    "attention": ATTENTIONS,
    "mixing": CHANNEL_MIXES,
    "no-op": KEEPING,
    "slice in place": SLICES_IN_PLACE,
    "decision": DECISIONS,
    "branch on data": BRANCHES_ON_DATA,
    "block": BLOCKS,
}
"""The operations between a network's first layer and its head, by group."""
