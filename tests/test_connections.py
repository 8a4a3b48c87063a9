"""Edges are exact: they equal a slow loop over maps, and they add up to what arrives at the next site."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from engine import benchmark
from engine.attribution import edges as connections
from engine.attribution import scorers
from engine.models import architectures, hooks, zoo
from engine.models import network as bundles
from engine.models import network as precision
from engine.models.network import ModelBundle
from tests import toys
from tests.shared_data import CIFAR, SKIPPED_WITHOUT
from tests.test_sites import (
    ChannelsLast,
    FunctionalNorm,
    Gated,
    GatedBeforeItsActivation,
    NormalisedBeforeItsActivation,
    Product,
    Shuffled,
    Sliced,
    Turned,
)


def explained(bundle, side, count=3):
    images, starts = toys.pictures(count, side), toys.pictures(count, side, seed=9)
    question = scorers.Question(images, torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64))
    found = scorers.between_runs(bundle, question, hooks.record(bundle, starts), taps=connections.taps(bundle))
    return images, starts, found.gradients


def changes(bundle, images, starts):
    """At every tap the change from one run to the other, each run alone."""
    runs = []
    for batch in (images, starts):
        recorder = hooks.Recorder(frozenset(range(len(bundle.taps))))
        with torch.no_grad(), bundle.visiting(recorder):
            bundle.logits(batch)
        runs.append(recorder.seen)
    return {probe: runs[0][probe] - runs[1][probe] for probe in runs[0]}


BLOCKS = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)]
NETWORKS = {
    "toy": lambda: (toys.bundle(toys.seeded(toys.Residual())), 8),
    "resnet20": lambda: (toys.bundle(toys.seeded(zoo.CifarResNet(3, 10)), 32), 32),
    "mobilenet": lambda: (toys.bundle(torchvision.models.mobilenet_v2(weights=None).eval(), 32), 32),
    "squeezenet": lambda: (toys.bundle(torchvision.models.squeezenet1_1(weights=None).eval(), 48), 48),
    "gated": lambda: (toys.bundle(toys.seeded(Gated())), 8),
    "mobilenet_v3": lambda: (toys.bundle(torchvision.models.mobilenet_v3_small(weights=None).eval(), 64), 64),
    "regnet_y": lambda: (toys.bundle(torchvision.models.regnet_y_400mf(weights=None).eval(), 64), 64),
    "shuffled": lambda: (toys.bundle(toys.seeded(Shuffled()), 12), 12),
    "functional norm": lambda: (toys.bundle(toys.seeded(FunctionalNorm()), 12), 12),
    "channels last": lambda: (toys.bundle(toys.seeded(ChannelsLast()), 12), 12),
    "convnext": lambda: (toys.bundle(toys.seeded(ConvNeXt(BLOCKS)), 64), 64),
    "sliced": lambda: (toys.bundle(toys.seeded(Sliced()), 12), 12),
    "turned": lambda: (toys.bundle(toys.seeded(Turned()), 12), 12),
    "normalised": lambda: (toys.bundle(toys.seeded(NormalisedBeforeItsActivation()), 12), 12),
    "gated before": lambda: (toys.bundle(toys.seeded(GatedBeforeItsActivation()), 12), 12),
    "product": lambda: (toys.bundle(toys.seeded(Product()), 12), 12),
    "shufflenet": lambda: (toys.bundle(torchvision.models.shufflenet_v2_x0_5(weights=None).eval(), 64), 64),
    "densenet": lambda: (toys.bundle(torchvision.models.DenseNet(8, (2, 2), 8).eval(), 64), 64),
}
TOYS = (
    toys.Residual, Gated, Shuffled, Sliced, FunctionalNorm, ChannelsLast, Turned, NormalisedBeforeItsActivation,
    GatedBeforeItsActivation, Product,
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_edges_into_a_map_add_up_to_what_arrives_there(name):
    bundle, side = NETWORKS[name]()
    errors = connections.completeness(connections.between(bundle, *explained(bundle, side, 1)))
    assert set(errors) == {link.target for link in bundle.links if link.target < len(bundle.sites)}
    assert max(errors.values()) <= 1e-5


@pytest.mark.parametrize("network", TOYS)
def test_edges_equal_a_slow_loop_over_source_maps(network):
    """The oracle feeds one source map's change at a time through the module and multiplies by the gradient."""
    bundle = toys.bundle(toys.seeded(network()), 12)
    images, starts, gradients = explained(bundle, 12)
    fast = connections.between(bundle, images, starts, gradients).matrices
    bundle = precision.folded(bundle)
    change, next_taps = changes(bundle, images, starts), connections.next_taps(bundle)
    for source, target in fast:
        slow = torch.zeros_like(fast[source, target])
        for way in (way for way in bundle.ways if (way.source, way.target) == (source, target)):
            for i in range(bundle.sites[source].channels):
                whole = change[way.entrance]
                alone = torch.zeros_like(whole)
                rows = [row for row, channel in enumerate(way.sources) if channel == i]
                alone[:, rows] = whole[:, rows]
                if way.module is not None:
                    alone = way.module(alone) - way.module(torch.zeros_like(alone))
                arrived = (alone * gradients[next_taps.get(way.exit, way.exit)]).sum((0, 2, 3))
                for channel, total in zip(way.targets, arrived, strict=True):
                    if channel >= 0:
                        slow[channel, i] += total
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
    runs = hooks.record(bundle, images), hooks.record(bundle, starts)
    found = connections.head(bundle, *runs, torch.tensor([0, 2]))
    total = sum(matrix.sum(1) for matrix in found.matrices.values())
    assert torch.allclose(total, (runs[0].logits - runs[1].logits)[:, [0, 2]].sum(0), atol=1e-4)
    assert found.completeness < 1e-6


