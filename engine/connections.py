"""How much each feature map adds to each map of the next site: exact contributions along linear layers.

E_ji = sum over positions of g_j * (w_ji * (a_i - b_i)), g the path-averaged gradient at the convolution's output. Summed
over the kernel, this equals the weight gradient times the weight, so one call per convolution gives every edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from engine import tracing
from engine.models.bundle import ModelBundle, Way

Gradients = dict[int, Tensor]


@dataclass(frozen=True, eq=False, slots=True)
class Edges:
    """Sums over a batch of contributions, per link between sites."""

    matrices: dict[tuple[int, int], Tensor]
    """(source, target) -> (target channels, source channels)."""
    arriving: dict[int, Tensor]
    """Per target (channels,): the same total taken directly at the input of its activation."""


def taps(bundle: ModelBundle) -> frozenset[int]:
    """Return the taps whose gradients `between` needs."""
    exits = {way.exit for way in bundle.ways}
    return frozenset(exits | {bundle.arrivals[way.target] for way in bundle.ways})


def between(bundle: ModelBundle, images: Tensor, starts: Tensor, gradients: Gradients) -> Edges:
    """Return the edges from the run of `starts` to the run of `images`, summed over the batch.

    gradients: of the explained margin at `taps(bundle)`, path-averaged, same batch.
    """
    change = _changes(bundle, images, starts)
    matrices: dict[tuple[int, int], Tensor] = {}
    for way in bundle.ways:
        shape = (bundle.sites[way.target].channels, bundle.sites[way.source].channels)
        matrix = matrices.setdefault((way.source, way.target), torch.zeros(shape, device=bundle.device))
        _add_way(matrix, way, change[way.entrance], gradients[way.exit])
    arriving = {
        target: (gradients[bundle.arrivals[target]] * change[bundle.arrivals[target]]).sum(dim=(0, 2, 3))
        for target in {way.target for way in bundle.ways}
    }
    return Edges(matrices, arriving)


def completeness(edges: Edges) -> dict[int, float]:
    """Return per target the largest error of the edges' sum against the direct total.

    Relative to the largest absolute mass of edges into one map: totals may cancel to nothing, masses do not.
    """
    errors = {}
    for target, direct in edges.arriving.items():
        matrices = [matrix for (_, end), matrix in edges.matrices.items() if end == target]
        total = torch.stack([matrix.sum(dim=1) for matrix in matrices]).sum(dim=0)
        mass = torch.stack([matrix.abs().sum(dim=1) for matrix in matrices]).sum(dim=0)
        errors[target] = float((total - direct).abs().max() / mass.max().clamp(min=1e-12))
    return errors


def head(bundle: ModelBundle, images: Tensor, starts: tracing.Trace, classes: Tensor) -> Tensor:
    """Return (classes, channels): what each map of the last site adds to the chosen logits, summed over the batch.

    Exact where the rest of the network is linear (pooling and one fully connected layer), else by the midpoint rule.
    """
    last = len(bundle.sites) - 1
    gates = list(tracing.uniform_gates(bundle, len(images), 1.0))
    gates[last] = torch.full_like(gates[last], 0.5)
    recorder = tracing.Recorder(frozenset({last}))
    rows = []
    with torch.enable_grad():
        gates[last].requires_grad_()
        gating = tracing.Gates(tuple(gates), starts.maps)
        with bundle.visiting(lambda number, tensor: gating(number, recorder(number, tensor))):
            logits = bundle.logits(images)
        for label in classes:
            (gradient,) = torch.autograd.grad(logits[:, label].sum(), gates[last], retain_graph=True)
            rows.append(gradient.sum(dim=0))
    return torch.stack(rows)


def _changes(bundle: ModelBundle, images: Tensor, starts: Tensor) -> Gradients:
    wanted = frozenset({way.entrance for way in bundle.ways} | {bundle.arrivals[way.target] for way in bundle.ways})
    runs = []
    for batch in (images, starts):
        recorder = tracing.Recorder(wanted)
        with torch.no_grad(), bundle.visiting(recorder):
            bundle.logits(batch)
        runs.append(recorder.seen)
    return {number: runs[0][number] - runs[1][number] for number in wanted}


def _add_way(matrix: Tensor, way: Way, change: Tensor, gradient: Tensor) -> None:
    """Add one path's contributions to the (target channels, source channels) matrix of its link."""
    sources = matrix.shape[1]
    if isinstance(way.module, nn.Conv2d):
        part = _convolution(way.module, change, gradient)
        matrix[way.target_offset : way.target_offset + len(part)] += part
        return
    added = (gradient * change).sum(dim=(0, 2, 3))[way.entrance_offset : way.entrance_offset + sources]
    index = torch.arange(len(added), device=matrix.device)
    matrix[index + way.target_offset, index] += added


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
