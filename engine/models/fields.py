"""Receptive fields: which stretch of the picture each position of a tensor depends on, along the height and along the width.

A convolution's are known from its settings; of everything else it is measured which positions of what it reads it depends on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from engine.models import graph

EVERYTHING = 1 << 20
"""Pixels of a field that holds the whole picture, whatever its size."""
DRAWS = 256
"""Values per window (rows times channels) among which a largest one is sought, so that each place of it is met."""
PLACES = 9
"""Positions along each axis at which a window is measured."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Along one axis, position p depends on the pixels from `low + p * jump` to `high + p * jump` (edges of pixels)."""

    low: float
    high: float
    jump: float

    @property
    def size(self) -> float:
        """Pixels from one edge of the field to the other."""
        return min(self.high - self.low, EVERYTHING)

    @property
    def start(self) -> float:
        """The centre of position 0's field."""
        return (self.low + self.high) / 2


Field = tuple[Axis, Axis]
"""Along the height, along the width."""
PIXEL = Axis(0.0, 1.0, 1.0)
WHOLE = Axis(-EVERYTHING / 2 + 0.5, EVERYTHING / 2 + 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Window:
    """Position q depends on the positions from `stride * q + first` to `stride * q + last` of what is read."""

    stride: float
    first: float
    last: float

    def over(self, axis: Axis) -> Axis:
        """Return what position q depends on of the picture, where what is read depends on it as `axis` says."""
        low, high = axis.low + self.first * axis.jump, axis.high + self.last * axis.jump
        return Axis(low, high, axis.jump * self.stride)


Span = tuple[int, int]
SAME = Window(1.0, 0.0, 0.0)


def receptive_fields(walker: graph.Walker, nodes: tuple[fx.Node, ...]) -> dict[fx.Node, Field]:
    """Return the receptive field of some nodes that yield feature maps."""
    fields: dict[fx.Node, Field] = {}
    for node in walker.traced.graph.nodes:
        if node.op == "placeholder":
            fields[node] = PIXEL, PIXEL
        elif graph.is_map(node):
            fields[node] = _field(walker, node, fields)
    return {node: fields[node] for node in nodes}


def _field(walker: graph.Walker, node: fx.Node, fields: dict[fx.Node, Field]) -> Field:
    if walker.counts_as_it_was(node):
        # A gate has seen the whole image, but it moves nothing: what a position shows is what the scaled map shows there.
        return fields[walker.carried(node)]
    operands = walker.bench.operands(node)
    if walker.is_carrier(node):
        windows = [_of_convolution(walker.module(node))]
    elif walker.behaviour(node).is_elementwise or _works_on_each_position(walker, node, operands):
        windows = [(SAME, SAME)] * len(operands)
    else:
        windows = [_measured(walker, node, operand) for operand in operands]
    found = [
        tuple(
            WHOLE if window is None else window.over(axis) for window, axis in zip(both, fields[operand], strict=True)
        )
        for both, operand in zip(windows, operands, strict=True)
    ]
    return _union([one[0] for one in found]), _union([one[1] for one in found])


def _of_convolution(module: nn.Module | None) -> tuple[Window, Window]:
    assert isinstance(module, nn.Conv2d)
    first, second = (
        Window(
            module.stride[axis],
            -int(module.padding[axis]),
            (module.kernel_size[axis] - 1) * module.dilation[axis] - int(module.padding[axis]),
        )
        for axis in (0, 1)
    )
    return first, second


def _union(axes: list[Axis]) -> Axis:
    jumps = {axis.jump for axis in axes}
    if len(jumps) > 1 or not axes:
        return WHOLE
    return Axis(min(axis.low for axis in axes), max(axis.high for axis in axes), axes[0].jump)


def _drawn(operand: fx.Node, rows: int, generator: torch.Generator) -> Tensor:
    return torch.randn((rows, *operand.meta["shape"][1:]), generator=generator, device="cpu")


@torch.no_grad()
def _works_on_each_position(walker: graph.Walker, node: fx.Node, operands: tuple[fx.Node, ...]) -> bool:
    """Half of the positions are changed: the others must come out as before."""
    shape = node.meta["shape"]
    if any(operand.meta["shape"][2:] != shape[2:] for operand in operands):
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    kept = torch.rand((1, 1, *shape[2:]), generator=generator, device="cpu") < 0.5
    given = {operand: _drawn(operand, 1, generator) for operand in operands}
    other = {operand: torch.where(kept, tensor, _drawn(operand, 1, generator)) for operand, tensor in given.items()}
    before, after = (walker.bench.carried_out(node, tensors, 1) for tensors in (given, other))
    return bool(((before - after).abs() * kept <= 1e-5 * before.abs().max().clamp(min=1e-6)).all())


def _measured(walker: graph.Walker, node: fx.Node, operand: fx.Node) -> tuple[Window | None, Window | None]:
    """What positions along a diagonal depend on, by gradients that are added up over random values."""
    generator = torch.Generator("cpu").manual_seed(0)
    height, width = node.meta["shape"][2:]
    draws = max(1, min(64, DRAWS // operand.meta["shape"][1]))
    touched = {
        place: spans
        for place in _places(height, width)
        if (spans := _touched(walker, node, operand, place, draws, generator)) is not None
    }
    sides = operand.meta["shape"][2:]
    found = [
        _fitted({place[axis]: spans[axis] for place, spans in touched.items()}, sides[axis], (height, width)[axis])
        for axis in (0, 1)
    ]
    corner = 0, width - 1
    seen = _touched(walker, node, operand, corner, draws, generator)
    if seen is not None and not all(_holds(found[axis], corner[axis], seen[axis]) for axis in (0, 1)):
        # Off the diagonal it is elsewhere: rows became columns, or positions were moved about.
        return None, None
    return found[0], found[1]


def _places(height: int, width: int) -> list[tuple[int, int]]:
    """Positions along a diagonal, two neighbours in the middle among them."""
    shares = [k / (PLACES - 1) for k in range(PLACES)]
    along = [(round(share * (height - 1)), round(share * (width - 1))) for share in shares]
    middle = height // 2, width // 2
    beside = min(middle[0] + 1, height - 1), min(middle[1] + 1, width - 1)
    return list(dict.fromkeys([*along, beside, middle]))


def _holds(window: Window | None, place: int, span: Span) -> bool:
    if window is None:
        return True
    start = window.stride * place
    return start + window.first - 1 <= span[0] and span[1] <= start + window.last + 1


def _touched(
    walker: graph.Walker,
    node: fx.Node,
    operand: fx.Node,
    place: tuple[int, int],
    draws: int,
    generator: torch.Generator,
) -> tuple[Span, Span] | None:
    """The rows and the columns of `operand` that one position depends on; None where it depends on none (padding)."""
    given = {one: _drawn(one, draws, generator) for one in walker.bench.operands(node)}
    given[operand].requires_grad_()
    with torch.enable_grad():
        result = walker.bench.carried_out(node, given, draws)
        chosen = result[:, :, place[0], place[1]]
        weights = torch.randn(chosen.shape, generator=generator, device="cpu")
        (gradient,) = torch.autograd.grad((chosen * weights).sum(), given[operand], allow_unused=True)
    places = torch.zeros(0, 4, device="cpu") if gradient is None else gradient.nonzero()
    if not len(places):
        return None
    first, second = ((int(places[:, axis].min()), int(places[:, axis].max())) for axis in (2, 3))
    return first, second


def _fitted(spans: dict[int, Span], side: int, outer: int) -> Window | None:
    """The window that explains what was measured at some positions; None where every position depends on all of it."""
    if not spans or (side > 1 and all(span == (0, side - 1) for span in spans.values())):
        return None if spans else SAME
    inner = {place: span for place, span in spans.items() if span[0] > 0 and span[1] < side - 1}
    stride = float(side / outer) if outer else 1.0
    if len(inner) > 1:
        first, last = min(inner), max(inner)
        stride = (sum(inner[last]) - sum(inner[first])) / 2 / (last - first)
    elif side == outer or abs(side - outer) <= max(2, outer // 2):
        stride = 1.0
    if stride <= 0:
        return None
    # What is cut off at the border tells less of the window, unless there is nothing else.
    firsts = {place: span for place, span in spans.items() if span[0] > 0} or spans
    lasts = {place: span for place, span in spans.items() if span[1] < side - 1} or spans
    return Window(
        stride,
        min(span[0] - stride * place for place, span in firsts.items()),
        max(span[1] - stride * place for place, span in lasts.items()),
    )
