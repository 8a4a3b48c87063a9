"""The attacks and noise controls by name: their settings, ids and cards. Imports no torch."""

# ruff: noqa: RUF009  (the calls in class bodies declare fields)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from engine import settings
from engine.attacks import rounding
from engine.attacks.corruption_specs import CORRUPTIONS
from engine.attacks.rounding import Norm
from engine.attacks.spec import NO_TARGET, Attack, Cost, Family, climb
from engine.errors import BadInput, UnknownName
from engine.settings import SettingCard, choice, setting
from engine.text_values import ReadBy

MOST_STEPS = 1000
MOST_QUERIES = 20000
MOST_TARGETS = 9
"""Classes that APGD-T and FAB-T try per image, as in AutoAttack; fewer where there are fewer other classes."""
NEXT, LEAST_LIKELY, RANDOM = "next", "least-likely", "random"
TARGET_RULES = (NO_TARGET, NEXT, LEAST_LIKELY, RANDOM)


def _linf_epsilon() -> Any:
    return setting(Fraction(8, 255), 0.0, 0.5, "Largest change of any pixel, on a scale from 0 to 1.", unit="1/255")


def _matched_epsilon() -> Any:
    return setting(Fraction(8, 255), 0.0, 0.5, "Largest change of any pixel by the PGD it is matched to.", unit="1/255")


def _steps(default: int, text: str = "Gradient steps.") -> Any:
    return setting(default, 1, MOST_STEPS, text)


def _target() -> Any:
    return choice(
        NO_TARGET,
        TARGET_RULES,
        "Class the image is to be mistaken for: any wrong one (none), the next in the list, the one the network finds "
        "least likely, or one drawn by the image's seed.",
    )


@dataclass(frozen=True, slots=True)
class Fgsm(Attack):
    """One step along the sign of the gradient (Goodfellow et al. 2015)."""

    name: ClassVar[str] = "fgsm-linf"
    title: ClassVar[str] = "FGSM"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(1)


@dataclass(frozen=True, slots=True)
class PgdLinf(Attack):
    """Sign-gradient steps of 2.5 epsilon / steps from a random start in the box (Madry et al. 2018)."""

    name: ClassVar[str] = "pgd-linf"
    title: ClassVar[str] = "PGD"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(10)
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(self.steps)


@dataclass(frozen=True, slots=True)
class PgdL2(Attack):
    """Normalised gradient steps of 2.5 epsilon / steps from a random start in the ball (Madry et al. 2018)."""

    name: ClassVar[str] = "pgd-l2"
    title: ClassVar[str] = "PGD (L2)"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = rounding.L2
    is_control: ClassVar[bool] = False

    epsilon: Fraction = setting(
        Fraction(1, 2), 0.0, 50.0, "Largest Euclidean length of the change, pixels on a scale from 0 to 1."
    )
    steps: int = _steps(20)
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(self.steps)


@dataclass(frozen=True, slots=True)
class MiFgsm(Attack):
    """Sign steps of epsilon / steps along a decaying sum of normalised gradients (Dong et al. 2018)."""

    name: ClassVar[str] = "mifgsm-linf"
    title: ClassVar[str] = "MI-FGSM"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(10)
    decay: float = setting(1.0, 0.0, 2.0, "Share of the summed gradient that is kept at each step.")
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(self.steps)


@dataclass(frozen=True, slots=True)
class ApgdCe(Attack):
    """Steps of self-adjusting size up the cross-entropy (Croce and Hein 2020)."""

    name: ClassVar[str] = "apgd-ce"
    title: ClassVar[str] = "APGD-CE"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100)

    @property
    def running(self) -> Cost:
        return Cost(self.steps + 1, 2)


@dataclass(frozen=True, slots=True)
class ApgdDlr(Attack):
    """Steps of self-adjusting size up the difference-of-logits ratio, which scaling the logits does not mask."""

    name: ClassVar[str] = "apgd-dlr"
    title: ClassVar[str] = "APGD-DLR"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 3

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100)

    @property
    def running(self) -> Cost:
        return Cost(self.steps + 1, 2)


@dataclass(frozen=True, slots=True)
class ApgdT(Attack):
    """APGD on the targeted difference-of-logits ratio, towards each of the likeliest wrong classes in turn, nine at most."""

    name: ClassVar[str] = "apgd-t"
    title: ClassVar[str] = "APGD-T"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 4
    most_targets: ClassVar[int] = MOST_TARGETS

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100, "Gradient steps per target class.")

    @property
    def running(self) -> Cost:
        return Cost(self.steps + 1, 3)


@dataclass(frozen=True, slots=True)
class FabT(Attack):
    """The smallest change that crosses to each of the likeliest wrong classes (Croce and Hein 2020), nine at most."""

    name: ClassVar[str] = "fab-t"
    title: ClassVar[str] = "FAB-T"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False
    fewest_classes: ClassVar[int] = 2
    most_targets: ClassVar[int] = MOST_TARGETS

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100, "Gradient steps per target class.")

    @property
    def running(self) -> Cost:
        return Cost(self.steps, self.steps + 5)


