"""The field's measures: against a slow loop over single images, on planted networks, and where they cannot be made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import engine
from engine.attacks.attacked import AttackedImages
from engine.attribution import scorers
from engine.errors import BadInput, BadSetting
from engine.models import register as load
from engine.patching import controls, measures, subjects
from engine.patching.subjects import FooledGroup, Others
from engine.specs.methods import TWO_RUN
from engine.types.faithfulness import FAITHFULNESS_SIZES
from engine.types.patching import EvaluationRequest, FooledRequest
from tests import shared_data, test_planted_causal_test, toys
from tests.test_planted_causal_test import EACH, PLANTED, WIDTH

pytestmark = pytest.mark.usefixtures("one_thread")
ants, world = test_planted_causal_test.ants, test_planted_causal_test.world
quiet = test_planted_causal_test.quiet
COUNT = 6


def group_of(bundle, clean, adversarial) -> FooledGroup:
    """Images `attacked` by turning into others."""
    count = len(clean)
    before, after = (bundle.logits(images).argmax(1) for images in (clean, adversarial))
    images = AttackedImages(clean, adversarial, torch.zeros(count, dtype=torch.int64), before, after, ())
    return FooledGroup(bundle, images, Others(clean[:0], before[:0], before.new_zeros(count, 0)), 0)


def two_class_group(count: int = COUNT, width: int = 8) -> FooledGroup:
    """Random weights and two classes; every image turns into one of the other class."""
    network = toys.seeded(toys.Chain(width, classes=2))
    bundle = toys.bundle(network, classes=("ant", "bee"))
    images = toys.pictures(400)
    with torch.no_grad():
        logits = bundle.logits(images)
        # Half of the pictures get each answer.
        network.linear.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
        answers = bundle.logits(images).argmax(1)
    sides = [images[answers == label][:count] for label in (0, 1)]
    return group_of(bundle, *(torch.cat(pair)[:count] for pair in (sides, sides[::-1])))


def random_scores(group: FooledGroup):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(group.images.count, site.channels, generator=generator) for site in group.bundle.sites)


@pytest.fixture(scope="module")
def group():
    return two_class_group()


def margin(bundle, group, row: int, receiving, giving, chosen) -> float:
    """The slow way: one image, maps of the giving run written in by hand, site after site."""
    parts, seen = chosen.split([site.channels for site in bundle.sites]), {}

    def keep(number, tensor):
        seen[number] = tensor.clone()
        return tensor

    def put(number, tensor):
        if number < len(parts):
            tensor = tensor.clone()
            tensor[:, parts[number]] = seen[number][:, parts[number]]
        return tensor

    with torch.no_grad():
        with bundle.visiting(keep):
            bundle.logits(giving[row : row + 1])
        with bundle.visiting(put):
            logits = bundle.logits(receiving[row : row + 1])[0].double()
    return float(logits[group.true[row]] - logits[group.into[row]])


def slow_faithfulness(group, scores, intervention: str) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, images) m(C) - m(none), and (images,) m(all) - m(none)."""
    bundle, clean, adversarial = group.bundle, group.images.clean, group.images.adversarial
    eligible = scorers.eligible(bundle)
    everything, nothing = torch.ones_like(eligible), torch.zeros_like(eligible)
    gained, whole = np.zeros((len(FAITHFULNESS_SIZES), len(clean))), np.zeros(len(clean))
    for row in range(len(clean)):
        none = margin(bundle, group, row, adversarial, clean, nothing)
        whole[row] = margin(bundle, group, row, adversarial, clean, everything) - none
        strengths = torch.cat([site[row] for site in scores]).abs()
        order = sorted((k for k in range(len(eligible)) if eligible[k]), key=lambda k: -float(strengths[k]))
        for size, share in enumerate(FAITHFULNESS_SIZES):
            chosen = nothing.clone()
            chosen[order[: int(share * len(order))]] = True
            if intervention == "denoising":
                reached = margin(bundle, group, row, adversarial, clean, chosen)
            else:
                reached = margin(bundle, group, row, clean, adversarial, eligible & ~chosen)
            gained[size, row] = reached - none
    return gained, whole


