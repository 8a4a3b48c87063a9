"""What the causal proof was accepted on, on the real CIFAR-10 ResNet-20: images from index 128 on, drawn by seed 0."""

from __future__ import annotations

import pytest

import engine
from engine.models import register
from engine.patching import causal, minimal, subjects
from engine.types.patching import FooledRequest
from tests import shared_data
from tests.shared_data import NEEDS_SHARED

pytestmark = [*NEEDS_SHARED, pytest.mark.slow]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store = shared_data.filled(tmp_path_factory.mktemp("causal"), "resnet20")
    return register.bundle(store, "resnet20"), store.dataset("cifar10")


def quiet(*_told: object) -> None:
    pass


def group(world, images: int, attack: str = shared_data.ATTACK, seed: int = 0) -> FooledRequest:
    """Correctly classified images from index 128 on."""
    samples = subjects.choose(*world, images, first=128, seed=0).samples
    return FooledRequest("resnet20", "cifar10", engine.attack(attack), samples, seed)


def at_32(world, request, monkeypatch):
    """The restoration curve at 32 maps alone."""
    monkeypatch.setattr(causal, "COUNTS", (32,))
    monkeypatch.setattr(causal, "DRAWS", 2)
    found = causal.curve(*world, request, quiet)
    return len(found.group.samples), {line.name: line for line in found.lines}


def restored(lines, name: str) -> float:
    return lines[name].effects[0].flipped


@pytest.mark.parametrize(
    ("attack", "seed"), [(shared_data.ATTACK, 0), (shared_data.ATTACK, 1), ("mifgsm-linf:eps=8/255", 0)]
)
def test_32_maps_restore_the_label_and_no_control_does(world, monkeypatch, attack, seed):
    """The attack and seed that methods were chosen on, another seed of all random starts, another attack."""
    fooled, lines = at_32(world, group(world, 200, attack, seed), monkeypatch)
    assert fooled >= 180
    assert restored(lines, "attack flow") >= 0.94
    assert restored(lines, "random") <= 0.06
    assert restored(lines, "third class") <= 0.03
    assert restored(lines, "noisy copy") <= 0.03
    assert lines["another image"].their_own[0].value >= 0.85


def test_the_smallest_sets_take_6_maps_at_most_in_the_mean_and_never_one_alone(world, monkeypatch):
    monkeypatch.setattr(minimal, "DRAWS", 2)
    monkeypatch.setattr(minimal, "EXACT", 8)
    found = minimal.find(*world, group(world, 40), quiet)
    assert found.sizes.value <= 6.5
    assert found.sizes.value < found.ranked.value
    assert all(image.bound >= 2 or image.chosen.count == 1 for image in found.images)
    assert found.monotone.held >= 0.9 * found.monotone.tried
    assert all(image.is_restored for image in found.images)
    assert found.sizes.value <= found.prefixes.value <= 17
    assert found.shared.is_reached
    assert found.random.flipped <= 0.06


def test_fixing_the_restoring_maps_to_their_means_is_no_defence(world, monkeypatch):
    """Guards a finding: with their own clean values they restore held-out images, with mean values they cost accuracy."""
    monkeypatch.setattr(causal, "DRAWS", 2)
    hint = causal.hint(*world, group(world, 60), quiet)
    assert hint.own_values.flipped >= 0.6
    assert hint.own_values_random.flipped <= 0.06
    assert hint.adversarial.after.value <= 0.5
    assert hint.clean.change.high < 0
