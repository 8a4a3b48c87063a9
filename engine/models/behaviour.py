"""What the operations of a network do to feature maps, measured on tensors of their own: no operation is known by its name.

A **map tensor** is one of (batch, channels, height, width) with more than one position. An operation is taken together with
everything between the map tensors that it reads and the one that it yields, changed in some channels or elements, and looked
at for what changes behind it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.models import capture

ROWS_AT_ONCE = 24
TOLERANCE = 1e-5
"""Of a difference, as a share of the largest value: what float32 may leave of nothing."""
SMALL_SIDE = 9
"""Positions along each side of the tensors on which elementwise operations are tried first; more cost time and tell nothing."""
SPREAD = (1.0, 8.0)
"""Standard deviations of the values that operations are tried with, so that limits such as 6 are met."""
POOL, STEP = 1_000_003, 131_071
"""Values that are drawn once for all trials, and how many further on each draw begins: drawing takes longer than trying."""
CHANGE = 99
"""Which of the draws channels are changed by."""
NONE = -1
"""In place of a channel: none."""

Channels = tuple[int, ...]
"""Of each channel that comes out, the one that it was read from; NONE where it depends on none of this tensor's."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one operation does with the map tensors that it reads."""

    operands: tuple[fx.Node, ...]
    channels: tuple[Channels | None, ...]
    """Per operand; None where it mixes channels: one of those that come out depends on several. None, too, behind such a one."""
    is_affine: bool
    """Whether it is a sum of linear maps of its operands and a constant."""
    is_elementwise: bool
    """Whether each element that comes out depends on the elements at its own place alone."""
    mixes_batch: bool = False
    """Whether a picture's answer depends on the other pictures of its batch."""

    @property
    def keeps_channels(self) -> bool:
        """Whether each channel that comes out depends on one channel of each operand at most."""
        return None not in self.channels and not self.mixes_batch


class Bench:
    """Carries out single operations of a graph on tensors of its own."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self._modules: dict[str, nn.Module] = {}
        self._constants: dict[str, Tensor] = {}

    def operands(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """Return the nearest map tensors that a node depends on, in the order in which they are computed."""
        return tuple(sorted(item for item in self.inside(node) if is_map(item) or item.op == "placeholder"))

    def inside(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield what a node reads, directly and through nodes that yield no map tensors, those that do included."""
        pending, seen = list(node.all_input_nodes), set()
        while pending:
            source = pending.pop()
            if source in seen or not source.meta.get("live"):
                continue
            seen.add(source)
            yield source
            if not is_map(source) and source.op != "placeholder":
                pending += source.all_input_nodes

    def carried_out(self, node: fx.Node, given: Mapping[fx.Node, Tensor], rows: int) -> Tensor:
        """Return what `node` yields for these operands, each of `rows` pictures."""
        known: dict[fx.Node, Any] = dict(given)

        def value(one: fx.Node) -> Any:
            if one not in known:
                known[one] = self._computed(one, value, rows)
            return known[one]

        with torch.no_grad() if not torch.is_grad_enabled() else torch.enable_grad():
            return value(node)

    def _computed(self, node: fx.Node, value: Any, rows: int) -> Any:
        if node.op == "get_attr":
            return self._constant(str(node.target))
        if node.target is capture.batch_size:
            return rows
        arguments, options = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
        if node.op == "call_module":
            return self._module(str(node.target))(*arguments, **options)
        return node.target(*arguments, **options)  # type: ignore[operator]

    def _module(self, name: str) -> nn.Module:
        if name not in self._modules:
            module = self.traced.get_submodule(name)
            self._modules[name] = module if _is_usable(module) else _usable(module)
        return self._modules[name]

    def _constant(self, name: str) -> Tensor:
        if name not in self._constants:
            self._constants[name] = _sane(getattr(self.traced, name))
        return self._constants[name]


def is_map(node: fx.Node) -> bool:
    """Tell whether a node computes feature maps of the picture: (batch, channels, height, width), more than one position."""
    shape = node.meta.get("shape", ())
    has_maps = len(shape) == 4 and shape[1] > 0 and shape[2] * shape[3] > 1 and node.meta.get("is_batch", True)
    return bool(has_maps and node.meta.get("live") and node.op != "placeholder")


def measured(bench: Bench, node: fx.Node) -> Behaviour:
    """Return what an operation that yields a map tensor does with the map tensors it reads; each is looked at once."""
    inside = tuple(bench.inside(node))
    known = node.meta.get("behaviour")
    if known is None or known[0] != inside:
        known = node.meta["behaviour"] = inside, _tried(bench, node)
    return known[1]