def slow_areas(faithfulnesses: list[float]) -> tuple[float, float]:
    """The loop of MIB's `evaluate_area_under_curve`."""
    area_under = area_from_1 = 0.0
    for i in range(len(faithfulnesses) - 1):
        x_1, x_2 = FAITHFULNESS_SIZES[i], FAITHFULNESS_SIZES[i + 1]
        area_from_1 += (x_2 - x_1) * ((abs(1.0 - faithfulnesses[i]) + abs(1.0 - faithfulnesses[i + 1])) / 2)
        area_under += (x_2 - x_1) * ((faithfulnesses[i] + faithfulnesses[i + 1]) / 2)
    return area_under, area_from_1


@pytest.mark.parametrize("intervention", ["denoising", "noising"])
def test_the_curve_and_its_areas_are_those_of_a_slow_loop(group, intervention):
    scores = random_scores(group)
    line = getattr(measures.measured(group, scores, 4), intervention).chosen
    gained, whole = slow_faithfulness(group, scores, intervention)
    expected = gained.mean(axis=1) / whole.mean()
    assert [item.value for item in line.faithfulness] == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in expected}) > 3, "a curve that is not flat"
    assert (line.cpr.value, line.cmd.value) == pytest.approx(slow_areas(list(expected)), abs=1e-4)
    own = [slow_areas(list(gained[:, row] / whole[row])) for row in range(COUNT)]
    assert (line.image_cpr.value, line.image_cmd.value) == pytest.approx(tuple(np.mean(own, axis=0)), abs=1e-3)
    for item in (*line.faithfulness, line.cpr, line.cmd):
        assert item.low <= item.value <= item.high
        assert item.n == COUNT
    assert expected[-1] == pytest.approx(1.0, abs=1e-4)


def test_the_interval_is_that_of_a_slow_bootstrap(group):
    scores = random_scores(group)
    line = measures.measured(group, scores, 4).denoising.chosen
    gained, whole = slow_faithfulness(group, scores, "denoising")
    generator, drawn = np.random.default_rng(7), []
    for _ in range(2000):
        rows = generator.integers(COUNT, size=COUNT)
        drawn.append(slow_areas(list(gained[:, rows].mean(axis=1) / whole[rows].mean()))[0])
    assert (line.cpr.low, line.cpr.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)
    assert line.cpr.low < line.cpr.high


def test_a_faithfulness_of_one_everywhere_has_the_whole_area_and_none_to_one():
    under, from_one = measures.areas(np.array([[1.0] * len(FAITHFULNESS_SIZES), [1.2] * len(FAITHFULNESS_SIZES)]))
    assert under == pytest.approx([0.999, 1.1988])
    assert from_one == pytest.approx([0.0, 0.1998])


def test_layer_matched_sets_have_as_many_maps_in_every_layer_from_all_of_them(group):
    bundle = group.bundle
    ranks = scorers.ranks(bundle, random_scores(group))
    chosen = ranks[None] < torch.tensor([3, 9])[:, None, None]
    drawn = controls.nested(bundle, chosen, 60, seed=1)
    sizes = [site.channels for site in bundle.sites]
    for own, others in zip(chosen.split(sizes, dim=2), drawn.split(sizes, dim=3), strict=True):
        assert (others.sum(dim=3) == own.sum(dim=2)).all()
    assert (drawn[:, 0] <= drawn[:, 1]).all(), "larger sets hold smaller ones"
    used = torch.cat([part.any(dim=1, keepdim=True).expand_as(part) for part in chosen[1].split(sizes, dim=1)], dim=1)
    assert drawn[:, 1].any(dim=0).equal(used), "chosen channels are drawn too"


@pytest.fixture(scope="module")
def planted(world, ants):
    return subjects.gather_group(*world, ants)


def ranked(world, *places: tuple[int, int], images: int = EACH):
    """Scores that rank some maps, by site and channel, before all others."""
    scores = [torch.zeros(images, site.channels) for site in world[0].sites]
    for strength, (site, channel) in enumerate(reversed(places)):
        scores[site][:, channel] = 1.0 + strength
    return tuple(scores)


