"""What is asked of a finished run beyond its rows, and stored: feature maps of two models matched, and a held-out causal test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from engine.hashing import Schema
from engine.types.patching import CausalTest


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """Layers of two models whose feature maps are to be matched on the same clean images."""

    SCHEMA: ClassVar[Schema] = Schema("map-matching-request/1")

    model: str
    baseline: str
    data: str
    samples: tuple[str, ...]
    """Images that both models get right; matched on every other one, and judged on those between."""
    layers: tuple[tuple[str, str], ...]
    """Of the model and of the baseline."""


@dataclass(frozen=True, eq=False, slots=True)
class LayerMatch:
    """How well the feature maps of one layer find their like in a layer of another model."""

    layer: str
    other: str
    grid: tuple[int, int]
    """Positions at which both are compared: height and width."""
    partners: np.ndarray
    """(channels,) int64: the map of the other model that each map is matched with, one to one; -1 for none left."""
    correlations: np.ndarray
    """(channels,) float64: Pearson's r with it, over the positions of the images it was not matched on; NaN for none."""
    median: float
    above_half: float
    """Share of the matched maps whose r is above one half."""
    random_median: float
    """The same with partners drawn at random within the layer, one to one: mean over draws."""
    random_above_half: float
    random_median_highest: float
    random_above_half_highest: float
    """The largest of any draw."""

    @property
    def matched(self) -> int:
        """Maps that have a partner: as many as the narrower of the two layers has."""
        return int((self.partners >= 0).sum())


@dataclass(frozen=True, eq=False, slots=True)
class MapMatching:
    """All layers that were matched."""

    SCHEMA: ClassVar[Schema] = Schema("map-matching/1")

    layers: tuple[LayerMatch, ...]
    matched_on: int
    """Images."""
    judged_on: int
    draws: int


@dataclass(frozen=True, slots=True)
class HeldOutRequest:
    """How many of a run's feature maps to rank on one half of its fooled images, and to test on the other."""

    SCHEMA: ClassVar[Schema] = Schema("held-out-test-request/1")

    run: str
    role: str
    condition: str
    """The full id of the attack."""
    classes: tuple[int, ...]
    """True classes; none is all of them."""
    count: int


@dataclass(frozen=True, slots=True)
class HeldOutTest:
    """What patching the ranked maps does in images that did not rank them."""

    SCHEMA: ClassVar[Schema] = Schema("held-out-test/1")

    ranked_on: int
    """Images."""
    held_out: int
    """Images that were held out; `test` has those that were patched."""
    test: CausalTest


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """A finished run whose result is damaged."""

    SCHEMA: ClassVar[Schema] = Schema("rebuild-request/1")

    run: str
    mark: str
    """How its files lie there: another damage is another request."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The files that were put back."""

    SCHEMA: ClassVar[Schema] = Schema("rebuilt/1")

    names: tuple[str, ...]
