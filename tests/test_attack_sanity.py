"""Credibility checks: planted defects are found by the checks that are there for them, and nothing else is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine import demo as digits
from engine import images
from engine.attacks.attacked import Batch
from engine.checks import attacks as checking
from engine.checks import attacks as verdicts
from engine.checks.attacks import Attacks, Fared, Look, Reference, Transfer
from engine.errors import BadInput
from engine.types import checks
from engine.types.checks import CHECKS, AttackSanity, Setup
from tests.test_demo import shipped

NAMES = [f"G{number}" for number in range(1, 17)]
COUNT = 10
SETUP = Setup("demo", Fraction(48, 255), steps=4, queries=60, block=10)
"""Short, and strong enough that noise alone fools some digits."""


class Wrapped:
    """A demo network with something in front of it or behind it."""

    def __init__(self, bundle, answer: Callable[[Tensor], Tensor]) -> None:
        self.network, self.classes, self.device = bundle.network, bundle.classes, bundle.device
        self.answer = answer

    def logits(self, given: Tensor) -> Tensor:
        return self.answer(given)


@functools.cache
def demo(name: str):
    return shipped(f"digits-{name}")


def optimised(given: Tensor) -> Tensor:
    """A defence that looks for a better input by gradient before it answers."""
    with torch.enable_grad():
        moved = given.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(demo("standard").logits(moved).logsumexp(dim=1).sum(), moved)
    return demo("standard").logits(given + 0.001 * gradient.sign())


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "standard": lambda given: demo("standard").logits(given),
    "robust": lambda given: demo("robust").logits(given),
    "scaled": lambda given: 1000 * demo("standard").logits(given),
    "quantised": lambda given: demo("standard").logits((given * 8).round() / 8),
    "noisy": lambda given: demo("standard").logits(given + 0.2 * torch.randn_like(given)),
    "probabilities": lambda given: demo("standard").logits(given).softmax(dim=1),
    "mislabelled": lambda given: demo("standard").logits(given).roll(1, dims=1),
    "not finite": lambda given: demo("standard").logits(given) / 0,
    "optimising": optimised,
}


def batch(count: int = COUNT) -> Batch:
    held_out = digits.held_out()
    pictures = np.ascontiguousarray(np.moveaxis(held_out.x[:count], 3, 1))
    labels = torch.from_numpy(np.array(held_out.y[:count], dtype=np.int64))
    return Batch(torch.from_numpy(images.to_float(pictures)), labels, tuple(held_out.names[:count]))


@functools.cache
def checked(case: str) -> AttackSanity:
    model = Wrapped(demo("robust" if case == "robust" else "standard"), CASES[case])
    reference = Reference("other", demo("standard" if case != "standard" else "robust"))
    return checking.check(model, batch(), SETUP, reference)


MASKED = ("G4", "G6", "G8", "G10", "G11", "G14")


@pytest.mark.parametrize(
    ("case", "failing"),
    [
        ("standard", ()),
        ("robust", ()),
        ("scaled", MASKED),
        ("quantised", MASKED),
        ("noisy", ("G2",)),
        ("probabilities", ("G3",)),
        ("mislabelled", ("G1",)),
        ("optimising", ("G16",)),
    ],
)
def test_the_checks_that_fail_are_those_for_the_planted_defect(case, failing):
    found = checked(case)
    assert found.with_outcome("fail") == failing
    assert found.verdict == ("fail" if failing else "pass")
    assert tuple(result.check for result in found.results) == tuple(NAMES)


@pytest.mark.parametrize("case", ["probabilities", "mislabelled", "not finite"])
def test_what_was_not_run_says_why_and_does_not_read_as_passed(case):
    found = checked(case)
    left_out = [result for result in found.results if result.outcome == "not run"]
    assert [result.check for result in left_out] == [f"G{number}" for number in range(4, 15)]
    assert all(result.sentence.startswith("Not run: ") and not result.figures for result in left_out)
    assert found.verdict == "fail"
    assert found.conditions.attacks == ()


def test_without_a_reference_the_verdict_is_incomplete():
    model = Wrapped(demo("standard"), CASES["standard"])
    found = checking.check(model, batch(8), replace(SETUP, steps=2, queries=5))
    assert found.with_outcome("not run") == ("G11",)
    assert found.verdict == "incomplete"


def test_the_conditions_are_those_of_the_run():
    found = checked("standard")
    conditions = found.conditions
    assert found.images == COUNT
    assert found.epsilon == "48/255"
    assert "pgd-linf:eps=48/255,steps=8" in conditions.attacks
    assert "square:eps=48/255,queries=60" in conditions.attacks
    assert f"torch {torch.__version__.partition('+')[0]}" in {
        version.partition("+")[0] for version in conditions.versions
    }
    assert (conditions.seed, conditions.block, conditions.device, conditions.reference) == (0, 10, "cpu", "other")


def test_checks_are_the_same_each_time_and_leave_the_network_alone():
    bundle = demo("standard")
    before = [parameter.clone() for parameter in bundle.network.parameters()], torch.random.get_rng_state()
    small = replace(SETUP, steps=2, queries=10)
    first, second = (checking.check(bundle, batch(8), small) for _ in range(2))
    assert first == second
    assert all(torch.equal(one, other) for one, other in zip(before[0], bundle.network.parameters(), strict=True))
    assert torch.equal(before[1], torch.random.get_rng_state())


@pytest.mark.parametrize("epsilon", [Fraction(0), Fraction(1, 510), Fraction(8)])
def test_a_budget_that_8_bits_cannot_hold_or_that_was_typed_wrongly_is_refused(epsilon):
    with pytest.raises(BadInput, match=r"budget from 1/255 to 0\.5"):
        Setup("demo", epsilon)


# Verdicts on made-up evidence


N = 100


def fared(fooled: int, *, unmoved: int = 0, largest: float = 0.1, first: int = 0) -> Fared:
    places = np.arange(N)
    return Fared((places >= first) & (places < first + fooled), places < unmoved, largest, 0.1)


def look(**changes) -> Look:
    plain = Look(10, np.arange(N) < 90, np.zeros(N, dtype=bool), 0.0, 0, True, "", False)
    return replace(plain, **changes)


def attacks(**changes) -> Attacks:
    curve = tuple((Fraction(k, 255), fared(20 * k)) for k in (1, 2, 3))
    plain = Attacks((fared(5),), fared(40), fared(60), fared(61), fared(90), curve, fared(0), None)
    return replace(plain, **changes)


def outcomes(seen: Look, runs: Attacks | None) -> dict[str, str]:
    return {result.check: result.outcome for result in verdicts.judge(seen, runs, checked("standard").conditions)}


def test_plain_evidence_passes_everything_that_was_run():
    found = outcomes(look(), attacks())
    assert {name for name, outcome in found.items() if outcome != "pass"} == {"G11"}


@pytest.mark.parametrize(
    ("check", "fine", "wrong"),
    [
        ("G5", {"pgd": fared(38), "longer": fared(39)}, {"pgd": fared(37), "longer": fared(39)}),
        ("G6", {"noise": (fared(5), fared(61))}, {"noise": (fared(5), fared(62))}),
        ("G8", {"huge": fared(80)}, {"huge": fared(79)}),
        ("G9", {"longer": fared(62)}, {"longer": fared(63)}),
        ("G10", {"square": fared(2, first=70)}, {"square": fared(3, first=70)}),
        ("G13", {"huge": fared(90, largest=0.1 + 9e-7)}, {"huge": fared(90, largest=0.1 + 2e-6)}),
        ("G13", {"noise": (fared(5),)}, {"noise": (fared(5), fared(5, largest=0.2))}),
        ("G14", {"fgsm": fared(40)}, {"fgsm": fared(40, unmoved=1)}),
        (
            "G7",
            {"curve": tuple(enumerate((fared(40), fared(38), fared(60))))},
            {"curve": tuple(enumerate((fared(40), fared(37), fared(60))))},
        ),
        (
            "G11",
            {"transfer": Transfer(np.arange(N) < 80, np.arange(N) < 63)},
            {"transfer": Transfer(np.arange(N) < 80, np.arange(N) < 64)},
        ),
    ],
)
def test_a_check_turns_at_its_limit_and_only_that_one(check, fine, wrong):
    usual = outcomes(look(), attacks())
    assert outcomes(look(), attacks(**fine))[check] == "pass"
    found = outcomes(look(), attacks(**wrong))
    assert found[check] == "fail"
    assert {name: outcome for name, outcome in found.items() if name != check} == {
        name: outcome for name, outcome in usual.items() if name != check
    }


@pytest.mark.parametrize("check", ["G5", "G7", "G9", "G10"])
def test_with_too_few_right_images_for_any_difference_to_count_a_check_is_not_run(check):
    """Two more or less are within tolerance, so of two right images nothing could ever fail."""
    for right, outcome in ((2, "not run"), (3, "pass")):
        few = look(right=np.arange(N) < right)
        none = attacks(pgd=fared(3), fgsm=fared(3), longer=fared(3), curve=((Fraction(1), fared(3)),))
        results = {item.check: item for item in verdicts.judge(few, none, checked("standard").conditions)}
        assert results[check].outcome == outcome
        assert outcome == "pass" or "no difference would exceed the tolerance of 2" in results[check].sentence


def test_a_transfer_that_no_image_took_part_in_is_not_run():
    none = Transfer(np.zeros(N, dtype=bool), np.zeros(N, dtype=bool))
    assert outcomes(look(), attacks(transfer=none))["G11"] == "not run"


def test_where_the_gradient_attacks_fool_everything_square_has_nothing_left_and_that_is_said():
    every = {name: fared(N) for name in ("fgsm", "pgd", "longer")}
    (result,) = [
        item for item in verdicts.judge(look(), attacks(**every), checked("standard").conditions) if item.check == "G10"
    ]
    assert result.outcome == "pass"
    assert result.sentence == "The gradient attacks fool all 90 images, so there is nothing left for Square to find."


def test_a_slow_rise_over_several_budgets_is_a_rise():
    slow = tuple(enumerate((fared(44), fared(42), fared(40))))
    assert outcomes(look(), attacks(curve=slow))["G7"] == "fail"


def test_attacks_that_break_down_did_not_move():
    clean = batch().pictures

    def breaking(given: Tensor) -> Tensor:
        is_known = (given[:, None] == clean[None]).flatten(2).all(dim=2).any(dim=1)
        return demo("standard").logits(given).masked_fill(~is_known[:, None], torch.nan)

    found = checking.check(Wrapped(demo("standard"), breaking), batch(), replace(SETUP, steps=2, queries=5))
    assert "G14" in found.with_outcome("fail")


def test_no_checks_at_all_pass_nothing():
    assert checks.verdict(()) == "incomplete"


def test_two_in_a_hundred_are_within_tolerance_and_one_percent_where_there_are_many():
    seen = look(right=np.ones(1000, dtype=bool))
    wide = {name: np.arange(1000) < count for name, count in (("fgsm", 500), ("fine", 490), ("wrong", 489))}
    for name, outcome in (("fine", "pass"), ("wrong", "fail")):
        one, many = (Fared(wide[key], wide[key] & False, 0.1, 0.1) for key in ("fgsm", name))
        still = Fared(wide[name], wide[name] & False, 0.1, 0.1)
        runs = Attacks((still,), one, many, many, one, ((Fraction(1), one),), still, None)
        assert outcomes(seen, runs)["G5"] == outcome


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("G1", {"right": np.arange(N) < 10}),
        ("G1", {"are_finite": False}),
        ("G2", {"difference": 2e-4}),
        ("G2", {"difference": float("nan")}),
        ("G3", {"form": "are probabilities"}),
        ("G4", {"useless_gradients": np.arange(N) == 3}),
        ("G16", {"needs_gradients": True}),
    ],
)
def test_what_is_seen_without_an_attack_can_fail(check, changes):
    assert outcomes(look(**changes), attacks())[check] == "fail"
    assert outcomes(look(), attacks())[check] == "pass"


def test_the_worst_case_counts_each_image_once():
    runs = attacks(fgsm=fared(30), pgd=fared(30, first=30), longer=fared(30, first=30), square=fared(2, first=70))
    (result,) = [item for item in verdicts.judge(look(), runs, checked("standard").conditions) if item.check == "G12"]
    assert result.sentence == "28 of 100 images stay right under every attack; the strongest single attack leaves 60."
    assert result.figures[0].value == 0.28


@pytest.mark.parametrize("field", ["model", "versions", "device", "precision"])
def test_a_condition_that_is_not_recorded_fails(field):
    conditions = replace(checked("standard").conditions, **{field: () if field == "versions" else ""})
    (result,) = [item for item in verdicts.judge(look(), attacks(), conditions) if item.check == "G15"]
    assert (result.outcome, result.sentence) == ("fail", f"Not recorded: {field}.")


def test_a_network_whose_answer_depends_on_no_pixel_has_no_gradient():
    class Constant:
        network, classes, device = nn.Identity(), tuple("0123456789"), torch.device("cpu")

        def logits(self, given: Tensor) -> Tensor:
            return torch.eye(10)[batch(16).labels[: len(given)]] * 5 - 1

    found = checking.check(Constant(), batch(16), replace(SETUP, steps=1, queries=2, block=16))
    assert "G4" in found.with_outcome("fail")


def test_every_check_has_its_texts():
    assert [check.name for check in CHECKS] == NAMES
    assert all(check.title and check.fails_when.endswith(".") for check in CHECKS)
