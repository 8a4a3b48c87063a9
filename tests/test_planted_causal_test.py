"""A wrong answer that one known map carries is found, patched and supported; bystanders and exchangeable maps are not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engine
from dashboard.panels.patching import model as patching
from engine.attribution import explain
from engine.data import register
from engine.data.sources import Images
from engine.errors import BadInput
from engine.patching import causal, measures, minimal, subjects
from engine.store import Store
from engine.types.core import ExplanationRequest
from engine.types.patching import CONTROLS, DECISIVE, FooledRequest, GroupTestRequest, MapSet
from tests import toys

WIDTH, SIDE, EACH, PLANTED = 12, 16, 6, 4
ATTACK = "pgd-linf:eps=8/255,steps=10"


class Fragile(nn.Module):
    """Says ant by one map alone, which reads red so steeply that a little less of it silences the map.

    Sites: means of 4 x 4 pixels (the stem); the planted map, green, blue and nine bystanders that change with the picture;
    the same maps once more. Bees and cats are told by plain green and blue.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Conv2d(3, 3, 4, stride=4)
        self.first = nn.Conv2d(3, WIDTH, 1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 1)
        self.linear = nn.Linear(WIDTH, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.zero_()
            for colour in range(3):
                self.means.weight[colour, colour] = 1 / 16
            # Preprocessed colours are 4 * (colour - 0.5), so these are 4 times the colours.
            self.means.bias.fill_(2.0)
            self.first.weight.copy_(torch.rand(WIDTH, 3, 1, 1, generator=generator))
            self.first.weight[[PLANTED, 0, 1]] = 0.0
            self.first.weight[PLANTED, 0], self.first.bias[PLANTED] = 12.5, -25.0
            self.first.weight[0, 1] = self.first.weight[1, 2] = 1.0
            self.second.weight[range(WIDTH), range(WIDTH)] = 1.0
            self.linear.weight[0, PLANTED], self.linear.weight[1, 0], self.linear.weight[2, 1] = 2.0, 0.3, 0.29

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(F.relu(self.means(x))))))
        return self.linear(x.mean((2, 3)))


class Exchangeable(nn.Module):
    """Says ant by four copies of one map in an early narrow layer: whichever of them is patched, the label returns."""

    COPIES = 4

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Conv2d(3, 3, 4, stride=4)
        self.first = nn.Conv2d(3, self.COPIES, 1)
        self.second, self.side = nn.Conv2d(self.COPIES, WIDTH, 1), nn.Conv2d(3, WIDTH, 1)
        self.third, self.linear = nn.Conv2d(WIDTH, WIDTH, 1), nn.Linear(WIDTH, 3)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.zero_()
            self.means.weight[range(3), range(3)] = 1 / 16
            self.means.bias.fill_(2.0)
            self.first.weight[:, 0], self.first.bias[:] = 12.5, -25.0
            self.second.weight[0] = 1 / self.COPIES
            self.side.weight[1, 1] = self.side.weight[2, 2] = 1.0
            self.side.weight[3:, 1] = 0.1
            self.third.weight[range(WIDTH), range(WIDTH)] = 1.0
            self.linear.weight[range(3), range(3)] = torch.tensor([2.0, 0.3, 0.29])

    def forward(self, x: Tensor) -> Tensor:
        means = F.relu(self.means(x))
        x = F.relu(self.third(F.relu(self.second(F.relu(self.first(means))) + self.side(means))))
        return self.linear(x.mean((2, 3)))


def pictures() -> Images:
    """Ants are a little redder than half, bees are green, cats are blue; all else is a quarter."""
    rng = np.random.default_rng(0)
    x = np.full((3 * EACH, SIDE, SIDE, 3), 64, np.uint8)
    y = np.repeat(np.arange(3), EACH)
    for k, label in enumerate(y):
        x[k, :, :, label] = rng.integers(131, 135, size=(SIDE, SIDE)) if label == 0 else rng.integers(225, 235)
    return Images(x, y, toys.CLASSES, tuple(f"{k:05d}" for k in range(len(y))))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("planted") / "store")
    register.add(store, "colours", pictures(), source="test")
    return toys.bundle(Fragile().eval(), SIDE), store.dataset("colours")


@pytest.fixture(scope="module")
def ants(world):
    """All ants; the attack fools every one of them."""
    request = FooledRequest("toy", "colours", engine.attack(ATTACK), world[1].keys[:EACH])
    assert subjects.gather_group(*world, request).images.samples == request.samples
    return request


def quiet(*_told: object) -> None:
    pass


def causal_test(world, ants, site: int, channel: int):
    chosen = MapSet((world[0].sites[site].name,), ((channel,),))
    return causal.intervene_in_group(*world, GroupTestRequest(ants, chosen, "restore"), quiet)


