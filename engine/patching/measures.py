"""The field's measures of a ranking of feature maps: faithfulness over sizes, CPR and CMD, and the tests of one set.

Faithfulness of a set C is f(C) = (m(C) - m(none)) / (m(all) - m(none)), m the logit difference of the true class and of the
class the attack gave, `none` the adversarial run and `all` the clean one; m(C) is read off a real pass:

denoising: clean values of C in the adversarial run, everything after them recomputed. That C restores shows it sufficient
    (Heimersheim & Nanda 2024, arXiv 2404.15255, section 2).
noising: adversarial values of all maps but C in the clean run, C recomputed: what MIB runs (Mueller et al., ICML 2025, arXiv
    2504.13151; `evaluate_area_under_curve` of its circuit track). That f stays 1 shows no map outside C necessary.

Sets hold only maps that claims may use (`scorers.claimable`). Sites left out, such as the stem, are put nowhere: they stay those
of the receiving image, adversarial in denoising and clean in noising, and are no part of a complement.

Every measure stands beside its layer-matched random control: in every layer as many maps as the set has there, drawn from all
maps of the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

from engine import statistics
from engine.attribution import scorers
from engine.attribution.explain import Report
from engine.errors import BadInput
from engine.models import hooks
from engine.models.hooks import PerMap
from engine.models.network import ModelBundle
from engine.patching import controls, minimal, patch, subjects, trials
from engine.patching.patch import Exchanges, Tried
from engine.patching.subjects import FooledGroup
from engine.statistics import CONFIDENCE, RESAMPLES, Estimate
from engine.store.store import Dataset
from engine.types.faithfulness import (
    FAITHFULNESS_SIZES,
    CircuitMeasures,
    FaithfulnessCurve,
    FaithfulnessLine,
    Intervention,
    LayerShare,
    Localisation,
    Minimality,
    SetStability,
    SetTest,
    SetTests,
)
from engine.types.patching import FaithfulnessStudy, FooledRequest, LocalisationStudy

Result = TypeVar("Result")
DRAWS = 5
"""Layer-matched random sets per image and size."""
SET_MAPS = 16
"""Maps of the set that is tested, unless another number is asked for: ResNet-20's narrowest layer has as many."""
INFLATED = 40
"""Random maps added to the set, one at a time: the smallest p-value is then 1 in 41."""
SIGNIFICANT = 0.05
SPLITS = 200
FEWEST_TO_SPLIT = 4
"""Images of which two halves have more than one each."""
SMALLEST_SHARE = 0.01
"""Of the median image's logit difference between the two runs: images with less are left out, since shares of it mean nothing."""


