"""The attacks and noise controls by name: their settings, ids and cards. Imports no torch."""

# ruff: noqa: RUF009  (the calls in class bodies declare fields)

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar, Literal

from engine import settings
from engine.errors import UnknownName
from engine.records import AttackCard
from engine.settings import setting

MOST_STEPS = 1000
Norm = Literal["linf", "l2"]


def _linf_epsilon() -> Any:
    return setting(Fraction(8, 255), 0.0, 0.5, "Largest change of any pixel, on a scale from 0 to 1.", unit="1/255")


def _matched_epsilon() -> Any:
    return setting(Fraction(8, 255), 0.0, 0.5, "Largest change of any pixel by the PGD it is matched to.", unit="1/255")


def _steps(default: int, text: str = "Gradient steps.") -> Any:
    return setting(default, 1, MOST_STEPS, text)


@dataclass(frozen=True, slots=True)
class Fgsm:
    """One step along the sign of the gradient (Goodfellow et al. 2015)."""

    name: ClassVar[str] = "fgsm-linf"
    title: ClassVar[str] = "FGSM"
    norm: ClassVar[Norm] = "linf"
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()

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
Attack = GradientAttack | NoiseSign | NoiseGaussian | NoiseShuffled

ATTACKS: dict[str, type[Attack]] = {
    Fgsm.name: Fgsm,
    PgdLinf.name: PgdLinf,
    PgdL2.name: PgdL2,
    MiFgsm.name: MiFgsm,
    NoiseSign.name: NoiseSign,
    NoiseGaussian.name: NoiseGaussian,
    NoiseShuffled.name: NoiseShuffled,
}


def attack(identifier: str) -> Attack:
    """Return the spec of a full id or of a bare name (its defaults); raises UnknownName or BadSetting."""
    return settings.parse(identifier, ATTACKS)


def attack_at(name: str, epsilon: str) -> Attack:
    """Return the defaults of a bare name at a strength such as `8/255` or `0.05`; raises UnknownName or BadSetting."""
    if name not in ATTACKS:
        raise UnknownName("attack", name, ATTACKS)
    return replace(ATTACKS[name](), epsilon=settings.read_fraction(f"{name}.epsilon", epsilon))


def identify(spec: Attack) -> str:
    """Return the full id of a spec, all settings included; `attack` reads it back."""
    return settings.identifier(spec)


def cards() -> tuple[AttackCard, ...]:
    """Return what menus show of every attack and control, in catalogue order."""
    return tuple(
        AttackCard(name, spec.title, spec.norm, spec.is_control, settings.cards(spec)) for name, spec in ATTACKS.items()
    )