def test_the_planted_map_has_nearly_the_whole_area_and_random_maps_of_its_layer_have_not(world, planted):
    found = measures.measured(planted, ranked(world, (1, PLANTED)), 1)
    assert found.counts == tuple(int(share * 2 * WIDTH) for share in FAITHFULNESS_SIZES)
    curve = found.denoising
    # From 5 % on the set has the one planted map, at 2 % it has none.
    assert [item.value for item in curve.chosen.faithfulness[:5]] == [0.0] * 5
    assert all(item.value == pytest.approx(1.0, abs=0.1) for item in curve.chosen.faithfulness[5:])
    assert curve.beyond.low > 0
    # The clean stem feeds the planted map of the first site, but all of the second are adversarial until the last size.
    noised = [item.value for item in found.noising.chosen.faithfulness]
    assert noised[:-2] == pytest.approx([0.0] * 8, abs=1e-4)
    assert noised[-1] == pytest.approx(1.0)


def test_what_each_test_says_of_the_planted_map(world, planted):
    """The map once is enough and needed, and its copy at the next site does without it; both together are alone."""
    once = measures.measured(planted, ranked(world, (1, PLANTED)), 1).tests
    assert (once.sites, once.channels) == ((world[0].sites[1].name,), ((PLANTED,),))
    assert once.sufficiency.labels.value == once.necessity.labels.value == once.independence.labels.value == 1.0
    assert once.sufficiency.random_labels.value < 0.5
    both = measures.measured(planted, ranked(world, (1, PLANTED), (2, PLANTED)), 2).tests
    assert both.independence.labels.value == 0.0
    assert both.independence.random_labels.value > 0.5
    assert both.independence.margin.value == pytest.approx(0.0, abs=0.1)
    assert both.stability.jaccard.value == 1.0
    assert both.stability.chance.high < 1.0


def test_minimality_tells_the_map_that_is_needed_from_one_that_is_not(world, planted):
    minimality = measures.measured(planted, ranked(world, (1, PLANTED), (2, 7)), 2).tests.minimality
    assert minimality.lost[0] == pytest.approx(1.0, abs=0.1)
    assert minimality.lost[1] == pytest.approx(0.0, abs=0.05)
    assert len(minimality.inflated) == 2 * (WIDTH - 1)
    assert minimality.p_values[0] == pytest.approx(1 / 23)
    assert minimality.p_values[1] > 0.05
    assert minimality.needed == 1
    redundant = measures.measured(planted, ranked(world, (1, PLANTED), (2, PLANTED)), 2).tests.minimality
    assert redundant.lost == pytest.approx((0.0, 0.0), abs=0.1)
    assert redundant.needed == 0, "either of the two copies does"


def test_what_a_map_costs_is_what_a_slow_loop_counts():
    group = two_class_group(width=16)
    scores = random_scores(group)
    tests = measures.measured(group, scores, 5).tests
    flat = torch.cat([site / sum(part.abs().sum(1, keepdim=True) for part in scores) for site in scores], dim=1).abs()
    eligible = scorers.eligible(group.bundle)
    order = [k for k in flat.mean(0).argsort(descending=True).tolist() if eligible[k]][:5]
    chosen = torch.zeros_like(eligible)
    chosen[order] = True
    images = group.images

    def reached(which):
        return sum(margin(group.bundle, group, row, images.adversarial, images.clean, which) for row in range(COUNT))

    everything, nothing = torch.ones_like(eligible), torch.zeros_like(eligible)
    whole = reached(everything) - reached(nothing)
    for place, lost in zip(sorted(order), tests.minimality.lost, strict=True):
        without = chosen.clone()
        without[place] = False
        assert lost == pytest.approx((reached(chosen) - reached(without)) / whole, abs=1e-4)
    rest = sorted(
        (reached(chosen | (torch.arange(len(chosen)) == place)) - reached(chosen)) / whole
        for place in (eligible & ~chosen).nonzero()[:, 0].tolist()
    )
    assert len(tests.sites) == 2, "so that channels of both layers are added, all of them"
    assert sorted(tests.minimality.inflated) == pytest.approx(rest, abs=1e-4)
    assert tests.minimality.p_values == pytest.approx(
        [(1 + sum(other >= lost for other in tests.minimality.inflated)) / 28 for lost in tests.minimality.lost]
    )


