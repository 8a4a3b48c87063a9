"""Pairs of runs between which maps are exchanged. Every trial is a real pass; margins and answers are read off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine import statistics
from engine.errors import BadInput, UnknownName
from engine.models import hooks
from engine.models.hooks import Trace
from engine.models.network import ModelBundle
from engine.patching.subjects import FooledGroup
from engine.statistics import Estimate
from engine.types.patching import Direction, Effect, MapSet

HELD = 256 * 2**20
"""Bytes of feature maps held at a time: images go through in blocks of that many (ResNet-20: 340, MobileNetV2: about 12)."""
SMALLEST_LOSS = 1e-6
"""Margin below which nothing was lost that could be recovered, in logits."""


@dataclass(frozen=True, eq=False, slots=True)
class Tried:
    """What trials did: each (draws, images)."""

    recovered: Tensor
    """Share of the margin between the two runs that was made good; 1 is all of it."""
    labels: Tensor
    confidences: Tensor

    def effect(self, aim: Tensor) -> Effect:
        """Return means with 95 % intervals, aimed at classes (images,)."""
        return effect(self.recovered, self.labels == aim)


@dataclass(frozen=True, eq=False, slots=True)
class Exchange:
    """Some fooled images, their receiving inputs, and the run whose maps can be put into theirs."""

    fooled: FooledGroup
    direction: Direction
    giving: Trace
    start: Tensor
    """(images,) margin true - fooled of the receiving run."""
    whole: Tensor
    """(images,) by how much the giving run's margin is above it; negative where maps are injected."""

    @property
    def receiving(self) -> Tensor:
        """The images (images, channels, height, width) whose runs get maps put in."""
        return self.fooled.images.adversarial if self.direction == "restore" else self.fooled.images.clean

    @property
    def aim(self) -> Tensor:
        """(images,) the class that putting maps in should bring about."""
        return self.fooled.true if self.direction == "restore" else self.fooled.into

    def rows(self, index: Tensor) -> Exchange:
        """Return some of the images."""
        parts = self.giving.rows(index), self.start[index], self.whole[index]
        return Exchange(self.fooled.rows(index), self.direction, *parts)

    def giving_runs_of(self, images: Tensor) -> Exchange:
        """Return the exchange with the runs of other images (same number) as the giving ones; the margins stay."""
        return replace(self, giving=recorded(self.fooled.bundle, images))

    def tried(self, choices: Tensor) -> Tried:
        """Return what putting in each of some choices (draws, images, all maps) bool does."""
        size = hooks.batch_limit(self.fooled.bundle)
        starts = range(0, len(self.start), size)
        return joined([self._tried(slice(start, start + size), choices) for start in starts])

    def restores(self, chosen: Tensor) -> Tensor:
        """Return (images,) bool: whether a choice (images, all maps) brings about the class aimed at."""
        return self.tried(chosen[None]).labels[0] == self.aim

    def _tried(self, rows: slice, choices: Tensor) -> Tried:
        """Few images go through together with several choices each: a pass of one image alone wastes most of its time."""
        bundle, n = self.fooled.bundle, len(self.start[rows])
        copies = max(1, min(hooks.batch_limit(bundle) // n, len(choices)))
        into = _copied(self.receiving[rows], copies)
        donor = tuple(_copied(site[rows], copies) for site in self.giving.maps)
        logits = []
        for part in choices[:, rows].split(copies):
            k = len(part) * n
            picked = hooks.split(part.flatten(0, 1), bundle)
            logits.append(hooks.transplanted(bundle, into[:k], picked, tuple(site[:k] for site in donor)))
        return self._read(torch.cat(logits), rows)

    def _read(self, logits: Tensor, rows: slice) -> Tried:
        shape = -1, len(self.start[rows])
        draws = len(logits) // shape[1]
        reached = hooks.margins(logits, self.fooled.true[rows].repeat(draws), self.fooled.into[rows].repeat(draws))
        recovered = (reached.view(shape) - self.start[rows]) / self.whole[rows]
        confidences, labels = logits.softmax(1).max(1)
        return Tried(recovered, labels.view(shape), confidences.view(shape))


@dataclass(frozen=True, eq=False, slots=True)
class Exchanges:
    """All fooled images in blocks, each made when its turn comes; a single block is kept."""

    fooled: FooledGroup
    direction: Direction
    only: Exchange | None

    def each(self, work: Callable[[Exchange, Tensor], Tried]) -> Tried:
        """Return what `work` does, given each block and its rows (images,) in the group."""
        return joined([work(block, rows) for block, rows in self.blocks()])

    def tried(self, choices: Tensor) -> Tried:
        """Return what putting in each of some choices (draws, images, all maps) bool does."""
        return self.each(lambda block, rows: block.tried(choices[:, rows]))

    def blocks(self) -> Iterator[tuple[Exchange, Tensor]]:
        """Return the blocks with the rows (images,) of each."""
        for rows in _rows(self.fooled):
            yield self.only or exchange(self.fooled.rows(rows), self.direction), rows


def exchanges(fooled: FooledGroup, direction: Direction) -> Exchanges:
    """Return the exchange of all images; raises BadInput where both runs of one have the same margin."""
    only = exchange(fooled, direction) if len(_rows(fooled)) == 1 else None
    return Exchanges(fooled, direction, only)


def exchange(fooled: FooledGroup, direction: Direction) -> Exchange:
    """Return the exchange of few enough images to hold their maps; raises BadInput as `exchanges`."""
    sides = fooled.images.clean, fooled.images.adversarial
    giver, receiver = sides if direction == "restore" else sides[::-1]
    bundle, giving = fooled.bundle, recorded(fooled.bundle, giver)
    own = hooks.logits(bundle, receiver)
    start = hooks.margins(own, fooled.true, fooled.into)
    whole = hooks.margins(giving.logits, fooled.true, fooled.into) - start
    if bool((whole.abs() < SMALLEST_LOSS).any()):
        raise BadInput("Both runs of an image have the same margin, so no share of it can be recovered.")
    return Exchange(fooled, direction, giving, start, whole)


def recorded(bundle: ModelBundle, images: Tensor) -> Trace:
    """Return the trace of images (images, channels, height, width), as many at once as go through."""
    parts = [hooks.record(bundle, part) for part in images.split(hooks.batch_limit(bundle))]
    if len(parts) == 1:
        return parts[0]
    maps = tuple(torch.cat([part.maps[k] for part in parts]) for k in range(len(bundle.sites)))
    return Trace(maps, torch.cat([part.logits for part in parts]))


def joined(parts: list[Tried]) -> Tried:
    """Join what trials of one block after the other did."""
    if len(parts) == 1:
        return parts[0]
    return Tried(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in Tried.__slots__))


def stacked(parts: list[Tried]) -> Tried:
    """Join draw after draw on the same images."""
    return Tried(*(torch.cat([getattr(part, name) for part in parts]) for name in Tried.__slots__))


def effect(recovered: Tensor, flipped: Tensor) -> Effect:
    """Return means over (draws, images) with 95 % intervals: of the margin by bootstrap over images, of labels as `share`."""
    per_image = recovered.mean(dim=0).double().cpu().numpy()
    low = high = None
    if len(per_image) > 1:
        spread = statistics.mean(per_image)
        low, high = spread.low, spread.high
    shares = share(flipped)
    return Effect(flipped.numel(), float(per_image.mean()), low, high, shares.value, shares.low, shares.high)


def share(hits: Tensor) -> Estimate:
    """Return the share of (draws, images) bool that is true: Wilson over trials, or bootstrap over images where wider.

    Draws of one image are alike, so trials alone would promise too much; images alone promise too much where none is hit.
    """
    proportion = statistics.proportion(hits.flatten().cpu().numpy())
    if len(hits) == 1 or hits.shape[1] == 1:
        return proportion
    spread = statistics.mean(hits.double().mean(dim=0).cpu().numpy())
    return Estimate(proportion.value, min(proportion.low, spread.low), max(proportion.high, spread.high), proportion.n)


def mask(bundle: ModelBundle, chosen: MapSet) -> Tensor:
    """Return a choice as (all maps,) bool; raises BadInput for an empty one, UnknownName for what is not there."""
    if not chosen.count:
        raise BadInput("No feature map was chosen; at least one is needed.")
    names = [site.name for site in bundle.sites]
    picked = [torch.zeros(site.channels, dtype=torch.bool, device=bundle.device) for site in bundle.sites]
    for name, channels in zip(chosen.sites, chosen.channels, strict=True):
        if name not in names:
            raise UnknownName("layer", name, names)
        site = bundle.sites[names.index(name)]
        wrong = [channel for channel in channels if not 0 <= channel < site.channels]
        if wrong:
            raise UnknownName(f"feature map of {name}", wrong[0], (f"0 to {site.channels - 1}",))
        picked[names.index(name)][list(channels)] = True
    return torch.cat(picked)


def map_set(bundle: ModelBundle, chosen: Tensor) -> MapSet:
    """Return (all maps,) bool as a choice by site."""
    parts = chosen.split([site.channels for site in bundle.sites])
    results = [
        (site.name, tuple(part.nonzero()[:, 0].tolist())) for site, part in zip(bundle.sites, parts, strict=True)
    ]
    used = [(name, channels) for name, channels in results if channels]
    return MapSet(tuple(name for name, _ in used), tuple(channels for _, channels in used))


def _copied(tensor: Tensor, copies: int) -> Tensor:
    """The rows so many times, one after the other; a single time they are not copied."""
    return tensor if copies == 1 else tensor.repeat(copies, 1, 1, 1)


def _rows(fooled: FooledGroup) -> tuple[Tensor, ...]:
    per_image = 4 * sum(site.channels * site.height * site.width for site in fooled.bundle.sites)
    return torch.arange(fooled.images.count, device=fooled.true.device).split(max(1, HELD // per_image))
