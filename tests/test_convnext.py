"""A trained ConvNeXt: layer norm, GELU and channels last go through the same pipeline, and the same proof holds.

It is trained on the demo's digits, about half a minute on two cores; published weights of that family need ImageNet.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

import engine
from engine import demo
from engine.attribution import edges, scorers
from engine.demo import train
from engine.models import hooks
from engine.models import network as bundles
from engine.models.zoo import DIGITS_MEAN, DIGITS_STD
from engine.patching import evaluate
from tests import stores
from tests.test_connections import ablated_edges, changes, effects

pytestmark = pytest.mark.slow

EPOCHS, IMAGES, MAPS = 10, 24, 32
ATTACK = "pgd-linf:eps=24/255,steps=10"


def small_convnext() -> nn.Module:
    """Three stages of two blocks, 2,184 feature maps; layer scales start at 0.3, since 1e-6 needs long training."""
    blocks = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, 96, 2), CNBlockConfig(96, None, 2)]
    network = ConvNeXt(blocks, layer_scale=0.3, num_classes=10)
    network.features[0][0] = nn.Conv2d(1, 24, 2, 2)
    return network


@pytest.fixture(scope="module")
def bundle():
    network = train.train("standard", EPOCHS, 0, make=small_convnext)
    declared = bundles.Preprocessing(1, (32, 32), DIGITS_MEAN, DIGITS_STD)
    return bundles.bundle(network, declared, bundles.Identity(demo.CLASSES, "convnext", "0"))


@pytest.fixture(scope="module")
def rows(bundle, demo_store, tmp_path_factory):
    """What the datapaths and random maps do, by method."""
    store = stores.copied(demo_store, tmp_path_factory.mktemp("convnext") / "store")
    compared = (engine.method("two-run"), engine.method("random"))
    request = evaluate.EvaluationRequest(engine.attack(ATTACK), IMAGES, compared, maps=(MAPS,))
    found = evaluate.run(bundle, store.dataset(demo.DATA), request, lambda *_: None)
    assert found.fooled >= IMAGES // 2
    return {row.method.name: row for row in found.rows}


def test_it_learned_the_digits(bundle):
    images, labels = train.tensors(demo.held_out())
    with torch.no_grad():
        assert float((bundle.logits(images).argmax(1) == labels).float().mean()) >= 0.9


@pytest.mark.parametrize("what", ["transplant", "restore"])
def test_a_few_maps_of_the_datapath_do_what_as_many_random_ones_do_not(rows, what):
    moved = {name: getattr(row, what) for name, row in rows.items()}
    shares = {name: (one.carried if what == "transplant" else one.restored)[0] for name, one in moved.items()}
    # Seen: 95 to 100 % and 0 to 10 % of about twenty images.
    assert shares["two-run"].low > shares["random"].high + 0.3


def test_edges_predict_what_taking_one_edge_out_really_does(bundle):
    images, _ = train.tensors(demo.held_out())
    generator, correlations = torch.Generator().manual_seed(0), []
    for k in range(6):
        image, start = images[k : k + 1], images[k + 100 : k + 101]
        own, rival = bundle.logits(image).argmax(1), bundle.logits(start).argmax(1)
        asked = scorers.Question(image, own, torch.where(rival == own, -1, rival))
        reference = hooks.record(bundle, start)
        found = scorers.between_runs(bundle, asked, reference, taps=edges.taps(bundle))
        claimed, removed = ablated_edges(bundle, changes(bundle, image, start), found.gradients, generator)
        real = effects(bundle, asked, reference, removed)
        correlations.append(float(torch.corrcoef(torch.stack([claimed, real]))[0, 1]))
    assert np.mean(correlations) >= 0.95