def elementwise(bench: Bench, node: fx.Node) -> Behaviour | None:
    """Return what an elementwise operation does, None of any other: what mixes channels need not be found out for that."""
    inside = tuple(bench.inside(node))
    known = node.meta.get("elementwise")
    if known is None or known[0] != inside:
        operands = bench.operands(node)
        small, same = _small(bench, node, operands), tuple(range(node.meta["shape"][1]))
        result = None if small is None else Behaviour(operands, (same,) * len(operands), small.is_affine(), True)
        known = node.meta["elementwise"] = inside, result
    return known[1]


def _tried(bench: Bench, node: fx.Node) -> Behaviour:
    result = elementwise(bench, node)
    if result is not None:
        return result
    operands = bench.operands(node)
    trial = _Trial(bench, node, operands, {item: item.meta["shape"] for item in (*operands, node)})
    if trial.mixes_batch():
        return Behaviour(operands, (None,) * len(operands), False, False, mixes_batch=True)
    channels: list[Channels | None] = [None] * len(operands)
    for k, operand in enumerate(operands):
        channels[k] = trial.channels(operand)
        if channels[k] is None:
            # It mixes channels of one: what it does with the others makes no difference, and may take minutes to find.
            break
    return Behaviour(operands, tuple(channels), trial.is_affine(), False)


