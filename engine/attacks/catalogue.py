"""The attacks and noise controls by name: their settings, ids and cards. Imports no torch."""

# ruff: noqa: RUF009  (the calls in class bodies declare fields)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeGuard

from engine import settings
from engine.attacks.corruption_specs import CORRUPTIONS, Corruption
from engine.errors import BadInput, BadSetting, UnknownName
from engine.records import AttackCard
from engine.settings import choice, setting

MOST_STEPS = 1000
MOST_QUERIES = 20000
MOST_TARGETS = 9
"""Classes that APGD-T and FAB-T try per image, as in AutoAttack; fewer where there are fewer other classes."""
Norm = Literal["linf", "l2"]
NO_TARGET, NEXT, LEAST_LIKELY, RANDOM = "none", "next", "least-likely", "random"
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
class Fgsm:
    """One step along the sign of the gradient (Goodfellow et al. 2015)."""

    name: ClassVar[str] = "fgsm-linf"
    title: ClassVar[str] = "FGSM"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    target: str = _target()

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class PgdLinf:
    """Sign-gradient steps of 2.5 epsilon / steps from a random start in the box (Madry et al. 2018)."""

    name: ClassVar[str] = "pgd-linf"
    title: ClassVar[str] = "PGD"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(10)
    target: str = _target()

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class PgdL2:
    """Normalised gradient steps of 2.5 epsilon / steps from a random start in the ball (Madry et al. 2018)."""

    name: ClassVar[str] = "pgd-l2"
    title: ClassVar[str] = "PGD (L2)"
    norm: ClassVar[Norm] = "l2"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = setting(
        Fraction(1, 2), 0.0, 50.0, "Largest Euclidean length of the change, pixels on a scale from 0 to 1."
    )
    steps: int = _steps(20)
    target: str = _target()

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class MiFgsm:
    """Sign steps of epsilon / steps along a decaying sum of normalised gradients (Dong et al. 2018)."""

    name: ClassVar[str] = "mifgsm-linf"
    title: ClassVar[str] = "MI-FGSM"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(10)
    decay: float = setting(1.0, 0.0, 2.0, "Share of the summed gradient that is kept at each step.")
    target: str = _target()

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class ApgdCe:
    """Steps of self-adjusting size up the cross-entropy (Croce and Hein 2020)."""

    name: ClassVar[str] = "apgd-ce"
    title: ClassVar[str] = "APGD-CE"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100)

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class ApgdDlr:
    """Steps of self-adjusting size up the difference-of-logits ratio, which scaling the logits does not mask."""

    name: ClassVar[str] = "apgd-dlr"
    title: ClassVar[str] = "APGD-DLR"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100)

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class ApgdT:
    """APGD on the targeted difference-of-logits ratio, towards each of the likeliest wrong classes in turn, nine at most."""

    name: ClassVar[str] = "apgd-t"
    title: ClassVar[str] = "APGD-T"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100, "Gradient steps per target class.")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class FabT:
    """The smallest change that crosses to each of the likeliest wrong classes (Croce and Hein 2020), nine at most."""

    name: ClassVar[str] = "fab-t"
    title: ClassVar[str] = "FAB-T"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(100, "Gradient steps per target class.")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Square:
    """Random squares that are kept where they help: a black-box attack, blind to masked gradients (Andriushchenko 2020)."""

    name: ClassVar[str] = "square"
    title: ClassVar[str] = "Square"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    queries: int = setting(5000, 1, MOST_QUERIES, "How often the network is asked about an image.")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class NoiseSign:
    """Every pixel up or down by epsilon at random: an attack's budget, spent without looking at the network."""

    name: ClassVar[str] = "noise-sign"
    title: ClassVar[str] = "Sign noise"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _linf_epsilon()

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class NoiseGaussian:
    """Gaussian noise of the same Euclidean length as the PGD perturbation of that very image."""

    name: ClassVar[str] = "noise-gaussian"
    title: ClassVar[str] = "Gaussian noise"
    norm: ClassVar[Norm] = "l2"
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _matched_epsilon()
    steps: int = _steps(10, "Gradient steps of the PGD it is matched to.")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class NoiseShuffled:
    """The PGD perturbation of that very image with its pixels in random order."""

    name: ClassVar[str] = "noise-shuffled"
    title: ClassVar[str] = "Shuffled perturbation"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _matched_epsilon()
    steps: int = _steps(10, "Gradient steps of the PGD whose perturbation is shuffled.")

    def __post_init__(self) -> None:
        settings.check(self)


GradientAttack = Fgsm | PgdLinf | PgdL2 | MiFgsm
LibraryAttack = ApgdCe | ApgdDlr | ApgdT | FabT | Square
Noise = NoiseSign | NoiseGaussian | NoiseShuffled
Budgeted = GradientAttack | LibraryAttack | Noise
Attack = Budgeted | Corruption

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

LEAST_CLASSES = {ApgdDlr.name: 3, ApgdT.name: 4, FabT.name: 2}
"""The ratio of logits compares the first with the third, its targeted form with the fourth; FAB-T needs one target."""


def attack(identifier: str) -> Attack:
    """Return the spec of a full id or of a bare name (its defaults); raises UnknownName or BadSetting."""
    return settings.parse(identifier, ATTACKS)


def attack_at(name: str, epsilon: str) -> Attack:
    """Return the defaults of a bare name at a strength such as `8/255` or `0.05`.

    Raises UnknownName, or BadSetting for a strength that is malformed, out of range, or asked of a corruption.
    """
    if name not in ATTACKS:
        raise UnknownName("attack", name, ATTACKS)
    found = ATTACKS[name]()
    if not has_epsilon(found):
        raise BadSetting(f"{name} has no epsilon; its settings are {', '.join(one.name for one in fields(found))}.")
    return replace(found, epsilon=settings.read_fraction(f"{name}.epsilon", epsilon))


def has_epsilon(spec: Attack) -> TypeGuard[Budgeted]:
    """Return whether a spec has a budget: all but the corruptions."""
    return isinstance(spec, Budgeted)


def identify(spec: Attack) -> str:
    """Return the full id of a spec, all settings included; `attack` reads it back."""
    return settings.identifier(spec)


def obstacle(spec: Attack, classes: int) -> str:
    """Return why an attack does not apply to a model of so many classes, as one sentence; empty where it does."""
    least = LEAST_CLASSES.get(spec.name, 1)
    if isinstance(spec, GradientAttack) and spec.target != NO_TARGET:
        least = 2
    return "" if classes >= least else f"{spec.name} needs at least {least} classes, the model has {classes}."


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
        AttackCard(name, spec.title, spec.norm, spec.is_control, settings.cards(spec)) for name, spec in ATTACKS.items()
    )
