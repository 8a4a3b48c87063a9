"""The corruption controls: everyday damage at three fixed strengths. Imports no torch.

They are controls, not ImageNet-C: strengths of the two do not compare. For that claim add the published folders as a data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from engine import settings
from engine.settings import setting

STRENGTHS = 3
NoBudget = Literal["none"]


def _strength(scale: str) -> Any:
    return setting(2, 1, STRENGTHS, f"How strong, from 1 to {STRENGTHS}: {scale}.")


@dataclass(frozen=True, slots=True)
class GaussianNoise:
    """Normally distributed noise on every pixel."""

    name: ClassVar[str] = "corruption-gaussian-noise"
    title: ClassVar[str] = "Gaussian noise (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("standard deviation 0.04, 0.08, 0.16 of the brightness range")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class ShotNoise:
    """The graininess of few photons: Poisson noise that grows with brightness."""

    name: ClassVar[str] = "corruption-shot-noise"
    title: ClassVar[str] = "Shot noise (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 25, 12 photons for a white pixel")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class ImpulseNoise:
    """Single values replaced by black or white."""

    name: ClassVar[str] = "corruption-impulse-noise"
    title: ClassVar[str] = "Impulse noise (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("3, 6, 12 % of the values")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Blur:
    """Gaussian blur."""

    name: ClassVar[str] = "corruption-blur"
    title: ClassVar[str] = "Blur (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("standard deviation 1.25, 2, 3 % of the shorter side, taken as 32 pixels at least")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Brightness:
    """Every pixel brighter by the same amount."""

    name: ClassVar[str] = "corruption-brightness"
    title: ClassVar[str] = "Brightness (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("0.1, 0.2, 0.3 of the brightness range added")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Contrast:
    """Every pixel closer to the image's mean brightness."""

    name: ClassVar[str] = "corruption-contrast"
    title: ClassVar[str] = "Contrast (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 40, 20 % of the contrast left")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Jpeg:
    """JPEG compression."""

    name: ClassVar[str] = "corruption-jpeg"
    title: ClassVar[str] = "JPEG (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("quality 50, 25, 10")

    def __post_init__(self) -> None:
        settings.check(self)


@dataclass(frozen=True, slots=True)
class Pixelate:
    """Fewer, larger pixels."""

    name: ClassVar[str] = "corruption-pixelate"
    title: ClassVar[str] = "Pixelate (corruption)"
    norm: ClassVar[NoBudget] = "none"
    is_control: ClassVar[bool] = True

    strength: int = _strength("60, 45, 30 % of the pixels per side")

    def __post_init__(self) -> None:
        settings.check(self)


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
