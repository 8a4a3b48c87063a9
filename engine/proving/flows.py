"""In which order maps are put back: by attack flow of each image, of the group, and by other measures."""

from __future__ import annotations

import torch
from torch import Tensor

from engine import selection
from engine.datapaths import choosing
from engine.errors import BadInput, BadSetting
from engine.evaluation import rankings
from engine.evaluation.rankings import Ask
from engine.methods import TWO_RUN
from engine.proving import exchanges
from engine.proving.fooled import FooledGroup
from engine.records.proof import MapSet
from engine.tracing import PerMap


def attack_flow(fooled: FooledGroup) -> PerMap:
    """Return the attack flow per site (images, channels), signed."""
    return rankings.flow(fooled.bundle, Ask(fooled.images.clean, fooled.true, fooled.images.adversarial, fooled.into))


def shared(flow: PerMap) -> PerMap:
    """Return per site (1, channels): mean over images of |flow|, each image's scaled to sum to one."""
    strength = selection.strength([site.cpu().numpy() for site in flow])
    return tuple(torch.from_numpy(site)[None].to(own.device) for site, own in zip(strength, flow, strict=True))


def shared_ranks(fooled: FooledGroup, flow: PerMap) -> Tensor:
    """Return places (1, all maps) by the group's flow."""
    return choosing.ranks(fooled.bundle, shared(flow))


def strongest(fooled: FooledGroup, count: int) -> MapSet:
    """Return the maps with the most attack flow over a group; raises BadSetting for too many."""
    available = int(choosing.claimable(fooled.bundle).sum())
    if not 1 <= count <= available:
        raise BadSetting(f"From 1 to {available} maps can be put back, got {count}.")
    return exchanges.map_set(fooled.bundle, (shared_ranks(fooled, attack_flow(fooled)) < count)[0])


def datapath_difference(fooled: FooledGroup) -> PerMap:
    """Return per site (images, channels) how much the two-run datapaths of the two images differ in each map.

    Both are scored against the same clean image of another class, and each site's scores are divided by their sum, as
    datapaths are compared everywhere. Raises BadInput where an image has no such other image.
    """
    others = fooled.others
    if not others.rows.shape[1]:
        raise BadInput("the data set has no correctly classified image of a class that plays no part.")
    rows = others.rows[:, 0]
    starts, rivals = others.images[rows], others.labels[rows]
    sides = (
        Ask(fooled.images.clean, fooled.true, starts, rivals),
        Ask(fooled.images.adversarial, fooled.into, starts, rivals),
    )
    scored = [rankings.by_site(rankings.score(fooled.bundle, TWO_RUN, ask, seed=fooled.seed)[0]) for ask in sides]
    return tuple((a - b).abs() for a, b in zip(*scored, strict=True))


def largest_change(fooled: FooledGroup) -> PerMap:
    """Return per site (images, channels) how far the attack moved each map, each site's scaled to sum to one.

    Not the relative change of the proof's control, which restores less (ResNet-20, 32 images, 32 maps: 38 %).
    """
    return rankings.by_site(rankings.differences(fooled.bundle, fooled.images.clean, fooled.images.adversarial))
