"""Which places of a network are hook points, and what part of the picture each of their positions sees."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from engine.models import behaviour, graph
from engine.types.core import Role, Site

EVERYTHING = 1 << 20
"""Pixels of a field that holds the whole picture, whatever its size."""
NOWHERE = -1
"""In place of a pixel: a position that depends on none (padding)."""


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

    def spans(self, positions: int, side: int) -> Tensor:
        """Return (positions, 2) int64: first and last pixel of each field inside a picture of `side` pixels."""
        places = torch.arange(positions, dtype=torch.float64, device="cpu") * self.jump
        first = (places + self.low).clamp(min=0)
        last = (places + self.high).clamp(max=side) - 1
        long = torch.stack([first.floor(), last.ceil()], dim=1).long()
        return torch.where((last >= first)[:, None], long, NOWHERE)


@dataclass(frozen=True, eq=False, slots=True)
class Sight:
    """What the positions along one axis see."""

    axis: Axis
    """As if the picture had no end."""
    spans: Tensor
    """(positions, 2) int64: the first and the last pixel that each depends on; NOWHERE for none."""

    def is_regular(self, side: int) -> bool:
        """Tell whether `axis` says, inside the picture, exactly what `spans` say."""
        return torch.equal(self.axis.spans(len(self.spans), side), self.spans)


@dataclass(frozen=True, eq=False, slots=True)
class Sights:
    """What the rows and the columns of a tensor see."""

    rows: Sight
    """Of the picture's height; of its width where the tensor is turned."""
    columns: Sight
    is_turned: bool = False
    """Whether rows come of the picture's columns, and columns of its rows."""


PIXEL = Axis(0.0, 1.0, 1.0)
WHOLE = Axis(-EVERYTHING / 2 + 0.5, EVERYTHING / 2 + 0.5, 1.0)


def receptive_fields(walker: graph.Walker, nodes: tuple[fx.Node, ...]) -> dict[fx.Node, Sights]:
    """Return the receptive fields of some nodes that yield feature maps."""
    sights: dict[fx.Node, Sights] = {}
    for node in walker.traced.graph.nodes:
        if node.op == "placeholder":
            rows, columns = (torch.arange(side, device="cpu")[:, None].repeat(1, 2) for side in node.meta["shape"][2:])
            sights[node] = Sights(Sight(PIXEL, rows), Sight(PIXEL, columns))
        elif graph.is_map(node):
            sights[node] = _sights(walker, node, sights)
    return {node: sights[node] for node in nodes}


def _sights(walker: graph.Walker, node: fx.Node, sights: dict[fx.Node, Sights]) -> Sights:
    if walker.counts_as_it_was(node):
        # A gate has seen the whole image, but it moves nothing: what a position shows is what the scaled map shows there.
        return sights[walker.carried(node)]
    operands = walker.bench.operands(node)
    results = [_through(walker, node, operand, sights[operand]) for operand in operands]
    if len({item.is_turned for item in results}) > 1:
        results = [_everywhere(item) if item.is_turned else item for item in results]
    return Sights(
        _union([item.rows for item in results]), _union([item.columns for item in results]), results[0].is_turned
    )


def _everywhere(sights: Sights) -> Sights:
    """What the rows of a turned tensor see of the picture's height, over all of its columns, and the other way round."""
    rows = torch.tensor([[int(sights.columns.spans.min()), int(sights.columns.spans.max())]], device="cpu").repeat(
        len(sights.rows.spans), 1
    )
    columns = torch.tensor([[int(sights.rows.spans.min()), int(sights.rows.spans.max())]], device="cpu").repeat(
        len(sights.columns.spans), 1
    )
    return Sights(Sight(WHOLE, rows), Sight(WHOLE, columns))


def _through(walker: graph.Walker, node: fx.Node, operand: fx.Node, before: Sights) -> Sights:
    """What the positions of `node` see of the picture by way of one operand."""
    if walker.is_carrier(node):
        windows = _of_convolution(cast(nn.Conv2d, walker.module(node)), operand.meta["shape"], node.meta["shape"])
    elif walker.behaviour(node).is_elementwise:
        return before
    else:
        measured = behaviour.places(walker.bench, node, operand)
        if measured is None:
            return before
        windows = tuple((depends, _regular(depends)) for depends in measured.depends)  # type: ignore[assignment]
        if measured.are_swapped:
            before = Sights(before.columns, before.rows, not before.is_turned)
    rows, columns = (
        _behind(window, sight) for window, sight in zip(windows, (before.rows, before.columns), strict=True)
    )
    return Sights(rows, columns, before.is_turned)


