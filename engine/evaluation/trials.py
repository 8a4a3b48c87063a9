"""The columns of an evaluation, each counted from real forward passes in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import statistics, tracing
from engine.datapaths import choosing
from engine.evaluation.pairing import FooledPairs, MatchedImages
from engine.models.bundle import ModelBundle
from engine.statistics import Estimate
from engine.tracing import PerMap

KEPT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of every site."""
MAPS = (8, 16, 32, 64, 128)
"""Numbers of maps over all claimable sites, unless others are asked for."""
ONE_SITES = 7
"""Claimable sites, evenly spread, that are masked one at a time."""
Estimates = tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class Sufficient:
    """The published criterion: a share of every site kept, all else zeroed. One entry per share."""

    agreement: Estimates
    """The answer stays."""
    kl: Estimates
    """Divergence of the masked from the full answer, in nats."""
    wrong_class: Estimates | None
    """A mask aimed at a wrong third class gets it; None of a network of two classes."""
    swap: Estimates
    """An image of another class under this image's mask is called this image's class: high means the mask says nothing
    about the image."""


@dataclass(frozen=True, slots=True)
class Transplant:
    """The chosen maps copied into the run of another class's image, the rest recomputed. One entry per number of maps."""

    carried: Estimates
    """The label goes over."""
    wrong_class: Estimates | None
    """Maps chosen for a wrong third class give that class; None of a network of two classes."""
    swap: Estimates | None
    """The same maps filled from a third image give that image's class: high is right. None without images of a third class."""
    quota_carried: Estimates
    """`carried` where a share of every site is copied; one entry per share."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Clean maps put back into the adversarial run. One entry per number of maps."""

    restored: Estimates
    """The clean label comes back."""
    wrong_class: Estimates | None
    """Maps chosen for a wrong third class give that class; None of a network of two classes."""
    noisy_copy: Estimates
    """The same maps from a noisy copy of the adversarial image restore the clean label."""
    swap: Estimates | None
    """The same maps from another clean image give that image's class: high is right. None without images of a third class."""
    mean_maps: Estimate
    """Fewest maps that restore, by bisection of each image's ranking; more maps are taken to restore too."""


@dataclass(frozen=True, slots=True)
class OneSite:
    """One site keeps a share of its maps, all others are whole; mean over the sites. One entry per share."""

    keep: Estimates
    swap: Estimates
    """An image of another class there is called this image's class: low is right."""


def map_counts(bundle: ModelBundle, wanted: tuple[int, ...] = MAPS) -> tuple[int, ...]:
    """Return the numbers of maps tried: those wanted, as far as there are that many claimable ones."""
    most = int(choosing.claimable(bundle).sum())
    return tuple(count for count in wanted if count <= most) or (most,)


def sufficient(bundle: ModelBundle, subjects: MatchedImages, own: PerMap, aimed: PerMap | None) -> Sufficient:
    """Return the columns of the published criterion for scores of the own class and scores aimed at `thirds`."""
    kept = _shares(own)
    full = _kept_logits(bundle, subjects.images, [tuple(torch.ones_like(site) for site in kept[0])])[0]
    there = _kept_logits(bundle, subjects.images, kept)
    wrong = None if aimed is None else _kept_logits(bundle, subjects.images, _shares(aimed)).argmax(2)
    swapped = _kept_logits(bundle, subjects.images[subjects.partners], kept).argmax(2)
    wanted, got = full.log_softmax(1), there.log_softmax(2)
    divergence = F.kl_div(got, wanted.expand_as(got), reduction="none", log_target=True).sum(2)
    return Sufficient(
        agreement=_shares_of(there.argmax(2) == full.argmax(1)),
        kl=tuple(statistics.mean(row) for row in divergence.clamp(min=0).cpu().numpy()),
        wrong_class=None if wrong is None else _hits(wrong, subjects.thirds),
        swap=_shares_of(swapped == subjects.labels),
    )


def transplant(
    bundle: ModelBundle, subjects: MatchedImages, own: PerMap, aimed: PerMap | None, counts: tuple[int, ...]
) -> Transplant:
    """Return the columns of copying `counts` maps of each image into its partner's run."""
    recipients = subjects.images[subjects.partners]
    chosen = [choosing.largest(bundle, own, count) for count in counts]
    forced = [] if aimed is None else [choosing.largest(bundle, aimed, count) for count in counts]
    quota = [_claimable_alone(bundle, kept) for kept in _shares(own)]
    labels = moved_labels(bundle, recipients, subjects.images, [*chosen, *quota, *forced])
    carried, shared, wrong = labels.split([len(chosen), len(quota), len(forced)])
    swap, strangers = None, subjects.strangers
    if strangers is not None:
        swapped = moved_labels(bundle, recipients, subjects.images[strangers], chosen)
        swap = _hits(swapped, subjects.labels[strangers])
    return Transplant(
        carried=_shares_of(carried == subjects.labels),
        wrong_class=_hits(wrong, subjects.thirds) if forced else None,
        swap=swap,
        quota_carried=_shares_of(shared == subjects.labels),
    )


