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
"""Images the credibility checks are made on, at most."""
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
        "Controls, FGSM, MI-FGSM, PGD and the credibility checks. For screening: it is no evidence for an approval.",
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
    survivors: tuple[Attack, ...]
    """Attacks in order, each on the images that nothing has broken yet."""
    checks: tuple[str, ...]
    """Names of the credibility checks."""


def tier(name: str) -> Tier:
    """Return a tier by name; raises UnknownName."""
    if name not in TIERS:
        raise UnknownName("tier", name, TIERS)
    return TIERS[name]


def contents(name: str, epsilon: Fraction, side: int) -> Contents:
    """Return what a tier runs at an Linf budget on images of a shorter side in pixels; raises UnknownName."""
    found = tier(name).name
    controls = (NoiseSign(epsilon), NoiseGaussian(epsilon), NoiseShuffled(epsilon))
    everywhere: tuple[Attack, ...] = (Fgsm(epsilon), MiFgsm(epsilon), PgdLinf(epsilon))
    survivors: tuple[Attack, ...] = ()
    if found != "fast":
        length = Fraction(side, SIDE_OF_UNIT_LENGTH)
        everywhere += (PgdL2(length), MiFgsm(epsilon, target=catalogue.RANDOM))
        survivors = (PgdLinf(epsilon, 20), ApgdCe(epsilon), ApgdDlr(epsilon))
    if found == "standard":
        survivors += (Square(epsilon, 1000),)
    if found == "thorough":
        survivors += tuple(spec for spec in catalogue.autoattack(epsilon) if spec not in survivors)
    return Contents(controls, everywhere, survivors, tuple(check.name for check in CHECKS))


def left_out(name: str, classes: int) -> tuple[str, ...]:
    """Return which attacks of a tier a model of so many classes does not allow, one sentence each; none of no tier."""
    if name not in TIERS:
        return ()
    found = contents(name, ANY_EPSILON, SIDE_OF_UNIT_LENGTH)
    obstacles = [catalogue.obstacle(one, classes) for one in (*found.everywhere, *found.survivors)]
    return tuple(dict.fromkeys(one for one in obstacles if one))


def cost(spec: Attack, classes: int) -> Cost:
    """Return what an attack costs per image; nothing where it does not apply to so few classes."""
    if catalogue.obstacle(spec, classes):
        return Cost(0, 0)
    return spec.cost(classes)


def check_cost(setup: Setup, classes: int) -> tuple[Cost, Cost]:
    """Return what the credibility checks cost per image, and per image that no gradient attack fools."""
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
