"""How much each feature map adds to each map of the next site: exact contributions along linear layers.

E_ji = sum over positions of g_j * (w_ji * (a_i - b_i)), g the path-averaged gradient at the convolution's output. Summed
over the kernel, this equals the weight gradient times the weight, so one call per convolution gives every edge.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.grad import conv2d_weight

from engine.models import hooks, paths
from engine.models import network as precision
from engine.models.network import ModelBundle, Probe, Way

Gradients = dict[int, Tensor]
HEAD_STEPS = 64
"""Midpoints over which a head of several layers is integrated."""
ROUNDING = 4
"""Last digits by which a logit may be rounded."""
LARGE = 5_000_000
"""Weights behind the last feature maps from which on they are not copied in double precision."""
LINEAR = 1e-5
"""Error up to which a head counts as linear: rounding in float32 leaves less."""


@dataclass(frozen=True, eq=False, slots=True)
class Edges:
    """Sums over a batch of contributions, per link between sites."""

    matrices: dict[tuple[int, int], Tensor]
    """(source, target) -> (target channels, source channels)."""
    arriving: dict[int, Tensor]
    """Per target (channels,): the same total taken directly where everything arrives there."""
    from_picture: dict[int, Tensor]
    """Per target (channels,): what comes from the picture past every site, by convolutions or shortcuts of its own."""


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """Two runs of distinct images in one batch, and which of them each pair of images stands for."""

    first: Tensor | slice
    """Per pair the row of the image that is explained."""
    second: Tensor | slice
    """Per pair the row of the image it starts from."""

    def change(self, tensor: Tensor) -> Tensor:
        """Return the change from the second run to the first, (pairs, channels, height, width)."""
        return tensor[self.first] - tensor[self.second]


@dataclass(slots=True)
class _Sums:
    """Adds up the contributions at every tap as both runs pass it together, so that neither is ever kept whole.

    ResNet-20, 32 all-different pairs, in plain passes: 1.3 in CPU time (1.5 with two threads) and 0.43 in memory; recording
    both runs first took 1.6 (2.0) and 2.0.
    """

    network: ModelBundle
    gradients: Gradients
    rows: _Rows
    edges: Edges
    entrances: dict[int, list[Way]]
    targets: dict[int, list[int]]
    """Of the taps on arrivals, the sites."""
    next_taps: dict[int, int]
    held: tuple[Tensor, Tensor] | None = None
    """The last tensor and its change: taps in a row see the same one."""

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number in self.entrances or number in self.targets:
            if self.held is None or self.held[0] is not tensor:
                self.held = tensor, self.rows.change(tensor)
            self._add(number, self.held[1])
        return tensor

    def _add(self, number: int, change: Tensor) -> None:
        for target in self.targets.get(number, ()):
            total = (self.gradients[self.next_taps.get(number, number)] * change).sum(dim=(0, 2, 3))
            self.edges.arriving[target] = self.edges.arriving.get(target, 0) + total
        for way in self.entrances.get(number, ()):
            gradient = self.gradients[self.next_taps.get(way.exit, way.exit)]
            if way.source == paths.PICTURE:
                self.edges.from_picture[way.target] += _part(self.network, way, change, gradient).sum(dim=1)
            else:
                self.edges.matrices[way.source, way.target] += _part(self.network, way, change, gradient)


def taps(bundle: ModelBundle) -> frozenset[int]:
    """Return the taps whose gradients `between` needs."""
    network = precision.folded(bundle)
    chained = next_taps(network)
    exits = {chained.get(way.exit, way.exit) for way in network.ways}
    arriving = {probe for way in network.ways for probe in network.arrivals[way.target]}
    return frozenset(exits | {chained.get(probe, probe) for probe in arriving})


def between(bundle: ModelBundle, images: Tensor, starts: Tensor, gradients: Gradients) -> Edges:
    """Return the edges from the run of `starts` to the run of `images`, summed over the batch.

    gradients: of the explained margin at `taps(bundle)`, path-averaged, same batch, on the folded twin
    (`scores.between_runs`). Each distinct image runs once, however often it stands in a batch.
    """
    network = precision.folded(bundle)
    rows, distinct = _together(images, starts)
    matrices = {(way.source, way.target): _blank(bundle, way) for way in network.ways if way.source != paths.PICTURE}
    past = {way.target: _of_maps(bundle, way.target) for way in network.ways if way.source == paths.PICTURE}
    entrances: dict[int, list[Way]] = {}
    for way in network.ways:
        entrances.setdefault(way.entrance, []).append(way)
    targets: dict[int, list[int]] = {}
    for target in sorted({way.target for way in network.ways}):
        for probe in network.arrivals[target]:
            targets.setdefault(probe, []).append(target)
    sums = _Sums(network, gradients, rows, Edges(matrices, {}, past), entrances, targets, next_taps(network))
    with torch.no_grad(), network.visiting(sums):
        # Channels last: a CPU convolves 16 channels of 32 x 32 three times as fast (9.3 and 2.9 ms for 64 rows).
        network.logits(distinct.contiguous(memory_format=torch.channels_last))
    return sums.edges


def completeness(edges: Edges) -> dict[int, float]:
    """Return per target the largest error of the edges' sum, and of what the picture adds past them, against the direct total.

    Relative to the largest absolute mass of edges into one map: totals may cancel to nothing, masses do not. A target that
    only the picture reaches has none.
    """
    errors = {}
    for target in {end for _, end in edges.matrices}:
        matrices = [matrix for (_, end), matrix in edges.matrices.items() if end == target]
        past = edges.from_picture.get(target, torch.zeros_like(edges.arriving[target]))
        total = torch.stack([*(matrix.sum(dim=1) for matrix in matrices), past]).sum(dim=0)
        mass = torch.stack([*(matrix.abs().sum(dim=1) for matrix in matrices), past.abs()]).sum(dim=0)
        errors[target] = float((total - edges.arriving[target]).abs().max() / mass.max().clamp(min=1e-12))
    return errors


@dataclass(frozen=True, eq=False, slots=True)
class Head:
    """Sums over a batch of what the maps of the last sites add to some logits."""

    matrices: dict[int, Tensor]
    """Per site that the logits are computed from (classes, channels)."""
    arriving: Tensor
    """(classes,): by how much the logits really differ between the two runs."""
    rounding: float
    """What may be rounding in those differences: logits of two runs can be large and nearly the same."""

    def __add__(self, other: Head) -> Head:
        sums = {site: matrix + other.matrices[site] for site, matrix in self.matrices.items()}
        return Head(sums, self.arriving + other.arriving, self.rounding + other.rounding)

    @property
    def completeness(self) -> float:
        """The largest error of the contributions' sum, relative to the largest absolute mass of those into one logit."""
        total = torch.stack([matrix.sum(dim=1) for matrix in self.matrices.values()]).sum(dim=0)
        mass = torch.stack([matrix.abs().sum(dim=1) for matrix in self.matrices.values()]).sum(dim=0)
        error = ((total - self.arriving).abs().max() - self.rounding).clamp(min=0.0)
        return float(error / mass.max().clamp(min=1e-12))