def test_sets_of_random_scores_are_alike_by_chance_alone():
    group = two_class_group(40, width=32)
    stability = measures.measured(group, random_scores(group), 8).tests.stability
    assert abs(stability.jaccard.value - stability.chance.value) < 0.12
    assert stability.jaccard.n == measures.SPLITS


def test_an_image_whose_runs_hardly_differ_is_left_out_and_counted(world, planted, monkeypatch):
    generator = torch.Generator().manual_seed(2)
    scores = tuple(torch.rand(EACH, site.channels, generator=generator) for site in world[0].sites)
    rows = torch.arange(1, EACH)
    without = measures.measured(planted.rows(rows), tuple(site[1:] for site in scores), 2)
    whole = measures.differences(planted)
    whole[0] = 1e-9
    monkeypatch.setattr(measures, "differences", lambda _: whole)
    found = measures.measured(planted, scores, 2)
    assert (found.images, found.left_out) == (EACH - 1, 1)
    assert found == dataclasses.replace(without, left_out=1)


def test_one_image_has_no_interval_and_that_is_said():
    with pytest.raises(BadInput, match="at least two fooled images for an interval over images, got 1"):
        group = two_class_group(1)
        measures.measured(group, random_scores(group), 2)


@pytest.mark.parametrize("more", [0, 5])
def test_a_set_of_all_maps_has_curves_and_no_tests_and_says_why(group, more):
    total = int(scorers.eligible(group.bundle).sum())
    found = measures.measured(group, random_scores(group), total + more)
    assert found.tests is None
    assert len(found.denoising.chosen.faithfulness) == len(FAITHFULNESS_SIZES)
    assert found.missing == (
        f"sufficiency, necessity, independence, minimality, stability: a set of {total + more} channels leaves none of the {total} "
        "that claims may use outside, to be compared with.",
    )


def test_a_set_of_no_maps_is_refused_before_anything_runs():
    with pytest.raises(BadSetting, match="a set of no channels restores nothing"):
        EvaluationRequest(engine.attack("pgd-linf"), 8, (TWO_RUN,), set_maps=0)


def test_a_test_without_its_control_is_told_to_be_missing(world, planted):
    few = planted.rows(torch.arange(3))
    found = measures.measured(few, ranked(world, (1, PLANTED), images=3), 1)
    assert found.tests.minimality is None
    assert found.tests.stability is None
    assert found.missing == (
        "minimality: the layers of the set hold 11 other channels, and a p-value of 0.05 needs 19 to add.",
        "stability: two halves need at least 4 images, got 3.",
    )


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory):
    """The measures of the attack conductance on 24 images from index 128 on."""
    store = shared_data.filled(tmp_path_factory.mktemp("measures"), "resnet20")
    bundle, dataset = load.bundle(store, "resnet20"), store.dataset("cifar10")
    samples = subjects.choose(bundle, dataset, 24, first=128, seed=0).samples
    request = FooledRequest("resnet20", "cifar10", engine.attack(shared_data.ATTACK), samples)
    return measures.study(bundle, dataset, request, quiet).measures


@pytest.mark.shared_data
@pytest.mark.slow
@shared_data.SKIPPED_WITHOUT
def test_the_attack_conductance_is_more_faithful_than_layer_matched_random_maps(resnet20):
    for curve in (resnet20.denoising, resnet20.noising):
        assert curve.beyond.low > 0
        assert curve.chosen.cmd.high < curve.random.cmd.low
    assert resnet20.denoising.chosen.faithfulness[4].low > resnet20.denoising.random.faithfulness[4].high
    assert (resnet20.missing, resnet20.left_out) == ((), 0)


@pytest.mark.shared_data
@pytest.mark.slow
@shared_data.SKIPPED_WITHOUT
def test_its_set_is_enough_and_stable_and_not_the_only_way(resnet20):
    tests = resnet20.tests
    assert tests.sufficiency.labels.low > tests.sufficiency.random_labels.high
    assert tests.stability.jaccard.low > tests.stability.chance.high
    assert tests.independence.labels.value > 0.9
