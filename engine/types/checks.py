"""The nouns of checks of models and attacks, and of what single channels show. Frozen, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from engine.errors import BadInput
from engine.hashing import Schema, stored_as
from engine.statistics import Estimate

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
    Check(
        "G12", "Worst case per image", "The share of images that stay right under every attack is not what is reported."
    ),
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
class AttackSanity:
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


VALIDATION_CHECKS: tuple[Check, ...] = (
    Check(
        "loads", "Loads", "The weights do not fit the architecture, or the network does not answer one logit per class."
    ),
    Check("hash", "Unchanged", "The stored weights are not those that were checked when the model was added."),
    Check("sites", "Feature maps", "Fewer than two places with feature maps can be read and replaced."),
    Check(
        "function",
        "Same function as handed in",
        "The network that is audited answers a picture otherwise than the module that was handed in, in a batch or alone.",
    ),
    Check(
        "edges",
        "Connections are exact",
        "They do not add up to what arrives, or a map's are not what changing it alone does, though no gate or norm explains it.",
    ),
    Check(
        "fields",
        "Receptive fields",
        "A position depends on pixels that its receptive field does not hold, or the field is larger than what it depends on.",
    ),
    Check("evaluation", "Evaluation mode", "The answer to an image depends on the other images of its batch."),
    Check("deterministic", "Same answer twice", "Two passes over the same images answer differently."),
    Check("finite", "Finite answers", "An image, black, white or noise is answered with a value that is not finite."),
    Check(
        "logits",
        "Logits, not probabilities",
        "The network answers with probabilities, percentages or their logarithms.",
    ),
    Check(
        "gradients", "Gradients are there", "On an image the gradient of the loss is zero everywhere, or not finite."
    ),
    Check("accuracy", "Clean accuracy", "It is no better than chance, or clearly below what was declared."),
    Check(
        "preprocessing",
        "Preprocessing",
        "Another preprocessing or numbering of classes gives clearly more right answers.",
    ),
)
"""In the order they are shown."""
EQUALITY_CHECKS = ("function", "edges", "fields")
"""The checks of equality: that the network audited is the one handed in, and that it is read exactly."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """An obvious mistake that would explain wrong answers, and what changes when it is undone."""

    mistake: str
    """One sentence: what was probably overlooked."""
    remedy: str
    """What to say when the model or the data is added, such as `--channels bgr`."""
    before: Estimate
    """Share of right answers as declared."""
    after: Estimate
    """Share of right answers on the same images with the remedy."""
    gain: Estimate
    """Their paired difference."""


@dataclass(frozen=True, slots=True)
class InexactLink:
    """A link between two sites whose edges are not what changing one map alone does."""

    source: int
    target: int
    """Indices into the model's sites; as many as there are sites for the logits."""
    error: float
    """Of a changed map's edges, as a share of the largest mass of edges into one map."""
    reason: str
    """Gates and norms on the way, or that several layers compute the logits; empty where nothing explains it."""


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """All intake checks of one model, in order."""

    SCHEMA: ClassVar[Schema] = Schema("model-validation/1", "IntakeReport")

    model: str
    content_hash: str
    data: str
    """Labelled images it was checked on; empty for none, then on noise."""
    images: int
    results: tuple[CheckResult, ...]
    suspicions: tuple[Suspicion, ...] = ()
    """The likeliest first."""
    inexact: tuple[InexactLink, ...] = ()
    """Links that are drawn as not exact."""

    def with_outcome(self, outcome: CheckOutcome) -> tuple[str, ...]:
        """Return the names of the checks that came out so."""
        return with_outcome(self.results, outcome)

    @property
    def verdict(self) -> Verdict:
        """`fail` if any check failed; `pass` only if all were run and passed."""
        return verdict(self.results)


def lines(report: ValidationReport) -> tuple[str, ...]:
    """Return the report for people, one line per check and suspicion."""
    titles = {check.name: check.title for check in VALIDATION_CHECKS}
    checks = [f"  {result.outcome:8} {titles[result.check]}: {result.sentence}" for result in report.results]
    return (*checks, *(f"  remedy   {suspicion.mistake} Say {suspicion.remedy}." for suspicion in report.suspicions))


Array = np.ndarray
Doubt = Literal["silent", "weak", "beyond", "foreign"]

