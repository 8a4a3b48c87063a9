"""Where and how fast clean maps restore a group: the share of labels against the number of maps, and site by site."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine import controls
from engine.datapaths import choosing
from engine.errors import BadInput
from engine.examination import Report
from engine.models.bundle import ModelBundle
from engine.proving import causal, exchanges, flows
from engine.proving import fooled as fooled_images
from engine.proving.exchanges import Exchanges, Tried
from engine.proving.fooled import FooledGroup
from engine.records.restoration import (
    CURVES,
    CurveLine,
    CurveName,
    FooledRequest,
    RestorationCurve,
    SiteEffect,
    SiteProfile,
)
from engine.store.dataset import Dataset
from engine.tracing import PerMap

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
DRAWS = 20
"""Random sets per image and number of maps."""
SITE_MAPS = 4
"""Maps of one site put back at a time: a quarter of the narrowest sites of a CIFAR ResNet."""


def curve(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> RestorationCurve:
    """Return the restoration curve of the images of a request that the attack fools; raises BadInput for none."""
    report(0, len(CURVES), "Attacking")
    fooled = fooled_images.gather(bundle, dataset, request)
    drawing = _Drawing(exchanges.exchanges(fooled, "restore"), _counts(bundle))
    return drawing.curve(len(request.samples), report)


def profile(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> SiteProfile:
    """Return what a few maps of each site alone win back, beside random ones of the site; raises BadInput for none."""
    tried = [k for k, site in enumerate(bundle.sites) if site.is_claimable and not site.is_cut]
    report(0, len(tried), "Attacking")
    fooled = fooled_images.gather(bundle, dataset, request)
    pairs, flow = exchanges.exchanges(fooled, "restore"), flows.shared(flows.attack_flow(fooled))
    found = []
    for done, k in enumerate(tried):
        report(done, len(tried), f"Putting maps of {bundle.sites[k].name} back")
        found.append(_of_site(pairs, flow, k))
    return SiteProfile(
        fooled_images.group(fooled, len(request.samples)),
        tuple(found),
        tuple(site.name for k, site in enumerate(bundle.sites) if k not in tried),
        DRAWS,
    )


def _counts(bundle: ModelBundle) -> tuple[int, ...]:
    most = int(choosing.claimable(bundle).sum())
    return tuple(count for count in COUNTS if count <= most)


class _Drawing:
    """The lines of one curve; all of them with the same pairs and numbers of maps."""

    def __init__(self, pairs: Exchanges, counts: tuple[int, ...]) -> None:
        self.pairs, self.counts, self.fooled = pairs, counts, pairs.fooled
        self.flow = flows.attack_flow(pairs.fooled)

    def curve(self, attempted: int, report: Report) -> RestorationCurve:
        makers: dict[CurveName, Callable[[], CurveLine]] = {
            "attack flow": lambda: self._line("attack flow", choosing.ranks(self.fooled.bundle, self.flow)),
            "one set for all": lambda: self._line("one set for all", flows.shared_ranks(self.fooled, self.flow)),
            "datapath difference": self._datapath_difference,
            "largest change": self._largest_change,
            "random": self._random,
            "third class": self._third_class,
            "noisy copy": self._noisy_copy,
            "another image": self._another_image,
        }
        lines, missing = [], []
        for done, (name, make) in enumerate(makers.items()):
            report(done, len(makers), f"Restoration curve: {name}")
            try:
                lines.append(make())
            except BadInput as error:
                missing.append(f"{name}: {error}")
        group = fooled_images.group(self.fooled, attempted)
        return RestorationCurve(group, self.counts, tuple(lines), tuple(missing), DRAWS)

    def _choices(self, ranks: Tensor) -> Tensor:
        """Return (counts, images, all maps): the first-ranked of each image."""
        counts = torch.tensor(self.counts, device=ranks.device)
        return ranks.expand(self.fooled.images.count, -1) < counts[:, None, None]

    def _line(self, name: CurveName, ranks: Tensor, aim: Tensor | None = None) -> CurveLine:
        tried = self.pairs.tried(self._choices(ranks))
        return self._told(name, [tried], self.fooled.true if aim is None else aim)

    def _told(self, name: CurveName, draws: list[Tried], aim: Tensor) -> CurveLine:
        """Return a line from draws that hold one row per number of maps."""
        recovered, labels = (
            torch.stack([getattr(one, what) for one in draws], dim=1) for what in ("recovered", "labels")
        )
        return CurveLine(name, tuple(exchanges.effect(recovered[k], labels[k] == aim) for k in range(len(self.counts))))

    def _datapath_difference(self) -> CurveLine:
        difference = flows.datapath_difference(self.fooled)
        return self._line("datapath difference", choosing.ranks(self.fooled.bundle, difference))

    def _largest_change(self) -> CurveLine:
        change = flows.largest_change(self.fooled)
        return self._line("largest change", choosing.ranks(self.fooled.bundle, change))

    def _random(self) -> CurveLine:
        ranks = controls.random_ranks(self.fooled.bundle, DRAWS, self.fooled.images.count, self.fooled.seed)
        tried = [self.pairs.tried(self._choices(one)) for one in ranks]
        return self._told("random", tried, self.fooled.true)

    def _third_class(self) -> CurveLine:
        third = causal.thirds(self.fooled)
        flow = causal.third_flow(self.fooled, "restore", third)
        return self._line("third class", choosing.ranks(self.fooled.bundle, flow), third)

    def _noisy_copy(self) -> CurveLine:
        choices = self._choices(choosing.ranks(self.fooled.bundle, self.flow))
        return self._told("noisy copy", causal.noisy_copies(self.pairs, choices), self.fooled.true)

    def _another_image(self) -> CurveLine:
        choices = self._choices(choosing.ranks(self.fooled.bundle, self.flow))
        found = causal.other_images(self.pairs, choices)
        line = self._told("another image", [tried for tried, _ in found], self.fooled.true)
        hits = torch.stack([tried.labels == labels for tried, labels in found], dim=1)
        return CurveLine(line.name, line.effects, tuple(exchanges.share(hits[k]) for k in range(len(self.counts))))


def _of_site(pairs: Exchanges, flow: PerMap, number: int) -> SiteEffect:
    fooled, site = pairs.fooled, pairs.fooled.bundle.sites[number]
    count = min(SITE_MAPS, site.channels // 2)
    strongest = flow[number].argsort(dim=1, descending=True, stable=True).argsort(dim=1) < count
    shape = DRAWS, fooled.images.count
    drawn = controls.one_layer(site.channels, count, shape, fooled.seed).to(strongest.device)
    own = pairs.tried(_alone(fooled, number, strongest.expand(1, fooled.images.count, -1)))
    others = pairs.tried(_alone(fooled, number, drawn))
    return SiteEffect(site.name, count, own.effect(fooled.true), others.effect(fooled.true))


def _alone(fooled: FooledGroup, number: int, of_site: Tensor) -> Tensor:
    """Return choices (draws, images, all maps) that hold maps of one site alone."""
    sites = fooled.bundle.sites
    parts = [
        of_site if k == number else of_site.new_zeros(*of_site.shape[:2], site.channels) for k, site in enumerate(sites)
    ]
    return torch.cat(parts, dim=2)
