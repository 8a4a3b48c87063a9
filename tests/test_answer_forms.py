"""Probabilities are told from logits however they were made, and logits are left in peace however they look."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from engine.attacks import guards, runner
from engine.checks import attacks
from engine.errors import BadInput
from engine.specs.catalogue import Fgsm
from tests import toys
from tests.test_attack_sanity import Wrapped, batch, demo

Made = Callable[[Tensor], Tensor]

PROBABILITIES: dict[str, Made] = {
    "softmax": lambda z: z.softmax(1),
    "softmax in half precision": lambda z: z.half().softmax(1).float(),
    "sigmoid": lambda z: z.sigmoid(),
    "sigmoid of three times": lambda z: (3 * z).sigmoid(),
    "hard sigmoid": F.hardsigmoid,
    "one-hot": lambda z: F.one_hot(z.argmax(1), z.shape[1]).float(),
    "rounded": lambda z: (z.softmax(1) * 100).round() / 100,
    "clamped": lambda z: z.softmax(1).clamp(1e-6, 1 - 1e-6),
    "clamped far": lambda z: z.softmax(1).clamp(0.01, 0.99),
    "smoothed": lambda z: 0.9 * z.softmax(1) + 0.1 / z.shape[1],
    "a little more": lambda z: z.softmax(1) + 1e-3,
    "percent": lambda z: 100 * z.softmax(1),
    "whole percent": lambda z: (100 * z.softmax(1)).round(),
    "percent of a sigmoid": lambda z: 100 * z.sigmoid(),
    "of 255": lambda z: 255 * z.softmax(1),
    "cooled, then scaled": lambda z: 10 * (z / 5).softmax(1),
}
LOGARITHMS: dict[str, Made] = {
    "log-softmax": lambda z: z.log_softmax(1),
    "log of softmax": lambda z: (z.softmax(1) + 1e-8).log(),
    "log of clamped": lambda z: z.softmax(1).clamp(1e-6, 1).log(),
    "log of smoothed": lambda z: (0.9 * z.softmax(1) + 0.1 / z.shape[1]).log(),
    "log to base 2": lambda z: z.log_softmax(1) / torch.tensor(2.0).log(),
    "log to base 10": lambda z: z.softmax(1).clamp_min(1e-12).log10(),
    "log-sigmoid": F.logsigmoid,
    "log of sigmoid": lambda z: (z.sigmoid() + 1e-6).log(),
}
LOGITS: dict[str, Made] = {
    "as they are": lambda z: z,
    "tiny": lambda z: 0.001 * z,
    "large": lambda z: 1000 * z,
    "all positive": lambda z: z + 100,
    "all negative": lambda z: z - 100,
    "centred": lambda z: z - z.mean(1, keepdim=True),
    "behind a ReLU": F.relu,
    "negative behind a ReLU": lambda z: -F.relu(z) - 0.5,
    "distances": lambda z: -((z - 3) ** 2),
    "small and positive": lambda z: 0.5 + 0.01 * z,
    "capped softly": lambda z: 30 * (z / 30).tanh(),
    "cosines": lambda z: F.normalize(z, dim=1),
}


def answering(made: Made, name: str = "standard") -> Made:
    return lambda given: made(demo(name).logits(given))


def found(answer: Made, pictures: Tensor) -> str:
    with torch.no_grad():
        return guards.form_of(answer, pictures, answer(pictures))


@pytest.mark.parametrize("name", ["standard", "robust"])
@pytest.mark.parametrize("form", {**PROBABILITIES, **LOGARITHMS})
def test_what_is_no_logit_is_told(form, name):
    assert found(answering({**PROBABILITIES, **LOGARITHMS}[form], name), batch(8).pictures)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("name", ["standard", "robust"])
@pytest.mark.parametrize("form", LOGITS)
def test_logits_are_left_in_peace(form, name, count):
    assert found(answering(LOGITS[form], name), batch(count).pictures) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_of_few_images_only_what_cannot_be_chance_is_told(count):
    pictures = batch(count).pictures
    assert found(answering(PROBABILITIES["softmax"]), pictures)
    assert found(answering(LOGARITHMS["log-softmax"]), pictures)
    assert found(answering(PROBABILITIES["sigmoid"]), pictures) == ""


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("network", "classes"), [(toys.Residual, 2), (toys.Residual, 3), (toys.Chain, 2), (toys.Chain, 10)]
)
def test_networks_that_learned_nothing_answer_logits_too(network, classes, seed):
    made = toys.seeded(network(classes=classes), seed)
    assert found(made, toys.pictures(8, seed=seed)) == ""
    assert found(lambda given: made(given).softmax(1), toys.pictures(8, seed=seed))
    assert found(lambda given: made(given).sigmoid(), toys.pictures(8, seed=seed))


@pytest.mark.parametrize("name", ["squeezenet1_1", "convnext_tiny", "mnasnet0_5"])
def test_known_architectures_with_random_weights_answer_logits(name):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    pictures = toys.pictures(6, side=64)
    assert found(network, pictures) == ""
    assert found(lambda given: network(given).sigmoid(), pictures)


def test_a_network_that_refuses_pictures_outside_their_range_is_judged_by_its_answers():
    def strict(given: Tensor) -> Tensor:
        if not bool(((given >= 0) & (given <= 1)).all()):
            raise ValueError("Pictures must lie in [0, 1].")
        return demo("standard").logits(given).sigmoid()

    assert found(strict, batch(8).pictures) == "all lie between 0 and 1, as probabilities do"


def test_answers_that_are_not_finite_have_no_form():
    assert guards.form(torch.full((5, 3), float("nan"))) == ""


@pytest.mark.parametrize("form", ["sigmoid", "percent", "clamped", "one-hot"])
def test_attacks_and_checks_refuse_them(form):
    given = batch(8)
    model = Wrapped(demo("standard"), answering(PROBABILITIES[form]))
    with pytest.raises(
        BadInput, match=r"The network's answers .* attacks need the logits before a softmax or sigmoid\."
    ):
        runner.run(model, given.pictures, given.labels, Fgsm(Fraction(8, 255)), torch.arange(8), samples=given.samples)
    look = attacks.look_at(model, given.pictures, given.labels)
    assert look.form
