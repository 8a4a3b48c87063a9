"""Made-up but consistent answers to what can be asked of a group of fooled images, for tests without an engine."""

from __future__ import annotations

import engine
from engine.statistics import Estimate
from engine.types.faithfulness import (
    FAITHFULNESS_SIZES,
    CircuitMeasures,
    FaithfulnessCurve,
    FaithfulnessLine,
    LayerShare,
    Localisation,
    Minimality,
    Monotone,
    PoolSearch,
    SetStability,
    SetTest,
    SetTests,
)
from engine.types.patching import (
    CURVES,
    Accuracy,
    CurveLine,
    Defence,
    Effect,
    FaithfulnessStudy,
    FooledRequest,
    Group,
    LocalisationStudy,
    MapSet,
    RestorationCurve,
    SharedSet,
    SiteEffect,
    SiteProfile,
    SmallestSet,
    SmallestSets,
)

REQUEST = FooledRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=0.05"), ("00000", "00004", "00008"))
GROUP = Group(3, ("00000", "00004"), 156, ("stem",))
CHOSEN = MapSet(("layer1.0", "layer2.0"), ((1,), (3, 5)))
COUNTS = (1, 2, 4)


def effect(flipped: float, recovery: float = 0.5, n: int = 2) -> Effect:
    return Effect(
        n, recovery, recovery - 0.1, recovery + 0.1, flipped, max(0.0, flipped - 0.2), min(1.0, flipped + 0.2)
    )


def shared() -> SharedSet:
    return SharedSet(0.9, True, CHOSEN, 5, effect(1.0, 0.9), effect(0.05, 0.1, 40))


def smallest_sets(_request: FooledRequest = REQUEST) -> SmallestSets:
    images = tuple(
        SmallestSet(sample, CHOSEN, 4, True, 0.8, 0.05, 0.1, 4, bound=2, singles=336, pairs=231, exact=3)
        for sample in GROUP.samples
    )
    mean = Estimate(3.0, 2.0, 4.0, 2)
    pools = (PoolSearch("ranked last", (18, 0), None), PoolSearch("random half", (4, 5), Estimate(4.5, 4.0, 5.0, 2)))
    return SmallestSets(
        GROUP, images, mean, mean, effect(1.0), effect(0.05, 0.1, 40), 20, shared(),
        matched=effect(0.1, 0.1, 40), ranked=mean, bounds=Estimate(2.0, 2.0, 2.0, 2), monotone=Monotone(40, 38), pools=pools,
        passes=960,
    )  # fmt: skip


def restoration_curve(_request: FooledRequest = REQUEST) -> RestorationCurve:
    own = tuple(Estimate(0.1 * count, 0.05 * count, 0.2 * count, 8) for count in COUNTS)
    lines = tuple(
        CurveLine(name, tuple(effect(0.2 * count) for count in COUNTS), own if name == "another image" else ())
        for name in CURVES
        if name != "third class"
    )
    return RestorationCurve(GROUP, COUNTS, lines, ("third class: a third class is needed, and the network has 2.",), 20)


def faithfulness_line(value: float) -> FaithfulnessLine:
    sizes = tuple(Estimate(value * size, value * size - 0.1, value * size + 0.1, 2) for size in FAITHFULNESS_SIZES)
    area = Estimate(value / 2, value / 2 - 0.05, value / 2 + 0.05, 2)
    return FaithfulnessLine(sizes, area, area, area, area)


def measures() -> CircuitMeasures:
    curve = FaithfulnessCurve(faithfulness_line(1.0), faithfulness_line(0.6), Estimate(0.2, 0.1, 0.3, 2))
    test = SetTest(*[Estimate(0.9, 0.8, 1.0, 2)] * 2, *[Estimate(0.1, 0.0, 0.2, 10)] * 2)
    stability = SetStability(Estimate(0.8, 0.6, 1.0, 200), Estimate(0.1, 0.0, 0.2, 200))
    tests = SetTests(
        CHOSEN.sites,
        CHOSEN.channels,
        test,
        test,
        test,
        Minimality((0.5, 0.4, 0.0), (0.0,) * 19, (0.05, 0.05, 1.0), 2),
        stability,
    )
    return CircuitMeasures((0, 0, 0, 1, 3, 7, 15, 31, 78, 156), curve, curve, tests, 2, 1, 5, ())


def faithfulness_study(_request: FooledRequest = REQUEST) -> FaithfulnessStudy:
    return FaithfulnessStudy(GROUP, measures())


def localisation_study(_request: FooledRequest = REQUEST) -> LocalisationStudy:
    few, many = Estimate(0.25, 0.2, 0.3, 20), Estimate(0.75, 0.7, 0.8, 20)
    layers = (LayerShare("layer1.0", 16, 20, few, many, 0.001), LayerShare("layer2.0", 32, 20, many, many))
    return LocalisationStudy(GROUP, Localisation((*layers, LayerShare("layer3.0", 64, 0)), 20, 8))


def site_profile(_request: FooledRequest = REQUEST) -> SiteProfile:
    sites = tuple(SiteEffect(name, 4, effect(0.3), effect(0.0, 0.1, 40)) for name in ("layer1.0", "layer2.0"))
    return SiteProfile(GROUP, sites, ("stem",), 20)


def defence(_request: FooledRequest = REQUEST) -> Defence:
    value = Estimate(0.5, 0.4, 0.6, 20)
    accuracy = Accuracy(value, value, Estimate(0.0, -0.1, 0.1, 20), value, None)
    return Defence(GROUP, shared(), GROUP, effect(0.5), effect(0.1, 0.1, 40), "position", 500, accuracy, accuracy, 20)
