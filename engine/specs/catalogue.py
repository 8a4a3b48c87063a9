"""Every attack, noise control and corruption with its settings; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from engine import parameters
from engine.errors import BadInput, UnknownName
from engine.parameters import Measure, ReadBy, SettingCard, choice, setting
from engine.specs import of_run, threat_model
from engine.specs.threat_model import NO_TARGET, Attack, Cost, Family, Norm, climb

STRENGTHS = 3


def _strength(scale: str) -> Any:
    return setting(2, 1, STRENGTHS, f"How strong, from 1 to {STRENGTHS}: {scale}.")


class Damage(Attack):
    """What befalls pictures every day, without a budget."""

    __slots__ = ()
    family: ClassVar[Family] = "corruption"
    norm: ClassVar[Norm] = threat_model.NO_NORM
    is_control: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class GaussianNoise(Damage):
    """Normally distributed noise on every pixel."""

    name: ClassVar[str] = "corruption-gaussian-noise"
    title: ClassVar[str] = "Gaussian noise (corruption)"

    strength: int = _strength("standard deviation 0.04, 0.08, 0.16 of the brightness range")


@dataclass(frozen=True, slots=True)
class ShotNoise(Damage):
    """The graininess of few photons: Poisson noise that grows with brightness."""

    name: ClassVar[str] = "corruption-shot-noise"
    title: ClassVar[str] = "Shot noise (corruption)"

    strength: int = _strength("60, 25, 12 photons for a white pixel")


@dataclass(frozen=True, slots=True)
class ImpulseNoise(Damage):
    """Single values replaced by black or white."""

    name: ClassVar[str] = "corruption-impulse-noise"
    title: ClassVar[str] = "Impulse noise (corruption)"

    strength: int = _strength("3, 6, 12 % of the values")


@dataclass(frozen=True, slots=True)
class Blur(Damage):
    """Gaussian blur."""

    name: ClassVar[str] = "corruption-blur"
    title: ClassVar[str] = "Blur (corruption)"

    strength: int = _strength("standard deviation 1.25, 2, 3 % of the shorter side, taken as 32 pixels at least")


@dataclass(frozen=True, slots=True)
class Brightness(Damage):
    """Every pixel brighter by the same amount."""

    name: ClassVar[str] = "corruption-brightness"
    title: ClassVar[str] = "Brightness (corruption)"

    strength: int = _strength("0.1, 0.2, 0.3 of the brightness range added")


@dataclass(frozen=True, slots=True)
class Contrast(Damage):
    """Every pixel closer to the image's mean brightness."""

    name: ClassVar[str] = "corruption-contrast"
    title: ClassVar[str] = "Contrast (corruption)"

    strength: int = _strength("60, 40, 20 % of the contrast left")


@dataclass(frozen=True, slots=True)
class Jpeg(Damage):
    """JPEG compression."""

    name: ClassVar[str] = "corruption-jpeg"
    title: ClassVar[str] = "JPEG (corruption)"

    strength: int = _strength("quality 50, 25, 10")


@dataclass(frozen=True, slots=True)
class Pixelate(Damage):
    """Fewer, larger pixels."""

    name: ClassVar[str] = "corruption-pixelate"
    title: ClassVar[str] = "Pixelate (corruption)"

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


# ruff: noqa: RUF009  (the calls in class bodies declare fields)


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


def _sum() -> Any:
    return setting(
        Fraction(12), 0.0, 1000.0, "Sum of the changes of all pixel values at most, on a scale from 0 to 1.", unit="l1"
    )


