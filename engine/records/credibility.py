"""The credibility checks: whether an attack's failure may be read as robustness. Names, order, texts and records."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from engine.errors import BadInput
from engine.schemas import Schema

CheckOutcome = Literal["pass", "fail", "not run"]
Verdict = Literal["pass", "fail", "incomplete"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check, after Carlini et al. 2019 and the warnings of AutoAttack."""

    name: str
    title: str
    fails_when: str
    """One sentence."""


CHECKS: tuple[Check, ...] = (
    Check(
        "G1",
        "Clean accuracy",
        "The clean accuracy is no better than chance: the order of the labels or the preprocessing is probably wrong.",
    ),
    Check(
        "G2",
        "Same answer twice",
        "Two passes over the same images answer differently: attacks then need the expectation over the randomness.",
    ),
    Check(
        "G3",
        "Logits, not probabilities",
        "The network answers with probabilities (softmax, sigmoid, percentages) or their logarithms, whose gradients vanish "
        "where it is confident.",
    ),
    Check(
        "G4",
        "Gradients are there",
        "On an image that is classified correctly the gradient of the loss is zero at every pixel, or not finite.",
    ),
    Check("G5", "Many steps beat one", "PGD leaves more images right than FGSM does."),
    Check("G6", "Attacks beat noise", "Random noise of the same size fools an image that no gradient attack fools."),
    Check("G7", "More budget, less accuracy", "The accuracy under attack rises as the budget grows."),
    Check(
        "G8",
        "A huge budget breaks all",
        "With half the brightness range as budget the network still does better than chance.",
    ),
    Check("G9", "Converged", "Twice as many steps fool clearly more images."),
    Check(
        "G10",
        "White box beats black box",
        "Square, which uses no gradient, fools images that the gradient attacks do not.",
    ),
    Check(
        "G11",
        "White box beats transfer",
        "Images made against another network fool more often than those made against this one.",
    ),
    Check("G12", "Worst case per image", "The share of images that resist every attack is not what is reported."),
    Check("G13", "Budget kept", "An attacked image lies outside its budget or outside the range of brightness."),
    Check("G14", "Attacks moved", "A gradient attack left an image exactly as it was."),
    Check(
        "G15",
        "Conditions stated",
        "A parameter, a version, the seed, the batch size, the device or the precision is not recorded.",
    ),
    Check(
        "G16",
        "No gradients at inference",
        "The network needs gradients to answer: such a defence calls for an adaptive attack, which is not run.",
    ),
)
"""In the order they are shown."""

LIMITS = (
    "Attacks give an upper bound on robustness. Only budgets of pixel change and of length were tried; adaptive, hard-label "
    "and certified evaluations were not run."
)
"""Stands beneath every panel of these checks."""


HUGE = Fraction(1, 2)
"""A budget under which grey is within reach of every pixel."""
CURVE = (Fraction(1, 4), Fraction(1, 2), Fraction(2))
"""Budgets of the curve beside the budget itself, as shares of it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the checks are made. Raises BadInput for a budget below one step of 8 bits or above `HUGE`."""

    model: str
    """Content hash or name of the network, for the record."""
    epsilon: Fraction
    steps: int = 10
    queries: int = 300
    draws: int = 8
    """Of noise, per image. One is too few: it fooled 1 of 64 digits, also of a network whose gradients are masked."""
    seed: int = 0
    block: int = 64
    """Images per batch."""

    def __post_init__(self) -> None:
        if not Fraction(1, 255) <= self.epsilon <= HUGE:
            raise BadInput(f"The checks need a budget from 1/255 to {float(HUGE)}, got {float(self.epsilon):g}.")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number behind an outcome."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check came out."""

    check: str
    """Name of the check, such as `G4`."""
    outcome: CheckOutcome
    sentence: str
    """What was found, or why it was not run."""
    figures: tuple[Figure, ...] = ()


def with_outcome(results: tuple[CheckResult, ...], outcome: CheckOutcome) -> tuple[str, ...]:
    """Return the names of the checks that came out so."""
    return tuple(result.check for result in results if result.outcome == outcome)


def verdict(results: tuple[CheckResult, ...]) -> Verdict:
    """Return `fail` if any check failed, and `pass` only if there are some and all were run and passed."""
    if with_outcome(results, "fail"):
        return "fail"
    return "pass" if results and not with_outcome(results, "not run") else "incomplete"


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what the checks were made: everything needed to repeat them."""

    model: str
    """Content hash, or the name of a model that has none."""
    attacks: tuple[str, ...]
    """Full ids."""
    versions: tuple[str, ...]
    """Such as `torch 2.15.0`."""
    seed: int
    block: int
    """Images per batch."""
    device: str
    precision: str
    threads: int
    reference: str = ""
    """Model whose adversarial images were transferred; empty for none."""


@dataclass(frozen=True, slots=True)
class Credibility:
    """All sixteen checks of one model, in order."""

    SCHEMA: ClassVar[Schema] = Schema("attack-checks/1", "Credibility")

    results: tuple[CheckResult, ...]
    images: int
    epsilon: str
    """Budget of the attacks, such as `8/255`."""
    conditions: Conditions

    def with_outcome(self, outcome: CheckOutcome) -> tuple[str, ...]:
        """Return the names of the checks that came out so."""
        return with_outcome(self.results, outcome)

    @property
    def verdict(self) -> Verdict:
        """`fail` if any check failed; `pass` only if all sixteen were run and passed."""
        return verdict(self.results)