def test_the_search_finds_the_planted_map_alone(world, ants):
    found = minimal.find(*world, ants, quiet)
    planted = [MapSet((site.name,), ((PLANTED,),)) for site in world[0].sites[1:]]
    assert all(image.chosen in planted and image.is_restored for image in found.images)
    assert found.shared.chosen in planted
    assert (found.shared.is_reached, found.shared.effect.flipped) == (True, 1.0)


def test_the_planted_map_is_supported_and_every_control_was_run(world, ants):
    found = causal_test(world, ants, 1, PLANTED)
    assert found.verdict == "supported"
    matched = next(control for control in found.controls if control.name == DECISIVE)
    drawn_itself = 1 / WIDTH
    assert matched.effect.flipped == pytest.approx(drawn_itself, abs=0.08)
    assert matched.excess.low > 0.3, "six images"
    assert found.effect.flipped == 1.0
    assert {control.name for control in found.controls} == set(CONTROLS)
    assert found.samples == ants.samples
    assert (found.responses[0].silenced, found.responses[0].roused) == (EACH, 0)


def test_the_claim_names_the_planted_map_and_what_the_attack_did_to_it(world, ants):
    asked = ExplanationRequest(ants.model, ants.data, ants.attack, ants.samples)
    explained, _ = explain.explain(*world, asked, quiet)
    site = world[0].sites[1].name
    sentence = patching.claim(causal_test(world, ants, 1, PLANTED), explained)
    name = f"feature map {PLANTED} of {site}"
    assert f"{name} no longer responds (its peak falls to half or less) in {EACH} of them" in sentence
    assert f"patching the clean values of {name} into the adversarial run recovers" in sentence
    assert f"the label in {EACH} of {EACH} images; as many random channels of the same layers" in sentence
    assert f"{name.replace(str(PLANTED), '7')} keeps its peak" in patching.claim(
        causal_test(world, ants, 1, 7), explained
    )


@pytest.mark.parametrize("channel", [channel for channel in range(WIDTH) if channel != PLANTED])
def test_no_bystander_is_supported(world, ants, channel):
    found = causal_test(world, ants, 1, channel)
    assert not found.is_supported
    assert found.effect.flipped == 0.0
    assert abs(found.effect.recovery) < 0.1
    assert found.verdict == "same layers"


def test_maps_that_any_of_their_layer_could_stand_for_are_told_so(world, ants):
    exchangeable = toys.bundle(Exchangeable().eval(), SIDE), world[1]
    (site,) = [place.name for place in exchangeable[0].sites if place.channels == Exchangeable.COPIES]
    found = causal.intervene_in_group(*exchangeable, GroupTestRequest(ants, MapSet((site,), ((0,),)), "restore"), quiet)
    assert found.effect.flipped == 1.0
    assert (found.verdict, found.is_supported) == ("same layers", False)
    assert "any channels of these layers do the same" in patching.verdict(found)
    random = next(control for control in found.controls if control.name == "random")
    assert random.effect.flipped < 1.0, "plain random maps would have let the claim through"


def test_of_one_image_the_planted_map_is_supported_and_exchangeable_ones_are_not(world, ants):
    one = dataclasses.replace(ants, samples=ants.samples[:1])
    exchangeable = toys.bundle(Exchangeable().eval(), SIDE), world[1]
    (site,) = [place.name for place in exchangeable[0].sites if place.channels == Exchangeable.COPIES]
    told = [
        causal.intervene_in_group(*of, GroupTestRequest(one, MapSet((name,), ((channel,),)), "restore"), quiet).verdict
        for of, name, channel in ((world, world[0].sites[1].name, PLANTED), (exchangeable, site, 0))
    ]
    assert told == ["supported", "same layers"]


def test_the_profile_is_sharp_where_one_map_decides_and_flat_where_any_map_does(world, ants):
    sharp = measures.localise(*world, ants, quiet).localisation
    planted = {layer.site: layer for layer in sharp.layers}[world[0].sites[1].name]
    assert planted.ranked.value == pytest.approx(1 / WIDTH)
    assert planted.random.value == pytest.approx((WIDTH + 1) / 2 / WIDTH, abs=0.15), "on average half of the layer"
    assert sharp.sharpest is not None
    assert planted.restored == EACH == sharp.images


def test_a_network_without_a_cut_says_that_there_is_no_profile(world, ants):
    uncut = dataclasses.replace(world[0], sites=tuple(dataclasses.replace(s, is_cut=False) for s in world[0].sites))
    with pytest.raises(BadInput, match="no layer that claims may use carries every path"):
        measures.localise(uncut, world[1], ants, quiet)
