"""Activation patching beside its controls: chosen channels, growing numbers, layer by layer, and fixed to their means."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine import statistics
from engine.attacks.attacked import AttackedImages
from engine.attribution import baselines, explain, scorers
from engine.attribution.explain import Report
from engine.attribution.scorers import Question
from engine.errors import BadInput
from engine.models import hooks
from engine.models.hooks import Maps, PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, minimal, patch, subjects, trials
from engine.patching.patch import Exchange, Exchanges, Tried
from engine.patching.subjects import FooledGroup
from engine.statistics import Estimate
from engine.store.store import Dataset
from engine.types.core import Explanation
from engine.types.patching import (
    CURVES,
    Accuracy,
    CausalTest,
    Control,
    ControlName,
    CurveLine,
    CurveName,
    Defence,
    Direction,
    FooledRequest,
    GroupTestRequest,
    MapResponse,
    MapSet,
    MeanKind,
    RestorationCurve,
    SiteEffect,
    SiteProfile,
)

DRAWS = 20
"""Random sets per image."""
NAMED = 8
"""Chosen maps whose answers are told one by one, at most."""
NOISES, NOISES_OF_ONE = 2, 4
"""Noisy copies per image of a group, and of a single image, of which fewer could not decide anything."""


def intervene(
    bundle: ModelBundle, dataset: Dataset, explanation: Explanation, chosen: MapSet, direction: Direction
) -> CausalTest:
    """Return what putting the chosen maps in does to the images of an explanation, with all controls.

    Raises UnknownName for sites and maps that are not there, BadInput for an empty choice and where the attack took nothing.
    """
    picked = patch.mask(bundle, chosen)
    fooled = subjects.of_explanation(subjects.shared(bundle, dataset, explanation))
    return _causal_test(explanation.key, fooled, picked, direction)


def intervene_in_group(
    bundle: ModelBundle, dataset: Dataset, request: GroupTestRequest, report: explain.Report
) -> CausalTest:
    """Return the same for all images of a group that the attack fools, of however many classes; raises as `intervene`."""
    picked = patch.mask(bundle, request.chosen)
    report(0, 2, "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request.group)
    report(1, 2, "Putting channels back, with controls")
    return _causal_test("", fooled, picked, request.direction)


def _causal_test(explanation: str, fooled: FooledGroup, picked: Tensor, direction: Direction) -> CausalTest:
    bundle, pairs = fooled.bundle, patch.exchanges(fooled, direction)
    tried = pairs.tried(_for_each(picked, fooled)[None])
    compared, missing = _controls(pairs, picked, tried.labels[0] == _aim(pairs))
    chosen = patch.map_set(bundle, picked)
    return CausalTest(
        explanation=explanation,
        direction=direction,
        chosen=chosen,
        effect=tried.effect(_aim(pairs)),
        recoveries=tuple(tried.recovered[0].tolist()),
        labels=tuple(tried.labels[0].tolist()),
        confidences=tuple(tried.confidences[0].tolist()),
        controls=tuple(compared),
        missing=tuple(missing),
        trivial=tuple(site.name for site in bundle.sites if site.name in chosen.sites and not site.is_eligible),
        samples=fooled.images.samples,
        responses=responses(fooled, chosen) if chosen.count <= NAMED else (),
    )


def responses(fooled: FooledGroup, chosen: MapSet) -> tuple[MapResponse, ...]:
    """Return how each chosen map answers to the attacked images beside the clean ones."""
    bundle, names = fooled.bundle, [site.name for site in fooled.bundle.sites]
    places = [
        (names.index(name), channel)
        for name, channels in zip(chosen.sites, chosen.channels, strict=True)
        for channel in channels
    ]

    def peaks(rows: Tensor) -> Tensor:
        runs = (hooks.record(bundle, side[rows]).maps for side in (fooled.images.clean, fooled.images.adversarial))
        return torch.stack([_peaks(maps, places) for maps in runs])

    clean, adversarial = hooks.batched(bundle, fooled.images.count, peaks, dim=1)
    changed = clean != adversarial
    silenced = ((adversarial <= clean / 2) & changed).sum(0).tolist()
    roused = ((adversarial >= 2 * clean) & changed).sum(0).tolist()
    return tuple(
        MapResponse(names[site], channel, *counts)
        for (site, channel), counts in zip(places, zip(silenced, roused, strict=True), strict=True)
    )


def _peaks(maps: hooks.Maps, places: list[tuple[int, int]]) -> Tensor:
    """Return (images, places): the largest absolute value of each map."""
    return torch.stack([maps[site][:, channel].abs().amax(dim=(1, 2)) for site, channel in places], dim=1)


def _aim(pairs: Exchanges) -> Tensor:
    return pairs.fooled.true if pairs.direction == "restore" else pairs.fooled.into


def _for_each(picked: Tensor, fooled: FooledGroup) -> Tensor:
    return picked.expand(fooled.images.count, -1)


def _controls(pairs: Exchanges, picked: Tensor, hits: Tensor) -> tuple[list[Control], list[str]]:
    makers: dict[ControlName, Callable[[Exchanges, Tensor], Control]] = {
        "random": functools.partial(_random, hits=hits),
        "same layers": functools.partial(_same_layers, hits=hits),
        "largest change": _largest_change,
        "third class": _third_class,
        "noisy copy": _noisy_copy,
        "another image": _another_image,
    }
    result, missing = [], []
    for name, make in makers.items():
        try:
            result.append(make(pairs, picked))
        except BadInput as error:
            missing.append(f"{name}: {error}")
    return result, missing


def _random(pairs: Exchanges, picked: Tensor, hits: Tensor) -> Control:
    bundle, count = pairs.fooled.bundle, int(picked.sum())
    available = int(scorers.eligible(bundle).sum())
    if count > available:
        raise BadInput(f"{count} channels were chosen, and claims may use only {available}.")
    drawn = controls.random_ranks(bundle, DRAWS, pairs.fooled.images.count, pairs.fooled.seed) < count
    return _drawn("random", pairs, drawn, hits)


def _same_layers(pairs: Exchanges, picked: Tensor, hits: Tensor) -> Control:
    fooled = pairs.fooled
    drawn = controls.same_layers(fooled.bundle, picked, (DRAWS, fooled.images.count), fooled.seed)
    return _drawn("same layers", pairs, drawn, hits)


def _drawn(name: ControlName, pairs: Exchanges, drawn: Tensor, hits: Tensor) -> Control:
    """A control of random maps (draws, images, all maps), with the excess over it of the chosen ones, hits (images,)."""
    tried = pairs.tried(drawn)
    excess = statistics.excess(hits.cpu().numpy(), (tried.labels == _aim(pairs)).cpu().numpy())
    return Control(name, tried.effect(_aim(pairs)), DRAWS, excess=excess)


def _largest_change(pairs: Exchanges, picked: Tensor) -> Control:
    """The maps whose change is largest in the mean over all images."""
    fooled = pairs.fooled
    mean = changes(fooled).mean(dim=0, keepdim=True)
    chosen = scorers.ranks(fooled.bundle, hooks.split(mean, fooled.bundle)) < int(picked.sum())
    return Control("largest change", pairs.tried(_for_each(chosen[0], fooled)[None]).effect(_aim(pairs)), 1)


def changes(fooled: FooledGroup) -> Tensor:
    """Return (images, all maps): the relative change of each map from the clean to the adversarial run, 0 to 2."""
    bundle, images = fooled.bundle, fooled.images

    def change(rows: Tensor) -> hooks.PerMap:
        runs = (hooks.record(bundle, side[rows]) for side in (images.clean, images.adversarial))
        return explain.changes(*runs)

    return hooks.join(hooks.batched_maps(bundle, images.count, change))


def _third_class(pairs: Exchanges, picked: Tensor) -> Control:
    """The maps that flow most towards a third class: counted is how often that class comes out."""
    third = thirds(pairs.fooled)
    chosen = scorers.ranks(pairs.fooled.bundle, third_flow(pairs.fooled, pairs.direction, third)) < int(picked.sum())
    return Control("third class", pairs.tried(chosen[None]).effect(third), 1)


def third_flow(fooled: FooledGroup, direction: Direction, third: Tensor) -> hooks.PerMap:
    """Return the flow (images, channels) per site of the receiving run's evidence for a third class."""
    sides = fooled.images.adversarial, fooled.images.clean
    receiving, other = sides if direction == "restore" else sides[::-1]
    question = Question(receiving, third, torch.full_like(third, -1))

    def flow(rows: Tensor) -> scorers.Contributions:
        return scorers.conductance(fooled.bundle, question.rows(rows), other[rows])

    return scorers.batched(fooled.bundle, len(third), flow).scores


