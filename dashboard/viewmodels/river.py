"""The river: per column three stacked bars, and between the columns bands as wide as the connections are strong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboard.viewmodels import strengths
from dashboard.viewmodels.strengths import GROUPS, Strengths
from engine import Comparison, Examination, SiteComparison

GAP = 0.07
"""Between stacked bars, in units of a datapath's size."""
HIDDEN_BELOW = 0.005
"""Bands below this share of the strength between their two columns are counted, not drawn."""


@dataclass(frozen=True, slots=True)
class Column:
    """One site, or the head, where it stands on the x axis (its index)."""

    name: str
    label: str
    stage: str
    site: int
    """Index into the examination's sites; their number for the head."""
    is_head: bool
    kept: int
    """Maps in each datapath."""
    counts: tuple[int, int, int]
    """Maps per group in the order of `GROUPS`."""
    stands_for: int = 1
    """Columns it stands for: more than one where its stage is folded."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One group of maps at one column; its height is the group's share of the datapath."""

    column: int
    group: str
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Band:
    """A connection between two bars; each end takes its share of its bar, so a band may taper."""

    source: int
    target: int
    groups: tuple[str, str]
    source_span: tuple[float, float]
    """Low and high end on the y axis."""
    target_span: tuple[float, float]
    share: float
    """Of the strength between its two columns."""
    inexact: tuple[str, ...] = ()
    """Why a link on its way is not what changing one map alone does; empty where all are exact."""

    @property
    def colour_group(self) -> str:
        """The group whose colour it takes: that of its end that is not shared."""
        return next((group for group in self.groups if group != "shared"), "shared")

    @property
    def is_bypass(self) -> bool:
        """Whether it skips columns and so passes behind them."""
        return self.target > self.source + 1


@dataclass(frozen=True, slots=True)
class River:
    """Everything of the river in data coordinates: x is the column's index, y the share of a datapath."""

    columns: tuple[Column, ...]
    bars: tuple[Bar, ...]
    bands: tuple[Band, ...]
    hidden: int
    """Bands not drawn because they carry less than `HIDDEN_BELOW`."""
    places: tuple[tuple[str, float], ...]
    """Where every site stands on the x axis, those that are not shown evenly between their neighbours."""

    @property
    def stages(self) -> tuple[tuple[str, int, int], ...]:
        """Runs of columns of one stage: name, first and last column."""
        found: list[tuple[str, int, int]] = []
        for k, column in enumerate(self.columns):
            if found and found[-1][0] == column.stage:
                found[-1] = (column.stage, found[-1][1], k)
            else:
                found.append((column.stage, k, k))
        return tuple(found)


def build(examination: Examination, comparison: Comparison, detail: str, folded: frozenset[str] = frozenset()) -> River:
    """Return the river of `blocks` (stem, block outputs, head) or of all `sites`.

    Of a folded stage only the last column is shown; what flows through the others is passed on to it.
    """
    shown = [k for k, site in enumerate(examination.sites) if detail == "sites" or site.role != "inner"]
    shown = shown or list(range(len(examination.sites)))
    stands_for = Counter(examination.sites[k].stage for k in shown)
    last = {examination.sites[k].stage: k for k in shown}
    columns = (
        *(
            _folded(_column(examination, comparison.sites[k], k, detail), stands_for)
            if examination.sites[k].stage in folded
            else _column(examination, comparison.sites[k], k, detail)
            for k in shown
            if examination.sites[k].stage not in folded or k == last[examination.sites[k].stage]
        ),
        _head(examination),
    )
    bars = tuple(bar for k, column in enumerate(columns) for bar in stack(k, column))
    order = {column.site: k for k, column in enumerate(columns)}
    found = strengths.between(examination, comparison, [column.site for column in columns])
    placed = {(order[source], order[target]): matrix for (source, target), matrix in found.items()}
    bands, hidden = lay(placed, bars)
    why = {
        (order[source], order[target]): reasons
        for (source, target), reasons in strengths.inexact(examination, list(order)).items()
    }
    bands = tuple(replace(band, inexact=why.get((band.source, band.target), ())) for band in bands)
    return River(columns, bars, bands, hidden, _places(examination, columns))


