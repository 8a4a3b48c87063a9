"""Interventions do what a hand calculation says, and leave a network as they found it however they end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engine
from engine.attribution import edges, scorers
from engine.models import hooks, register
from engine.models import network as precision
from engine.models.network import ModelBundle
from engine.patching import causal, minimal, subjects
from engine.patching import patch as exchanges
from engine.store import Dataset
from engine.types.patching import FooledRequest, GroupTestRequest, MapSet
from tests import stores, toys

pytestmark = pytest.mark.usefixtures("one_thread")

STUDIES = {
    "group-proof": causal.intervene_in_group,
    "smallest": minimal.find,
    "curve": causal.curve,
    "profile": causal.profile,
    "defence": causal.hint,
}


class Sums(nn.Module):
    """a = (red, green); b = (a0 + 2 a1, 3 a0 - a1); c = (b0 + b1, b0 - b1), each cut at zero; logits (c0, c1, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.linear = nn.Linear(2, 3)
        weights = {
            self.a: [[1, 0, 0], [0, 1, 0]],
            self.b: [[1, 2], [3, -1]],
            self.c: [[1, 1], [1, -1]],
            self.linear: [[1, 0], [0, 1], [0, 0]],
        }
        with torch.no_grad():
            for module, weight in weights.items():
                module.weight.copy_(torch.tensor(weight, dtype=torch.float32).view_as(module.weight))
                module.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def sums():
    return toys.bundle(Sums().eval())


def coloured(red: float, green: float) -> Tensor:
    """One image whose colours are these once mean 0.5 and standard deviation 0.25 are taken off."""
    pixels = torch.tensor([red, green, 0.0]) * 0.25 + 0.5
    return pixels.view(1, 3, 1, 1).expand(1, 3, 8, 8).contiguous()


RECEIVING, GIVING = (1.0, 1.0), (2.0, 1.0)
"""Of the receiving image a = (1, 1), b = (3, 2), c = (5, 1); of the giving one a = (2, 1), b = (4, 5), c = (9, 0)."""


def direct(bundle, images: Tensor, changed: Tensor, source: tuple[int, int], end: int) -> Tensor:
    """The maps that arrive at one site when one earlier map changes and all other sites hold what they held.

    Goldowsky-Dill, MacLeod, Sato, Arora, Localizing model behavior with path patching (2023).
    """
    own, arrived = hooks.record(bundle, images).maps, []

    def visit(number: int, tensor: Tensor) -> Tensor:
        if number == end:
            arrived.append(tensor)
        if number >= len(own):
            return tensor
        held = own[number].clone()
        if number == source[0]:
            held[:, source[1]] = changed
        return held

    with torch.no_grad(), bundle.visiting(visit):
        bundle.logits(images)
    return arrived[0]


def one_map(site: int, channel: int, values: Tensor):
    """A visitor that puts values into one map."""

    def visit(number: int, tensor: Tensor) -> Tensor:
        if number != site:
            return tensor
        tensor = tensor.clone()
        tensor[:, channel] = values
        return tensor

    return visit


def linear_everywhere(network: nn.Module) -> nn.Module:
    """Make every weight before the logits positive and every bias so large that no activation is ever cut."""
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if not name.startswith("linear"):
                tensor.copy_(torch.full_like(tensor, 40.0) if name.endswith("bias") else tensor.abs() * 0.2)
    return network


def gradients_of(bundle, images: Tensor, targets: Tensor, rivals: Tensor) -> dict[int, Tensor]:
    """The plain gradients of the margin that connections need; on a linear network they are the same everywhere."""
    network, found = precision.folded(bundle), hooks.GradientMean(edges.taps(bundle), 1)
    leaf = images.clone().requires_grad_()
    with network.visiting(found):
        margin = hooks.margins(network.logits(leaf), targets, rivals).sum()
    torch.autograd.grad(margin, leaf)
    return found.means


@pytest.mark.parametrize("make", [toys.Chain, toys.Residual])
def test_on_a_linear_network_patching_a_connection_changes_the_margin_by_its_contribution(make):
    bundle = toys.bundle(linear_everywhere(toys.seeded(make())))
    images, starts = toys.pictures(1, seed=1), toys.pictures(1, seed=2)
    target, rival = torch.tensor([0]), torch.tensor([1])
    giving, own = hooks.record(bundle, images), hooks.record(bundle, starts)
    assert min(float(site.min()) for site in (*giving.maps, *own.maps)) > 0, "some activation is cut"
    before = hooks.margins(own.logits, target, rival)
    # Margins are differences of logits, each rounded to float32.
    rounding = 2e-6 * float(own.logits.abs().max())
    found = edges.between(bundle, images, starts, gradients_of(bundle, images, target, rival))
    for (source, end), matrix in found.matrices.items():
        for reader, channel in ((0, 0), (1, 2), (matrix.shape[0] - 1, matrix.shape[1] - 1)):
            arrived = direct(bundle, starts, giving.maps[source][:, channel], (source, channel), end)[:, reader]
            with torch.no_grad(), bundle.visiting(one_map(end, reader, arrived)):
                logits = bundle.logits(starts)
            change = hooks.margins(logits, target, rival) - before
            assert float(change) == pytest.approx(float(matrix[reader, channel]), abs=rounding, rel=1e-3)
    assert max(float(matrix.abs().max()) for matrix in found.matrices.values()) > 100 * rounding


def picked(bundle, *maps: tuple[int, int]) -> tuple[Tensor, ...]:
    chosen = [torch.zeros(1, site.channels, dtype=torch.bool) for site in bundle.sites]
    for site, channel in maps:
        chosen[site][0, channel] = True
    return tuple(chosen)


def test_a_replaced_map_holds_the_other_runs_values(sums):
    giving = hooks.record(sums, coloured(*GIVING))
    with torch.no_grad(), causal.replacing(sums, picked(sums, (1, 0)), giving.maps):
        logits = sums.logits(coloured(*RECEIVING))
    assert logits[0].tolist() == pytest.approx([6.0, 2.0, 0.0], abs=1e-5), "b = (4, 2)"


@pytest.fixture(scope="module")
def digits(demo_store, tmp_path_factory):
    store = stores.copied(demo_store, tmp_path_factory.mktemp("interventions") / "store")
    return register.bundle(store, "digits-standard"), store.dataset("digits")


def test_means_are_those_of_a_loop_over_images(digits, monkeypatch):
    bundle, dataset = digits
    monkeypatch.setattr(causal, "MEAN_IMAGES", 7)
    rows = np.linspace(0, dataset.card.count - 1, 7).astype(int)
    by_position, by_channel = (causal.clean_means(bundle, dataset, kind) for kind in ("position", "channel"))
    assert by_position.images == 7
    runs = [
        hooks.record(bundle, torch.from_numpy(dataset.images((dataset.keys[k],)) / 255).float().permute(0, 3, 1, 2))
        for k in rows
    ]
    for k in (0, 3):
        expected = torch.stack([run.maps[k][0] for run in runs]).mean(dim=0)
        assert torch.allclose(by_position.maps[k][0], expected, atol=1e-5)
        assert torch.allclose(by_channel.maps[k][0, 2], expected[2].mean().expand_as(expected[2]), atol=1e-5)


def state(bundle) -> dict[str, object]:
    """All that an intervention might leave behind."""
    modules = list(bundle.network.modules())
    return {
        "hooks": [
            [len(getattr(module, name)) for name in vars(module) if name.endswith("_hooks")] for module in modules
        ],
        "visits": [probe.visit for probe in bundle.taps],
        "modes": [module.training for module in modules],
        "gradients": [(tensor.requires_grad, tensor.grad) for tensor in bundle.network.parameters()],
        "values": [tensor.clone().numpy().tobytes() for tensor in bundle.network.state_dict().values()],
        "gradient mode": torch.is_grad_enabled(),
        "random": [torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()],
    }


@dataclass(frozen=True, eq=False)
class Scene:
    """What interventions are tried on."""

    bundle: ModelBundle
    dataset: Dataset
    request: FooledRequest
    group: subjects.FooledGroup
    images: Tensor
    giving: hooks.Trace
    chosen: hooks.PerMap
    means: causal.Means


@pytest.fixture(scope="module")
def scene(digits):
    bundle, dataset = digits
    samples = dataset.keys_of(3)[:2] + dataset.keys_of(5)[:2]
    request = FooledRequest("digits-standard", "digits", engine.attack("pgd-linf:eps=24/255,steps=2"), samples)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    chosen = scorers.at_random(bundle, 2, 8, torch.Generator().manual_seed(0))
    giving, means = hooks.record(bundle, images.flip(0)), causal.clean_means(bundle, dataset, "position")
    return Scene(
        bundle, dataset, request, subjects.gather_group(bundle, dataset, request), images, giving, chosen, means
    )


def all_interventions(scene: Scene, report) -> dict[str, Callable[[], object]]:
    """Every way in which the engine intervenes on a run."""
    bundle, images, giving, chosen = scene.bundle, scene.images, scene.giving, scene.chosen
    choices = torch.cat(chosen, dim=1)[:, None].expand(-1, len(scene.group.images.samples), -1)

    def inside(context):
        with context:
            report(0, 0, "inside")
            bundle.logits(images)

    asked = dict.fromkeys(STUDIES, scene.request)
    asked["group-proof"] = GroupTestRequest(scene.request, MapSet((bundle.sites[2].name,), ((1, 2),)), "restore")
    made = {
        "another run": lambda: inside(causal.replacing(bundle, chosen, giving.maps)),
        "mean": lambda: inside(causal.replacing(bundle, chosen, scene.means.maps)),
        "means": lambda: causal.clean_means(bundle, scene.dataset, "channel"),
        "exchange": lambda: exchanges.exchanges(scene.group, "inject").tried(choices),
    }
    for kind, answer in STUDIES.items():
        made[kind] = functools.partial(answer, bundle, scene.dataset, asked[kind], report)
    return made


NAMES = ("another run", "mean", "means", "exchange", *STUDIES)
REPORTED = ("another run", "mean", *STUDIES)


@pytest.fixture
def small(monkeypatch):
    for module in (causal, minimal, minimal, causal):
        monkeypatch.setattr(module, "DRAWS", 2)
    monkeypatch.setattr(causal, "CLEAN_IMAGES", 4)
    monkeypatch.setattr(causal, "MEAN_IMAGES", 4)
    monkeypatch.setattr(causal, "COUNTS", (2, 8))
    monkeypatch.setattr(minimal, "PASSES", 1)


def quiet(*_told: object) -> None:
    pass


def test_the_list_of_interventions_is_whole(scene):
    assert set(all_interventions(scene, quiet)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_as_before_after_success_and_after_an_error_in_any_pass(scene, small, name, monkeypatch):
    """The last layer fails in the first, the middle or the last pass."""
    work, before = all_interventions(scene, quiet)[name], state(scene.bundle)
    last = [module for module in scene.bundle.network.modules() if isinstance(module, nn.Linear)][-1]
    whole, passes, fails_at = last.forward, [], [10**9]

    def forward(tensor):
        passes.append(1)
        if len(passes) > fails_at[0]:
            raise RuntimeError("no more memory")
        return whole(tensor)

    with monkeypatch.context() as patch:
        patch.setattr(last, "forward", forward)
        work()
        passed = len(passes)
        after_success = state(scene.bundle)
        for number in sorted({0, passed // 2, passed - 1}):
            fails_at[0] = number
            passes.clear()
            with pytest.raises(RuntimeError, match="no more memory"):
                work()
    assert after_success == before
    assert state(scene.bundle) == before


@pytest.mark.parametrize("name", REPORTED)
def test_a_network_is_as_before_after_it_was_cancelled(scene, small, name):
    def cancel(_done, _total, message):
        if message != "Attacking":
            raise KeyboardInterrupt

    work, before = all_interventions(scene, cancel)[name], state(scene.bundle)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert state(scene.bundle) == before