def restore(
    bundle: ModelBundle, pairs: FooledPairs, own: PerMap, aimed: PerMap | None, counts: tuple[int, ...]
) -> Restore:
    """Return the columns of putting `counts` clean maps back into the adversarial runs."""
    chosen = [choosing.largest(bundle, own, count) for count in counts]
    forced = [] if aimed is None else [choosing.largest(bundle, aimed, count) for count in counts]
    labels = moved_labels(bundle, pairs.images.adversarial, pairs.images.clean, [*chosen, *forced])
    restored, wrong = labels.split([len(chosen), len(forced)])
    noisy = moved_labels(bundle, pairs.images.adversarial, pairs.noisy, chosen)
    swap = None
    if pairs.strangers is not None:
        swap = _hits(moved_labels(bundle, pairs.images.adversarial, pairs.strangers, chosen), pairs.stranger_labels)
    return Restore(
        restored=_shares_of(restored == pairs.images.before),
        wrong_class=_hits(wrong, pairs.thirds) if forced else None,
        noisy_copy=_shares_of(noisy == pairs.images.before),
        swap=swap,
        mean_maps=statistics.mean(fewest_maps(bundle, pairs, own).cpu().numpy()),
    )


def one_site(bundle: ModelBundle, subjects: MatchedImages, own: PerMap) -> OneSite:
    """Return how often the answer stays, on the image and on its partner, when one site at a time is masked."""
    shares = _shares(own)
    keep, swap = [], []
    for kept in shares:
        trials = [_gated_alone(kept, number) for number in _spread(bundle)]
        here = _kept_logits(bundle, subjects.images, trials).argmax(2) == subjects.labels
        there = _kept_logits(bundle, subjects.images[subjects.partners], trials).argmax(2) == subjects.labels
        keep.append(statistics.mean(here.float().mean(0).cpu().numpy()))
        swap.append(statistics.mean(there.float().mean(0).cpu().numpy()))
    return OneSite(tuple(keep), tuple(swap))


def moved_labels(bundle: ModelBundle, recipients: Tensor, donors: Tensor, choices: Sequence[PerMap]) -> Tensor:
    """Return (choices, images) labels of recipient images with the chosen maps of donor images in their runs."""

    def labels(rows: Tensor) -> Tensor:
        donor, into = tracing.record(bundle, donors[rows]).maps, recipients[rows]
        return torch.stack([_moved(bundle, into, donor, tuple(site[rows] for site in chosen)) for chosen in choices])

    return tracing.batched(bundle, len(recipients), labels, dim=1)


def fewest_maps(bundle: ModelBundle, pairs: FooledPairs, own: PerMap) -> Tensor:
    """Return (images,) the fewest top-ranked maps that restore each label, found by bisection.

    All claimable maps restore every label: behind the last of them nothing is left of the adversarial run.
    """
    ranks = choosing.ranks(bundle, own)
    # No map restores nothing: every pair was fooled.
    low, high = (
        torch.zeros_like(pairs.images.before),
        torch.full_like(pairs.images.before, int(choosing.claimable(bundle).sum())),
    )
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        chosen = tracing.split(ranks < middle[:, None], bundle)
        is_restored = (
            moved_labels(bundle, pairs.images.adversarial, pairs.images.clean, [chosen])[0] == pairs.images.before
        )
        low, high = torch.where(is_restored, low, middle), torch.where(is_restored, middle, high)
    return high


def _moved(bundle: ModelBundle, recipients: Tensor, donor: PerMap, chosen: PerMap) -> Tensor:
    return tracing.transplanted(bundle, recipients, chosen, donor).argmax(1)


def _kept_logits(bundle: ModelBundle, images: Tensor, gates: Sequence[PerMap]) -> Tensor:
    """(gates, images, classes) logits with every site's maps gated, zero baseline."""

    def logits(rows: Tensor) -> Tensor:
        part = images[rows]
        return torch.stack([tracing.gated(bundle, part, tuple(site[rows].float() for site in gate)) for gate in gates])

    return tracing.batched(bundle, len(images), logits, dim=1)


def _shares(per_map: PerMap) -> list[PerMap]:
    magnitudes = tuple(site.abs() for site in per_map)
    return [choosing.share_of_each_site(magnitudes, share) for share in KEPT]


def _claimable_alone(bundle: ModelBundle, kept: PerMap) -> PerMap:
    return tuple(site & bundle.sites[k].is_claimable for k, site in enumerate(kept))


def _gated_alone(kept: PerMap, number: int) -> PerMap:
    return tuple(site if k == number else torch.ones_like(site) for k, site in enumerate(kept))


def _spread(bundle: ModelBundle) -> list[int]:
    """Numbers of at most `ONE_SITES` sites, evenly spread over the claimable ones."""
    inside = [k for k, site in enumerate(bundle.sites) if site.is_claimable]
    places = np.linspace(0, len(inside) - 1, min(ONE_SITES, len(inside))).round().astype(int)
    return [inside[k] for k in places]


def _hits(answers: Tensor, wanted: Tensor | None) -> Estimates | None:
    """Return the share of answers (rows, images) that are the wanted classes (images,); None where none are wanted."""
    return None if wanted is None else _shares_of(answers == wanted)


def _shares_of(hits: Tensor) -> Estimates:
    return tuple(statistics.proportion(row) for row in hits.cpu().numpy())
