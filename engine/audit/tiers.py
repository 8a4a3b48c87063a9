"""Tiers: how thoroughly an audit attacks, and what that costs before it starts. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from engine.errors import UnknownName
from engine.specs import catalogue
from engine.specs.catalogue import (
    ApgdCe,
    ApgdDlr,
    Fgsm,
    MiFgsm,
    NoiseGaussian,
    NoiseShuffled,
    NoiseSign,
    PgdL2,
    PgdLinf,
    Square,
)
from engine.specs.threat_model import Attack, Cost
from engine.types.checks import CHECKS, CURVE, Setup

TierName = Literal["fast", "standard", "thorough"]
CHECKED_IMAGES = 64
"""Images the attack sanity checks are made on, at most."""
ANY_EPSILON = Fraction(8, 255)
"""Which attacks apply does not depend on their budget."""
SIDE_OF_UNIT_LENGTH = 64
"""Pixels per unit of the usual L2 budget: 0.5 at 32 pixels, 3.5 at 224."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What menus show of a tier."""

    name: TierName
    title: str
    help: str
    is_evidence: bool
    """False where the result is for screening and no ground for an approval."""


TIERS: dict[str, Tier] = {
    "fast": Tier(
        "fast",
        "Fast",
        "Controls, FGSM, MI-FGSM, PGD and the attack sanity checks. For screening: it is no evidence for an approval.",
        is_evidence=False,
    ),
    "standard": Tier(
        "standard",
        "Standard",
        "Fast, with PGD in L2 and a targeted MI-FGSM, and then, on what is still unbroken, PGD-20, APGD on both losses "
        "and Square. The default for an approval.",
        is_evidence=True,
    ),
    "thorough": Tier(
        "thorough",
        "Thorough",
        "Standard, with the rest of AutoAttack on what is still unbroken: APGD-T, FAB-T and the full Square.",
        is_evidence=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a tier runs."""

    controls: tuple[Attack, ...]
    everywhere: tuple[Attack, ...]
    """Attacks on every image."""
    in_cascade: tuple[Attack, ...]
    """Attacks in order, each on the images that nothing has broken yet."""
    checks: tuple[str, ...]
    """Names of the attack sanity checks."""


def tier(name: str) -> Tier:
    """Return a tier by name; raises UnknownName."""
    if name not in TIERS:
        raise UnknownName("tier", name, TIERS)
    return TIERS[name]


def contents(name: str, epsilon: Fraction, side: int) -> Contents:
    """Return what a tier runs at an Linf budget on images of a shorter side in pixels; raises UnknownName."""
    result = tier(name).name
    controls = (NoiseSign(epsilon), NoiseGaussian(epsilon), NoiseShuffled(epsilon))
    everywhere: tuple[Attack, ...] = (Fgsm(epsilon), MiFgsm(epsilon), PgdLinf(epsilon))
    in_cascade: tuple[Attack, ...] = ()
    if result != "fast":
        length = Fraction(side, SIDE_OF_UNIT_LENGTH)
        everywhere += (PgdL2(length), MiFgsm(epsilon, target=catalogue.RANDOM))
        in_cascade = (PgdLinf(epsilon, 20), ApgdCe(epsilon), ApgdDlr(epsilon))
    if result == "standard":
        in_cascade += (Square(epsilon, 1000),)
    if result == "thorough":
        in_cascade += tuple(spec for spec in catalogue.autoattack(epsilon) if spec not in in_cascade)
    return Contents(controls, everywhere, in_cascade, tuple(check.name for check in CHECKS))


def left_out(name: str, classes: int) -> tuple[str, ...]:
    """Return which attacks of a tier a model of so many classes does not allow, one sentence each; none of no tier."""
    if name not in TIERS:
        return ()
    result = contents(name, ANY_EPSILON, SIDE_OF_UNIT_LENGTH)
    obstacles = [catalogue.obstacle(item, classes) for item in (*result.everywhere, *result.in_cascade)]
    return tuple(dict.fromkeys(item for item in obstacles if item))


def cost(spec: Attack, classes: int) -> Cost:
    """Return what an attack costs per image; nothing where it does not apply to so few classes."""
    if catalogue.obstacle(spec, classes):
        return Cost(0, 0)
    return spec.cost(classes)


def check_cost(setup: Setup, classes: int) -> tuple[Cost, Cost]:
    """Return what the attack sanity checks cost per image, and per image that no gradient attack fools."""
    short, long = (
        cost(PgdLinf(setup.epsilon, setup.steps), classes),
        cost(PgdLinf(setup.epsilon, 2 * setup.steps), classes),
    )
    total = Cost(1, 3) + cost(Fgsm(setup.epsilon), classes)
    for _ in range(setup.draws):
        total += cost(NoiseSign(setup.epsilon), classes)
    for _ in ("budget", "huge", *CURVE):
        total += short
    # The second long one is the transferred one, on the other network.
    return total + long + long + Cost(0, 1), cost(Square(setup.epsilon, setup.queries), classes)
