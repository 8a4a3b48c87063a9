"""The smallest sets of maps found whose clean values restore the label: of each image, and one set for a group."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from engine import controls, statistics
from engine.datapaths import choosing
from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.proving import exchanges, flows, search
from engine.proving import fooled as fooled_images
from engine.proving.exchanges import Exchange, Exchanges
from engine.records.restoration import FooledRequest, SharedSet, SmallestSet, SmallestSets
from engine.store.dataset import Dataset
from engine.tracing import PerMap

DRAWS = 20
"""Random sets per image."""
WANTED = 0.9
"""Share of a group's images that its one set has to restore."""


def find(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> SmallestSets:
    """Return the smallest sets found for the images of a request that the attack fools.

    Raises BadInput where it fools none.
    """
    report(0, 3, "Attacking")
    fooled = fooled_images.gather(bundle, dataset, request)
    report(1, 3, "Searching the maps of each image")
    pairs, flow = exchanges.exchanges(fooled, "restore"), flows.attack_flow(fooled)
    ranks = choosing.ranks(bundle, flow)
    parts = [_of_block(block, ranks[rows]) for block, rows in pairs.blocks()]
    prefix, chosen = (torch.cat(side) for side in zip(*parts, strict=True))
    tried = pairs.tried(chosen[None])
    is_restored = tried.labels[0] == fooled.true
    random = pairs.tried(
        controls.random_ranks(bundle, DRAWS, len(chosen), fooled.seed) < chosen.sum(dim=1, keepdim=True)
    )
    hits = (random.labels == fooled.true).float().mean(dim=0)
    images = tuple(
        SmallestSet(
            sample=sample,
            chosen=exchanges.map_set(bundle, chosen[k]),
            prefix=int(prefix[k]),
            is_restored=bool(is_restored[k]),
            recovery=float(tried.recovered[0, k]),
            random=float(hits[k]),
        )
        for k, sample in enumerate(fooled.images.samples)
    )
    report(2, 3, "Searching one set for all images")
    restored = [one for one in images if one.is_restored]
    return SmallestSets(
        group=fooled_images.group(fooled, len(request.samples)),
        images=images,
        sizes=statistics.mean_of_several(np.array([one.chosen.count for one in restored])),
        prefixes=statistics.mean_of_several(np.array([one.prefix for one in restored])),
        effect=tried.effect(fooled.true),
        random=random.effect(fooled.true),
        draws=DRAWS,
        shared=for_all(pairs, flow, WANTED),
    )


def for_all(pairs: Exchanges, flow: PerMap, wanted: float) -> SharedSet:
    """Return the smallest set found that restores the wanted share of all images, or all maps where none does."""
    fooled, ranks = pairs.fooled, flows.shared_ranks(pairs.fooled, flow)
    images = fooled.images.count
    needed = math.ceil(wanted * images - 1e-9)

    def suffices(choices: Tensor, _problems: Tensor) -> Tensor:
        labels = pairs.tried(choices[:, None].expand(-1, images, -1)).labels
        return (labels == fooled.true).sum(dim=1) >= needed

    prefix = search.smallest_prefix(ranks, int(choosing.claimable(fooled.bundle).sum()), suffices)
    chosen = search.pruned(ranks < prefix[:, None], ranks, suffices)[0]
    tried = pairs.tried(chosen.expand(1, images, -1))
    drawn = controls.random_ranks(fooled.bundle, DRAWS, images, fooled.seed) < int(chosen.sum())
    return SharedSet(
        wanted=wanted,
        is_reached=int((tried.labels == fooled.true).sum()) >= needed,
        chosen=exchanges.map_set(fooled.bundle, chosen),
        prefix=int(prefix),
        effect=tried.effect(fooled.true),
        random=pairs.tried(drawn).effect(fooled.true),
    )


def _of_block(block: Exchange, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prefix sizes (images,) and the pruned choices (images, all maps) of some images."""

    def suffices(choices: Tensor, problems: Tensor) -> Tensor:
        few = block if len(problems) == len(ranks) else block.rows(problems)
        return few.restores(choices)

    prefix = search.smallest_prefix(ranks, int(choosing.claimable(block.fooled.bundle).sum()), suffices)
    return prefix, search.pruned(ranks < prefix[:, None], ranks, suffices)
