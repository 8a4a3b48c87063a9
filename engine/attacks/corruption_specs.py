"""The corruption controls: everyday damage at three fixed strengths. Imports no torch.

They are controls, not ImageNet-C: strengths of the two do not compare. For that claim add the published folders as a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from engine.attacks import rounding
from engine.attacks.rounding import Norm
from engine.attacks.spec import Attack, Family
from engine.settings import setting

STRENGTHS = 3


def _strength(scale: str) -> Any:
    return setting(2, 1, STRENGTHS, f"How strong, from 1 to {STRENGTHS}: {scale}.")


@dataclass(frozen=True, slots=True)
class GaussianNoise(Attack):
    """Normally distributed noise on every pixel."""

    name: ClassVar[str] = "corruption-gaussian-noise"
    title: ClassVar[str] = "Gaussian noise (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("standard deviation 0.04, 0.08, 0.16 of the brightness range")


@dataclass(frozen=True, slots=True)
class ShotNoise(Attack):
    """The graininess of few photons: Poisson noise that grows with brightness."""

    name: ClassVar[str] = "corruption-shot-noise"
    title: ClassVar[str] = "Shot noise (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 25, 12 photons for a white pixel")


@dataclass(frozen=True, slots=True)
class ImpulseNoise(Attack):
    """Single values replaced by black or white."""

    name: ClassVar[str] = "corruption-impulse-noise"
    title: ClassVar[str] = "Impulse noise (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("3, 6, 12 % of the values")


@dataclass(frozen=True, slots=True)
class Blur(Attack):
    """Gaussian blur."""

    name: ClassVar[str] = "corruption-blur"
    title: ClassVar[str] = "Blur (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("standard deviation 1.25, 2, 3 % of the shorter side, taken as 32 pixels at least")


@dataclass(frozen=True, slots=True)
class Brightness(Attack):
    """Every pixel brighter by the same amount."""

    name: ClassVar[str] = "corruption-brightness"
    title: ClassVar[str] = "Brightness (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("0.1, 0.2, 0.3 of the brightness range added")


@dataclass(frozen=True, slots=True)
class Contrast(Attack):
    """Every pixel closer to the image's mean brightness."""

    name: ClassVar[str] = "corruption-contrast"
    title: ClassVar[str] = "Contrast (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 40, 20 % of the contrast left")


@dataclass(frozen=True, slots=True)
class Jpeg(Attack):
    """JPEG compression."""

    name: ClassVar[str] = "corruption-jpeg"
    title: ClassVar[str] = "JPEG (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("quality 50, 25, 10")


@dataclass(frozen=True, slots=True)
class Pixelate(Attack):
    """Fewer, larger pixels."""

    name: ClassVar[str] = "corruption-pixelate"
    title: ClassVar[str] = "Pixelate (corruption)"
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = rounding.NO_NORM
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 45, 30 % of the pixels per side")


Corruption = GaussianNoise | ShotNoise | ImpulseNoise | Blur | Brightness | Contrast | Jpeg | Pixelate

CORRUPTIONS: dict[str, type[Corruption]] = {
    GaussianNoise.name: GaussianNoise,
    ShotNoise.name: ShotNoise,
    ImpulseNoise.name: ImpulseNoise,
    Blur.name: Blur,
    Brightness.name: Brightness,
    Contrast.name: Contrast,
    Jpeg.name: Jpeg,
    Pixelate.name: Pixelate,
}
