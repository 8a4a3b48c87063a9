"""What controls are made of: maps, classes and images that are drawn without looking at the claim they are to test.

Every draw takes its own generator or seed, so a control is the same wherever it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from engine.attacks import noise
from engine.attribution import scorers
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.types.faithfulness import PoolName

SHAKE = 0.01
"""Standard deviation of the input noise whose datapath should stay the same, pixels in [0, 1]."""


def random_ranks(bundle: ModelBundle, draws: int, images: int, seed: int) -> Tensor:
    """Return places (draws, images, all maps) drawn by seed; the maps that claims may use come first."""
    generator = Generator().manual_seed(seed)
    total = sum(site.channels for site in bundle.sites)
    drawn = torch.rand(draws * images, total, generator=generator).to(bundle.device)
    return scorers.ranks(bundle, hooks.split(drawn, bundle)).view(draws, images, total)


def same_layers(bundle: ModelBundle, picked: Tensor, shape: tuple[int, int], seed: int) -> Tensor:
    """Return (draws, images, all maps) bool: in every layer as many maps as were picked there, drawn from all of the layer.

    picked: (all maps,) bool; shape: (draws, images). The picked maps may be drawn too, so narrow layers have this control
    as well, and a set of whole layers equals it: which maps of its layers it takes makes no difference then.
    """

    generator = Generator().manual_seed(seed)
    parts = [
        one_layer(site.numel(), int(site.sum()), shape, generator) for (site,) in hooks.split(picked[None], bundle)
    ]
    return torch.cat(parts, dim=2).to(picked.device)


def layer_matched(chosen: PerMap, generator: Generator) -> PerMap:
    """Return per site (images, channels) bool: in every layer as many maps as each image's choice has there.

    They are drawn from all maps of the layer, the chosen ones among them: what a choice does beyond these is owed to which
    maps of its layers it takes, not to which layers.
    """
    return tuple(_drawn(site.shape, site.sum(dim=1, keepdim=True), generator) for site in chosen)


def nested(bundle: ModelBundle, chosen: Tensor, draws: int, seed: int) -> Tensor:
    """Return (draws, sets, images, all maps) bool: layer-matched like `layer_matched`, of several sets of each image at once.

    chosen: (sets, images, all maps) bool. The sets of one image and draw share one order, so larger ones hold smaller ones,
    as the first maps of a ranking do: each draw could have been a ranking, which makes them exchangeable with one.
    """
    generator = Generator().manual_seed(seed)
    parts = [
        _drawn((draws, 1, *site.shape[1:]), site.sum(dim=2, keepdim=True), generator)
        for site in chosen.split([site.channels for site in bundle.sites], dim=2)
    ]
    return torch.cat(parts, dim=3)


def _drawn(shape: Sequence[int], counts: Tensor, generator: Generator) -> Tensor:
    """Return bool of a shape (..., channels): the first `counts` (..., 1) of a random order of the channels."""
    return torch.rand(*shape, generator=generator).argsort(dim=-1).argsort(dim=-1).to(counts.device) < counts


def halves(bundle: ModelBundle, scores: PerMap, seed: int) -> dict[PoolName, Tensor]:
    """Return half of the maps of every layer that claims may use, (images, all maps) bool: those ranked last, and random ones."""
    generator = Generator().manual_seed(seed)
    random = tuple(torch.rand(site.shape, generator=generator).to(site.device) for site in scores)
    orders: dict[PoolName, PerMap] = {"ranked last": scores, "random half": random}
    allowed = scorers.eligible(bundle)
    return {name: hooks.join([_weaker_half(site) for site in order]) & allowed for name, order in orders.items()}


def _weaker_half(site: Tensor) -> Tensor:
    return site.abs().argsort(dim=1, stable=True).argsort(dim=1) < site.shape[1] // 2


def supersets(bundle: ModelBundle, chosen: Tensor, draws: int, seed: int) -> Tensor:
    """Return (draws, images, all maps) bool: each choice with random maps added, from one to all others, evenly in logarithm."""
    generator, allowed = Generator().manual_seed(seed), scorers.eligible(bundle)
    others = (allowed & ~chosen).sum(dim=1, keepdim=True)
    added = (others ** torch.rand(draws, len(chosen), 1, generator=generator).to(chosen.device)).round()
    drawn = torch.rand(draws, *chosen.shape, generator=generator).to(chosen.device)
    places = drawn.masked_fill(chosen | ~allowed, -1.0).argsort(dim=2, descending=True).argsort(dim=2)
    return chosen | (places < added)


def one_layer(channels: int, count: int, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Return (draws, images, channels) bool: `count` of all maps of one layer; shape: (draws, images)."""
    return _drawn((*shape, channels), torch.tensor(count), generator)


def allowed(candidates: Tensor, barred: Tensor) -> Tensor:
    """Return (rows, candidates) bool: the candidate's class, (candidates,), is none of that row of `barred`, (rows, n)."""
    return (candidates[None, :, None] != barred[:, None, :]).all(dim=2)


def all_have_one(candidates: Tensor, barred: Tensor) -> bool:
    """Return whether every row of `barred` leaves some candidate."""
    return bool(allowed(candidates, barred).any(dim=1).all())


def drawn(candidates: Tensor, barred: Tensor, generator: Generator, draws: int) -> Tensor:
    """Return (rows, draws) indices into the candidates, of classes not barred in that row and no candidate twice.

    Classes as candidates make the third class of a wrong-target control, images' classes another image. Every row must
    have as many allowed candidates.
    """
    open_ = allowed(candidates, barred)
    order = torch.rand(open_.shape, generator=generator).to(open_.device).masked_fill(~open_, -1.0)
    return order.argsort(dim=1, descending=True, stable=True)[:, :draws]


def likeliest_class(logits: Tensor, barred: Tensor) -> Tensor:
    """Return (images,) the likeliest class of (images, classes) logits that is not among (n,) barred ones."""
    return logits.index_fill(1, barred, -torch.inf).argmax(1)


def noisy(pictures: Tensor, length: Tensor, seeds: Tensor) -> Tensor:
    """Return pictures under noise of one L2 length, such as that of an attack on other images."""
    shape = pictures.new_zeros(pictures.shape)
    return noise.same_norm_noise(pictures, shape + length / shape[0].numel() ** 0.5, seeds, draws=1)


def shaken(pictures: Tensor, seed: int) -> Tensor:
    """Return pictures in [0, 1] with a little Gaussian noise, which no datapath should notice."""
    generator = Generator().manual_seed(seed)
    moved = pictures + SHAKE * torch.randn(pictures.shape, generator=generator).to(pictures.device)
    return moved.clamp(0, 1)
