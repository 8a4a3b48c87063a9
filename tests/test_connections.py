"""Edges are exact: they equal a slow loop over maps, and they add up to what arrives at the next site."""

from __future__ import annotations

import pytest
import torch
import torchvision

from engine import connections, tracing
from engine.datapaths import scores
from engine.models import cifar, precision
from tests import toys


def explained(bundle, side, count=3):
    images, starts = toys.pictures(count, side), toys.pictures(count, side, seed=9)
    question = scores.Question(images, torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64))
    found = scores.between_runs(bundle, question, tracing.record(bundle, starts), taps=connections.taps(bundle))
    return images, starts, found.gradients


NETWORKS = {
    "toy": lambda: (toys.bundle(toys.seeded(toys.Residual())), 8),
    "resnet20": lambda: (toys.bundle(toys.seeded(cifar.CifarResNet(3, 10)), 32), 32),
    "mobilenet": lambda: (toys.bundle(torchvision.models.mobilenet_v2(weights=None).eval(), 32), 32),
    "squeezenet": lambda: (toys.bundle(torchvision.models.squeezenet1_1(weights=None).eval(), 48), 48),
    "densenet": lambda: (toys.bundle(torchvision.models.DenseNet(8, (2, 2), 8).eval(), 64), 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_edges_into_a_map_add_up_to_what_arrives_there(name):
    bundle, side = NETWORKS[name]()
    errors = connections.completeness(connections.between(bundle, *explained(bundle, side, 1)))
    assert set(errors) == {link.target for link in bundle.links if link.target < len(bundle.sites)}
    assert max(errors.values()) <= 1e-5


def test_edges_equal_a_slow_loop_over_source_maps():
    """The oracle feeds one source map's change at a time through the module and multiplies by the gradient."""
    bundle = toys.bundle(toys.seeded(toys.Residual()))
    images, starts, gradients = explained(bundle, 8)
    fast = connections.between(bundle, images, starts, gradients).matrices
    bundle = precision.folded(bundle)
    change, next_taps = connections._changes(bundle, images, starts), connections._next_taps(bundle)
    for source, target in fast:
        slow = torch.zeros_like(fast[source, target])
        for way in (way for way in bundle.ways if (way.source, way.target) == (source, target)):
            for i in range(bundle.sites[source].channels):
                whole = change.at(way.entrance)
                alone = torch.zeros_like(whole)
                alone[:, i + way.entrance_offset] = whole[:, i + way.entrance_offset]
                if way.module is not None:
                    alone = way.module(alone) - way.module(torch.zeros_like(alone))
                arrived = (alone * gradients[next_taps.get(way.exit, way.exit)]).sum((0, 2, 3))
                start = way.target_offset - way.entrance_offset
                slow[start : start + len(arrived), i] += arrived
        assert torch.allclose(fast[source, target], slow, atol=1e-4 * float(slow.abs().max()))


def test_the_padded_shortcut_shifts_channels():
    bundle = toys.bundle(toys.seeded(toys.Residual()))
    matrix = connections.between(bundle, *explained(bundle, 8)).matrices[0, 2]
    rows, columns = matrix.nonzero(as_tuple=True)
    assert torch.equal(rows, columns + 2)
    assert len(rows) == 4


def test_a_planted_edge_is_the_only_one():
    network = toys.seeded(toys.Chain())
    with torch.no_grad():
        network.b.weight.zero_()
        network.b.weight[2, 1] = 1.0
        network.b.bias.fill_(0.1)
    bundle = toys.bundle(network)
    matrix = connections.between(bundle, *explained(bundle, 8)).matrices[0, 1]
    assert matrix.abs().argmax() == 2 * 4 + 1
    assert matrix.abs().sum() == matrix[2, 1].abs() > 0


def test_the_head_adds_up_to_the_difference_of_the_logits():
    bundle = toys.bundle(toys.seeded(toys.Residual()))
    images, starts = toys.pictures(3), toys.pictures(3, seed=9)
    runs = tracing.record(bundle, images), tracing.record(bundle, starts)
    found = connections.head(bundle, images, runs[1], torch.tensor([0, 2]))
    assert torch.allclose(found.sum(1), (runs[0].logits - runs[1].logits)[:, [0, 2]].sum(0), atol=1e-4)
