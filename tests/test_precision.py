"""Twins score as their bundle does: folding is exact in float32, bfloat16 within its eight significant bits."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import engine
from engine.attribution import scorers
from engine.models import hooks, network, zoo
from tests import sources, toys

NETWORKS = {
    "toy": lambda: toys.bundle(toys.seeded(toys.Residual())),
    "chain": lambda: toys.bundle(toys.seeded(toys.Chain())),
    "resnet20": lambda: toys.bundle(zoo.CifarResNet(3, 3).eval(), 32),
    "densenet": lambda: toys.bundle(torchvision.models.DenseNet(8, (2, 2), 8).eval(), 32),
    "mobilenet": lambda: toys.bundle(torchvision.models.mobilenet_v2(weights=None, num_classes=3).eval(), 32),
}


class Typed(toys.Chain):
    """Changes the type of its maps on the way, and fills tensors of its own."""

    def forward(self, x):
        x = torch.relu(self.a(x)).double()
        x = (x + torch.zeros(x.shape[0], 1, 1, 1) * 2).float()
        whole = torch.ones_like(x)
        whole[:, :2] = torch.relu(self.b(x))[:, :2]
        return self.linear(torch.relu(self.c(whole + torch.full_like(x, 0.25))).mean((2, 3)))


NETWORKS["typed"] = lambda: toys.bundle(toys.seeded(Typed()))


@pytest.fixture(scope="module", params=NETWORKS)
def bundle(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture
def toy():
    return NETWORKS["toy"]()


def batch_norms(bundle):
    called = {str(node.target) for node in bundle.network.graph.nodes if node.op == "call_module"}
    return sum(isinstance(bundle.network.get_submodule(name), nn.BatchNorm2d) for name in called)


def pictures(bundle, count=4, seed=1):
    return toys.pictures(count, bundle.size[0], seed)


def asked(bundle, count=4):
    images = pictures(bundle, count)
    targets = bundle.logits(images).argmax(1)
    return scorers.Question(images, targets, (targets + 1) % 3)


def close(first, second, share):
    """Largest difference against the largest value."""
    return float((first - second).abs().max()) <= share * float(second.abs().max())


def test_folding_changes_no_logit_and_no_site(bundle):
    twin, images = network.folded(bundle), pictures(bundle)
    assert close(twin.logits(images), bundle.logits(images), 1e-5)
    for own, other in zip(hooks.record(twin, images).maps, hooks.record(bundle, images).maps, strict=True):
        assert close(own, other, 1e-5)


def test_every_norm_behind_a_convolution_is_folded(toy):
    assert batch_norms(toy) == 1
    assert batch_norms(network.folded(toy)) == 0
    assert batch_norms(network.folded(NETWORKS["resnet20"]())) == 0


def test_a_norm_that_another_layer_reads_around_stays():
    class Forked(toys.Chain):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            out = self.b(torch.relu(self.a(x)))
            return self.linear(torch.relu(self.c(torch.relu(self.norm(out) + out))).mean((2, 3)))

    bundle = toys.bundle(toys.seeded(Forked()))
    assert network.folded(bundle) is bundle


def test_what_needs_no_folding_is_its_own_twin():
    bundle = NETWORKS["chain"]()
    assert network.folded(bundle) is bundle


def test_the_bundle_itself_is_left_alone(toy):
    before = {key: tensor.clone() for key, tensor in toy.network.state_dict().items()}
    network.folded(toy), network.reduced(toy)
    after = toy.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert batch_norms(toy) == 1


def test_a_twin_is_kept_until_the_weights_change(toy):
    first, images = network.folded(toy), toys.pictures(2)
    assert network.folded(toy) is first
    with hooks.weights(toy, seed=0):
        inside = network.folded(toy)
        assert inside is not first
        assert torch.allclose(inside.logits(images), toy.logits(images), rtol=1e-4, atol=1e-4)
    assert torch.allclose(network.folded(toy).logits(images), toy.logits(images), rtol=1e-4, atol=1e-4)


def test_reduced_logits_and_sites_are_within_bfloat16(bundle):
    twin, images = network.reduced(bundle), pictures(bundle)
    found = hooks.record(twin, images)
    assert found.logits.dtype == torch.float32
    assert {site.dtype for site in found.maps} == {torch.bfloat16}
    # Eight bits at each of up to 53 layers; how a processor sums them up matters: 0.03 on one, 0.06 on another (measured).
    assert close(found.logits, bundle.logits(images), 0.08)


@pytest.mark.parametrize("twin_of", [network.folded, network.reduced])
def test_twins_score_as_the_bundle_does(bundle, twin_of, monkeypatch):
    question, starts = asked(bundle), pictures(bundle, seed=9)
    twin = twin_of(bundle)
    monkeypatch.setattr(network, "folded", lambda same: same)
    own = scorers.between_runs(twin, question, hooks.record(twin, starts)).scores
    whole = scorers.between_runs(bundle, question, hooks.record(bundle, starts)).scores
    assert {site.dtype for site in own} == {torch.float32}
    if twin_of is network.folded:
        assert all(close(a, b, 1e-4) for a, b in zip(own, whole, strict=True))
    else:
        joined = torch.stack([hooks.join(own).flatten(), hooks.join(whole).flatten()])
        assert torch.corrcoef(joined)[0, 1] >= 0.95


def test_the_decision_is_measured_and_followed(toy):
    decision = scorers.decide(toy, asked(toy), pictures(toy, seed=9), references=2)
    assert 0.9 <= decision.rank_correlation <= 1.0 and decision.speed > 0
    slow, rough, good = (
        replace(decision, rank_correlation=correlation, speed=speed)
        for correlation, speed in ((0.99, 0.9), (0.97, 3.0), (0.99, 1.1))
    )
    assert not slow.is_reduced and not rough.is_reduced and good.is_reduced
    assert scorers.scorer(toy, slow) is toy
    images = pictures(toy)
    assert hooks.record(scorers.scorer(toy, good), images).maps[0].dtype == torch.bfloat16


def test_ranks_count_and_not_sizes_or_signs():
    first = torch.tensor([[1.0, -2.0, 3.0], [1.0, 2.0, 3.0]])
    assert scorers.rank_correlation(first, torch.tensor([[10.0, 20.0, -300.0], [0.1, 0.2, 0.3]])) == pytest.approx(1.0)
    assert scorers.rank_correlation(first, torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])) == pytest.approx(0.0)


CREATORS = ("zeros", "ones", "full", "eye", "empty", "rand", "randn", "randint", "randperm", "tensor")
ON_DEVICE = (
    "attribution/*",
    "features/*",
    "models/*",
    "patching/faithfulness",
)
ON_THE_HOST = {
    ("baselines", "tensor"): "row numbers, which index arrays on the host",
    ("network", "zeros"): "an example input, before the network has its device",
    ("scorers", "full"): "flags, moved to the device as one",
    ("scorers", "empty"): "drawn on the host to be the same everywhere, then moved as a whole",
    ("scorers", "rand"): "a single number",
    ("visualization", "randn"): "drawn on the host to be the same everywhere, then moved as a whole",
    ("visualization", "rand"): "four numbers that are read on the host",
    ("explain", "tensor"): "seeds, which generators read on the host",
}


def created_without_a_device(path):
    """Calls of torch's creators without `device=` whose result is not moved with `.to(...)` in the same expression."""
    tree = sources.parsed(path)
    moved = {
        id(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "to"
    }
    for node in ast.walk(tree):
        function = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "torch"
        ):
            named = any(keyword.arg == "device" for keyword in node.keywords)
            if function.attr in CREATORS and not named and id(node) not in moved:
                yield path.stem, function.attr, node.lineno


def test_every_tensor_of_the_walk_is_made_on_the_bundles_device():
    """A stand-in for a machine with a GPU. Index vectors (`torch.arange`) and seeds may stay on the host: they index any."""
    root = Path(engine.__file__).parent
    files = [path for pattern in ON_DEVICE for path in root.glob(f"{pattern}.py")]
    found = [hit for path in files for hit in created_without_a_device(path) if hit[:2] not in ON_THE_HOST]
    assert found == []