def thirds(fooled: FooledGroup) -> Tensor:
    """Return (images,) a class for each image that is neither the true nor the fooled-into one, drawn by seed.

    Raises BadInput for a network of two classes.
    """
    classes = len(fooled.bundle.classes)
    if classes < 3:
        raise BadInput(f"a third class is needed, and the network has {classes}.")
    generator = torch.Generator().manual_seed(fooled.seed)
    barred = torch.stack([fooled.true, fooled.into], dim=1)
    return controls.drawn(torch.arange(classes, device=barred.device), barred, generator, draws=1)[:, 0]


def _noisy_copy(pairs: Exchanges, picked: Tensor) -> Control:
    """The same maps from copies of the receiving image under noise of the attack's length."""
    tried = noisy_copies(pairs, _for_each(picked, pairs.fooled)[None])
    return Control("noisy copy", patch.stacked(tried).effect(_aim(pairs)), len(tried))


def noisy_copies(pairs: Exchanges, choices: Tensor) -> list[Tried]:
    """Return, per noisy copy, what the values of that copy do in each of some choices (draws, images, all maps)."""
    noises = NOISES if pairs.fooled.images.count > 1 else NOISES_OF_ONE

    def work(k: int, block: Exchange, rows: Tensor) -> Tried:
        copies = block.fooled.images.noisy(block.receiving, noises)[k::noises]
        return block.giving_runs_of(copies).tried(choices[:, rows])

    return [pairs.each(functools.partial(work, k)) for k in range(noises)]