Window = tuple[float, float, float]
"""Stride, first and last: position q depends on the positions from `stride * q + first` to `stride * q + last`."""
Reading = tuple[Tensor, Window | None]
"""Which positions depend on which (positions that come out, positions that are read), and the window that says so, if one does."""


def _of_convolution(module: nn.Conv2d, before: torch.Size, after: torch.Size) -> tuple[Reading, Reading]:
    results = []
    for axis in (0, 1):
        kernel, stride = module.kernel_size[axis], module.stride[axis]
        padding, dilation = int(module.padding[axis]), module.dilation[axis]
        offsets = (
            torch.arange(before[2 + axis], device="cpu")
            - stride * torch.arange(after[2 + axis], device="cpu")[:, None]
            + padding
        )
        depends = (offsets >= 0) & (offsets <= (kernel - 1) * dilation) & (offsets % dilation == 0)
        results.append((depends, (float(stride), float(-padding), float((kernel - 1) * dilation - padding))))
    return results[0], results[1]


def _behind(reading: Reading, before: Sight) -> Sight:
    depends, window = reading
    first, last = before.spans.T
    is_seen = depends & (first != NOWHERE)
    lowest = torch.where(is_seen, first, EVERYTHING).amin(dim=1)
    highest = torch.where(is_seen, last, NOWHERE).amax(dim=1)
    spans = torch.stack([torch.where(is_seen.any(dim=1), lowest, NOWHERE), highest], dim=1)
    if window is None:
        return Sight(WHOLE, spans)
    stride, start, end = window
    axis = before.axis
    return Sight(Axis(axis.low + start * axis.jump, axis.high + end * axis.jump, axis.jump * stride), spans)


def _regular(depends: Tensor) -> Window | None:
    """The window that all positions have that are not cut off by an end; None where there is none such."""
    outer, inner = depends.shape
    spans = {
        place: (int(row.nonzero()[0]), int(row.nonzero()[-1])) for place, row in enumerate(depends) if bool(row.any())
    }
    whole = {place: span for place, span in spans.items() if span[0] > 0 and span[1] < inner - 1}
    if len(whole) > 1:
        # Reflected and repeated pixels at the ends follow another rule than those between.
        ordered = sorted(whole)
        first, last = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
        first, last = (first, last) if last > first else (ordered[0], ordered[-1])
        stride = (whole[last][0] - whole[first][0]) / (last - first)
    else:
        stride = float(max(1, round(inner / outer)))
    if not spans or stride <= 0:
        return None
    starts = [span[0] - stride * place for place, span in spans.items() if span[0] > 0 or place == 0]
    ends = [span[1] - stride * place for place, span in spans.items() if span[1] < inner - 1 or place == outer - 1]
    if not starts or not ends:
        return None
    return stride, min(starts), max(ends)


def _union(sights: list[Sight]) -> Sight:
    first = torch.stack([sight.spans[:, 0] for sight in sights])
    first = torch.where(first == NOWHERE, EVERYTHING, first).amin(dim=0)
    last = torch.stack([sight.spans[:, 1] for sight in sights]).amax(dim=0)
    spans = torch.stack([torch.where(last == NOWHERE, NOWHERE, first), last], dim=1)
    axes = [sight.axis for sight in sights]
    if len({axis.jump for axis in axes}) > 1:
        return Sight(WHOLE, spans)
    return Sight(Axis(min(axis.low for axis in axes), max(axis.high for axis in axes), axes[0].jump), spans)


def describe(walker: graph.Walker, nodes: tuple[fx.Node, ...]) -> tuple[Site, ...]:
    """Return the `Site` records of the site nodes, in order."""
    shapes = {node: node.meta["shape"] for node in nodes}
    blocks = [_block_of(node) for node in nodes]
    roles = [_role(k, blocks) for k in range(len(nodes))]
    names = _unique([_name(node, block, role) for node, block, role in zip(nodes, blocks, roles, strict=True)])
    stages = _stages(names, roles, [tuple(shapes[node][2:]) for node in nodes])
    seen = receptive_fields(walker, nodes)
    size = next(tuple(node.meta["shape"][2:]) for node in walker.traced.graph.nodes if node.op == "placeholder")
    return tuple(
        Site(
            name=names[k],
            channels=shapes[node][1],
            height=shapes[node][2],
            width=shapes[node][3],
            stage=stages[k],
            role="evidence" if len(nodes) > 2 and _is_class_evidence(walker, node) else roles[k],
            is_cut=_is_cut(walker.traced, node),
            **_sight(seen[node], size),
        )
        for k, node in enumerate(nodes)
    )


