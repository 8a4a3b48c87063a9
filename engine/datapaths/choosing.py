"""From scores to sets of maps, in batches: the largest k of all claimable sites, random ones, or a share of every site."""

from __future__ import annotations

import torch
from torch import Tensor

from engine import tracing
from engine.models.bundle import ModelBundle
from engine.selection import quota
from engine.tracing import PerMap


def claimable(bundle: ModelBundle) -> Tensor:
    """Return (all maps,) bool: False where a few maps carry any answer trivially (`Site.is_claimable`)."""
    flags = [torch.full((site.channels,), site.is_claimable) for site in bundle.sites]
    return torch.cat(flags).to(bundle.device)


def largest(bundle: ModelBundle, scores: PerMap, count: int) -> PerMap:
    """Return per site (batch, channels) bool: the `count` claimable maps with the largest |score| of each image."""
    flat = tracing.join(scores).abs().masked_fill(~claimable(bundle), -1.0)
    return tracing.split(_top(flat, count), bundle)


def ranks(bundle: ModelBundle, scores: PerMap) -> Tensor:
    """Return each map's place (images, all maps), 0 for the largest |score| among the maps that claims may use."""
    flat = tracing.join(scores).abs().masked_fill(~claimable(bundle), -1.0)
    return flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)


def at_random(bundle: ModelBundle, batch: int, count: int, generator: torch.Generator) -> PerMap:
    """Return per site (batch, channels) bool: `count` claimable maps drawn for each image."""
    total = sum(site.channels for site in bundle.sites)
    drawn = torch.rand(batch, total, generator=generator).to(bundle.device)
    return tracing.split(_top(drawn.masked_fill(~claimable(bundle), -1.0), count), bundle)


def share_of_each_site(scores: PerMap, share: float) -> PerMap:
    """Return per site (batch, channels) bool: the largest share of every site, at least one map."""
    return tuple(_top(site, quota(site.shape[1], share)) for site in scores)


def _top(flat: Tensor, count: int) -> Tensor:
    order = torch.sort(flat, dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True)