def head(bundle: ModelBundle, run: hooks.Trace, starts: hooks.Trace, classes: Tensor) -> Head:
    """Return what each map of the last sites adds to the chosen logits on the way from the runs `starts` to `run`.

    Exact where all behind those sites is linear (pooling and one fully connected layer); else integrated over `HEAD_STEPS`
    midpoints of the straight path between the two, with what is then left as the error. In float64, but for large layers.
    """
    ends = [[trace.maps[site] for site in bundle.heads] for trace in (run, starts)]
    tail = bundle.tail()
    try:
        return _contributions(bundle, *_precise(tail, ends), classes)
    except RuntimeError:
        # Something in it is computed in another type.
        return _contributions(bundle, tail, ends, classes)


Ends = list[list[Tensor]]
"""Per run, the maps of each site that the logits are computed from."""


def _precise(tail: fx.GraphModule, ends: Ends) -> tuple[fx.GraphModule, Ends]:
    if sum(parameter.numel() for parameter in tail.parameters()) > LARGE:
        return tail, ends
    return copy.deepcopy(tail).double(), [[maps.double() for maps in end] for end in ends]


def _contributions(bundle: ModelBundle, tail: fx.GraphModule, ends: Ends, classes: Tensor) -> Head:
    with torch.no_grad():
        last, first = (tail(*maps)[:, classes] for maps in ends)
    rounding = float(ROUNDING * torch.finfo(last.dtype).eps * torch.maximum(last.abs(), first.abs()).sum())
    arriving = (last - first).sum(dim=0)
    head = Head(_integrated(tail, ends, classes, 1), arriving, rounding)
    if head.completeness > LINEAR:
        head = Head(_integrated(tail, ends, classes, HEAD_STEPS), arriving, rounding)
    matrices = dict(zip(bundle.heads, head.matrices.values(), strict=True))
    return Head({site: matrix.to(bundle.mean.dtype) for site, matrix in matrices.items()}, arriving, rounding)