def study(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> FaithfulnessStudy:
    """Return the measures of the attack conductance on the images of a request that the attack fools; raises BadInput."""
    report(0, 2, "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    report(1, 2, "Measuring faithfulness over sizes, with layer-matched random maps")
    result = measured(fooled, trials.by_default(trials.attack_conductance(fooled)), SET_MAPS)
    return FaithfulnessStudy(subjects.group(fooled, len(request.samples)), result)


ORDERS, FEW_ORDERS = 8, 3
"""Random orders of a layer's maps, per image; few where pictures are large."""
LARGE, MOST_LAYERS = 112, 8
"""Pixels along a side from which on pictures are large, and layers that are tried of them, evenly spread."""


def localise(bundle: ModelBundle, dataset: Dataset, request: FooledRequest, report: Report) -> LocalisationStudy:
    """Return the localisation profile of the images of a request that the attack fools; raises BadInput for none."""
    report(0, 1, "Attacking")
    fooled = subjects.gather_group(bundle, dataset, request)
    result = localised(fooled, trials.attack_conductance(fooled), report)
    return LocalisationStudy(subjects.group(fooled, len(request.samples)), result)


def localised(fooled: FooledGroup, flow: PerMap, report: Report) -> Localisation:
    """Return, layer by layer, the share of its maps that must be patched alone, by ranking and in random order.

    Only layers that every path runs through: all of their maps together restore the label, so the share exists. Sizes are
    doubled and bisected. Raises BadInput for a network without such a layer.
    """
    bundle, pairs = fooled.bundle, patch.exchanges(fooled, "restore")
    cuts = [k for k, site in enumerate(bundle.sites) if site.is_cut and site.is_eligible]
    if not cuts:
        raise BadInput(
            "Localisation: no layer that claims may use carries every path, so no layer alone restores the label."
        )
    is_large = min(bundle.size) >= LARGE
    if is_large and len(cuts) > MOST_LAYERS:
        cuts = [cuts[k] for k in np.linspace(0, len(cuts) - 1, MOST_LAYERS).round().astype(int)]
    orders = FEW_ORDERS if is_large else ORDERS
    layers = []
    for done, number in enumerate(cuts):
        report(done, len(cuts), f"Localising: {bundle.sites[number].name}")
        layers.append(_layer_share(pairs, number, flow[number], orders))
    return Localisation(tuple(layers), fooled.images.count, orders)


def _layer_share(pairs: Exchanges, number: int, flow: Tensor, orders: int) -> LayerShare:
    """The layer `number`, ranked by its flow (images, channels), and in `orders` random orders per image."""
    fooled, site = pairs.fooled, pairs.fooled.bundle.sites[number]
    generator = Generator().manual_seed(fooled.seed + number)
    drawn = torch.rand(orders, *flow.shape, generator=generator).to(flow.device)
    places = torch.cat([flow.abs()[None], drawn]).argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    start = sum(other.channels for other in fooled.bundle.sites[:number])
    total = sum(other.channels for other in fooled.bundle.sites)
    ranks = places.new_full((*places.shape[:2], total), total)
    ranks[:, :, start : start + site.channels] = places

    def suffices(choices: Tensor, _problems: Tensor) -> Tensor:
        return (pairs.tried(choices.view_as(ranks)).labels == fooled.true).flatten()

    whole = (pairs.tried(ranks[:1] < site.channels).labels == fooled.true)[0]
    fewest = minimal.smallest_prefix(ranks.flatten(0, 1), site.channels, suffices).view(len(ranks), -1)
    shares = (fewest[:, whole].double() / site.channels).cpu().numpy()
    if not shares.shape[1]:
        return LayerShare(site.name, site.channels, 0)
    return LayerShare(
        site=site.name,
        channels=site.channels,
        restored=shares.shape[1],
        ranked=_mean(shares[:1]),
        random=_mean(shares[1:]),
        p_value=statistics.exchanged(shares, seed=fooled.seed),
    )


def _mean(shares: np.ndarray) -> Estimate:
    """Mean of (draws, images) with its interval over images, over draws where there is one image, of none for one value."""
    per_image = shares.mean(axis=0) if shares.shape[1] > 1 else shares[:, 0]
    if len(per_image) == 1:
        return Estimate(float(per_image[0]), float(per_image[0]), float(per_image[0]), 1)
    return statistics.mean(per_image)


def measured(fooled: FooledGroup, scores: PerMap, count: int) -> CircuitMeasures:
    """Return the measures of a ranking: curves of each image's own sets, and tests of one set of `count` maps for all images.

    scores: per site (images, channels); the largest magnitudes rank first. Raises BadInput for fewer than two images.
    """
    whole = differences(fooled)
    rows = (whole >= SMALLEST_SHARE * whole.median()).nonzero()[:, 0]
    if len(rows) < 2:
        raise BadInput(f"Faithfulness needs at least two fooled images for an interval over images, got {len(rows)}.")
    if len(rows) < len(whole):
        fooled, scores = fooled.rows(rows), tuple(site[rows] for site in scores)
    runs = _Runs(fooled, patch.exchanges(fooled, "restore"), patch.exchanges(fooled, "inject"), whole[rows])
    counts = tuple(int(share * int(scorers.eligible(fooled.bundle).sum())) for share in FAITHFULNESS_SIZES)
    ranks = scorers.ranks(fooled.bundle, scores)
    tests, missing = _tests(runs, scores, count)
    return CircuitMeasures(
        counts=counts,
        denoising=_curve(runs, "denoising", ranks, counts),
        noising=_curve(runs, "noising", ranks, counts),
        tests=tests,
        images=len(rows),
        left_out=len(whole) - len(rows),
        draws=DRAWS,
        missing=missing,
    )


def differences(fooled: FooledGroup) -> Tensor:
    """Return (images,) m(all) - m(none), in logits; never negative, for each run answers one of the two classes."""
    clean, adversarial = (
        hooks.margins(hooks.logits(fooled.bundle, side), fooled.true, fooled.into)
        for side in (fooled.images.clean, fooled.images.adversarial)
    )
    return clean - adversarial


def areas(faithfulness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return CPR and CMD of faithfulness (..., sizes), by trapezoids: the areas under it and between it and 1.

    On a linear axis, as in MIB's code unless `log_scale` is asked for: 0.5 of 0.999 comes from the two largest sizes.
    """
    widths = np.diff(FAITHFULNESS_SIZES)
    under, from_one = (
        ((values[..., 1:] + values[..., :-1]) / 2) @ widths for values in (faithfulness, np.abs(1 - faithfulness))
    )
    return under, from_one


@dataclass(frozen=True, eq=False, slots=True)
class _Runs:
    """Fooled images with both exchanges of their runs."""

    fooled: FooledGroup
    restoring: Exchanges
    injecting: Exchanges
    whole: Tensor
    """(images,) what `differences` returns."""

    def denoised(self, chosen: Tensor) -> Tensor:
        """Return (sets, images) denoising faithfulness of sets (sets, images, all maps) bool."""
        return self.restoring.tried(chosen).recovered

    def noised(self, chosen: Tensor) -> Tensor:
        """Return the same of noising."""
        return 1 - self.injecting.tried(self.others(chosen)).recovered

    def others(self, chosen: Tensor) -> Tensor:
        """Return the complement of sets (..., all maps) among the maps that claims may use."""
        return scorers.eligible(self.fooled.bundle) & ~chosen


def _curve(runs: _Runs, intervention: Intervention, ranks: Tensor, counts: tuple[int, ...]) -> FaithfulnessCurve:
    """Sizes of equally many maps are run once."""
    different = sorted(set(counts))
    places = [different.index(count) for count in counts]
    chosen = ranks[None] < torch.tensor(different, device=ranks.device)[:, None, None]
    tried = runs.denoised if intervention == "denoising" else runs.noised
    drawn = controls.nested(runs.fooled.bundle, chosen, DRAWS, runs.fooled.seed)
    whole = runs.whole.double().cpu().numpy()
    sides = [
        torch.stack([tried(item)[places] for item in sets]).double().cpu().numpy() for sets in (chosen[None], drawn)
    ]
    means = [_resampled(side, whole) for side in sides]
    own, random = (areas(mean)[0].mean(axis=1) for mean in means)
    chosen_line, random_line = (_line(side, mean) for side, mean in zip(sides, means, strict=True))
    return FaithfulnessCurve(chosen_line, random_line, _estimate(own - random, len(whole)))


def _resampled(faithfulness: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return (1 + resamples, draws, sizes): the ratio of the means over images as they are, then over bootstraps of them.

    faithfulness: (draws, sizes, images). A ratio of means as in MIB: no single image with a small difference decides it.
    """
    count = len(whole)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), drawn]) * whole
    totals = weights @ faithfulness.reshape(-1, count).T / weights.sum(axis=1, keepdims=True)
    return totals.reshape(len(weights), *faithfulness.shape[:2])


