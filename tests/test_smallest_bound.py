"""What no sufficient set of maps can be below: planted rules whose smallest set is known, and brute force on few maps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import engine
from engine.attribution import scorers
from engine.models import hooks, register
from engine.patching import controls, minimal, patch, subjects, trials
from engine.patching.patch import Tried
from engine.types.patching import FooledRequest
from tests import stores

MAPS = 24
PLENTY = 100_000


class Ruled:
    """One image whose label a rule brings back: a function from choices (draws, all maps) to margins (draws,)."""

    def __init__(self, rule: Callable[[Tensor], Tensor], maps: int = MAPS) -> None:
        site = SimpleNamespace(channels=maps, is_eligible=True)
        self.fooled = SimpleNamespace(bundle=SimpleNamespace(sites=(site,), device=torch.device("cpu")), seed=0)
        self.aim, self.start, self.rule, self.passes = torch.ones(1, dtype=torch.int64), torch.zeros(1), rule, 0

    def tried(self, choices: Tensor) -> Tried:
        self.passes += len(choices)
        margins = self.rule(choices[:, 0])[:, None]
        return Tried(margins, (margins > 0).long(), margins)

    def restores(self, chosen: Tensor) -> Tensor:
        return self.tried(chosen[None]).labels[0] == self.aim


def chosen(*places: int, maps: int = MAPS) -> Tensor:
    return torch.zeros(maps, dtype=torch.bool).index_fill(0, torch.tensor(places), True)


def all_of(*places: int) -> Callable[[Tensor], Tensor]:
    return lambda choices: choices[:, list(places)].all(dim=1).float() - 0.5


def weighing(weights: Tensor, threshold: float) -> Callable[[Tensor], Tensor]:
    return lambda choices: choices.float() @ weights - threshold


def smallest(rule: Callable[[Tensor], Tensor], maps: int) -> int:
    """The slow way: every set of every size."""
    for size in range(1, maps + 1):
        sets = torch.stack([chosen(*places, maps=maps) for places in itertools.combinations(range(maps), size)])
        if bool((rule(sets) > 0).any()):
            return size
    raise AssertionError("all channels together fail")


@pytest.mark.parametrize("planted", [(5,), (3, 17), (3, 9, 17), (0, 3, 9, 17), (0, 3, 9, 17, 20)])
def test_the_bound_meets_the_size_of_the_planted_set(planted):
    below = minimal.Below(Ruled(all_of(*planted)), chosen(*planted), torch.ones(MAPS), passes=PLENTY)
    below.raise_bound(PLENTY)
    assert below.bound == below.size == len(planted)


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_what_brute_force_finds_and_a_larger_set_shrinks_to_it(seed):
    """Ten maps with random weights: all of them are a set to begin with."""
    weights = torch.rand(10, generator=torch.Generator().manual_seed(seed)) ** 2
    rule = weighing(weights, 0.55 * float(weights.sum()))
    below = minimal.Below(Ruled(rule, 10), torch.ones(10, dtype=torch.bool), weights, passes=PLENTY)
    below.raise_bound(PLENTY)
    assert below.bound == below.size == smallest(rule, 10)
    assert float(rule(below.chosen[None])) > 0


@pytest.mark.parametrize("passes", [1, 40, 200, 1000])
def test_the_bound_holds_whenever_the_search_ends(passes):
    weights = torch.rand(12, generator=torch.Generator().manual_seed(3))
    rule = weighing(weights, 0.4 * float(weights.sum()))
    below = minimal.Below(Ruled(rule, 12), torch.ones(12, dtype=torch.bool), weights, passes=PLENTY)
    below.raise_bound(passes)
    assert 1 <= below.bound <= smallest(rule, 12) <= below.size


def test_too_many_maps_for_a_table_of_pairs_still_have_their_single_ones_bounded(monkeypatch):
    monkeypatch.setattr(minimal, "PAIRED", MAPS - 1)
    below = minimal.Below(Ruled(all_of(0, 3, 9)), chosen(0, 3, 9), torch.ones(MAPS), passes=PLENTY)
    below.raise_bound(PLENTY)
    assert below.bound == 2


def test_too_few_passes_for_pairs_are_spent_on_single_maps():
    below = minimal.Below(Ruled(all_of(0, 3, 9)), chosen(0, 3, 9), torch.ones(MAPS), passes=4 * MAPS - 1)
    below.raise_bound(PLENTY)
    assert (below.bound, below.is_paired) == (2, False)


def test_single_maps_and_pairs_that_restore_are_found_by_trying_them():
    below = minimal.Below(Ruled(all_of(3, 17)), chosen(1, 2, 3, 17), torch.ones(MAPS), passes=PLENTY)
    below.try_singles()
    assert (below.singles, below.bound, below.size) == (MAPS, 2, 4)
    below.try_pairs(torch.ones(MAPS), PLENTY)
    assert (below.pairs, below.size) == (MAPS * (MAPS - 1) // 2, 2)
    assert below.bound == 2


def test_the_bound_goes_on_where_every_pair_was_tried_and_no_failing_set_was_grown():
    below = minimal.Below(Ruled(all_of(0, 3, 9, 17)), chosen(0, 3, 9, 17), torch.ones(MAPS), passes=PLENTY)
    below.try_singles()
    below.try_pairs(torch.ones(MAPS), PLENTY)
    assert (below.bound, below.failing) == (3, [])
    below.raise_bound(PLENTY)
    assert below.bound == 4


def test_where_more_maps_undo_what_fewer_restore_the_measure_tells_that_the_bound_may_be_wrong():
    """Maps 3 and 17 restore unless map 5 is there too; the other way takes four maps."""

    def rule(choices: Tensor) -> Tensor:
        is_short = choices[:, [3, 17]].all(dim=1) & ~choices[:, 5]
        return (is_short | choices[:, [0, 1, 2, 4]].all(dim=1)).float() - 0.5

    monotone = Ruled(all_of(3, 17))
    image, start = Ruled(rule), chosen(3, 17)
    supersets = controls.supersets(image.fooled.bundle, start[None], 200, 0)
    assert bool((supersets & start)[:, 0].sum(dim=1).eq(2).all())
    held, always = (float((each.tried(supersets).labels == 1).float().mean()) for each in (image, monotone))
    assert always == 1.0
    assert 0.2 < held < 0.9
    below = minimal.Below(image, chosen(0, 1, 2, 4), torch.ones(MAPS), passes=PLENTY)
    below._keep((~chosen(9))[None])
    assert below.failing == [], "a set that fails and holds one that restores bounds nothing"
    below._keep((~chosen(0))[None])
    assert len(below.failing) == 1


def test_swaps_lead_from_three_maps_to_another_two(monkeypatch):
    weights = torch.zeros(MAPS).index_put((torch.tensor([1, 2, 3, 4, 5]),), torch.tensor([0.5, 0.5, 0.5, 0.8, 0.8]))
    image, everything = Ruled(weighing(weights, 1.4)), torch.ones(MAPS, dtype=torch.bool)
    monkeypatch.setattr(minimal, "missing", lambda _image, held: weights.expand(len(held), -1))
    assert minimal.swapped(image, chosen(1, 2, 3), everything, PLENTY).equal(chosen(4, 5))
    without = everything & ~chosen(4)
    assert minimal.swapped(image, chosen(1, 2, 3), without, PLENTY).equal(chosen(1, 2, 3)), (
        "channel 4 is not in that pool"
    )


def test_trying_every_map_at_every_step_takes_the_heaviest_first():
    weights = torch.arange(MAPS).float()
    image = Ruled(weighing(weights, 60))
    assert minimal.exact_greedy(image, torch.ones(MAPS, dtype=torch.bool), PLENTY) == 3, "23 + 22 + 21"
    assert image.passes == 24 + 23 + 22
    assert minimal.exact_greedy(image, torch.ones(MAPS, dtype=torch.bool), 60) is None
    assert minimal.exact_greedy(image, torch.arange(MAPS) < 5, PLENTY) is None, "the pool does not suffice"


@pytest.fixture(scope="module")
def block(demo_store, tmp_path_factory):
    store = stores.copied(demo_store, tmp_path_factory.mktemp("bound") / "store")
    bundle, dataset = register.bundle(store, "digits-standard"), store.dataset("digits")
    samples = dataset.keys_of(3)[:4]
    request = FooledRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=5"), samples)
    return patch.exchange(subjects.gather_group(bundle, dataset, request), "restore")


def test_before_any_map_is_put_back_all_of_the_attack_conductance_is_missing(block):
    flow = hooks.join(trials.attack_conductance(block.fooled))
    none = torch.zeros_like(flow, dtype=torch.bool)
    assert torch.allclose(minimal.missing(block, none), flow, rtol=1e-3, atol=1e-4)


def test_what_is_missing_adds_up_to_the_margin_that_is_and_nothing_flows_through_what_is_there(block):
    bundle, images = block.fooled.bundle, block.fooled.images.count
    held = hooks.join(scorers.at_random(bundle, images, 12, torch.Generator().manual_seed(2)))
    missing = minimal.missing(block, held)
    assert bool((missing[held] == 0).all())
    tried = block.tried(held[None])
    margin = (1 - tried.recovered[0]) * block.whole
    last = max(k for k, site in enumerate(bundle.sites) if site.is_cut)
    assert torch.allclose(hooks.split(missing, bundle)[last].sum(dim=1), margin, rtol=0.15, atol=0.1)


def test_the_same_search_in_a_pool_takes_maps_of_the_pool_alone(block):
    flow = trials.attack_conductance(block.fooled)
    halves = controls.halves(block.fooled.bundle, flow, 0)
    strength, allowed = hooks.join(flow).abs(), scorers.eligible(block.fooled.bundle)
    for name, pool in halves.items():
        picked = minimal.grown(block, pool)
        assert not bool((picked & ~pool).any()), name
        assert not bool((pool & ~allowed).any())
    weak, strong = halves["ranked last"], allowed & ~halves["ranked last"]
    sites = zip(*(hooks.split(side, block.fooled.bundle) for side in (weak, strong, strength)), strict=True)
    for low, high, values in list(sites)[1:]:
        assert bool((values.masked_fill(~low, 0).amax(dim=1) <= values.masked_fill(~high, torch.inf).amin(dim=1)).all())


def test_a_record_says_how_it_was_searched_and_never_claims_a_bound_above_a_set(block, demo_store):
    store = demo_store
    bundle, dataset = block.fooled.bundle, store.dataset("digits")
    request = FooledRequest(
        "digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=5"), block.fooled.images.samples[:2]
    )
    found = minimal.find(bundle, dataset, request, lambda *_told: None, 200)
    assert found.passes == 200
    assert found.monotone.tried == minimal.DRAWS * len(found.images)
    assert 0 <= found.monotone.held <= found.monotone.tried
    assert [pool.name for pool in found.pools] == ["ranked last", "random half"]
    for image in found.images:
        assert 1 <= image.bound <= image.chosen.count <= image.ranked <= image.prefix
        assert image.is_restored
        assert 0 <= image.matched <= 1
    again = minimal.find(bundle, dataset, dataclasses.replace(request), lambda *_told: None, 200)
    assert [image.chosen for image in again.images] == [image.chosen for image in found.images]