def _area() -> Any:
    return setting(
        Fraction(1, 20),
        0.0,
        0.5,
        "Share of the picture's area that the square has, at most; for example 1/32.",
        unit="area",
    )


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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.L2
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
class PgdL1(Attack):
    """Steps of 2.5 epsilon / steps on few pixels, from a random start in the ball (SLIDE: Tramèr and Boneh 2019).

    A step moves the values of largest gradient that have room, all by the same amount: 1.5 epsilon of them, about as many as
    the best change of that length moves. It ends at the nearest image of the ball in [0, 1] (Croce and Hein 2021).
    """

    name: ClassVar[str] = "pgd-l1"
    title: ClassVar[str] = "PGD (L1)"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = threat_model.L1
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _sum()
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
    norm: ClassVar[Norm] = threat_model.LINF
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _linf_epsilon()
    steps: int = _steps(10)
    decay: float = setting(1.0, 0.0, 2.0, "Share of the summed gradient that is kept at each step.")
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(self.steps)


@dataclass(frozen=True, slots=True)
class Patch(Attack):
    """A square anywhere on the picture, whatever stands in it: an adversarial patch for this one image (Brown et al. 2017).

    Every start has a place of its own by the image's seed, random content, and sign steps of 2.5 / steps on the content. The
    patch is not turned or scaled as one to be printed would be.
    """

    name: ClassVar[str] = "patch"
    title: ClassVar[str] = "Adversarial patch"
    family: ClassVar[Family] = "ascent"
    norm: ClassVar[Norm] = threat_model.AREA
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _area()
    steps: int = _steps(10, "Gradient steps at each place.")
    restarts: int = setting(16, 1, 100, "Places tried on each image; the most harmful patch is kept.")
    target: str = _target()

    @property
    def running(self) -> Cost:
        return climb(self.steps).times(self.restarts)


@dataclass(frozen=True, slots=True)
class UniversalPatch(Attack):
    """One square for a whole class, learned on some of its images and then put on every one of them (Brown et al. 2017).

    It learns from the first images of the class that the network answers right, all at new places in every step, by sign
    steps of 2.5 / steps on the content. On each attacked image it stands at one place, by the image's seed; images that it
    learned from are attacked too. It is not turned or scaled as one to be printed would be.
    """

    name: ClassVar[str] = "universal-patch"
    title: ClassVar[str] = "Universal patch"
    family: ClassVar[Family] = "universal"
    norm: ClassVar[Norm] = threat_model.AREA
    is_control: ClassVar[bool] = False

    epsilon: Fraction = _area()
    steps: int = _steps(30, "Gradient steps, each on all images that it learns from.")
    images: int = setting(16, 1, 256, "Images of the class that it learns from, as far as there are so many.")
    target: str = _target()

    @property
    def running(self) -> Cost:
        """Learning it is shared by the images of the class: no more than this where they are as many as it learns from."""
        return Cost(self.steps, 0)


@dataclass(frozen=True, slots=True)
class ApgdCe(Attack):
    """Steps of self-adjusting size up the cross-entropy (Croce and Hein 2020)."""

    name: ClassVar[str] = "apgd-ce"
    title: ClassVar[str] = "APGD-CE"
    family: ClassVar[Family] = "library"
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
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
    norm: ClassVar[Norm] = threat_model.LINF
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _linf_epsilon()


@dataclass(frozen=True, slots=True)
class NoiseGaussian(Attack):
    """Gaussian noise of the same Euclidean length as the PGD perturbation of that very image."""

    name: ClassVar[str] = "noise-gaussian"
    title: ClassVar[str] = "Gaussian noise"
    family: ClassVar[Family] = "matched noise"
    norm: ClassVar[Norm] = threat_model.L2
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
    norm: ClassVar[Norm] = threat_model.LINF
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _matched_epsilon()
    steps: int = _steps(10, "Gradient steps of the PGD whose perturbation is shuffled.")

    @property
    def running(self) -> Cost:
        return climb(self.steps)


@dataclass(frozen=True, slots=True)
class NoisePatch(Attack):
    """A square of random pixels anywhere on the picture: a patch's area, spent without looking at the network."""

    name: ClassVar[str] = "noise-patch"
    title: ClassVar[str] = "Noise patch"
    family: ClassVar[Family] = "noise patch"
    norm: ClassVar[Norm] = threat_model.AREA
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _area()


