"""Forward passes with hooks that record, gate or replace channels, and networks with shuffled weights as a control."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from engine.models.network import ModelBundle

Maps = tuple[Tensor, ...]
"""Per site (batch, channels, height, width)."""
PerMap = tuple[Tensor, ...]
"""Per site (batch, channels)."""
MAPS_AT_ONCE = 60_000_000
"""Values of maps in one batch: ResNet-50 then stays within 3.3 GB with 16 pairs, and 5 GB with batches of eight."""
FEW = 0.05
"""Share of a site's maps up to which copying them one by one is quicker than choosing between two whole sites (measured)."""


@dataclass(frozen=True, eq=False, slots=True)
class Trace:
    """One forward pass over a batch: the maps at every site and the logits, detached."""

    maps: Maps
    logits: Tensor

    def rows(self, index: Tensor) -> Trace:
        """Return the trace of some of the images, by (n,) int64 index; rows may repeat."""
        return Trace(tuple(site[index] for site in self.maps), self.logits[index])


@dataclass(slots=True)
class Recorder:
    """Keeps the tensors of some taps, each as an autograd node of its own."""

    wanted: frozenset[int]
    seen: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number not in self.wanted:
            return tensor
        # An identity tap returns the tensor of its producer, whose gradient would mix in that tensor's other readers.
        own = tensor.view_as(tensor) if tensor.requires_grad else tensor
        self.seen[number] = own
        return own


@dataclass(frozen=True, slots=True)
class GradientMean:
    """Adds up the gradients at some taps over several backward passes, each freed as soon as it is added."""

    wanted: frozenset[int]
    passes: int
    means: dict[int, Tensor] = field(default_factory=dict)
    ungated: dict[int, Tensor] = field(default_factory=dict)
    """Of the latest pass, the tensors that no gate comes before; their gradients have to be asked for."""

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number not in self.wanted:
            return tensor
        if not tensor.requires_grad:
            self.ungated[number] = tensor.detach().requires_grad_()
            return self.ungated[number]
        own = tensor.view_as(tensor)
        own.register_hook(functools.partial(self._add, number))
        return own

    def add_ungated(self, gradients: Sequence[Tensor]) -> None:
        """Add the gradients of what `ungated` holds, in its order, and let go of it."""
        for number, gradient in zip(self.ungated, gradients, strict=True):
            self._add(number, gradient)
        self.ungated.clear()

    def _add(self, number: int, gradient: Tensor) -> None:
        if number in self.means:
            self.means[number].add_(gradient, alpha=1 / self.passes)
        else:
            self.means[number] = gradient / self.passes


@dataclass(frozen=True, slots=True)
class Trapezoids:
    """Adds up, from one backward pass to the next, each map's change times the mean of the gradients before and after.

    Every site lets go of the earlier pass as soon as it has its gradient, so two passes never lie in memory whole.
    """

    sites: int
    totals: dict[int, Tensor] = field(default_factory=dict)
    """Per site (batch, channels)."""
    earlier: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number >= self.sites:
            return tensor
        own = tensor.view_as(tensor)
        own.register_hook(functools.partial(self._add, number, own.detach()))
        return own

    def _add(self, number: int, maps: Tensor, gradient: Tensor) -> None:
        if number in self.earlier:
            before, slope = self.earlier[number]
            area = ((maps - before) * (gradient + slope)).sum(dim=(2, 3)) / 2
            self.totals[number] = self.totals.get(number, 0) + area
        self.earlier[number] = maps, gradient


@dataclass(frozen=True, slots=True)
class Gates:
    """Replaces each site's maps by `b + (a - b) * m`: gate m of (batch, channels), baseline run b, or zero."""

    gates: PerMap
    baseline: Maps | None

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number >= len(self.gates):
            return tensor
        gate = self.gates[number][:, :, None, None].to(tensor.dtype)
        if self.baseline is None:
            return tensor * gate
        if tensor.dtype == torch.float32:
            return torch.lerp(self.baseline[number], tensor, gate)
        # The same by hand: torch's bfloat16 `lerp` with a broadcast weight takes up to ten times as long on a CPU.
        return self.baseline[number] + (tensor - self.baseline[number]) * gate


@dataclass(frozen=True, slots=True)
class Transplant:
    """Puts the chosen maps of a donor run into the run at hand; everything after them is computed anew."""

    chosen: PerMap
    """Per site (batch, channels) bool."""
    donor: Maps
    rows: Tensor | None
    """(batch,) which of the donor's images each one takes from; None for its own row."""
    taken: list[float]
    """Per site the share of the batch's maps that is taken there: most sites of a deep network are left alone."""

    @classmethod
    def of(cls, chosen: PerMap, donor: Maps, rows: Tensor | None = None) -> Transplant:
        """Return the transplant of the chosen maps."""
        return cls(chosen, donor, rows, torch.stack([site.float().mean() for site in chosen]).tolist())

    def __call__(self, number: int, tensor: Tensor) -> Tensor:
        if number >= len(self.chosen) or not self.taken[number]:
            return tensor
        if self.taken[number] < FEW:
            return self._one_by_one(number, tensor)
        maps = self.donor[number] if self.rows is None else self.donor[number][self.rows]
        return torch.where(self.chosen[number][:, :, None, None], maps, tensor)

    def _one_by_one(self, number: int, tensor: Tensor) -> Tensor:
        images, channels = self.chosen[number].expand(len(tensor), -1).nonzero(as_tuple=True)
        maps, copied = self.donor[number], tensor.clone()
        if self.rows is None:
            copied[images, channels] = maps.expand(len(tensor), -1, -1, -1)[images, channels]
        else:
            copied[images, channels] = maps[self.rows[images], channels]
        return copied


