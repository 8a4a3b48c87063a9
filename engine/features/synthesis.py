"""The synthesised picture of one feature map, and whether the real patches bear it out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from engine.attacks import attacked
from engine.datapaths import cases
from engine.examination import Report
from engine.features import arrivals, painting
from engine.models.bundle import ModelBundle
from engine.records import Gallery, Site
from engine.records.feature import Synthesis
from engine.store.dataset import Dataset

ORDINARY = 32
"""Images, evenly spread over those of the gallery, that say what colours and strengths are usual."""
OTHERS = 24
"""Other feature maps of the site, evenly spread, whose patches the picture is compared with."""
OTHERS_PATCHES = 2
"""Patches of each: with more the verdict hardly changes (measured), and at 224 pixels they take most of the time."""
LEAST_OTHERS = 8


def synthesise(
    bundle: ModelBundle, dataset: Dataset, gallery: Gallery, place: tuple[int, int], report: Report
) -> Synthesis:
    """Return the picture that excites the feature map at `place`, (site, channel), judged by its top patches.

    Of fixed seed: the same place gives the same picture. Cost in image-passes: `painting.STEPS` forward and backward,
    96 forward, all of them only up to the site.
    """
    site, channel = place
    drawn = np.linspace(0, len(gallery.samples) - 1, min(ORDINARY, len(gallery.samples))).astype(int)
    ordinary = cases.load(bundle, dataset, tuple(gallery.samples[k] for k in drawn))
    ground = painting.canvas(bundle, ordinary, site)
    picture, is_excited = painting.paint(bundle, ground, site, channel, report)
    report(painting.STEPS, painting.STEPS, "Comparing the picture with the real patches")
    with torch.no_grad():
        maps = arrivals.arrival(bundle, picture, site)
    real = _Real(bundle, dataset, gallery, site, *arrivals.spread(bundle, ordinary, site))
    found, own = painting.centre(maps)[0], real.patches(channel)
    return Synthesis(
        layer=bundle.sites[site].name,
        channel=channel,
        picture=attacked.pixels(picture)[0],
        field=_field(bundle.sites[site], (maps.shape[2] // 2, maps.shape[3] // 2), ground.size),
        is_before_activation=bundle.inputs[site] != site,
        achieved=float(found[channel]),
        real=_frozen(own[:, channel]),
        usual=float(real.mean[channel]),
        recognition=_recognition(real, channel, found, own) if is_excited else None,
        is_silent=not is_excited,
        steps=painting.STEPS,
        seed=painting.SEED,
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Real:
    """What a site's maps answer to real images."""

    bundle: ModelBundle
    dataset: Dataset
    gallery: Gallery
    site: int
    mean: Tensor
    """(channels,) float64 over all positions of ordinary images."""
    deviation: Tensor

    def patches(self, channel: int, most: int | None = None) -> Tensor:
        """Return (patches, channels): what arrives at the site at the peaks of a map's strongest patches."""
        images = self.gallery.activation[self.site][channel][:most]
        samples = tuple(self.gallery.samples[int(k)] for k in images)
        positions = self.gallery.activation_positions[self.site][channel][:most]
        return arrivals.at_positions(self.bundle, self.dataset, self.site, samples, positions)

    def resemblance(self, found: Tensor, patches: Tensor, left_out: list[int]) -> float:
        """Return the rank correlation over the site's maps of what arrives, (channels,), with the mean over patches."""
        used = self.deviation > 0
        used[left_out] = False
        pair = [
            ((answers.double() - self.mean) / self.deviation)[used].cpu().numpy()
            for answers in (found, patches.mean(dim=0))
        ]
        value = float(stats.spearmanr(*pair).statistic)
        return value if math.isfinite(value) else 0.0


def _recognition(real: _Real, channel: int, found: Tensor, own: Tensor) -> float | None:
    """See `Synthesis.recognition`; found: (channels,) of the picture's centre; own: (patches, channels)."""
    alive = [int(k) for k in (real.deviation > 0).nonzero()[:, 0] if int(k) != channel]
    if len(alive) < LEAST_OTHERS:
        return None
    wins = []
    for k in np.linspace(0, len(alive) - 1, min(OTHERS, len(alive))).astype(int):
        left_out = [channel, alive[k]]
        theirs = real.resemblance(found, real.patches(alive[k], OTHERS_PATCHES), left_out)
        wins.append(real.resemblance(found, own, left_out) > theirs)
    return float(np.mean(wins))


def _field(site: Site, position: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the pixels that a (row, column) sees in a picture of (height, width)."""
    (top, bottom), (left, right) = (_span(*seen, side) for seen, side in zip(site.sees(*position), size, strict=True))
    return top, left, bottom, right


def _span(low: float, high: float, side: int) -> tuple[int, int]:
    """The pixels from the first to behind the last of a stretch along one axis, inside the picture."""
    # Half-way edges round down, as for the patches.
    start = math.ceil(low - 0.5)
    first = min(max(0, start), side - 1)
    return first, max(min(math.ceil(start + high - low), side), first + 1)


def _frozen(values: Tensor) -> np.ndarray:
    array = np.ascontiguousarray(values.float().cpu().numpy())
    array.setflags(write=False)
    return array
