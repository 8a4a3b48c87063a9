"""What single feature maps look for and how they answer as an attack grows. Frozen, numpy only.

As for all nouns (`engine.records`): those that hold arrays have `eq=False` and read-only arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from engine.schemas import Schema

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
class Synthesis:
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
        found: list[Doubt] = []
        if self.excess is not None and self.excess < 1:
            found.append("weak")
        if self.excess is None or self.excess > BEYOND:
            found.append("beyond")
        if self.recognition is not None and self.recognition < RECOGNISED:
            found.append("foreign")
        return tuple(found)


@dataclass(frozen=True, eq=False, slots=True)
class Responses:
    """How every feature map answers to one attack at growing strength, beside noise of the same length.

    Row by row: the clean images first, then the attack run anew at each strength, with the seeds that an examination at
    that strength has. Noise is drawn anew too, as long (L2) as that strength's perturbation. An attack changes pixels by
    whole steps of 1/255: below that, nothing changes.
    """

    SCHEMA: ClassVar[Schema] = Schema("dose-response/1", "Responses")

    examination: str
    """Key of the examination whose images, attack and seed these are."""
    strengths: tuple[str, ...]
    """Exact multiples of the examination's epsilon, `0` to `3/2`; those that the attack does not allow are left out."""
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