def as_weights(bench: Bench, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Return the weights (outputs, inputs) and biases (outputs,) of an operation that is a convolution of one pixel, else None."""
    operands = bench.operands(node)
    if len(operands) != 1 or operands[0].meta["shape"][2:] != node.meta["shape"][2:]:
        return None
    return _Trial(bench, node, operands, {item: item.meta["shape"] for item in (*operands, node)}).as_weights()


def _small(bench: Bench, node: fx.Node, operands: tuple[fx.Node, ...]) -> _Trial | None:
    """A trial of an elementwise operation, on tensors of few positions where it takes them; None where it is not elementwise."""
    if not operands or any(operand.meta["shape"] != node.meta["shape"] for operand in operands):
        return None
    if any(item.meta.get("shape") != node.meta["shape"] for item in bench.inside(node)):
        # A number per map, such as a gate, is made of all positions, whatever the trial would show.
        return None
    _, channels, height, width = node.meta["shape"]
    for side in (SMALL_SIDE, max(height, width)):
        shape = torch.Size((1, channels, min(side, height), min(side, width)))
        with contextlib.suppress(RuntimeError, IndexError, ValueError):
            trial = _Trial(bench, node, operands, dict.fromkeys((*operands, node), shape))
            return trial if trial.is_elementwise() else None
    return None


@dataclass(frozen=True, eq=False, slots=True)
class Places:
    """Which positions of an operand those that come out depend on, along the height and along the width."""

    depends: tuple[Tensor, Tensor]
    """(positions that come out, positions of the operand) bool."""
    are_swapped: bool
    """Whether rows come of columns, and columns of rows."""


def places(bench: Bench, node: fx.Node, operand: fx.Node) -> Places | None:
    """Return which positions of `operand` those that come out depend on; None where each depends on its own."""
    operands = bench.operands(node)
    trial = _Trial(bench, node, operands, {item: item.meta["shape"] for item in (*operands, node)})
    if trial.keeps_places():
        return None
    (rows_rows, rows_columns), (columns_rows, columns_columns) = (trial.places(operand, axis) for axis in (0, 1))
    are_swapped = bool(rows_rows.all() and columns_columns.all() and not (rows_columns.all() and columns_rows.all()))
    return Places((columns_rows, rows_columns) if are_swapped else (rows_rows, columns_columns), are_swapped)


class _Trial:
    """Tries one operation; what it is given is the same every time."""

    def __init__(
        self, bench: Bench, node: fx.Node, operands: tuple[fx.Node, ...], shapes: Mapping[fx.Node, torch.Size]
    ) -> None:
        self.bench, self.node, self.operands, self.shapes = bench, node, operands, shapes
        self.drawn = 0
        self.shape = shapes[node]
        self.is_positive = False
        given = {operand: self._drawn(operand, 1) for operand in operands}
        if given and not self._result(given).isfinite().all():
            # Roots and logarithms answer positive numbers alone.
            self.is_positive = True

    def _drawn(self, operand: fx.Node, rows: int, spread: float = SPREAD[0]) -> Tensor:
        shape = (rows, *self.shapes[operand][1:])
        self.drawn += 1
        drawn = values(math.prod(shape), self.drawn).view(shape) * spread
        return drawn.abs() + 0.1 if self.is_positive else drawn

    def _result(self, given: Mapping[fx.Node, Tensor]) -> Tensor:
        rows = len(next(iter(given.values())))
        return self.bench.carried_out(self.node, given, rows).float()

    @torch.no_grad()
    def is_elementwise(self) -> bool:
        """Half of the elements of every operand are changed: the others must come out as before."""
        kept = self._drawn(self.operands[0], 1) < 0
        given = {operand: self._drawn(operand, 1) for operand in self.operands}
        other = {operand: torch.where(kept, tensor, self._drawn(operand, 1)) for operand, tensor in given.items()}
        before, after = self._result(given), self._result(other)
        return before.shape == kept.shape and _same(before[kept], after[kept])

    @torch.no_grad()
    def keeps_places(self) -> bool:
        """Half of the positions are changed, in all channels: the others must come out as before."""
        if any(self.shapes[operand][2:] != self.shape[2:] for operand in self.operands):
            return False
        kept = self._drawn(self.operands[0], 1)[:, :1] < self._drawn(self.operands[0], 1)[:, :1]
        given = {operand: self._drawn(operand, 1) for operand in self.operands}
        other = {operand: torch.where(kept, tensor, self._drawn(operand, 1)) for operand, tensor in given.items()}
        whole = kept.expand(1, self.shape[1], -1, -1)
        return _same(self._result(given)[whole], self._result(other)[whole])

    @torch.no_grad()
    def places(self, operand: fx.Node, axis: int) -> tuple[Tensor, Tensor]:
        """Each row (axis 0) or column (axis 1) of `operand` is changed alone: which rows, and which columns, change behind it."""
        given = {item: self._drawn(item, 1) for item in self.operands}
        other, before = self._drawn(operand, 1, 3.0), self._result(given)
        count = self.shapes[operand][2 + axis]
        rows, columns = [], []
        for part in torch.arange(count, device="cpu").split(self._rows(operand)):
            is_changed = part[:, None] == torch.arange(count, device="cpu")
            mask = is_changed[:, None, :, None] if axis == 0 else is_changed[:, None, None, :]
            tried = {one: tensor.expand(len(part), -1, -1, -1) for one, tensor in given.items()}
            tried[operand] = torch.where(mask, other, given[operand])
            is_other = (self._result(tried) - before).abs().amax(dim=1) > TOLERANCE * before.abs().max().clamp(min=1e-6)
            rows.append(is_other.any(dim=2))
            columns.append(is_other.any(dim=1))
        return torch.cat(rows).T, torch.cat(columns).T

    @torch.no_grad()
    def mixes_batch(self) -> bool:
        """The first picture alone must come out as beside another."""
        given = {operand: self._drawn(operand, 2) for operand in self.operands}
        together = self._result(given)
        if len(together) != 2:
            return True
        return not _same(together[:1], self._result({operand: tensor[:1] for operand, tensor in given.items()}))

    @torch.no_grad()
    def is_affine(self) -> bool:
        """What lies halfway between two inputs must come out halfway, near to zero and far from it."""
        for spread in SPREAD:
            first = {operand: self._drawn(operand, 1, spread) for operand in self.operands}
            second = {operand: self._drawn(operand, 1, spread) for operand in self.operands}
            halfway = {operand: (first[operand] + second[operand]) / 2 for operand in self.operands}
            expected = (self._result(first) + self._result(second)) / 2
            if not _same(self._result(halfway), expected, scale=self._result(first)):
                return False
        return True

    @torch.no_grad()
    def channels(self, operand: fx.Node) -> Channels | None:
        """Which channel of `operand` each one that comes out depends on.

        Every channel has a number; those with a certain bit set are changed together, then those without. A channel that
        comes out depends on a single one just where it changes in exactly one of the two, for every bit.
        """
        count = operand.meta["shape"][1]
        bits = max(1, math.ceil(math.log2(count)))
        numbers = torch.arange(count, device="cpu")
        sets = torch.stack(
            [((numbers >> bit) & 1).bool() ^ bool(flip) for bit in range(bits) for flip in (False, True)]
        )
        parts: list[Tensor] = []
        for part in self._changed(operand, sets):
            parts.append(part)
            if bool((parts[0][0] & parts[0][1]).any()):
                return None
        changes = torch.cat(parts).view(bits, 2, -1)
        with_bit, without = changes[:, 0], changes[:, 1]
        if bool((with_bit & without).any()):
            return None
        result = (with_bit.long() << torch.arange(bits, device="cpu")[:, None]).sum(dim=0)
        return tuple(torch.where(changes.any(dim=(0, 1)), result, NONE).tolist())

    def _changed(self, operand: fx.Node, sets: Tensor) -> Iterator[Tensor]:
        """Of sets of channels of `operand`, first of two, then of more at once, which channels come out otherwise.

        All are tried on the same values: each set is given others in turn.
        """
        # Among positive values, too: a unit that is silent on the others would hide what depends on it.
        starts = [{item: self._drawn(item, 1) + shift for item in self.operands} for shift in (0.0, 2.0)]
        for part in (sets[:2], *(sets[2:].split(self._rows(operand)) if len(sets) > 2 else ())):
            first, second = (self._changed_from(operand, part, given) for given in starts)
            yield first | second

    def _changed_from(self, operand: fx.Node, part: Tensor, given: Mapping[fx.Node, Tensor]) -> Tensor:
        other = given[operand] + values(given[operand].numel(), CHANGE).view_as(given[operand]) * 3.0
        before = self._result(given)
        tried = {one: tensor.expand(len(part), -1, -1, -1) for one, tensor in given.items()}
        tried[operand] = torch.where(part[:, :, None, None], other, given[operand])
        difference = (self._result(tried) - before).abs().reshape(len(part), before.shape[1], -1).amax(dim=2)
        return difference > TOLERANCE * before.abs().max().clamp(min=1e-6)

    def _rows(self, operand: fx.Node) -> int:
        return max(1, min(ROWS_AT_ONCE, 20_000_000 // operand.meta["shape"].numel()))

    @torch.no_grad()
    def as_weights(self) -> tuple[Tensor, Tensor] | None:
        """What one channel does at one position is its weights, if that is all that it does."""
        (operand,) = self.operands
        _, count, height, width = operand.meta["shape"]
        blank = torch.zeros(1, count, height, width, device="cpu")
        zero = self._result({operand: blank})
        if zero.shape[2:] != (height, width):
            return None
        row, column = height // 2, width // 2
        biases, columns = zero[0, :, row, column], []
        for part in torch.arange(count, device="cpu").split(self._rows(operand)):
            probes = blank.repeat(len(part), 1, 1, 1)
            probes[torch.arange(len(part), device="cpu"), part, row, column] = 1.0
            columns.append((self._result({operand: probes}) - zero)[:, :, row, column])
        weights = torch.cat(columns).T.contiguous()
        tried = self._drawn(operand, 2, 2.0)
        expected = nn.functional.conv2d(tried, weights[:, :, None, None], biases)
        return (weights, biases) if _same(self._result({operand: tried}), expected) else None


@functools.cache
def _pool() -> Tensor:
    return torch.randn(POOL, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def values(count: int, which: int) -> Tensor:
    """Return `count` values drawn from a normal distribution; another `which` gives others."""
    pool, start = _pool(), which * STEP % POOL
    turns = -(-(start + count) // POOL)
    return (pool if turns == 1 else pool.repeat(turns))[start : start + count]


def _same(first: Tensor, second: Tensor, scale: Tensor | None = None) -> bool:
    if first.shape != second.shape:
        return False
    size = (second if scale is None else scale).nan_to_num().abs().max().clamp(min=1e-6) if second.numel() else 1.0
    return bool(((first - second).abs() <= TOLERANCE * size).logical_or(first.isnan() & second.isnan()).all())


def _is_usable(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return all(tensor.device.type == "cpu" and bool(tensor.isfinite().all()) for tensor in tensors)


def _usable(module: nn.Module) -> nn.Module:
    """The same layer with numbers in its weights, where it has shapes alone or values that are not finite."""
    deepcopy = copy.deepcopy(module)
    for part in deepcopy.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_sane(parameter), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else _sane(buffer)
    return deepcopy


def _sane(tensor: Tensor) -> Tensor:
    if tensor.device.type == "meta":
        drawn = torch.rand(tensor.shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu") + 0.5
        return drawn.to(tensor.dtype)
    here = tensor.detach().cpu()
    return torch.nan_to_num(here, nan=1.0, posinf=1.0, neginf=-1.0) if here.is_floating_point() else here
