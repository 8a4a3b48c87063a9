"""Small sufficient sets of channels, searched and pruned, and what fixing them at their means does to other images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine import statistics
from engine.attacks.attacked import AttackedImages
from engine.attribution import baselines, scorers
from engine.attribution.explain import Report
from engine.errors import BadInput
from engine.models import hooks
from engine.models.hooks import Maps, PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, patch, subjects, trials
from engine.patching.patch import Exchange, Exchanges
from engine.statistics import Estimate
from engine.store.store import Dataset
from engine.types.patching import Accuracy, Defence, FooledRequest, MeanKind, SharedSet, SmallestSet, SmallestSets

Suffices = Callable[[Tensor, Tensor], Tensor]
"""Given choices (problems, all maps) bool and which problems they are for (problems,), says of each whether it suffices."""


def smallest_prefix(ranks: Tensor, most: int, suffices: Suffices) -> Tensor:
    """Return (problems,) the fewest first-ranked maps found that suffice, `most` where none do.

    ranks: (problems, all maps), 0 for the first. Sizes are doubled until one suffices; bisection takes it that more maps
    suffice too, so another, smaller prefix may exist, but the one that is returned was tried.
    """
    every = torch.arange(len(ranks), device=ranks.device)

    def tried(sizes: Tensor) -> Tensor:
        return suffices(ranks < sizes[:, None], every)

    low, high = torch.zeros_like(every), torch.ones_like(every)
    result = tried(high)
    while bool((~result & (high < most)).any()):
        grows = ~result & (high < most)
        low, high = torch.where(grows, high, low), torch.where(grows, (2 * high).clamp(max=most), high)
        result = result | (grows & tried(high))
    while bool((result & (high - low > 1)).any()):
        middle = torch.where(result, (low + high) // 2, high)
        is_enough = tried(middle)
        low, high = torch.where(is_enough, low, middle), torch.where(is_enough & result, middle, high)
    return high


def pruned(chosen: Tensor, ranks: Tensor, suffices: Suffices) -> Tensor:
    """Return choices (problems, all maps) that still suffice and from which no single map can be left out.

    Maps are tried from the last-ranked on, again and again until none can go. A choice that does not suffice stays as it is.
    """
    chosen = chosen.clone()
    open_ = torch.arange(len(chosen), device=chosen.device)
    open_ = open_[suffices(chosen, open_)]
    while len(open_):
        before = chosen[open_]
        _round(chosen, ranks, open_, suffices)
        open_ = open_[(chosen[open_] != before).any(dim=1)]
    return chosen


def _round(chosen: Tensor, ranks: Tensor, problems: Tensor, suffices: Suffices) -> None:
    """Try to leave out each map of each problem's choice once, the last-ranked first; changes `chosen`."""
    sizes = chosen[problems].sum(dim=1)
    order = ranks[problems].masked_fill(~chosen[problems], -1).argsort(dim=1, descending=True)
    for step in range(int(sizes.max())):
        rows = (sizes > step).nonzero()[:, 0]
        # The last map of a choice stays: an empty choice restores nothing, every image was fooled.
        rows = rows[chosen[problems[rows]].sum(dim=1) > 1]
        if not len(rows):
            continue
        trial = chosen[problems[rows]]
        trial[torch.arange(len(rows), device=rows.device), order[rows, step]] = False
        is_enough = suffices(trial, problems[rows])
        chosen[problems[rows[is_enough]]] = trial[is_enough]


DRAWS = 20
"""Random sets per image."""
WANTED = 0.9
"""Share of a group's images that its one set has to restore."""


def find(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> SmallestSets:
    """Return the smallest sets found for the images of a request that the attack fools.

    Raises BadInput where it fools none.
    """
    report(0, 3, "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    report(1, 3, "Searching the channels of each image")
    pairs, flow = patch.exchanges(fooled, "restore"), trials.attack_conductance(fooled)
    ranks = scorers.ranks(bundle, flow)
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
            chosen=patch.map_set(bundle, chosen[k]),
            prefix=int(prefix[k]),
            is_restored=bool(is_restored[k]),
            recovery=float(tried.recovered[0, k]),
            random=float(hits[k]),
        )
        for k, sample in enumerate(fooled.images.samples)
    )
    report(2, 3, "Searching one set for all images")
    restored = [image for image in images if image.is_restored]
    return SmallestSets(
        group=subjects.group(fooled, len(request.samples)),
        images=images,
        sizes=statistics.mean_of_several(np.array([item.chosen.count for item in restored])),
        prefixes=statistics.mean_of_several(np.array([item.prefix for item in restored])),
        effect=tried.effect(fooled.true),
        random=random.effect(fooled.true),
        draws=DRAWS,
        shared=for_all(pairs, flow, WANTED),
    )


