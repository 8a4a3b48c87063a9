"""A change planted in one feature map of a toy network shows up at the right site, the right map and the right edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engine
from dashboard import protocol
from dashboard.panels.channel import model as channel_model
from dashboard.panels.layer import model as layer
from dashboard.panels.network import model as network
from engine import compare
from engine.attribution import explain
from engine.data import register
from engine.data.sources import Images
from engine.store import Store
from engine.types.core import ExplanationRequest
from tests import toys

WIDTH, SIDE, EACH = 6, 8, 6
FIRST, SECOND, THIRD = 2, 3, 5
"""The planted way: blue drives map 2 of the first site, that one map 3 of the second, that one map 5 of the third."""


class Planted(nn.Module):
    """Red says ant, green says bee; blue says cat, along one way that is silent until blue grows a little."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)
        self.linear = nn.Linear(WIDTH, 3)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.zero_()
            for colour in (0, 1):
                for convolution in (self.a, self.b, self.c):
                    convolution.weight[colour, colour] = 1.0
                self.linear.weight[colour, colour] = 2.0
            self.a.weight[FIRST, 2], self.a.bias[FIRST] = 10.0, 10.0
            self.b.weight[SECOND, FIRST] = 2.0
            self.c.weight[THIRD, SECOND] = 2.0
            self.linear.weight[2, THIRD] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.linear(x.mean((2, 3)))


def pictures() -> Images:
    """Ants are red, bees are green, cats are blue; all else is a quarter, where the planted map is just silent."""
    rng = np.random.default_rng(0)
    x = np.full((3 * EACH, SIDE, SIDE, 3), 64, np.uint8)
    y = np.repeat(np.arange(3), EACH)
    for k, label in enumerate(y):
        x[k, :, :, label] = rng.integers(200, 240, size=(SIDE, SIDE))
        x[k, :, :, 2] = np.maximum(x[k, :, :, 2], 64) if label == 2 else 63
    return Images(x, y, toys.CLASSES, tuple(f"{k:05d}" for k in range(len(y))))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The first ant under PGD at 8/255."""
    store = Store(tmp_path_factory.mktemp("planted") / "store")
    register.add(store, "colours", pictures(), source="test")
    bundle, dataset = toys.bundle(Planted().eval(), SIDE), store.dataset("colours")
    request = ExplanationRequest("toy", "colours", engine.attack("pgd-linf:eps=8/255,steps=10"), ("00000",))
    made = explain.explain(bundle, dataset, request, lambda *_: None)[0]
    assert (made.outcomes[0].before.label, made.outcomes[0].after.label) == (0, 2)
    return made


def test_the_attack_conductance_runs_through_the_planted_maps(found):
    for site, planted in enumerate((FIRST, SECOND, THIRD)):
        assert int(np.abs(found.flow[site][0]).argmax()) == planted
        assert found.change[site].argmax() == planted


def test_the_planted_maps_alone_are_in_the_adversarial_datapath_only(found):
    """Red is the clean one's; the reference's green, whose loss matters to both, is shared."""
    comparison = compare(found, 0.3)
    for sets, planted in zip(comparison.sites[1:], (SECOND, THIRD), strict=True):
        assert sets.adversarial_only == (planted,)
        assert (sets.clean_only, sets.shared) == ((0,), (1,))


def test_the_layer_and_the_river_show_them_there(found):
    comparison = compare(found, 0.3)
    for site, planted in ((1, SECOND), (2, THIRD)):
        ask = protocol.LayerAsk("x", found.sites[site].name, 0.3, found.request)
        panel = layer.build(found, comparison, ask)
        assert panel.group[planted] == layer.ADVERSARIAL_ONLY
        assert panel.flow[planted] == max(panel.flow)
    drawn = network.build_river(found, comparison, "sites")
    counts = [column.counts for column in drawn.columns if column.site in (1, 2)]
    assert counts == [(1, 1, 1), (1, 1, 1)]


def test_the_strongest_connections_lead_along_the_planted_way(found):
    comparison = compare(found, 0.3)
    for site, planted, source in ((1, SECOND, FIRST), (2, THIRD, SECOND)):
        near = channel_model.build_neighbourhood(found, comparison, site, planted, "adversarial")
        assert (near.incoming[0].layer, near.incoming[0].channel) == (found.sites[site - 1].name, source)
        assert near.incoming_total == 1
    head = channel_model.build_neighbourhood(found, comparison, 2, THIRD, "adversarial").outgoing[0]
    assert (head.name, head.contribution > 0) == ("class cat", True)