@dataclass(frozen=True, slots=True)
class Square(Attack):
    """Random squares that are kept where they help: a black-box attack, blind to masked gradients (Andriushchenko 2020)."""

    name: ClassVar[str] = "square"
    title: ClassVar[str] = "Square"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    queries: int = setting(5000, 1, MOST_QUERIES, "How often the network is asked about an image.")

    @property
    def running(self) -> Cost:
        return Cost(0, self.queries + 2)


@dataclass(frozen=True, slots=True)
class NoiseSign(Attack):
    """Every pixel up or down by epsilon at random: an attack's budget, spent without looking at the network."""

    name: ClassVar[str] = "noise-sign"
    title: ClassVar[str] = "Sign noise"
    family: ClassVar[Family] = "sign noise"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _linf_epsilon()


@dataclass(frozen=True, slots=True)
class NoiseGaussian(Attack):
    """Gaussian noise of the same Euclidean length as the PGD perturbation of that very image."""

    name: ClassVar[str] = "noise-gaussian"
    title: ClassVar[str] = "Gaussian noise"
    family: ClassVar[Family] = "matched noise"
    norm: ClassVar[Norm] = rounding.L2
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _matched_epsilon()
    steps: int = _steps(10, "Gradient steps of the PGD it is matched to.")

    @property
    def running(self) -> Cost:
        return climb(self.steps)

    def limit(self, values: int) -> float | None:
        """Return the length of the longest change that the PGD it is matched to may make."""
        return float(self.epsilon) * math.sqrt(values)


@dataclass(frozen=True, slots=True)
class NoiseShuffled(Attack):
    """The PGD perturbation of that very image with its pixels in random order."""

    name: ClassVar[str] = "noise-shuffled"
    title: ClassVar[str] = "Shuffled perturbation"
    family: ClassVar[Family] = "matched noise"
    norm: ClassVar[Norm] = rounding.LINF
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _matched_epsilon()
    steps: int = _steps(10, "Gradient steps of the PGD whose perturbation is shuffled.")

    @property
    def running(self) -> Cost:
        return climb(self.steps)


GradientAttack = Fgsm | PgdLinf | PgdL2 | MiFgsm
LibraryAttack = ApgdCe | ApgdDlr | ApgdT | FabT | Square

ATTACKS: dict[str, type[Attack]] = {
    Fgsm.name: Fgsm,
    PgdLinf.name: PgdLinf,
    PgdL2.name: PgdL2,
    MiFgsm.name: MiFgsm,
    ApgdCe.name: ApgdCe,
    ApgdDlr.name: ApgdDlr,
    ApgdT.name: ApgdT,
    FabT.name: FabT,
    Square.name: Square,
    NoiseSign.name: NoiseSign,
    NoiseGaussian.name: NoiseGaussian,
    NoiseShuffled.name: NoiseShuffled,
    **CORRUPTIONS,
}
"""By name. Stored requests and plans are read by it: none may be taken out, and no range or choice made narrower."""


@dataclass(frozen=True, slots=True)
class AttackCard:
    """What menus show of an attack."""

    name: str
    title: str
    norm: str
    """`linf`, `l2` or, of everyday damage, `none`."""
    is_control: bool
    settings: tuple[SettingCard, ...]


def attack(identifier: str) -> Attack:
    """Return the spec of a full id or of a bare name (its defaults); raises UnknownName or BadSetting."""
    return settings.parse(identifier, ATTACKS)


StoredAttack = Annotated[Attack, ReadBy(attack)]
"""Type of a field that holds an attack: stored records and keys hold its full id."""


def attack_at(name: str, epsilon: str) -> Attack:
    """Return the defaults of a bare name at a strength such as `8/255` or `0.05`.

    Raises UnknownName, or BadSetting for a strength that is malformed, out of range, or asked of a corruption.
    """
    if name not in ATTACKS:
        raise UnknownName("attack", name, ATTACKS)
    return ATTACKS[name]().at(settings.read_fraction(f"{name}.epsilon", epsilon))


def obstacle(spec: Attack, classes: int) -> str:
    """Return why an attack does not apply to a model of so many classes, as one sentence; empty where it does."""
    fewest = max(spec.fewest_classes, 1 if spec.target == NO_TARGET else 2)
    return "" if classes >= fewest else f"{spec.name} needs at least {fewest} classes, the model has {classes}."


def check_applicable(spec: Attack, classes: int) -> None:
    """Raise BadInput where `obstacle` finds one."""
    found = obstacle(spec, classes)
    if found:
        raise BadInput(f"Not applicable: {found}")


def autoattack(epsilon: Fraction) -> tuple[LibraryAttack, ...]:
    """Return the four attacks of AutoAttack (Croce and Hein 2020) with its standard parameters, in its order."""
    return ApgdCe(epsilon), ApgdT(epsilon), FabT(epsilon), Square(epsilon)


def is_autoattack(specs: Sequence[Attack], epsilon: Fraction, classes: int) -> bool:
    """Return whether the worst case over `specs` may be called AutoAttack: all four, standard, none left out."""
    standard = autoattack(epsilon)
    return set(standard) <= set(specs) and not any(obstacle(spec, classes) for spec in standard)


def cards() -> tuple[AttackCard, ...]:
    """Return what menus show of every attack and control, in catalogue order."""
    return tuple(
        AttackCard(name, spec.title, spec.norm.name, spec.is_control, settings.cards(spec))
        for name, spec in ATTACKS.items()
    )