def for_all(pairs: Exchanges, flow: PerMap, wanted: float) -> SharedSet:
    """Return the smallest set found that restores the wanted share of all images, or all maps where none does."""
    fooled, ranks = pairs.fooled, trials.shared_ranks(pairs.fooled, flow)
    images = fooled.images.count
    needed = math.ceil(wanted * images - 1e-9)

    def suffices(choices: Tensor, _problems: Tensor) -> Tensor:
        labels = pairs.tried(choices[:, None].expand(-1, images, -1)).labels
        return (labels == fooled.true).sum(dim=1) >= needed

    prefix = smallest_prefix(ranks, int(scorers.eligible(fooled.bundle).sum()), suffices)
    chosen = pruned(ranks < prefix[:, None], ranks, suffices)[0]
    tried = pairs.tried(chosen.expand(1, images, -1))
    drawn = controls.random_ranks(fooled.bundle, DRAWS, images, fooled.seed) < int(chosen.sum())
    return SharedSet(
        wanted=wanted,
        is_reached=int((tried.labels == fooled.true).sum()) >= needed,
        chosen=patch.map_set(fooled.bundle, chosen),
        prefix=int(prefix),
        effect=tried.effect(fooled.true),
        random=pairs.tried(drawn).effect(fooled.true),
    )