@torch.no_grad()
def record(bundle: ModelBundle, images: Tensor) -> Trace:
    """Return the trace of images (batch, channels, height, width) in [0, 1]."""
    recorder = Recorder(frozenset(range(len(bundle.sites))))
    with bundle.visiting(recorder):
        logits = bundle.logits(images)
    return Trace(tuple(recorder.seen[k] for k in range(len(bundle.sites))), logits)


@torch.no_grad()
def logits(bundle: ModelBundle, images: Tensor) -> Tensor:
    """Return the logits (images, classes), as many images at once as go through."""
    return torch.cat([bundle.logits(part) for part in images.split(batch_limit(bundle))])


@torch.no_grad()
def transplanted(
    bundle: ModelBundle, images: Tensor, chosen: PerMap, donor: Maps, rows: Tensor | None = None
) -> Tensor:
    """Return the logits of `images` with the chosen maps taken from the donor run: from its same rows, or from `rows`."""
    with bundle.visiting(Transplant.of(chosen, donor, rows)):
        return bundle.logits(images)


@torch.no_grad()
def gated(bundle: ModelBundle, images: Tensor, gates: PerMap, baseline: Maps | None = None) -> Tensor:
    """Return the logits of `images` with every site's maps gated."""
    with bundle.visiting(Gates(gates, baseline)):
        return bundle.logits(images)


def margins(logits: Tensor, targets: Tensor, rivals: Tensor) -> Tensor:
    """Return logit(target) - logit(rival), (batch,); a rival of -1 leaves it out."""
    own = logits.gather(1, targets[:, None]).squeeze(1)
    other = logits.gather(1, rivals.clamp(min=0)[:, None]).squeeze(1)
    return own - other * (rivals >= 0)


def uniform_gates(bundle: ModelBundle, batch: int, value: float) -> PerMap:
    """Return gates of one value for every map: per site (batch, channels) float32."""
    return tuple(torch.full((batch, site.channels), value, device=bundle.device) for site in bundle.sites)


def split(flat: Tensor, bundle: ModelBundle) -> PerMap:
    """Cut (batch, all maps) into per-site (batch, channels) pieces."""
    return flat.split([site.channels for site in bundle.sites], dim=1)


def join(per_map: Sequence[Tensor]) -> Tensor:
    """Join per-site (batch, channels) pieces into (batch, all maps)."""
    return torch.cat(list(per_map), dim=1)


def batch_limit(bundle: ModelBundle) -> int:
    """Return how many images go through at once: 96 at 32 pixels, 8 from 112 on (measured: no gain above).

    Fewer, but at least four, where the maps of all sites would take more than `MAPS_AT_ONCE`.
    """
    height, width = bundle.size
    values = sum(site.channels * site.height * site.width for site in bundle.sites)
    by_size = max(8, min(96, 96 * 1024 // (height * width)))
    return min(by_size, max(4, MAPS_AT_ONCE // values))


def batched(bundle: ModelBundle, count: int, compute: Callable[[Tensor], Tensor], *, dim: int = 0) -> Tensor:
    """Return what `compute` makes of row numbers (rows,), as many at once as go through, joined along the images' axis."""
    return torch.cat([compute(rows) for rows in torch.arange(count).split(batch_limit(bundle))], dim=dim)


def batched_maps(bundle: ModelBundle, count: int, compute: Callable[[Tensor], PerMap]) -> PerMap:
    """Return the same for values per site (rows, channels)."""
    parts = [compute(rows) for rows in torch.arange(count).split(batch_limit(bundle))]
    return tuple(torch.cat(site) for site in zip(*parts, strict=True))


@contextmanager
def weights(bundle: ModelBundle, seed: int) -> Iterator[None]:
    """Permute the entries of every convolution and fully connected weight, in the order of their first call.

    Puts them back afterwards, whatever happens.
    """
    generator = torch.Generator().manual_seed(seed)
    called = [str(node.target) for node in bundle.network.graph.nodes if node.op == "call_module"]
    modules = [bundle.network.get_submodule(name) for name in dict.fromkeys(called)]
    layers = [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
    kept = [layer.weight.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                order = torch.randperm(layer.weight.numel(), generator=generator).to(bundle.device)
                layer.weight.copy_(layer.weight.flatten()[order].view_as(layer.weight))
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)