def _sight(seen: Sights, size: tuple[int, int]) -> dict[str, Any]:
    """The receptive field as a `Site` holds it: along the width only where that differs, position by position where it must."""
    size = (size[1], size[0]) if seen.is_turned else size
    along, across = (_numbers(sight, side) for sight, side in zip((seen.rows, seen.columns), size, strict=True))
    named = along if across == along else along | {f"{name}_across": value for name, value in across.items()}
    if seen.rows.is_regular(size[0]) and seen.columns.is_regular(size[1]) and not seen.is_turned:
        return named
    spans = tuple(tuple(map(tuple, sight.spans.tolist())) for sight in (seen.rows, seen.columns))
    return named | {"field_spans": spans, "field_is_turned": seen.is_turned}


def _numbers(sight: Sight, side: int) -> dict[str, float]:
    axis = sight.axis if sight.is_regular(side) else _nearest(sight)
    whole = {"field_size": axis.size, "field_jump": axis.jump}
    return {name: int(value) if value == int(value) else value for name, value in whole.items()} | {
        "field_start": axis.start
    }


def _nearest(sight: Sight) -> Axis:
    """The largest field, and how far apart the first and the last one lie, of positions that see what no rule says."""
    seen = sight.spans[sight.spans[:, 0] != NOWHERE].double()
    if not len(seen):
        return WHOLE
    size = float((seen[:, 1] - seen[:, 0]).max()) + 1
    centres = seen.mean(dim=1) + 0.5
    jump = float(centres[-1] - centres[0]) / max(1, len(seen) - 1)
    return Axis(float(centres[0]) - size / 2, float(centres[0]) + size / 2, jump)


def _block_of(node: fx.Node) -> str:
    """The outermost module around a node that is more than a list of others; empty at the top of the network."""
    for path, kind in node.meta["stack"]:
        if path and not issubclass(kind, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return "" if kind.__module__.startswith("torch.nn") else str(path)
    return ""


def _role(k: int, blocks: list[str]) -> Role:
    if k == 0:
        return "stem"
    is_last = k + 1 == len(blocks) or blocks[k + 1] != blocks[k]
    return "block" if not blocks[k] or is_last else "inner"


def _name(node: fx.Node, block: str, role: Role) -> str:
    return block if role == "block" and block else str(node.meta["name"])


def _unique(names: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _stages(names: list[str], roles: list[Role], sizes: list[tuple[int, ...]]) -> list[str]:
    """Runs of equal map size are stages, named by what their module names share, else by the size."""
    keys = [("stem",) if role == "stem" else size for role, size in zip(roles, sizes, strict=True)]
    runs = [list(run) for _, run in itertools.groupby(range(len(names)), key=lambda k: keys[k])]
    shared = [_shared_prefix([names[k] for k in run]) for run in runs]
    titles = [
        "stem"
        if keys[run[0]] == ("stem",)
        else prefix
        if prefix and shared.count(prefix) == 1
        else "x".join(map(str, keys[run[0]]))
        for run, prefix in zip(runs, shared, strict=True)
    ]
    return [title for title, run in zip(titles, runs, strict=True) for _ in run]


def _shared_prefix(names: list[str]) -> str:
    parts = [name.split(".") for name in names]
    if len(parts) == 1:
        return parts[0][0]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return ".".join(level[0] for level in shared)


def _is_class_evidence(walker: graph.Walker, site: fx.Node) -> bool:
    """Tell whether a site's maps are the classes themselves: as many as there are logits, only pooling behind them."""
    output = next(node for node in reversed(walker.traced.graph.nodes) if node.op == "output")
    logits = output.all_input_nodes[0]
    if walker.heads() != (site,) or logits.meta["shape"][1] != site.meta["shape"][1]:
        return False
    behaviour = walker.behaviour(logits)
    return len(behaviour.operands) == 1 and behaviour.channels == (tuple(range(site.meta["shape"][1])),)


def _is_cut(traced: fx.GraphModule, site: fx.Node) -> bool:
    """Tell whether every path from the image to the logits runs through `site`."""
    output = next(node for node in reversed(traced.graph.nodes) if node.op == "output")
    pending, seen = [output], {output}
    while pending:
        for source in pending.pop().all_input_nodes:
            if source.op == "placeholder":
                return False
            if source is not site and source not in seen and source.meta.get("live"):
                seen.add(source)
                pending.append(source)
    return True