def _of_block(block: Exchange, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prefix sizes (images,) and the pruned choices (images, all maps) of some images."""

    def suffices(choices: Tensor, problems: Tensor) -> Tensor:
        few = block if len(problems) == len(ranks) else block.rows(problems)
        return few.restores(choices)

    prefix = smallest_prefix(ranks, int(scorers.eligible(block.fooled.bundle).sum()), suffices)
    return prefix, pruned(ranks < prefix[:, None], ranks, suffices)


MEAN_IMAGES = 512
"""Clean images behind the mean values, evenly spread over the data set."""


@dataclass(frozen=True, eq=False, slots=True)
class Means:
    """Mean values of all maps over clean images."""

    maps: Maps
    """Per site (1, channels, height, width)."""
    images: int


@contextmanager
def replacing(bundle: ModelBundle, chosen: PerMap, values: Maps) -> Iterator[None]:
    """Within it, the chosen maps hold other values: those of another run of the same batch, or `means`.

    chosen: per site (batch or 1, channels) bool; values: per site (batch or 1, channels, height, width).
    """
    with bundle.visiting(hooks.Transplant.of(chosen, values)):
        yield


@torch.no_grad()
def clean_means(bundle: ModelBundle, dataset: Dataset, kind: MeanKind) -> Means:
    """Return each map's mean over clean images of the data set: at every position, or one number for the whole map."""
    rows = np.linspace(0, dataset.card.count - 1, min(MEAN_IMAGES, dataset.card.count)).astype(int)
    total: list[Tensor] = []
    for part in torch.from_numpy(rows).split(hooks.batch_limit(bundle)):
        pictures = baselines.load(bundle, dataset, tuple(dataset.keys[k] for k in part.tolist()))
        sums = [site.sum(dim=0, keepdim=True) for site in hooks.record(bundle, pictures).maps]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    maps = tuple(site / len(rows) for site in total)
    if kind == "channel":
        maps = tuple(site.mean(dim=(2, 3), keepdim=True).expand_as(site) for site in maps)
    return Means(maps, len(rows))


CLEAN_IMAGES = 256
"""Clean images on which the cost is counted, evenly spread over those that the maps were not found on."""
MEANS: MeanKind = "position"


def hint(
    bundle: ModelBundle,
    dataset: Dataset,
    request: FooledRequest,
    report: Report,
    means: MeanKind = MEANS,
) -> Defence:
    """Return whether the set found on every other image of a request helps the images between, and what fixing it costs.

    Raises BadInput where one of the halves holds no fooled image.
    """
    half, rest = (replace(request, samples=request.samples[k::2]) for k in range(2))
    if not rest.samples:
        raise BadInput("A defence is tried on other images than it was found on: at least two are needed.")
    report(0, 3, "Searching on one half")
    searched = subjects.gather_group(bundle, dataset, half)
    pairs = patch.exchanges(searched, "restore")
    result = for_all(pairs, trials.attack_conductance(searched), WANTED)
    report(1, 3, "Attacking the other half")
    attacked = subjects.attack(bundle, dataset, rest)
    held_out = subjects.of_attacked(bundle, dataset, rest, attacked)
    pairs = patch.exchanges(held_out, "restore")
    chosen = patch.mask(bundle, result.chosen)
    drawn = controls.random_ranks(bundle, DRAWS, 1, request.seed) < int(chosen.sum())
    images = held_out.images.count
    report(2, 3, "Fixing channels to their means")
    fixed = clean_means(bundle, dataset, means)
    trial = _Trial(bundle, fixed, torch.cat([chosen[None], drawn[:, 0]]))
    return Defence(
        searched=subjects.group(searched, len(half.samples)),
        shared=result,
        held_out=subjects.group(held_out, len(rest.samples)),
        own_values=pairs.tried(chosen.expand(1, images, -1)).effect(held_out.true),
        own_values_random=pairs.tried(drawn.expand(-1, images, -1)).effect(held_out.true),
        means=means,
        mean_images=fixed.images,
        adversarial=trial.on_attacked(attacked),
        clean=trial.on_clean(dataset, frozenset(half.samples)),
        draws=DRAWS,
    )


class _Trial:
    """Answers of the network with maps fixed to their means: the chosen ones first, then as many random ones."""

    def __init__(self, bundle: ModelBundle, means: Means, choices: Tensor) -> None:
        self.bundle, self.means, self.choices = bundle, means, choices

    def on_attacked(self, attacked: AttackedImages) -> Accuracy:
        """On attacked images that were right before the attack."""
        return self._accuracy(attacked.adversarial, attacked.before)

    def on_clean(self, dataset: Dataset, without: frozenset[str]) -> Accuracy:
        """On clean images of all classes."""
        left = [k for k, key in enumerate(dataset.keys) if key not in without]
        rows = np.array(left)[np.linspace(0, len(left) - 1, min(CLEAN_IMAGES, len(left))).astype(int)]
        truth = torch.as_tensor(baselines.labels(self.bundle, dataset)[rows], device=self.bundle.device)
        return self._accuracy(baselines.load(self.bundle, dataset, tuple(dataset.keys[k] for k in rows)), truth)

    @torch.no_grad()
    def _accuracy(self, pictures: Tensor, truth: Tensor) -> Accuracy:
        def hits(rows: Tensor) -> Tensor:
            part = pictures[rows]
            labels = [self.bundle.logits(part).argmax(1), *(self._labels(part, choice) for choice in self.choices)]
            return torch.stack(labels) == truth[rows]

        before, after, *random = hooks.batched(self.bundle, len(pictures), hits, dim=1).cpu()
        return _accuracy(before.numpy(), after.numpy(), torch.stack(random))

    def _labels(self, pictures: Tensor, chosen: Tensor) -> Tensor:
        with replacing(self.bundle, hooks.split(chosen[None], self.bundle), self.means.maps):
            return self.bundle.logits(pictures).argmax(1)


def _accuracy(before: np.ndarray, after: np.ndarray, random: Tensor) -> Accuracy:
    """From (images,) bool before and after, and (draws, images) bool with as many random maps fixed."""
    return Accuracy(
        before=statistics.proportion(before),
        after=statistics.proportion(after),
        change=_paired(after, before),
        random=patch.share(random),
        beyond_random=statistics.mean_of_several(after - random.double().mean(dim=0).numpy()),
    )


def _paired(first: np.ndarray, second: np.ndarray) -> Estimate:
    counts = [int(np.sum((first == a) & (second == b))) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
    return statistics.paired_difference(*counts)
