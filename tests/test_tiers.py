"""Tiers: what they run, and that the cost stated beforehand is the cost counted afterwards."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from engine.attacks import attacked, runner
from engine.audit import compute, tiers
from engine.checks import attacks
from engine.errors import UnknownName
from engine.specs import catalogue
from engine.specs.catalogue import ATTACKS
from engine.types.checks import Setup
from tests import toys

COUNT = 6
EPSILON = Fraction(8, 255)
CLASSES = tuple("abcdef")
SAMPLES = tuple(str(k) for k in range(COUNT))
SHORT = {"steps": "steps=7", "queries": "queries=40"}


class Counted:
    """A toy that counts the images it is shown, with and without a gradient."""

    def __init__(self) -> None:
        self.bundle = toys.bundle(toys.seeded(toys.Residual(len(CLASSES)), 3), classes=CLASSES)
        self.network, self.classes, self.device = self.bundle.network, CLASSES, self.bundle.device
        self.passes = self.forwards = 0

    def logits(self, given: Tensor) -> Tensor:
        if given.requires_grad:
            self.passes += len(given)
        else:
            self.forwards += len(given)
        return 0.01 * self.bundle.logits(given) + 3 * self.bundle.logits(given.detach() * 0 + 0.5).detach()


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return toys.pictures(COUNT)


def short(name: str):
    settings = [
        SHORT[card.name] for card in next(c for c in catalogue.cards() if c.name == name).settings if card.name in SHORT
    ]
    return catalogue.attack(f"{name}:{','.join(settings)}" if settings else name)


def test_a_universal_patch_costs_its_steps_on_what_it_learns_from_once_for_a_class(counted, pictures):
    spec = catalogue.attack("universal-patch:steps=3,images=4")
    fellows = attacked.Fellows("a class", lambda _label, count: pictures[:count])
    with torch.no_grad():
        own = counted.logits(pictures).argmax(dim=1)
    assert len(own.unique()) == 1
    for _ in range(2):
        runner.run(counted, pictures, own, spec, torch.arange(COUNT), samples=SAMPLES, fellows=fellows)
        assert counted.passes == 3 * 4 <= tiers.cost(spec, len(CLASSES)).passes * COUNT


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "universal-patch"])
def test_an_attack_costs_what_was_stated(name, counted, pictures):
    """On images that resist, where nothing stops early: passes exactly, forward passes at most one point more."""
    with torch.no_grad():
        own = counted.logits(pictures).argmax(dim=1)
    counted.forwards = 0
    spec = short(name)
    found = runner.run(counted, pictures, own, spec, torch.arange(COUNT), samples=SAMPLES)
    assert {outcome.status for outcome in found.outcomes} <= {"resisted", "unperturbed"}  # FAB finds no crossing here
    stated = tiers.cost(spec, len(CLASSES))
    assert counted.passes == stated.passes * COUNT
    assert 0 <= stated.forwards * COUNT - counted.forwards <= COUNT * (1 + 5 * (name in ("apgd-t", "fab-t")))


def test_the_checks_cost_what_was_stated(counted, pictures):
    with torch.no_grad():
        own = counted.logits(pictures).argmax(dim=1)
    counted.forwards = 0
    setup = Setup("toy", EPSILON, steps=5, queries=20)
    attacks.check(counted, attacked.Batch(pictures, own, SAMPLES), setup, attacks.Reference("same", counted))
    every, left = tiers.check_cost(setup, len(CLASSES))
    assert counted.passes == every.passes * COUNT
    assert 0 <= (every.forwards + left.forwards) * COUNT - counted.forwards <= 12 * COUNT


def test_an_attack_that_does_not_apply_costs_nothing():
    assert tiers.cost(catalogue.attack("apgd-t"), 3) == tiers.Cost(0, 0)
    assert tiers.cost(catalogue.attack("apgd-t"), 4).passes == 3 * 101


@pytest.mark.parametrize(
    ("tier", "classes", "told"),
    [
        ("fast", 2, ()),
        ("standard", 2, ("apgd-dlr needs at least 3 classes, the model has 2.",)),
        ("thorough", 2, ("apgd-dlr needs at least 3", "apgd-t needs at least 4")),
        ("thorough", 3, ("apgd-t needs at least 4",)),
        ("thorough", 4, ()),
        ("standard", 1, ("mifgsm-linf needs at least 2", "apgd-dlr needs at least 3")),
        ("custom", 1, ()),
    ],
)
def test_what_few_classes_do_not_allow_is_told_with_its_reason(tier, classes, told):
    found = tiers.left_out(tier, classes)
    assert len(found) == len(told)
    assert all(sentence.startswith(start) for sentence, start in zip(found, told, strict=True))


def test_each_tier_runs_all_of_the_one_below():
    fast, standard, thorough = (tiers.contents(name, EPSILON, 32) for name in tiers.TIERS)
    assert set(fast.everywhere) < set(standard.everywhere) == set(thorough.everywhere)
    assert fast.in_cascade == ()
    assert set(standard.in_cascade) - set(thorough.in_cascade) == {catalogue.attack("square:eps=8/255,queries=1000")}
    assert catalogue.attack("square:eps=8/255,queries=5000") in thorough.in_cascade
    assert fast.controls == standard.controls == thorough.controls
    assert len(fast.checks) == 16
    assert [tiers.TIERS[name].is_evidence for name in tiers.TIERS] == [False, True, True]


def test_only_the_thorough_tier_may_call_itself_autoattack():
    for name, may in (("fast", False), ("standard", False), ("thorough", True)):
        specs = tiers.contents(name, EPSILON, 32).in_cascade
        assert catalogue.is_autoattack(specs, EPSILON, 10) is may


@pytest.mark.parametrize(("side", "length"), [(32, "eps=0.5"), (224, "eps=3.5")])
def test_the_length_budget_grows_with_the_image(side, length):
    assert catalogue.attack(f"pgd-l2:{length},steps=20") in tiers.contents("standard", EPSILON, side).everywhere


def test_every_attack_of_a_tier_is_at_its_budget():
    found = tiers.contents("thorough", Fraction(2, 255), 32)
    for spec in (*found.controls, *found.everywhere, *found.in_cascade):
        assert spec.name == "pgd-l2" or spec.epsilon == Fraction(2, 255)


def test_an_unknown_tier_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'thorough'"):
        tiers.contents("thorogh", EPSILON, 32)


def test_the_pace_is_that_of_one_image_and_a_forward_is_the_shorter(pictures):
    bundle = toys.bundle(toys.seeded(toys.Residual(6), 3), classes=CLASSES)
    found = compute.measure_attack(bundle, pictures, torch.zeros(COUNT, dtype=torch.int64))
    assert 0 < found.forward_seconds < found.pass_seconds < 1


@pytest.mark.cluster
def test_tiers_and_checks_load_without_torch():
    code = "import sys, engine.audit.tiers, engine.types.checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