def _line(faithfulness: np.ndarray, means: np.ndarray) -> FaithfulnessLine:
    images = faithfulness.shape[2]
    under, from_one = (area.mean(axis=1) for area in areas(means))
    of_images = [area.mean(axis=0) for area in areas(np.moveaxis(faithfulness, 1, 2))]
    return FaithfulnessLine(
        tuple(_estimate(size, images) for size in means.mean(axis=1).T),
        _estimate(under, images),
        _estimate(from_one, images),
        *(statistics.mean(area) for area in of_images),
    )


def _estimate(values: np.ndarray, n: int) -> Estimate:
    """The first value, with the interval of the others."""
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values[0]), float(low), float(high), n)


def _tests(runs: _Runs, scores: PerMap, count: int) -> tuple[SetTests | None, tuple[str, ...]]:
    """The tests of one set, and what could not be tested."""
    bundle, total = runs.fooled.bundle, int(scorers.eligible(runs.fooled.bundle).sum())
    if count >= total:
        reason = (
            f"a set of {count} channels leaves none of the {total} that claims may use outside, to be compared with."
        )
        return None, (f"sufficiency, necessity, independence, minimality, stability: {reason}",)
    strength = _strength(scores)
    picked = _first(bundle, strength.mean(dim=0, keepdim=True), count)[0]
    missing: list[str] = []
    minimality = _kept(missing, "minimality", lambda: _minimality(runs, picked))
    stability = _kept(missing, "stability", lambda: _stability(bundle, strength, count, runs.fooled.seed))
    chosen = patch.map_set(bundle, picked)
    return SetTests(chosen.sites, chosen.channels, *_interventions(runs, picked), minimality, stability), tuple(missing)


def _kept(missing: list[str], name: str, make: Callable[[], Result]) -> Result | None:
    try:
        return make()
    except BadInput as error:
        missing.append(f"{name}: {error}")
        return None


