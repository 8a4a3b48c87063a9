"""What a feature map looks for: the synthesised picture with its doubts, and its response as the attack grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dashboard.viewmodels.wording import number, percent
from engine import DOUBTS, Responses, Synthesis, read_fraction


@dataclass(frozen=True, slots=True)
class Feature:
    """The picture that was made to excite a map, in words; `caveats` say why it may not be believed."""

    told: tuple[str, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Response:
    """One map's peak at growing strength, per strength; all arrays have one length."""

    epsilon: np.ndarray
    """In 1/255 for pixel changes, as they are for lengths."""
    written: tuple[str, ...]
    attack: np.ndarray
    noise: np.ndarray
    fooled: np.ndarray
    """Share of the images that the attack fools."""
    is_pixels: bool


def describe(found: Synthesis) -> Feature:
    """Return what is said beside the picture."""
    place = "before its activation" if found.is_before_activation else "at this site"
    strongest = float(found.real.max(initial=0.0))
    told = [
        f"It drives the map to {number(found.achieved)} {place}; the strongest real patch to {number(strongest)}.",
        "Made by gradient ascent from noise, for the map's centre position and no more than it sees: what the map can answer "
        "to, not what it finds in this data.",
    ]
    if found.recognition is not None:
        told.insert(
            1,
            f"The layer answers to it as to this map's patches, more so than as to those of {_others(found.recognition)}.",
        )
    return Feature(tuple(told), tuple(DOUBTS[doubt] for doubt in found.doubts))


def response(found: Responses, site: int, channel: int, *, is_pixels: bool) -> Response:
    """Return the mean over images of one map's peak, under the attack and under noise of the same length."""
    values = np.array([float(read_fraction("epsilon", text)) for text in found.epsilons])
    return Response(
        epsilon=values * 255 if is_pixels else values,
        written=tuple(f"{value * 255:.3g}/255" if is_pixels else f"{value:.3g}" for value in values),
        attack=np.asarray(found.peak[site][:, channel]),
        noise=np.asarray(found.noise_peak[site][:, channel]),
        fooled=np.asarray(found.fooled.mean(axis=1)),
        is_pixels=is_pixels,
    )


def _others(share: float) -> str:
    return "every other map of the layer" if share == 1 else f"{percent(share)} of the layer's other maps"