def _integrated(tail: fx.GraphModule, ends: Ends, classes: Tensor, steps: int) -> dict[int, Tensor]:
    """Per place in the list of sites (classes, channels), summed over the batch."""
    last, first = ends
    sums = {k: maps.new_zeros(len(classes), maps.shape[1]) for k, maps in enumerate(last)}
    for step in range(steps):
        gates = [maps.new_full(maps.shape[:2], (step + 0.5) / steps).requires_grad_() for maps in last]
        with torch.enable_grad():
            mixed = [torch.lerp(b, a, gate[:, :, None, None]) for a, b, gate in zip(last, first, gates, strict=True)]
            logits = tail(*mixed)
            totals = [logits[:, label].sum() for label in classes]
        for row, total in enumerate(totals):
            slopes = torch.autograd.grad(total, gates, retain_graph=True)
            for k, slope in enumerate(slopes):
                sums[k][row] += slope.sum(dim=0) / steps
    return sums


def next_taps(network: ModelBundle) -> dict[int, int]:
    """Taps whose only reader is another tap, and the last of that chain: one tensor, whose gradient is kept once.

    A chain ends at a site at the latest: behind its tap the maps are gated.
    """
    calls = [node for node in network.network.graph.nodes if node.op == "call_module"]
    modules = {node: network.network.get_submodule(str(node.target)) for node in calls}
    numbers = {node: module.number for node, module in modules.items() if isinstance(module, Probe)}
    results: dict[int, int] = {}
    for node in reversed(numbers):
        readers = list(node.users)
        if len(readers) == 1 and readers[0] in numbers and numbers[node] >= len(network.sites):
            results[numbers[node]] = results.get(numbers[readers[0]], numbers[readers[0]])
    return results


def _together(images: Tensor, starts: Tensor) -> tuple[_Rows, Tensor]:
    """The distinct images of both batches, one after the other, and their rows; no gathering where all are distinct."""
    first, of_first = torch.unique(images, dim=0, return_inverse=True)
    second, of_second = torch.unique(starts, dim=0, return_inverse=True)
    if len(first) == len(images) and len(second) == len(starts):
        return _Rows(slice(len(images)), slice(len(images), None)), torch.cat([images, starts])
    return _Rows(of_first, len(first) + of_second), torch.cat([first, second])


def _blank(bundle: ModelBundle, way: Way) -> Tensor:
    return _of_maps(bundle, way.target)[:, None].repeat(1, bundle.sites[way.source].channels)


def _width(bundle: ModelBundle, way: Way) -> int:
    return 1 if way.source == paths.PICTURE else bundle.sites[way.source].channels


def _of_maps(bundle: ModelBundle, site: int) -> Tensor:
    return torch.zeros(bundle.sites[site].channels, device=bundle.device, dtype=bundle.mean.dtype)


def _part(bundle: ModelBundle, way: Way, change: Tensor, gradient: Tensor) -> Tensor:
    """Return one path's contributions (target channels, source channels), summed over batch and positions."""
    whole = torch.zeros(
        _of_maps(bundle, way.target).shape[0], _width(bundle, way), device=bundle.device, dtype=bundle.mean.dtype
    )
    sources, targets = (torch.tensor(channels, device=whole.device) for channels in (way.sources, way.targets))
    entering, leaving = ((channels >= 0).nonzero()[:, 0] for channels in (sources, targets))
    if way.module is not None:
        part = _convolution(way.module, change, gradient)[leaving][:, entering].to(whole.dtype)
        gathered = torch.zeros(len(leaving), whole.shape[1], device=whole.device, dtype=whole.dtype)
        return whole.index_add_(0, targets[leaving], gathered.index_add_(1, sources[entering], part))
    both = ((sources >= 0) & (targets >= 0)).nonzero()[:, 0]
    added = (gradient * change).sum(dim=(0, 2, 3))[both].to(whole.dtype)
    return whole.index_put_((targets[both], sources[both]), added, accumulate=True)


def _convolution(module: nn.Conv2d, change: Tensor, gradient: Tensor) -> Tensor:
    """(output channels, input channels) contributions through one convolution, summed over batch and positions."""
    weight = module.weight
    correlated = conv2d_weight(
        change, weight.shape, gradient, module.stride, module.padding, module.dilation, module.groups
    )
    part = (correlated * weight).sum(dim=(2, 3))
    if module.groups == 1:
        return part
    outputs, inputs = len(weight) // module.groups, weight.shape[1]
    return torch.block_diag(*part.view(module.groups, outputs, inputs))
