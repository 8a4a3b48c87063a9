"""Interventions on a run, as contexts: inside them the network answers with some maps exchanged, fixed, scaled or patched.

Replacing by another run and by mean values, scaling, and exact path patching of one connection. Each leaves the network as
it was, however it ends (`ModelBundle.visiting`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine import tracing
from engine.datapaths import cases
from engine.errors import BadInput, UnknownName
from engine.models.bundle import ModelBundle
from engine.records.proof import Edge
from engine.records.restoration import MeanKind
from engine.store.dataset import Dataset
from engine.tracing import Maps, PerMap, Trace

MEAN_IMAGES = 512
"""Clean images behind the mean values, evenly spread over the data set."""


@dataclass(frozen=True, eq=False, slots=True)
class Means:
    """Mean values of all maps over clean images."""

    maps: Maps
    """Per site (1, channels, height, width)."""
    images: int


@dataclass(slots=True)
class _Direct:
    """Lets one changed map reach one later map directly: every other site holds what it held, so no longer way changes.

    Goldowsky-Dill, MacLeod, Sato, Arora, Localizing model behavior with path patching (2023).
    """

    own: Maps
    changed: Tensor
    """(images, height, width): the values put into the source map."""
    source: tuple[int, int]
    target: int
    arrived: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number >= len(self.own):
            return tensor
        if number == self.target:
            self.arrived[number] = tensor
        if number != self.source[0]:
            return self.own[number]
        patched = self.own[number].clone()
        patched[:, self.source[1]] = self.changed
        return patched


@dataclass(frozen=True, slots=True)
class _OneMap:
    """Puts values into one map."""

    site: int
    channel: int
    values: Tensor

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number != self.site:
            return tensor
        tensor = tensor.clone()
        tensor[:, self.channel] = self.values
        return tensor


@contextmanager
def replacing(bundle: ModelBundle, chosen: PerMap, values: Maps) -> Iterator[None]:
    """Within it, the chosen maps hold other values: those of another run of the same batch, or `means`.

    chosen: per site (batch or 1, channels) bool; values: per site (batch or 1, channels, height, width).
    """
    with bundle.visiting(tracing.Transplant.of(chosen, values)):
        yield


@contextmanager
def scaling(bundle: ModelBundle, chosen: PerMap, factor: float) -> Iterator[None]:
    """Within it, the chosen maps, per site (batch or 1, channels) bool, are multiplied by a factor; 0 removes them."""
    gates = tuple(torch.where(site, factor, 1.0) for site in chosen)
    with bundle.visiting(tracing.Gates(gates, None)):
        yield


@contextmanager
def patching(bundle: ModelBundle, images: Tensor, giving: Trace, edge: Edge) -> Iterator[None]:
    """Within it, the run of `images` receives what the giving run sends along one connection between two maps, no more.

    giving: the trace of as many other images. Raises UnknownName for maps that are not there and BadInput where no connection
    joins their sites; the connection to a class is patched by `along`.
    """
    ends = _ends(bundle, edge)
    if ends[1][0] == len(bundle.sites):
        raise BadInput("A connection to a class ends in the answer itself: ask for the logits along it.")
    values = _arrived(bundle, images, giving, ends)
    with bundle.visiting(_OneMap(*ends[1], values)):
        yield


@torch.no_grad()
def along(bundle: ModelBundle, images: Tensor, giving: Trace, edge: Edge) -> Tensor:
    """Return the logits (images, classes) with one connection patched; one to a class changes that class's logit alone.

    Raises as `patching`.
    """
    ends = _ends(bundle, edge)
    (source, channel), (target, label) = ends
    if target < len(bundle.sites):
        with patching(bundle, images, giving, edge):
            return bundle.logits(images)
    own = tracing.record(bundle, images)
    with bundle.visiting(_Direct(own.maps, giving.maps[source][:, channel], ends[0], target)):
        reached = bundle.logits(images)
    logits = own.logits.clone()
    logits[:, label] = reached[:, label]
    return logits


@torch.no_grad()
def means(bundle: ModelBundle, dataset: Dataset, kind: MeanKind) -> Means:
    """Return each map's mean over clean images of the data set: at every position, or one number for the whole map."""
    rows = np.linspace(0, dataset.card.count - 1, min(MEAN_IMAGES, dataset.card.count)).astype(int)
    total: list[Tensor] = []
    for part in torch.from_numpy(rows).split(tracing.batch_limit(bundle)):
        pictures = cases.load(bundle, dataset, tuple(dataset.keys[k] for k in part.tolist()))
        sums = [site.sum(dim=0, keepdim=True) for site in tracing.record(bundle, pictures).maps]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    maps = tuple(site / len(rows) for site in total)
    if kind == "channel":
        maps = tuple(site.mean(dim=(2, 3), keepdim=True).expand_as(site) for site in maps)
    return Means(maps, len(rows))


@torch.no_grad()
def _arrived(
    bundle: ModelBundle, images: Tensor, giving: Trace, ends: tuple[tuple[int, int], tuple[int, int]]
) -> Tensor:
    (source, channel), (target, reader) = ends
    direct = _Direct(tracing.record(bundle, images).maps, giving.maps[source][:, channel], ends[0], target)
    with bundle.visiting(direct):
        bundle.logits(images)
    return direct.arrived[target][:, reader]


def _ends(bundle: ModelBundle, edge: Edge) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (site, channel) of both ends; the number of sites stands for the logits, whose channels are the classes."""
    names = [*(site.name for site in bundle.sites), Edge.LOGITS]
    widths = [*(site.channels for site in bundle.sites), len(bundle.classes)]
    for name, channel in ((edge.source, edge.channel), (edge.target, edge.reader)):
        if name not in names:
            raise UnknownName("layer", name, names)
        if not 0 <= channel < widths[names.index(name)]:
            raise UnknownName(f"feature map of {name}", channel, (f"0 to {widths[names.index(name)] - 1}",))
    source, target = names.index(edge.source), names.index(edge.target)
    if (source, target) not in {(link.source, link.target) for link in bundle.links}:
        raise BadInput(
            f"No connection leads from {edge.source} straight to {edge.target}; it passes through other layers."
        )
    return (source, edge.channel), (target, edge.reader)