@pytest.mark.parametrize(("repeats", "rows"), [(3, 2 + 3), (1, 6 + 6)], ids=["repeated", "all different"])
def test_each_distinct_image_runs_once_however_often_it_stands_in_a_batch(monkeypatch, repeats, rows):
    bundle, sizes, logits = toys.bundle(toys.seeded(toys.Residual())), [], ModelBundle.logits
    images = toys.pictures(6 // repeats).repeat_interleave(repeats, 0)
    starts = toys.pictures(3 if repeats > 1 else 6, seed=9).repeat(2 if repeats > 1 else 1, 1, 1, 1)
    asked = scorers.Question(images, torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64))
    found = scorers.between_runs(bundle, asked, hooks.record(bundle, starts), taps=connections.taps(bundle))
    with monkeypatch.context() as patched:
        patched.setattr(ModelBundle, "logits", lambda self, batch: (sizes.append(len(batch)), logits(self, batch))[1])
        together = connections.between(bundle, images, starts, found.gradients)
    assert sizes == [rows]
    for link, matrix in together.matrices.items():
        one = [{probe: g[k : k + 1] for probe, g in found.gradients.items()} for k in range(6)]
        parts = [connections.between(bundle, images[k : k + 1], starts[k : k + 1], one[k]).matrices for k in range(6)]
        assert torch.allclose(matrix, sum(part[link] for part in parts), rtol=1e-4, atol=1e-5)