def stack(index: int, column: Column) -> list[Bar]:
    """Return the bars of one column: shared centred on zero, adversarial-only above it, clean-only below."""
    heights = [count / column.kept for count in column.counts]
    half = heights[1] / 2
    gap = GAP if heights[1] else GAP / 2
    lows = (half + gap, -half, -half - gap - heights[2])
    return [
        Bar(index, group, low, low + height, count)
        for group, low, height, count in zip(GROUPS, lows, heights, column.counts, strict=True)
        if count
    ]


def lay(placed: Strengths, bars: Sequence[Bar]) -> tuple[tuple[Band, ...], int]:
    """Return the bands between bars and how many were too weak to draw.

    placed: (source column, target column) -> (target groups, source groups). The bands that leave a bar fill it, and so
    do those that enter it; a weak band's place stays empty. A bar nothing leaves (or enters) stays a stub.
    """
    spans = {(bar.column, bar.group): bar for bar in bars}
    flows = [
        (source, target, GROUPS[down], GROUPS[up], float(matrix[up, down]))
        for (source, target), matrix in placed.items()
        for down in range(len(GROUPS))
        for up in range(len(GROUPS))
        if matrix[up, down] > 0 and (source, GROUPS[down]) in spans and (target, GROUPS[up]) in spans
    ]
    leaving = _slots(flows, spans, is_leaving=True)
    entering = _slots(flows, spans, is_leaving=False)
    totals = {pair: float(matrix.sum()) for pair, matrix in placed.items()}
    bands = [
        Band(flow[0], flow[1], flow[2:4], leaving[k], entering[k], flow[4] / totals[flow[0], flow[1]])
        for k, flow in enumerate(flows)
    ]
    drawn = tuple(band for band in bands if band.share >= HIDDEN_BELOW)
    return drawn, len(bands) - len(drawn)


def _slots(flows: Sequence[tuple], spans: dict, *, is_leaving: bool) -> dict[int, tuple[float, float]]:
    """Return per flow its span on the bar at one end, ordered from top to bottom like the bars at the other end."""
    near, far = (0, 1) if is_leaving else (1, 0)
    by_bar: dict[tuple[int, str], list[int]] = {}
    for k, flow in enumerate(flows):
        by_bar.setdefault((flow[near], flow[2 + near]), []).append(k)
    found = {}
    for key, members in by_bar.items():
        bar = spans[key]
        scale = (bar.high - bar.low) / sum(flows[k][4] for k in members)
        top = bar.high
        for k in sorted(members, key=lambda k: (GROUPS.index(flows[k][2 + far]), flows[k][far])):
            found[k] = (top - flows[k][4] * scale, top)
            top = found[k][0]
    return found


def _column(examination: Examination, sets: SiteComparison, site: int, detail: str) -> Column:
    place = examination.sites[site]
    counts = (len(sets.adversarial_only), len(sets.shared), len(sets.clean_only))
    label = place.name if detail == "blocks" else place.name.removeprefix(f"{place.stage}.")
    return Column(place.name, label, place.stage, site, False, counts[1] + max(counts[0], counts[2]), counts)


def _folded(column: Column, stands_for: Mapping[str, int]) -> Column:
    """Return the column under its stage's name, as what it stands for."""
    return replace(column, label=column.stage, stands_for=stands_for[column.stage])


def _head(examination: Examination) -> Column:
    same = examination.clean.target == examination.adversarial.target
    counts = (0, 1, 0) if same else (1, 0, 1)
    return Column("head", "answer", "head", len(examination.sites), True, 1, counts)


def _places(examination: Examination, columns: Sequence[Column]) -> tuple[tuple[str, float], ...]:
    shown = [column.site for column in columns]
    x = np.interp(np.arange(len(examination.sites)), shown, np.arange(len(shown)))
    return tuple((site.name, float(place)) for site, place in zip(examination.sites, x, strict=True))