@dataclass(frozen=True, slots=True)
class NoiseSparse(Attack):
    """Random pixel values made black or white, one after the other, until epsilon is spent without looking at the network."""

    name: ClassVar[str] = "noise-sparse"
    title: ClassVar[str] = "Sparse noise"
    family: ClassVar[Family] = "sparse noise"
    norm: ClassVar[Norm] = threat_model.L1
    is_control: ClassVar[bool] = True

    epsilon: Fraction = _sum()


GradientAttack = Fgsm | PgdLinf | PgdL2 | PgdL1 | MiFgsm | Patch
LibraryAttack = ApgdCe | ApgdDlr | ApgdT | FabT | Square

ATTACKS: dict[str, type[Attack]] = {
    Fgsm.name: Fgsm,
    PgdLinf.name: PgdLinf,
    PgdL2.name: PgdL2,
    PgdL1.name: PgdL1,
    MiFgsm.name: MiFgsm,
    Patch.name: Patch,
    UniversalPatch.name: UniversalPatch,
    ApgdCe.name: ApgdCe,
    ApgdDlr.name: ApgdDlr,
    ApgdT.name: ApgdT,
    FabT.name: FabT,
    Square.name: Square,
    NoiseSign.name: NoiseSign,
    NoiseGaussian.name: NoiseGaussian,
    NoiseShuffled.name: NoiseShuffled,
    NoisePatch.name: NoisePatch,
    NoiseSparse.name: NoiseSparse,
    **CORRUPTIONS,
}
"""By name. Stored requests and plans are read by it: none may be taken out, and no range or choice made narrower."""


@dataclass(frozen=True, slots=True)
class AttackCard:
    """What menus show of an attack."""

    name: str
    title: str
    norm: str
    """`linf`, `l2`, `l1`, `area` or, of everyday damage, `none`."""
    is_control: bool
    settings: tuple[SettingCard, ...]


def attack(identifier: str) -> Attack:
    """Return the spec of a full id, of a bare name (its defaults) or of a run's images; raises UnknownName or BadSetting."""
    if identifier.startswith(of_run.PREFIX):
        return of_run.read(identifier, ATTACKS)
    return parameters.parse(identifier, ATTACKS)


StoredAttack = Annotated[Attack, ReadBy(attack)]
"""Type of a field that holds an attack: stored records and keys hold its full id."""


def measure_of(identifier: str) -> Measure:
    """Return how people read the strength of a full id; as a plain number of one that only a later version knows."""
    try:
        return attack(identifier).measure
    except BadInput:
        return parameters.MEASURES[""]


def attack_at(name: str, epsilon: str) -> Attack:
    """Return the defaults of a bare name at a strength such as `8/255` or `0.05`.

    Raises UnknownName, or BadSetting for a strength that is malformed, out of range, or asked of a corruption.
    """
    if name not in ATTACKS:
        raise UnknownName("attack", name, ATTACKS)
    return ATTACKS[name]().at(parameters.read_fraction(f"{name}.epsilon", epsilon))


def obstacle(spec: Attack, classes: int) -> str:
    """Return why an attack does not apply to a model of so many classes, as one sentence; empty where it does."""
    fewest = max(spec.fewest_classes, 1 if spec.target == NO_TARGET else 2)
    return "" if classes >= fewest else f"{spec.name} needs at least {fewest} classes, the model has {classes}."


def check_applicable(spec: Attack, classes: int) -> None:
    """Raise BadInput where `obstacle` finds one."""
    result = obstacle(spec, classes)
    if result:
        raise BadInput(f"Not applicable: {result}")


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
        AttackCard(name, spec.title, spec.norm.name, spec.is_control, parameters.cards(spec))
        for name, spec in ATTACKS.items()
    )