def _interventions(runs: _Runs, picked: Tensor) -> tuple[SetTest, SetTest, SetTest]:
    """Sufficiency, necessity and independence of a set (all maps,) bool, each beside the same of layer-matched random sets."""
    fooled = runs.fooled
    own = picked.expand(1, fooled.images.count, -1)
    drawn = controls.nested(fooled.bundle, own, DRAWS, fooled.seed)[:, 0]
    return (
        _test(runs.restoring.tried(own), runs.restoring.tried(drawn), fooled.true),
        _test(runs.injecting.tried(own), runs.injecting.tried(drawn), fooled.into),
        _test(runs.restoring.tried(runs.others(own)), runs.restoring.tried(runs.others(drawn)), fooled.true),
    )


def _test(own: Tried, drawn: Tried, aim: Tensor) -> SetTest:
    sides = [
        (patch.share(tried.labels == aim), statistics.mean(tried.recovered.mean(dim=0).cpu().numpy()))
        for tried in (own, drawn)
    ]
    return SetTest(*sides[0], *sides[1])


def _minimality(runs: _Runs, picked: Tensor) -> Minimality:
    """Leave out each map of the set in turn, then random maps that were added to it, one at a time (Shi et al., NeurIPS 2024,
    arXiv 2410.13032: minimality against a randomly inflated circuit). The added ones are of the set's layers, in its proportions.
    """
    places, added = picked.nonzero()[:, 0], _added(runs.fooled, picked)
    changed = torch.cat([places, added])
    choices = picked.repeat(1 + len(changed), 1)
    choices[torch.arange(1, len(choices)), changed] ^= True
    tried = runs.denoised(choices[:, None].expand(-1, runs.fooled.images.count, -1)).double()
    whole, *others = (tried @ runs.whole.double() / runs.whole.double().sum()).tolist()
    lost = [whole - other for other in others[: len(places)]]
    inflated = [other - whole for other in others[len(places) :]]
    p_values = [(1 + sum(item >= own for item in inflated)) / (1 + len(inflated)) for own in lost]
    return Minimality(tuple(lost), tuple(inflated), tuple(p_values), sum(p <= SIGNIFICANT for p in p_values))


def _added(fooled: FooledGroup, picked: Tensor) -> Tensor:
    """Return (maps,) places outside the set in the layers it uses, each layer drawn from as often as the set does."""
    parts = hooks.split(picked[None].double(), fooled.bundle)
    weights = torch.cat([(1 - part) * part.sum() / (1 - part).sum().clamp(min=1) for part in parts], dim=1)[0]
    available = int((weights > 0).sum())
    if 1 + available < 1 / SIGNIFICANT:
        raise BadInput(f"the layers of the set hold {available} other channels, and a p-value of 0.05 needs 19 to add.")
    generator = Generator().manual_seed(fooled.seed)
    return torch.multinomial(weights.cpu(), min(INFLATED, available), generator=generator).to(picked.device)


def _stability(bundle: ModelBundle, strength: Tensor, count: int, seed: int) -> SetStability:
    """Choose the set on random halves of the images that share none, again and again."""
    images = len(strength)
    if images < FEWEST_TO_SPLIT:
        raise BadInput(f"two halves need at least {FEWEST_TO_SPLIT} images, got {images}.")
    generator, half = Generator().manual_seed(seed), images // 2
    orders = torch.rand(SPLITS, images, generator=generator).argsort(dim=1).to(strength.device)
    sides = [
        torch.stack([strength[row].mean(dim=0) for row in rows])
        for rows in (orders[:, :half], orders[:, half : 2 * half])
    ]
    sets = torch.stack([_first(bundle, side, count) for side in sides])
    drawn = torch.cat([controls.nested(bundle, one[None], 1, seed + k)[0] for k, one in enumerate(sets)])
    return SetStability(_likeness(*sets), _likeness(*drawn))


def _likeness(first: Tensor, second: Tensor) -> Estimate:
    """Jaccard similarities of sets (splits, all maps) bool, row by row."""
    result = ((first & second).sum(1) / (first | second).sum(1)).cpu().numpy()
    return _estimate(np.concatenate([[result.mean()], result]), len(result))


def _strength(scores: PerMap) -> Tensor:
    """Return (images, all maps) |scores|, each image's scaled to sum to one over all sites."""
    joined = hooks.join(scores).abs()
    return joined / joined.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _first(bundle: ModelBundle, strength: Tensor, count: int) -> Tensor:
    """Return (rows, all maps) bool: the strongest of the maps that claims may use."""
    return scorers.ranks(bundle, hooks.split(strength, bundle)) < count
