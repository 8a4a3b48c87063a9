"""Feature maps of two models matched by how their activations correlate on the same images, never by their index.

Partners are found on half of the images, one to one (Li et al. 2016, Convergent learning), and their correlation is measured on
the other half: a partner chosen and judged on the same images would look alike by being chosen. The control is partners drawn at
random within the same layer, judged on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional

from engine.attribution import baselines
from engine.attribution.explain import Report
from engine.errors import BadInput, UnknownName
from engine.models import hooks
from engine.models.network import ModelBundle
from engine.store.store import Dataset
from engine.types.run_studies import LayerMatch, MapMatching, MatchRequest

GRID: Final = 8
"""Positions across and down at which maps are compared, at most."""
DRAWS: Final = 20
SEED: Final = 0
FEWEST: Final = 4
"""Images below which no half says anything."""
AT_ONCE: Final = 32 * 2**20
"""Products of channels that are summed at a time: 256 MB."""
HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two layers, by their places among the sites of their models, and the grid that both are brought to."""

    first: int
    second: int
    grid: tuple[int, int]


class _Sums:
    """What correlations of the maps of two layers need, summed over positions; float64."""

    def __init__(self, first: int, second: int) -> None:
        self.n = 0
        self.x, self.y = np.zeros(first), np.zeros(second)
        self.xx, self.yy, self.xy = np.zeros(first), np.zeros(second), np.zeros((first, second))

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take in (channels, positions) of both."""
        self.n += first.shape[1]
        self.x, self.y = self.x + first.sum(axis=1), self.y + second.sum(axis=1)
        self.xx, self.yy = self.xx + (first**2).sum(axis=1), self.yy + (second**2).sum(axis=1)
        self.xy += first @ second.T

    def correlations(self) -> np.ndarray:
        """Return (channels, channels): Pearson's r; 0 where a map does not vary."""
        spread = [np.maximum(own - total**2 / self.n, 0.0) for own, total in ((self.xx, self.x), (self.yy, self.y))]
        varies = [one > np.finfo(np.float64).eps * np.maximum(own, 1e-30) * self.n
                  for one, own in zip(spread, (self.xx, self.yy), strict=True)]  # fmt: skip
        size = np.sqrt(np.outer(*spread))
        covariance = self.xy - np.outer(self.x, self.y) / self.n
        has_both = np.outer(*varies)
        result: np.ndarray = np.divide(covariance, size, out=np.zeros_like(covariance), where=has_both & (size > 0))
        return np.clip(result, -1.0, 1.0)


def match(
    bundles: tuple[ModelBundle, ModelBundle], dataset: Dataset, request: MatchRequest, report: Report
) -> MapMatching:
    """Return how the maps of the asked layers match. Raises UnknownName for a layer, BadInput for too few images."""
    if len(request.samples) < FEWEST:
        raise BadInput(
            f"Feature maps are matched on at least {FEWEST} images that both models get right; {len(request.samples)} are there."
        )
    pairs = [_pair(bundles, names) for names in request.layers]
    halves = request.samples[::2], request.samples[1::2]
    results: list[LayerMatch] = []
    for part in _parts(bundles, pairs):
        sums = [_summed(bundles, dataset, half, (part, report, (len(results), len(pairs)))) for half in halves]
        results += [_matched(bundles, pair, found, judged) for pair, found, judged in zip(part, *sums, strict=True)]
    return MapMatching(tuple(results), len(halves[0]), len(halves[1]), DRAWS)


def _pair(bundles: tuple[ModelBundle, ModelBundle], names: tuple[str, str]) -> _Pair:
    places = []
    for bundle, name in zip(bundles, names, strict=True):
        known = [site.name for site in bundle.sites]
        if name not in known:
            raise UnknownName("layer", name, known)
        places.append(known.index(name))
    first, second = bundles[0].sites[places[0]], bundles[1].sites[places[1]]
    grid = min(first.height, second.height, GRID), min(first.width, second.width, GRID)
    return _Pair(places[0], places[1], grid)


def _parts(bundles: tuple[ModelBundle, ModelBundle], pairs: Sequence[_Pair]) -> Iterator[list[_Pair]]:
    """Yield the pairs in parts whose sums fit into memory."""
    part: list[_Pair] = []
    size = 0
    for pair in pairs:
        own = bundles[0].sites[pair.first].channels * bundles[1].sites[pair.second].channels
        if part and size + own > AT_ONCE:
            yield part
            part, size = [], 0
        part.append(pair)
        size += own
    if part:
        yield part


def _summed(
    bundles: tuple[ModelBundle, ModelBundle],
    dataset: Dataset,
    samples: tuple[str, ...],
    work: tuple[list[_Pair], Report, tuple[int, int]],
) -> list[_Sums]:
    part, report, (done, total) = work
    sums = [_Sums(bundles[0].sites[one.first].channels, bundles[1].sites[one.second].channels) for one in part]
    limit = min(map(hooks.batch_limit, bundles))
    for start in range(0, len(samples), limit):
        report(done, total, f"Matching feature maps: image {start + 1} of {len(samples)}")
        chosen = samples[start : start + limit]
        runs = [hooks.record(bundle, baselines.load(bundle, dataset, chosen)).maps for bundle in bundles]
        for pair, own in zip(part, sums, strict=True):
            own.add(_positions(runs[0][pair.first], pair.grid), _positions(runs[1][pair.second], pair.grid))
    return sums


def _positions(maps: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Return (channels, images x positions) float64, each map brought to the grid by means over areas."""
    pooled = functional.adaptive_avg_pool2d(maps.detach(), grid).to("cpu", torch.float64)
    result: np.ndarray = pooled.permute(1, 0, 2, 3).reshape(pooled.shape[1], -1).numpy()
    return result


def _matched(bundles: tuple[ModelBundle, ModelBundle], pair: _Pair, found: _Sums, judged: _Sums) -> LayerMatch:
    own, other = bundles[0].sites[pair.first], bundles[1].sites[pair.second]
    rows, columns = scipy.optimize.linear_sum_assignment(found.correlations(), maximize=True)
    held_out = judged.correlations()
    partners, values = np.full(own.channels, -1), np.full(own.channels, np.nan)
    partners[rows], values[rows] = columns, held_out[rows, columns]
    generator = np.random.default_rng([SEED, pair.first, pair.second])
    drawn = [_at_random(held_out, len(rows), generator) for _ in range(DRAWS)]
    medians, shares = [float(np.median(one)) for one in drawn], [float((one > HALF).mean()) for one in drawn]
    return LayerMatch(
        own.name, other.name, pair.grid, partners, values,
        float(np.median(values[rows])), float((values[rows] > HALF).mean()),
        float(np.mean(medians)), float(np.mean(shares)), max(medians), max(shares),
    )  # fmt: skip


def _at_random(correlations: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return (count,): correlations of as many pairs, one to one, drawn within the layer."""
    rows, columns = (generator.permutation(size)[:count] for size in correlations.shape)
    result: np.ndarray = correlations[rows, columns]
    return result