def _another_image(pairs: Exchanges, picked: Tensor) -> Control:
    """The same maps from clean images of other classes."""
    result = other_images(pairs, _for_each(picked, pairs.fooled)[None])
    own = torch.cat([tried.labels[0] == labels for tried, labels in result])
    tried = patch.stacked([tried for tried, _ in result])
    return Control("another image", tried.effect(_aim(pairs)), len(result), float(own.float().mean()))


def other_images(pairs: Exchanges, choices: Tensor) -> list[tuple[Tried, Tensor]]:
    """Return the same with clean images of other classes as the giving ones, each with those images' classes (images,).

    Raises BadInput where an image has none.
    """
    others = pairs.fooled.others
    if not others.rows.shape[1]:
        raise BadInput("the data set has no correctly classified image of a class that plays no part.")

    def work(k: int, block: Exchange, rows: Tensor) -> Tried:
        return block.giving_runs_of(others.images[others.rows[rows, k]]).tried(choices[:, rows])

    labels = others.labels[others.rows]
    return [(pairs.each(functools.partial(work, k)), labels[:, k]) for k in range(others.rows.shape[1])]


COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
SITE_MAPS = 4
"""Maps of one site patched at a time: a quarter of the narrowest sites of a CIFAR ResNet."""


def curve(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> RestorationCurve:
    """Return the restoration curve of the images of a request that the attack fools; raises BadInput for none."""
    report(0, len(CURVES), "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    drawing = _Drawing(patch.exchanges(fooled, "restore"), _counts(bundle))
    return drawing.curve(len(request.samples), report)


def profile(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> SiteProfile:
    """Return what a few maps of each site alone win back, beside random ones of the site; raises BadInput for none."""
    tried = [k for k, site in enumerate(bundle.sites) if site.is_eligible and not site.is_cut]
    report(0, len(tried), "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    pairs, flow = patch.exchanges(fooled, "restore"), trials.shared(trials.attack_conductance(fooled))
    results = []
    for done, k in enumerate(tried):
        report(done, len(tried), f"Patching channels of {bundle.sites[k].name} back")
        results.append(_of_site(pairs, flow, k))
    return SiteProfile(
        subjects.group(fooled, len(request.samples)),
        tuple(results),
        tuple(site.name for k, site in enumerate(bundle.sites) if k not in tried),
        DRAWS,
    )


def _counts(bundle: ModelBundle) -> tuple[int, ...]:
    most = int(scorers.eligible(bundle).sum())
    return tuple(count for count in COUNTS if count <= most)


class _Drawing:
    """The lines of one curve; all of them with the same pairs and numbers of maps."""

    def __init__(self, pairs: Exchanges, counts: tuple[int, ...]) -> None:
        self.pairs, self.counts, self.fooled = pairs, counts, pairs.fooled
        self.flow = trials.attack_conductance(pairs.fooled)

    def curve(self, attempted: int, report: Report) -> RestorationCurve:
        makers: dict[CurveName, Callable[[], CurveLine]] = {
            "attack flow": lambda: self._line("attack flow", scorers.ranks(self.fooled.bundle, self.flow)),
            "one set for all": lambda: self._line("one set for all", trials.shared_ranks(self.fooled, self.flow)),
            "datapath difference": self._datapath_difference,
            "largest change": self._largest_change,
            "standing out": self._standing_out,
            "layer-matched": self._layer_matched,
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
        group = subjects.group(self.fooled, attempted)
        return RestorationCurve(group, self.counts, tuple(lines), tuple(missing), DRAWS)

    def _choices(self, ranks: Tensor) -> Tensor:
        """Return (counts, images, all maps): the first-ranked of each image."""
        counts = torch.tensor(self.counts, device=ranks.device)
        return ranks.expand(self.fooled.images.count, -1) < counts[:, None, None]

    def _line(self, name: CurveName, ranks: Tensor, aim: Tensor | None = None) -> CurveLine:
        tried = self.pairs.tried(self._choices(ranks))
        return self._line_of_draws(name, [tried], self.fooled.true if aim is None else aim)

    def _line_of_draws(self, name: CurveName, draws: list[Tried], aim: Tensor) -> CurveLine:
        """Return a line from draws that hold one row per number of maps."""
        recovered, labels = (
            torch.stack([getattr(draw, what) for draw in draws], dim=1) for what in ("recovered", "labels")
        )
        return CurveLine(name, tuple(patch.effect(recovered[k], labels[k] == aim) for k in range(len(self.counts))))

    def _datapath_difference(self) -> CurveLine:
        difference = trials.datapath_difference(self.fooled)
        return self._line("datapath difference", scorers.ranks(self.fooled.bundle, difference))

    def _largest_change(self) -> CurveLine:
        change = trials.largest_change(self.fooled)
        return self._line("largest change", scorers.ranks(self.fooled.bundle, change))

    def _standing_out(self) -> CurveLine:
        return self._line("standing out", scorers.ranks(self.fooled.bundle, trials.by_default(self.flow)))

    def _layer_matched(self) -> CurveLine:
        own = self._choices(scorers.ranks(self.fooled.bundle, trials.by_default(self.flow)))
        drawn = controls.nested(self.fooled.bundle, own, DRAWS, self.fooled.seed)
        return self._line_of_draws("layer-matched", [self.pairs.tried(sets) for sets in drawn], self.fooled.true)

    def _random(self) -> CurveLine:
        ranks = controls.random_ranks(self.fooled.bundle, DRAWS, self.fooled.images.count, self.fooled.seed)
        tried = [self.pairs.tried(self._choices(rank)) for rank in ranks]
        return self._line_of_draws("random", tried, self.fooled.true)

    def _third_class(self) -> CurveLine:
        third = thirds(self.fooled)
        flow = third_flow(self.fooled, "restore", third)
        return self._line("third class", scorers.ranks(self.fooled.bundle, flow), third)

    def _noisy_copy(self) -> CurveLine:
        choices = self._choices(scorers.ranks(self.fooled.bundle, self.flow))
        return self._line_of_draws("noisy copy", noisy_copies(self.pairs, choices), self.fooled.true)

    def _another_image(self) -> CurveLine:
        choices = self._choices(scorers.ranks(self.fooled.bundle, self.flow))
        result = other_images(self.pairs, choices)
        line = self._line_of_draws("another image", [tried for tried, _ in result], self.fooled.true)
        hits = torch.stack([tried.labels == labels for tried, labels in result], dim=1)
        return CurveLine(line.name, line.effects, tuple(patch.share(hits[k]) for k in range(len(self.counts))))


def _of_site(pairs: Exchanges, flow: PerMap, number: int) -> SiteEffect:
    fooled, site = pairs.fooled, pairs.fooled.bundle.sites[number]
    count = min(SITE_MAPS, site.channels // 2)
    strongest = flow[number].argsort(dim=1, descending=True, stable=True).argsort(dim=1) < count
    shape = DRAWS, fooled.images.count
    drawn = controls.one_layer(site.channels, count, shape, torch.Generator().manual_seed(fooled.seed)).to(
        strongest.device
    )
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
    for_all = minimal.for_all(pairs, trials.attack_conductance(searched), minimal.WANTED)
    report(1, 3, "Attacking the other half")
    attacked = subjects.attack(bundle, dataset, rest)
    held_out = subjects.of_attacked(bundle, dataset, rest, attacked)
    pairs = patch.exchanges(held_out, "restore")
    chosen = patch.mask(bundle, for_all.chosen)
    drawn = controls.random_ranks(bundle, DRAWS, 1, request.seed) < int(chosen.sum())
    images = held_out.images.count
    report(2, 3, "Fixing channels to their means")
    fixed = clean_means(bundle, dataset, means)
    trial = _Trial(bundle, fixed, torch.cat([chosen[None], drawn[:, 0]]))
    return Defence(
        searched=subjects.group(searched, len(half.samples)),
        shared=for_all,
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