BEYOND = 5.0
"""Excess from which on a picture drives its map where no real image comes near: 3 of 152 maps of ResNet-20 (median 2.4)."""
RECOGNISED = 0.8
"""Least recognition of a picture that is believed: one that has nothing to do with the patches passes once in five.

Of 152 maps of ResNet-20, 9 % [6, 15] fall below it beside their own patches, 82 % [75, 87] beside those of another map.
"""
DOUBTS: dict[Doubt, str] = {
    "silent": "Nothing in a picture changes this feature map: it is dead, and the picture says nothing.",
    "weak": "Real patches drive this feature map further than the picture does: the picture is no answer.",
    "beyond": "The picture drives this feature map much further than any real image does: it may show what never occurs.",
    "foreign": (
        "The layer as a whole answers to the picture as it does to the patches of other feature maps, not as to this "
        "one's own: what the picture shows is not what this feature map finds in real images."
    ),
}
"""What each doubt means, for the screen and the report."""


@dataclass(frozen=True, eq=False, slots=True)
class FeatureVisualization:
    """The picture made to excite one feature map, and how far the real patches bear it out.

    Strengths are read before the activation, where the site has one, at one position: a dead unit has a strength too.
    """

    SCHEMA: ClassVar[Schema] = Schema("feature-visualization/1", "Synthesis")

    layer: str
    channel: int
    picture: Array
    """(height, width, channels) uint8; the network's input size, larger sides reduced to 128."""
    field: tuple[int, int, int, int]
    """Top, left, bottom, right (just outside) of the pixels that the excited position sees; the rest means nothing."""
    is_before_activation: bool
    """False where the site is no activation (a bottleneck, a concatenation): then strengths are those of the site."""
    achieved: float
    """Strength at the centre of the picture as stored, in 8 bits."""
    real: Array
    """(patches,) float32: strength at the peak of each top patch by activation, in the gallery's order."""
    usual: float
    """Mean strength over all positions of ordinary images."""
    recognition: float | None
    """Share of the site's other feature maps whose top patches the picture resembles less than this map's own, 0 to 1.

    Resemblance is the rank correlation over the site's maps, the two in question left out, each in units of its spread
    over ordinary images (after Geirhos et al. 2024, section 4). 0.5 is chance; None below eight other maps, and for a
    silent map.
    """
    is_silent: bool
    """True where no pixel has any influence on the map, of a nearly flat nor of a random picture; this one is flat."""
    steps: int
    seed: int

    @property
    def excess(self) -> float | None:
        """How far from usual the picture drives the map; 1 is the strongest real patch, None where nothing stands out."""
        reach = float(self.real.max(initial=self.usual)) - self.usual
        return (self.achieved - self.usual) / reach if reach > 0 else None

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Why the picture should not be believed, empty where nothing speaks against it; see `DOUBTS`."""
        if self.is_silent:
            return ("silent",)
        results: list[Doubt] = []
        if self.excess is not None and self.excess < 1:
            results.append("weak")
        if self.excess is None or self.excess > BEYOND:
            results.append("beyond")
        if self.recognition is not None and self.recognition < RECOGNISED:
            results.append("foreign")
        return tuple(results)


@dataclass(frozen=True, eq=False, slots=True)
class Responses:
    """How every feature map answers to one attack at growing strength, beside noise of the same length.

    Row by row: the clean images first, then the attack run anew at each strength, with the seeds that an explanation at
    that strength has. Noise is drawn anew too, as long (L2) as that strength's perturbation. An attack changes pixels by
    whole steps of 1/255: below that, nothing changes.
    """

    SCHEMA: ClassVar[Schema] = Schema("dose-response/1", "Responses")

    explanation: str = field(metadata=stored_as("examination"))
    """Key of the explanation whose images, attack and seed these are."""
    strengths: tuple[str, ...]
    """Exact multiples of the explanation's epsilon, `0` to `3/2`; those that the attack does not allow are left out."""
    epsilons: tuple[str, ...]
    """The same as exact values on a scale from 0 to 1, for example `8/255`."""
    mean: tuple[Array, ...]
    """Per site (strengths, channels) float32: mean over positions and images."""
    peak: tuple[Array, ...]
    """Per site (strengths, channels) float32: largest over positions, mean over images."""
    noise_mean: tuple[Array, ...]
    """The same of the noise copies, mean over images and copies."""
    noise_peak: tuple[Array, ...]
    lengths: Array
    """(strengths, images) float32: L2 length of the stored perturbation, pixels on a scale from 0 to 1."""
    labels: Array
    """(strengths, images) int64: what the network says of each attacked image."""
    fooled: Array
    """(strengths, images) bool: the clean image was right and this one is wrong."""
    noise_labels: Array
    """(strengths, images * copies) int64, image-major."""
    noise_fooled: Array
    """(strengths, images * copies) bool: the clean image was right and this copy is wrong."""