def test_connections_keep_neither_run_in_memory():
    """Peak of ten layers: two of them alive at a time in a doubled batch, and one change; a plain backward keeps them all."""
    layers = [layer for _ in range(10) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    deep = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    bundle = toys.bundle(toys.seeded(deep), 32)
    images, starts, gradients = explained(bundle, 32, 8)

    def plain():
        leaf = images.clone().requires_grad_()
        torch.autograd.grad(bundle.logits(leaf).sum(), leaf)

    own = benchmark.peak(lambda: connections.between(bundle, images, starts, gradients))
    assert own <= benchmark.peak(plain)


def test_a_gradient_is_kept_once_for_taps_on_one_tensor_but_never_beyond_a_site():
    network = precision.folded(NETWORKS["mobilenet"]()[0])
    next_taps = connections.next_taps(network)
    assert next_taps
    assert all(probe >= len(network.sites) for probe in next_taps)
    assert any(last < len(network.sites) for last in next_taps.values())


DRAWN = 2
"""Edges drawn from every convolution, besides its strongest."""


def ablated_edges(bundle, change, gradients, generator):
    """Per convolution the strongest edge and some drawn ones: its contribution E and what it puts into its target map."""
    next_taps, claimed, removed = connections.next_taps(bundle), [], []
    for way in (way for way in bundle.ways if way.module is not None and way.module.groups == 1):
        arriving, weight = change[way.entrance], way.module.weight
        edges = connections._convolution(way.module, arriving, gradients[next_taps.get(way.exit, way.exit)])
        drawn = torch.randint(edges.numel(), (DRAWN,), generator=generator)
        for edge in (int(edges.abs().argmax()), *drawn.tolist()):
            j, i = divmod(edge, edges.shape[1])
            kernel, source = weight[j : j + 1, i : i + 1], arriving[:, i : i + 1]
            stride, padding = way.module.stride, way.module.padding
            claimed.append(float(edges[j, i]))
            removed.append((way.exit, j, torch.nn.functional.conv2d(source, kernel, None, stride, padding)[0, 0]))
    return torch.tensor(claimed), removed


def effects(bundle, question, reference, removed):
    """What taking each edge out does to the margin, mean over the points of the path that the scores integrate over."""
    count = len(removed) + 1

    def without(number, tensor):
        changed = tensor.clone()
        for row, (probe, j, part) in enumerate(removed):
            if probe == number:
                changed[row, j] -= part
        return changed

    parts = question.images, question.targets, question.rivals
    repeated = scorers.Question(*(part.expand(count, *part.shape[1:]) for part in parts))
    maps, total = tuple(site.expand(count, -1, -1, -1) for site in reference.maps), torch.zeros(count)
    for step in range(scorers.STEPS):
        gating = hooks.Gates(hooks.uniform_gates(bundle, count, (step + 0.5) / scorers.STEPS), maps)
        with torch.no_grad(), bundle.visiting(lambda k, t, gating=gating: gating(k, without(k, t))):
            total += hooks.margins(bundle.logits(repeated.images), repeated.targets, repeated.rivals)
    return (total[-1] - total[:-1]) / scorers.STEPS


@pytest.mark.shared_data
@SKIPPED_WITHOUT
def test_edges_predict_what_taking_one_edge_out_really_does():
    """Eight images of CIFAR-10 from index 128 on, 432 edges of ResNet-20, each against another image's run."""
    usual = architectures.architecture("cifar_resnet20")
    weights = safetensors.torch.load_file(CIFAR / "weights" / "resnet20.safetensors")
    declared = bundles.Preprocessing(3, (32, 32), usual.mean, usual.std)
    network = architectures.build("cifar_resnet20", weights, 10)
    bundle = precision.folded(bundles.bundle(network, declared, bundles.Identity(tuple("abcdefghij"))))
    with np.load(CIFAR / "cifar10_test_first1000.npz", allow_pickle=False) as data:
        images = torch.from_numpy(data["x"][128:144]).permute(0, 3, 1, 2).float() / 255
    labels, generator = bundle.logits(images).argmax(1), torch.Generator().manual_seed(0)
    correlations = []
    for k in range(8):
        image, start, rival = images[k : k + 1], images[k + 8 : k + 9], labels[k + 8 : k + 9]
        asked = scorers.Question(image, labels[k : k + 1], torch.where(rival == labels[k], -1, rival))
        reference = hooks.record(bundle, start)
        found = scorers.between_runs(bundle, asked, reference, taps=connections.taps(bundle))
        change = changes(bundle, image, start)
        claimed, removed = ablated_edges(bundle, change, found.gradients, generator)
        real = effects(bundle, asked, reference, removed)
        correlations.append(float(torch.corrcoef(torch.stack([claimed, real]))[0, 1]))
    assert np.mean(correlations) >= 0.95
    assert min(correlations) >= 0.8
